"""Bound lenses: a mapping of live states, and a lens that knows its tree."""

import pickle
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import profiled_by, written
from tests.strategies import same


class Layer(sl.nn.Module):
    """Weight and bias in one state."""

    def __init__(self, n):
        super().__init__()
        self.params = sl.ParamState({"weight": jnp.ones((n, n)), "bias": jnp.zeros(n)})


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Layer(2), Layer(2)]
        self.scale = sl.ParamState(jnp.ones(4), tag="slow")
        self.count = sl.State(jnp.zeros((), jnp.int32))
        self.head = eqx.nn.Linear(2, 1, key=jax.random.key(0))


# A mapping.


def test_it_is_a_mapping_from_path_to_state():
    net = Net()
    states = net.states()
    assert isinstance(states, Mapping)
    assert list(states) == list(states.keys()) == [path for path, _ in states.items()]
    assert len(states) == 4
    assert states["scale",] is net.scale
    assert ("scale",) in states
    assert ("nowhere",) not in states
    assert states.get(("nowhere",)) is None


def test_keys_may_be_written():
    net = Net()
    assert net.states()["layers[1].params"] is net.layers[1].params
    assert "layers[1].params" in net.states()


def test_a_missing_path_names_the_closest():
    with pytest.raises(sl.PathError, match=r"'layers\[1\].param', which isn't there\n.*params"):
        Net().states()["layers[1].param"]


def test_values_dict_is_a_pytree_of_values():
    net = Net()
    values = net.states(sl.ParamState).values_dict()
    layers = ["head.weight", "head.bias", "layers[0].params", "layers[1].params"]
    assert written(values) == [*layers, "scale"]
    assert values["scale",] is net.scale.value
    assert set(values["layers", 0, "params"]) == {"weight", "bias"}


def test_a_bound_lens_equals_the_dictionary_it_reads_as():
    net = Net()
    assert net.states("scale") == {("scale",): net.scale}
    assert net.states("scale") == sl.lens("scale").bind(net)
    assert net.states("scale") != Net().states("scale")


def test_repr_lists_the_states():
    assert repr(Net().states("scale")) == "{\n  ('scale',): ParamState(f32[4], tag='slow'),\n}"
    assert repr(Net().states(sl.BatchState)) == "{}"


def test_jax_maps_over_it_and_gives_values():
    states = Net().states("scale")
    assert jax.tree.map(lambda x: 2 * x, states)["scale",].tolist() == [2.0] * 4
    is_state = lambda x: isinstance(x, sl.State)  # noqa: E731
    assert jax.tree.map(lambda s: s.value, states, is_leaf=is_state) == states.values_dict()


def test_optax_takes_it_for_the_values_of_its_states():
    net, optimizer = Net(), optax.adamw(0.1)
    params = net.states(sl.ParamState)
    memory, by_hand = optimizer.init(params), optimizer.init(params.values_dict())
    assert jax.tree.structure(memory) == jax.tree.structure(by_hand)
    grads = sl.grad(lambda: jnp.sum(net.scale.value), params, check_states=False)()
    updates, _ = optimizer.update(grads, memory, params.values_dict())
    expected = optax.apply_updates(params.values_dict(), updates)
    params.apply_updates(updates)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params.values_dict(), expected))


def shared():
    net = sl.nn.Module()
    net.a = sl.State({"w": jnp.ones(2)})
    net.z = net.a
    net.inner = sl.nn.Module()
    net.inner.layer = jnp.ones(3)
    net.twins = [net.inner]
    return net


def test_any_path_of_a_shared_state_leads_to_it():
    net = shared()
    assert net.states()["z"] is net.states("z")["z"] is net.a
    assert written(net.states("z")) == ["a"]
    assert ("z",) in net.states()
    assert net.states("a.w")["z.w"].cell is net.a
    assert net.states("**.layer")["twins[0].layer"].value is net.inner.layer
    for path in ("z.w", "twins[0]", "z.v", "y"):
        with pytest.raises(sl.PathError, match="which isn't there"):
            net.states()[path]


def test_any_path_of_a_shared_state_assigns_it_once():
    net = shared()
    net.states().assign({"z": {"w": jnp.zeros(2)}}, strict=True)
    assert net.a.value["w"].tolist() == [0, 0]
    net.assign({"twins[0].layer": jnp.zeros(3)})
    assert net.inner.layer.tolist() == [0, 0, 0]
    with pytest.raises(sl.PathError, match="two values for it, as 'z' and as 'a'"):
        net.assign({"z": {"w": jnp.ones(2)}, "a": {"w": jnp.ones(2)}})


