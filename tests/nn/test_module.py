"""The facade's module: paths, selections, sharing, and its life as a pytree."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import written


class Linear(sl.nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = sl.ParamState(jnp.ones((n_in, n_out)), tag="decay")
        self.bias = sl.ParamState(jnp.zeros((n_out,)))

    def __call__(self, x):
        return x @ self.weight.value + self.bias.value


class Tall(sl.nn.Module):
    """Modules and states in every kind of container, assigned in no order."""

    def __init__(self):
        super().__init__()
        self.stack = [Linear(2, 2), Linear(2, 1)]
        self.count = sl.State(jnp.zeros((), jnp.int32))
        self.pair = (sl.HiddenState(jnp.zeros(2)), Linear(1, 1))
        self.by_name = {"z": sl.State(jnp.ones(1)), "a": Linear(1, 2)}
        self.title = "tall"


class Cycle(sl.nn.Module):
    """A parent and a child that know each other, a shared module and a shared state."""

    def __init__(self):
        super().__init__()
        self.child = Linear(1, 1)
        self.child.parent = self
        self.twins = [self.child, Linear(1, 1)]
        self.tied = self.child.weight


def values(module):
    return {path: np.asarray(state.value) for path, state in module.states().items()}


def assert_same_values(one, other):
    ours, theirs = values(one), values(other)
    assert list(ours) == list(theirs)
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path])


# Paths.


def test_paths_are_sorted_and_depth_first():
    assert written(Tall().states()) == [
        "by_name.a.bias",
        "by_name.a.weight",
        "by_name.z",
        "count",
        "pair[0]",
        "pair[1].bias",
        "pair[1].weight",
        "stack[0].bias",
        "stack[0].weight",
        "stack[1].bias",
        "stack[1].weight",
    ]


def test_nodes_are_listed_by_path_with_the_module_itself():
    module = Tall()
    nodes = module.nodes()
    assert written(nodes) == ["", "by_name.a", "pair[1]", "stack[0]", "stack[1]"]
    assert nodes["stack", 1] is module.stack[1]
    assert nodes[()] is module


def test_nodes_of_a_class_only():
    assert written(Tall().nodes(Linear)) == ["by_name.a", "pair[1]", "stack[0]", "stack[1]"]
    assert list(Tall().nodes(Cycle)) == []


def test_the_order_of_assignment_does_not_count():
    one, other = sl.nn.Module(), sl.nn.Module()
    one.a, one.b = sl.State(1.0), sl.State(2.0)
    other.b, other.a = sl.State(2.0), sl.State(1.0)
    assert list(one.states()) == list(other.states()) == [("a",), ("b",)]
    assert jax.tree.structure(one) == jax.tree.structure(other)


# states(*filters).


def test_one_filter_gives_one_mapping():
    assert written(Tall().states(sl.HiddenState)) == ["pair[0]"]


def test_a_text_is_a_path_pattern_and_not_a_tag():
    assert written(Tall().states("stack[*].bias")) == ["stack[0].bias", "stack[1].bias"]
    with pytest.raises(sl.PathError, match="'decay', which matches nothing"):
        sl.grad(lambda: 0.0, Tall().states("decay"))()


def test_tags_select_by_tag():
    assert {path[-1] for path in Tall().states(sl.tagged("decay"))} == {"weight"}


def test_several_filters_give_a_tuple_and_the_first_match_wins():
    first, params, others = Tall().states("stack[0].**", sl.ParamState, ...)
    assert written(first) == ["stack[0].bias", "stack[0].weight"]
    assert len(params) == 6
    assert written(others) == ["by_name.z", "count", "pair[0]"]


def test_what_no_filter_takes_is_left_out():
    hidden, bias = Tall().states(sl.HiddenState, "by_name.a.bias")
    assert (written(hidden), written(bias)) == (["pair[0]"], ["by_name.a.bias"])


def test_a_selection_may_be_empty_until_it_is_used():
    states = Tall().states(sl.BatchState)
    assert dict(states) == {}
    with pytest.raises(sl.SelectionError, match=r"BatchState.*which selects nothing"):
        sl.grad(lambda: 0.0, states)()


def test_a_state_that_is_added_later_is_seen():
    module = Linear(1, 1)
    states, structure = module.states(sl.ParamState), jax.tree.structure(module)
    module.scale = sl.ParamState(jnp.ones(1))
    assert written(states) == ["bias", "scale", "weight"]
    assert jax.tree.structure(module) != structure
    del module.scale
    assert jax.tree.structure(module) == structure


# assign and update.


def test_assign_takes_tuples_and_text_and_leaves_the_rest():
    module = Linear(1, 1)
    module.assign({"weight": jnp.full((1, 1), 2.0)})
    module.update({("bias",): jnp.full((1,), 3.0)})
    assert (module.weight.value.item(), module.bias.value.item()) == (2.0, 3.0)


def test_update_may_be_the_forward_pass_of_a_ported_class():
    class Ported(sl.nn.Module):
        def update(self, x):
            return x + 1

    assert Ported()(1.0) == 2.0


def test_a_module_without_a_forward_pass_says_so():
    with pytest.raises(
        sl.ArgumentTypeError, match="a Module\nthe class has no forward pass"
    ) as caught:
        sl.nn.Module()(1.0)
    assert is_the_users(caught.traceback)


def test_an_error_in_a_forward_pass_shows_none_of_our_frames():
    class Ported(sl.nn.Module):
        def update(self, x):
            raise ValueError(f"not {x}")

    model = Ported()
    for call in (model, model.__call__, model.update):
        with pytest.raises(ValueError, match=r"not 1\.0") as caught:
            call(1.0)
        assert is_the_users(caught.traceback)


def is_the_users(traceback):
    return all(entry.path.samefile(__file__) for entry in traceback)


# repr.


def test_repr_shows_shapes_and_counts():
    assert repr(Linear(2, 3)) == (
        "Linear(  # 9 in ParamState\n"
        "  bias=ParamState(f32[3]),\n"
        "  weight=ParamState(f32[2,3], tag='decay'),\n"
        ")"
    )


def test_repr_of_nested_modules_counts_all_kinds_once():
    text = repr(Tall())
    head, *_ = text.splitlines()
    assert head == "Tall(  # 15 in ParamState, 2 in State, 2 in HiddenState"
    assert "  stack=[\n    Linear(\n" in text
    assert "title='tall'" in text


def test_repr_of_a_cycle_ends_and_counts_shared_states_once():
    text = repr(Cycle())
    assert "parent=<Cycle again>" in text
    assert text.startswith("Cycle(  # 4 in ParamState")


# Sharing and cycles.

COPIES = {
    "tree.map": lambda module: jax.tree.map(lambda x: x, module),
    "unflatten": lambda module: jax.tree.unflatten(*jax.tree.flatten(module)[::-1]),
    "jit": lambda module: jax.jit(lambda m: m)(module),
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "thread": lambda module: sl.thread(lambda m: None)(module)[1],
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_sharing_and_cycles_survive(duplicate):
    module = Cycle()
    again = duplicate(module)
    assert again.child.parent is again
    assert again.twins[0] is again.child
    assert again.twins[1] is not again.child
    assert again.tied is again.child.weight
    assert again.child is not module.child
    assert_same_values(module, again)


def test_halves_combine_to_the_same_cells_shared_as_they_were():
    module = Cycle()
    again = sl.combine(*sl.lens("**.bias").partition(module))
    assert again.child.parent is again
    assert again.tied is again.twins[0].weight is module.tied


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_is_written_on_its_own(duplicate):
    module = Cycle()
    again = duplicate(module)
    again.tied.value = jnp.full((1, 1), 7.0)
    assert again.twins[0].weight.value == 7.0
    assert module.tied.value == 1.0


def test_what_is_shared_is_counted_once():
    module = Cycle()
    assert written(module.states()) == [
        "child.bias",
        "child.weight",
        "twins[1].bias",
        "twins[1].weight",
    ]
    assert written(module.nodes()) == ["", "child", "twins[1]"]
    assert len(jax.tree.leaves(module)) == 4


def test_two_modules_in_one_tree_keep_a_state_shared_through_a_lens():
    one, other = Linear(1, 1), Linear(1, 1)
    other.weight = one.weight
    again = sl.lens("**.weight").update([one, other], lambda w: w + 1)
    assert again[0].weight is again[1].weight
    assert again[0].weight.value == 2.0


# A module as a pytree.


def test_tree_map_maps_all_arrays_and_nothing_else():
    doubled = jax.tree.map(lambda x: 2 * x, Tall())
    assert doubled.title == "tall"
    assert doubled.stack[0].weight.value.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert isinstance(doubled.pair[0], sl.HiddenState)


@pytest.mark.parametrize("label", ["decay", True, 3, None])
def test_a_tree_of_labels_has_the_module_s_structure(label):
    module = Cycle()
    labels = jax.tree.map(lambda _: label, module)
    is_label = lambda x: x is None  # noqa: E731
    assert jax.tree.leaves(labels, is_leaf=is_label) == [label] * 4
    back = jax.tree.map(lambda label, x: x, labels, module, is_leaf=is_label)
    assert_same_values(module, back)


def test_equinox_partitions_and_combines_it():
    module = Tall()
    arrays, rest = eqx.partition(module, eqx.is_inexact_array)
    assert rest.count.value.dtype == jnp.int32
    assert arrays.count.value is None
    assert_same_values(module, eqx.combine(arrays, rest))


def test_optax_initialises_and_updates_it():
    module = Linear(1, 1)
    optimizer = optax.sgd(0.5, momentum=0.9)
    state = optimizer.init(module)
    gradient = jax.grad(lambda m: jnp.sum(m(jnp.ones((1, 1)))))(module)
    updates, state = optimizer.update(gradient, state, module)
    new = optax.apply_updates(module, updates)
    assert (new.weight.value.item(), new.bias.value.item()) == (0.5, -0.5)
    assert module.weight.value == 1.0


def test_it_goes_in_and_out_of_jit_and_compiles_once():
    traces = []

    @jax.jit
    def step(module, x):
        traces.append(1)
        return jax.tree.map(lambda w: w + x, module)

    module = Cycle()
    for _ in range(3):
        module = step(module, 1.0)
    assert module.tied.value == 4.0
    assert len(traces) == 1


def test_another_static_attribute_is_another_structure():
    one, other = Tall(), Tall()
    other.title = "small"
    assert jax.tree.structure(one) != jax.tree.structure(other)


def test_jax_vmap_stacks_it():
    make = lambda shift: jax.tree.map(lambda w: w + shift, Linear(1, 2))  # noqa: E731
    stacked = jax.vmap(make)(jnp.arange(3.0))
    assert stacked.weight.value.shape == (3, 1, 2)
    out = jax.vmap(lambda m, x: m(x), in_axes=(0, None))(stacked, jnp.ones((4, 1)))
    assert out.shape == (3, 4, 2)


# Attributes that are no states.


def test_an_equinox_layer_is_an_attribute():
    module = sl.nn.Module()
    module.layer = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    assert module.layer.in_features == 2
    assert written(module.states()) == []
    assert written(module.states("layer.**")) == ["layer.weight", "layer.bias"]
    assert len(jax.tree.leaves(module)) == 2


def test_an_equinox_layer_in_a_list_with_modules():
    module = sl.nn.Module()
    layer = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    module.layers = [Linear(1, 1), layer]
    assert written(sl.lens("layers[1].*").paths(module)) == ["layers[1].weight", "layers[1].bias"]
    gradient = jax.grad(lambda m: jnp.sum(m.layers[1](m.layers[0](jnp.ones(1)))))(module)
    np.testing.assert_allclose(gradient.layers[0].bias.value, layer.weight[0], rtol=1e-6)


def test_arrays_and_numbers_as_attributes():
    module = sl.nn.Module()
    module.table, module.rate, module.nothing = jnp.ones(2), 0.5, None
    assert jax.tree.leaves(jax.tree.map(jnp.negative, module))[0].tolist() == [-1.0, -1.0]
    assert (module.rate, module.nothing) == (0.5, None)


def test_super_init_may_be_forgotten():
    class Forgetful(sl.nn.Module):
        def __init__(self):
            self.weight = sl.ParamState(jnp.ones(1))
            self.table = jnp.ones(2)

    module = jax.tree.map(lambda x: x + 1, Forgetful())
    assert module.weight.value == 2.0
    assert module.table.tolist() == [2.0, 2.0]


def test_a_name_is_kept():
    assert jax.tree.map(lambda x: x, sl.nn.Module(name="encoder")).name == "encoder"


# Depth and sharing.


class Block(sl.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.weight = sl.ParamState(jnp.ones(()))


def nested(depth, make=Block):
    module = None
    for _ in range(depth):
        module = make(module)
    return module


@pytest.mark.parametrize("make", [Block, lambda inner: Block([inner]), lambda m: Block({"a": m})])
def test_modules_may_be_nested_deeply(make):
    depth = 900
    module = nested(depth, make)
    assert len(module.states()) == len(module.nodes()) == depth
    assert len(jax.tree.leaves(jax.tree.map(lambda x: x, module))) == depth
    assert sl.grad(lambda: module.weight.value**2, module.states("weight"))()["weight",] == 2
    assert sl.jit(lambda module: module.weight.value)(module) == 1
    deepest = sl.path.format(max(module.states(), key=len))
    assert written(sl.lens(deepest).paths(module)) == [deepest]
    assert "Block(...)" in repr(module)


def test_repr_of_modules_that_share_modules_shows_each_once():
    module = Linear(1, 1)
    for _ in range(20):
        pair, module = module, sl.nn.Module()
        module.one = module.other = pair
    text = repr(module)
    assert text.count("weight=") == 1
    assert text.count("<Module again>") == 19
    assert text.count("<Linear again>") == 1
