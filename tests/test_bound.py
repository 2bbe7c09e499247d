"""Bound lenses: a mapping of live states, and a lens that knows its tree."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl


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


def written(paths):
    return [sl.path.format(path) for path in paths]


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
    assert written(values) == ["layers[0].params", "layers[1].params", "scale"]
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


def test_jax_maps_over_it():
    doubled = jax.tree.map(lambda x: 2 * x, Net().states("scale"))
    assert doubled["scale",].value.tolist() == [2.0] * 4


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
    assert written(params - slow) == ["layers[0].params", "layers[1].params"]
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