# A lens.


def test_filter_keeps_what_matches_any():
    states = Net().states().filter("scale", "count")
    assert written(states) == ["count", "scale"]
    assert written(states.filter(sl.tagged("slow"))) == ["scale"]


def test_split_takes_the_first_match():
    one, two, rest = Net().states().split("layers[0].**", sl.ParamState, ...)
    assert written(one) == ["layers[0].params"]
    assert written(two) == ["layers[1].params", "scale"]
    assert written(rest) == ["count"]


def test_split_has_to_be_total():
    with pytest.raises(sl.SelectionError, match=r"'count' matches none of them\nInstead: add \.\."):
        Net().states().split(sl.ParamState)


def test_set_operations():
    net = Net()
    params, slow = net.states(sl.ParamState), net.states(sl.tagged("slow"))
    assert written(params & slow) == ["scale"]
    assert written(params - slow - "head.*") == ["layers[0].params", "layers[1].params"]
    assert params - slow | slow == params


def test_set_operations_over_two_trees_are_refused():
    with pytest.raises(sl.StructureError, match=r"two different trees(.|\n)*a dictionary of both"):
        Net().states() | Net().states()


def test_bind_makes_one_of_any_tree_that_holds_states():
    tree = {"a": sl.State(jnp.ones(1)), "b": [sl.State(jnp.zeros(1))]}
    assert sl.lens("b[0]").bind(tree)["b", 0] is tree["b"][0]


def test_bind_wants_its_pattern_to_match():
    with pytest.raises(sl.PathError, match=r"asked bind for 'scael'(.|\n)*'scale'"):
        sl.lens("scael").bind(Net())


def test_an_array_in_an_immutable_tree_cannot_be_bound():
    with pytest.raises(sl.StateTypeError, match=r"'w'\nthere is an array in an immutable tree"):
        dict(sl.lens("w").bind({"w": jnp.ones(1)}))


# assign.


def test_assign_takes_values_states_and_views():
    net, other = Net(), Net()
    other.scale.value = jnp.full(4, 2.0)
    net.states().assign({"scale": other.scale, ("count",): jnp.asarray(3, jnp.int32)})
    assert net.scale.value.tolist() == [2.0] * 4
    assert net.count.value == 3


def test_assign_round_trips_values_dict():
    net = Net()
    before = net.states().values_dict()
    net.scale.value = jnp.zeros(4)
    net.states().assign(before)
    assert net.scale.value is before["scale",]


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        ({"scale": jnp.ones(5)}, sl.StructureError, r"'scale'\nits shape is \(5,\).*\(4,\)"),
        ({"scale": jnp.ones(4, jnp.int32)}, sl.StructureError, "'scale'\nits dtype is int32"),
        ({"scale": {"a": jnp.ones(4)}}, sl.StructureError, "'scale'\nits structure is"),
        ({"nowhere": jnp.ones(4)}, sl.PathError, "'nowhere', which isn't there"),
        (
            {"layers[0].params": {"weight": jnp.ones((2, 2)), "bias": jnp.ones(3)}},
            sl.StructureError,
            r"'layers\[0\].params'\nits shape is \(3,\)",
        ),
    ],
)
def test_nothing_is_assigned_if_one_is_refused(bad, error, text):
    net = Net()
    good = {"count": jnp.asarray(9, jnp.int32)}
    with pytest.raises(error, match=text):
        net.states().assign(good | bad)
    assert net.count.value == 0


def test_replace_lets_shape_and_dtype_change():
    net = Net()
    net.states().assign({"scale": jnp.ones(5, jnp.int32)}, replace=True)
    assert net.scale.value.shape == (5,)


# Views.


def test_a_leaf_inside_a_state_is_a_view():
    net = Net()
    biases = net.states("layers[*].params.bias")
    assert written(biases) == ["layers[0].params.bias", "layers[1].params.bias"]
    view = biases["layers[0].params.bias"]
    assert isinstance(view, sl.View)
    weight = net.layers[0].params.value["weight"]
    view.value = view.value + 3
    assert net.layers[0].params.value["bias"].tolist() == [3.0, 3.0]
    assert net.layers[0].params.value["weight"] is weight
    assert net.layers[1].params.value["bias"].tolist() == [0.0, 0.0]


def test_a_slice_of_an_array_is_a_view():
    net = Net()
    [view] = sl.lens("scale")[1:3].bind(net).values()
    view.value = jnp.zeros(2)
    assert net.scale.value.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert view.value.tolist() == [0.0, 0.0]


def test_a_view_of_a_view_s_slice():
    net = Net()
    [view] = sl.lens("layers[0].params.weight")[0].bind(net).values()
    view.value = jnp.array([5.0, 6.0])
    assert net.layers[0].params.value["weight"].tolist() == [[5.0, 6.0], [1.0, 1.0]]


def test_an_array_in_an_equinox_layer_of_a_module_is_a_view():
    net = Net()
    view = net.states("head.bias")["head.bias"]
    before = net.head
    view.value = jnp.full(1, 2.0)
    assert net.head.bias == 2.0
    assert before.bias != 2.0
    assert net.head.weight is before.weight


def test_a_view_reads_and_writes_inside_frames():
    net = Net()
    view = net.states("head.bias")["head.bias"]
    start = view.value
    with sl.overlay() as trial:
        view.value = jnp.zeros(1)
        assert net.head.bias == 0.0
        assert len(trial.writes) == 1
    np.testing.assert_array_equal(net.head.bias, start)


@pytest.mark.parametrize(
    ("value", "text"),
    [(jnp.ones(3), r"its shape is \(3,\)"), (jnp.ones(2, jnp.int32), "its dtype is int32")],
)
def test_a_view_refuses_another_shape_or_dtype(value, text):
    net = Net()
    [view] = sl.lens("scale")[:2].bind(net).values()
    with pytest.raises(sl.StructureError, match=text):
        view.value = value
    assert net.scale.value.tolist() == [1.0] * 4


def test_a_view_whose_leaf_is_gone_says_so():
    net = Net()
    view = net.states("layers[0].params.bias")["layers[0].params.bias"]
    net.layers[0].params.value = {"weight": jnp.ones((2, 2))}
    with pytest.raises(sl.PathError, match=r"the part 'bias' of ParamState(.|\n)*no such leaf"):
        _ = view.value


# What was found is kept, and never stale.


class Stack(sl.nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = list(layers)
        self.by_name = {"one": (sl.ParamState(jnp.ones(2)), [sl.ParamState(jnp.ones(2))])}


class Pair(sl.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.bias = sl.ParamState(jnp.zeros(n))
        self.weight = sl.ParamState(jnp.ones((n, n)))


def calls_to_read_all(layers):
    """Counts the calls in Python while each state is asked for by its path."""
    params = Stack(*(Pair(2) for _ in range(layers))).states(sl.ParamState)
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event == "call"

    with profiled_by(counted):
        for path in params:
            params[path].value += 1
    return count


def test_to_ask_for_all_states_one_by_one_takes_time_as_their_number_grows():
    calls_to_read_all(1)
    assert calls_to_read_all(80) < 1.5 * 8 * calls_to_read_all(10)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda m: m.layers.append(sl.ParamState(jnp.ones(1))), "layers[2]"),
        (lambda m: m.layers.__setitem__(0, sl.ParamState(jnp.ones(1))), "layers[0]"),
        (lambda m: m.by_name["one"][1].append(sl.ParamState(jnp.ones(1))), "by_name.one[1][1]"),
        (lambda m: m.by_name.update(two=sl.ParamState(jnp.ones(1))), "by_name.two"),
        (lambda m: setattr(m.layers[1], "new", sl.ParamState(jnp.ones(1))), "layers[1].new"),
        (lambda m: setattr(m.layers[1], "bias", sl.ParamState(jnp.ones(1))), "layers[1].bias"),
    ],
)
def test_what_changes_in_a_module_is_seen_at_once(change, path):
    model = Stack(Pair(2), Pair(3))
    params = model.states(sl.ParamState)
    before = dict(params)
    change(model)
    assert path in params
    assert params[path] not in before.values()
    assert dict(params) == dict(model.states(sl.ParamState))


def test_a_state_that_goes_is_seen_at_once():
    model = Stack(Pair(2), Pair(3))
    params = model.states(sl.ParamState)
    before = len(params)
    del model.layers[1].bias
    model.layers.pop(0)
    assert len(params) == before - 3


class Holding(eqx.Module):
    inside: list


def test_a_list_in_a_node_of_another_library_is_seen_too():
    model = sl.nn.Module()
    model.held = Holding([sl.ParamState(jnp.ones(1))])
    params = model.states(sl.ParamState)
    assert len(params) == 1
    model.held.inside.append(sl.ParamState(jnp.ones(1)))
    assert len(params) == 2


def test_a_layer_of_arrays_that_becomes_another_is_seen_at_once():
    model = sl.nn.Module()
    model.layer = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    linear = model.states(eqx.nn.Linear)
    assert list(linear) == [("layer", "weight"), ("layer", "bias")]
    model.layer = eqx.nn.Linear(2, 3, use_bias=False, key=jax.random.key(0))
    assert list(linear) == [("layer", "weight")]


def test_a_program_depends_on_what_was_looked_at_before_its_trace():
    model = Stack(Pair(2))
    params = model.states(sl.ParamState)
    assert len(params) == 4
    count = sl.jit(lambda: jnp.asarray(len(params)))
    assert count() == 4
    model.layers.append(Pair(2))
    assert count() == 6


def test_a_bound_lens_that_has_been_used_pickles():
    params = Pair(2).states(sl.ParamState)
    assert list(pickle.loads(pickle.dumps(params))) == list(params)


def test_set_operations_with_a_lens():
    net = Net()
    states = net.states()
    assert states & sl.ParamState == net.states(sl.ParamState) - "head.*"
    assert states & sl.inexact == states.filter(sl.inexact)
    assert states - sl.ParamState | "**.params" == states - sl.ParamState | net.states("**.params")


USES = {
    "list": list,
    "len": len,
    "keys": lambda states: states.keys(),
    "values": lambda states: states.values(),
    "items": lambda states: states.items(),
    "==": lambda states: states == {},
    "values_dict": lambda states: states.values_dict(),
    "[]": lambda states: states["w"],
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_typo_is_told_at_the_users_line(use):
    module = sl.nn.Module()
    module.weight = sl.ParamState(jnp.ones(2))
    with pytest.raises(sl.PathError, match="matches nothing") as caught:
        use(module.states("wieght"))
    assert caught.traceback[-1].path.samefile(__file__)


def test_a_bound_lens_counts_casts_and_lists_as_a_lens_does():
    module = sl.nn.Module()
    module.w = sl.ParamState({"a": jnp.ones((2, 3)), "n": jnp.arange(4)})
    module.b = sl.ParamState(1.0)
    for spec in ("w", "w.a", "**", sl.lens("w.a")[:1]):
        lens = sl.lens(spec)
        bound = lens.bind(module)
        assert bound.count() == lens.count(module)
        assert bound.nbytes() == lens.nbytes(module)
        assert bound.paths() == lens.paths(module)
    module.states().cast(jnp.bfloat16)
    assert module.w.value["a"].dtype == jnp.bfloat16
    assert module.w.value["n"].dtype == jnp.int32
    assert module.b.value == 1.0
    sl.lens("w.a").bind(module).cast(jnp.float32)
    assert module.w.value["a"].dtype == jnp.float32


def test_to_count_states_touches_none_of_them():
    module = sl.nn.Module()
    module.w = sl.ParamState(jnp.ones(2))
    compiled = sl.jit(lambda: module.states().count() + module.states().nbytes())
    assert compiled() == 10
    assert "float32" not in compiled.lower().as_text()


# Mappings by path: what the states' gradients, values and moments are.


class Deep(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Net()
        self.tied = self.encoder.scale
        self.mean = sl.BatchState(jnp.ones(2))
        self.head = sl.ParamState({"a": jnp.ones((3, 2)), "b": [jnp.ones(1), jnp.ones(2)]})


SPECS = [
    "encoder.**",
    "head",
    "head.b[1]",
    "**.weight | head.b[0]",
    sl.ParamState,
    sl.ndim >= 2,
    "tied",
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("all_of", [sl.State, sl.ParamState], ids=lambda cls: cls.__name__)
def test_mask_and_partition_take_values_by_path_of_any_states(spec, all_of):
    model = Deep()
    states, every = model.states(spec), model.states(all_of)
    values = every.values_dict()
    mask = states.mask(values)
    assert mask == states.mask(every)
    assert states.mask() == states.mask(model.states() | states)
    focus, rest = states.partition(values)
    assert same(sl.combine(focus, rest), values)
    assert same(focus, jax.tree.map(lambda keep, x: x if keep else None, mask, values))
    kept = sl.lens(dict(mask)).paths(values)
    inside = [
        path for path, _ in jax.tree_util.tree_flatten_with_path(values)[0] if _in(states, path)
    ]
    assert len(kept) == len(inside) > 0


def _in(states, keys):
    path = (*keys[0].key, *(getattr(k, "key", getattr(k, "idx", None)) for k in keys[1:]))
    return any(path[: len(own)] == own for own in states)


def test_a_mask_of_states_is_what_optax_masks_by():
    model = Deep()
    params = model.states(sl.ParamState)
    decay = params.filter("**.{weight,a}")
    values = params.values_dict()
    optimizer = optax.masked(optax.sgd(1.0), decay.mask(params))
    updates, _ = optimizer.update(values, optimizer.init(values))
    assert same(updates["head",]["a"], -values["head",]["a"])
    assert updates["head",]["b"][0] is values["head",]["b"][0]
    params.apply_updates(updates)
    assert model.head.value["a"].sum() == 0


def test_a_mask_touches_no_state():
    model = Deep()
    compiled = sl.jit(lambda: jnp.asarray(sum(jax.tree.leaves(model.states("head").mask()))))
    assert compiled() == 3
    assert "float32" not in compiled.lower().as_text()


def test_a_part_is_found_in_its_own_gradient_and_in_the_whole_array():
    model = Deep()
    part = sl.lens("head.a")[:2].bind(model)
    grads = sl.grad(lambda: (model.head.value["a"] ** 2).sum(), part)()
    assert part.mask(grads) == {("head", "a"): True}
    assert same(part.partition(grads), (grads, {("head", "a"): None}))
    values = model.states("head").values_dict()
    focus, rest = part.partition(values)
    assert focus["head",]["a"].shape == (2, 2)
    assert focus["head",]["b"] == [None, None]
    assert same(sl.combine(focus, rest), values)
    with pytest.raises(sl.SelectionError, match=r"only the part \[:2\] of 'head.a' is selected"):
        part.mask(values)


def test_values_by_other_paths_are_refused():
    model = Deep()
    match = r"asked to partition values by path\ntheir keys are 'encoder.scale', 'tied', and none"
    with pytest.raises(sl.SelectionError, match=match):
        model.states("encoder.**").partition({"encoder.scale": jnp.ones(4), "tied": jnp.ones(4)})
    with pytest.raises(sl.ArgumentTypeError, match=r"asked to make a mask of values by path"):
        model.states().mask([jnp.ones(2)])
    assert model.states("nowhere?").partition({("a",): 1.0}) == ({("a",): None}, {("a",): 1.0})


def test_a_lens_selects_in_a_bound_lens_as_in_the_module():
    model = Deep()
    params = model.states(sl.ParamState)
    lens = sl.lens("**.{weight,a}")
    assert lens.mask(params) == params.filter(lens).mask(params)
    assert lens.paths(params) == lens.paths(model)
    assert sl.groups({"a": sl.lens(...) - lens, "b": lens})(params)["head",]["a"] == "b"


def test_the_only_state_of_several_or_none_is_refused():
    model = Deep()
    assert model.states(sl.BatchState).only() is model.mean
    assert model.states("head.b[1]").only().value.shape == (2,)
    with pytest.raises(sl.SelectionError, match=r"it selects 5: 'encoder.head.weight', 'encoder"):
        model.states("encoder.**").filter(sl.ParamState).only()
    with pytest.raises(sl.SelectionError, match=r"asked only for lens.* which selects nothing"):
        model.states(sl.HiddenState).only()


def test_to_jax_the_states_have_their_paths():
    model = sl.nn.Module()
    model.layers = [sl.ParamState(jnp.ones(1)), sl.ParamState(jnp.ones(2))]
    entries, _ = jax.tree_util.tree_flatten_with_path({"params": model.states()})
    assert [sl.path.format(path) for path in sl.lens(...).paths({"params": model.states()})] == [
        "params.layers[0]",
        "params.layers[1]",
    ]
    assert [keys[1].key for keys, _ in entries] == [("layers", 0), ("layers", 1)]
