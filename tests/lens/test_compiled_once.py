"""A lens is compiled once for each structure."""

from collections import OrderedDict, defaultdict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.lens.trees import written


def test_a_predicate_runs_once_for_each_structure():
    calls = []
    lens = sl.lens(lambda path, unit: calls.append(path) or True)

    def calls_on(tree):
        calls.clear()
        assert lens.count(tree) > 0
        return len(calls)

    assert calls_on({"w": jnp.ones(2), "s": sl.State(jnp.ones(3))}) == 2
    assert calls_on({"w": jnp.zeros(2), "s": sl.State(jnp.zeros(3))}) == 0
    assert calls_on({"w": jnp.ones(4), "s": sl.State(jnp.ones(3))}) == 2
    assert calls_on({"w": jnp.ones(2), "s": sl.State(jnp.ones(3, jnp.bfloat16))}) == 2
    assert calls_on({"w": jnp.ones(2), "s": sl.State(jnp.ones(3), tag="new")}) == 2
    assert calls_on({"w": jnp.ones(2), "s": sl.State(jnp.ones(3))}) == 0


def test_what_follows_from_shape_and_dtype_is_seen_anew():
    lens = (sl.ndim == 2) & sl.inexact
    assert written(lens, {"w": jnp.ones((2, 2))}) == ["w"]
    assert written(lens, {"w": jnp.ones(2)}) == []
    assert written(lens, {"w": jnp.ones((2, 2), int)}) == []
    assert written(sl.size == 2, {"s": sl.State(jnp.ones(2))}) == ["s"]
    assert written(sl.size == 2, {"s": sl.State(jnp.ones(3))}) == []


def test_what_follows_from_the_states_is_seen_anew():
    one, other = sl.State(jnp.ones(1)), sl.State(jnp.ones(1))
    assert written("b", {"a": one, "b": one}) == ["a"]
    assert written("b", {"a": one, "b": other}) == ["b"]
    assert written(sl.tagged("new"), {"a": sl.State(jnp.ones(1))}) == []
    assert written(sl.tagged("new"), {"a": sl.State(jnp.ones(1), tag="new")}) == ["a"]


def test_a_tree_with_something_static_that_cannot_be_hashed_is_no_problem():
    class Unhashable(eqx.Module):
        w: jax.Array
        options: dict = eqx.field(static=True)

    assert written("w", Unhashable(jnp.ones(1), {"a": [1]})) == ["w"]


@jax.tree_util.register_pytree_node_class
class Opening:
    """A node that opens the state that it holds by itself."""

    def __init__(self, state):
        self.state = state

    def tree_flatten(self):
        return (jax.tree.leaves(self.state)[0],), self.state.metadata

    @classmethod
    def tree_unflatten(cls, metadata, children):
        return cls(sl.State(*children))


def test_a_node_may_flatten_states_by_itself():
    tree = {"a": Opening(sl.State(jnp.ones(2))), "b": jnp.zeros(3)}
    focus, rest = sl.lens("b").partition(tree)
    assert focus["b"] is tree["b"]
    assert rest["a"].state.value is tree["a"].state.value
    assert sl.lens(...).count(tree) == 5


def test_an_error_of_a_node_comes_out():
    class Broken(Opening):
        def tree_flatten(self):
            raise ValueError("broken")

    jax.tree_util.register_pytree_node_class(Broken)
    with pytest.raises(ValueError, match="broken"):
        sl.lens(...).get([Broken(None)])


@pytest.mark.parametrize("other", [{"a": {"b": None}}, {"a": [None]}, {"a": (), "c": None}, []])
def test_halves_with_a_tree_in_the_place_of_a_leaf_differ_in_structure(other):
    with pytest.raises(sl.StructureError, match="asked to combine halves"):
        sl.combine({"a": jnp.ones(2)}, other)
    with pytest.raises(sl.StructureError, match="asked to apply updates"):
        sl.lens("a").apply_updates({"a": jnp.ones(2)}, other)


def test_two_rests_of_one_partition_are_refused_by_the_path_of_the_part():
    rest = sl.lens("a")[:1].partition({"a": jnp.ones(2)})[1]
    with pytest.raises(sl.StructureError, match="2 of them have a leaf at 'a'"):
        sl.combine(rest, rest)


@pytest.mark.parametrize("before", [None, sl.State({"x": jnp.ones(1), "y": jnp.ones(1)})])
def test_an_update_of_what_is_not_selected_is_named_by_its_own_path(before):
    tree = {"a": before, "b": jnp.ones(1), "w": jnp.ones(1)}
    with pytest.raises(sl.StructureError, match=r"not to 'b'\nthere is an update for that"):
        sl.lens("w").apply_updates(tree, {**tree, "a": None})


def test_an_update_of_what_is_not_selected_is_refused():
    tree = {"b": jnp.ones(1), "w": jnp.ones(1)}
    with pytest.raises(sl.StructureError, match=r"not to 'b'\nthere is an update for that"):
        sl.lens("w").apply_updates(tree, {"b": jnp.ones(1), "w": jnp.ones(1)})
    updates = sl.lens("w").partition({"b": jnp.ones(1), "w": jnp.ones(1)})[0]
    assert sl.lens("w").apply_updates(tree, updates) == {"b": 1.0, "w": 2.0}


@pytest.mark.parametrize("use", ["mask", "partition", "get", "paths", "count", "nbytes"])
def test_a_pattern_that_matches_nothing_is_no_silent_mask_and_no_empty_part(use):
    tree = {"layer": {"bias": jnp.ones(1), "weight": jnp.ones(1)}}
    with pytest.raises(KeyError, match=r"'\*\*.wieght', which matches nothing\n.*layer.weight"):
        getattr(sl.lens("**.wieght"), use)(tree)
    with pytest.raises(KeyError, match="matches nothing"):
        getattr(~sl.lens("layers.**") & sl.inexact, use)(tree)
    getattr(sl.lens("**.wieght", optional=True), use)(tree)
    for spec in (sl.ndim > 3, None, sl.ParamState, lambda path, unit: False, sl.tagged("slow")):
        getattr(sl.lens(spec), use)(tree)


def test_trees_whose_keys_are_equal_and_not_the_same_are_told_apart():
    x = jnp.ones(1)
    every = sl.lens("[0].*.**")
    for wrap in (dict, OrderedDict, lambda d: defaultdict(list, d), sl.State, Holder):
        for path in ((1,), (True,), (1.0,), (1, "a"), (True, "a")):
            (found,) = every.paths([wrap({path if len(path) > 1 else path[0]: x})])
            assert repr(found[-len(path) :]) == repr(path)
    one = sl.lens("[1]", optional=True)
    assert [one.paths({key: x}) for key in (True, 1, 1.0)] == [(), ((1,),), ((1.0,),)]


class Holder(sl.nn.Module):
    """A module with a dictionary of arrays."""

    def __init__(self, items):
        super().__init__()
        self.items = items


def test_a_gradient_is_by_the_key_that_is_meant():
    def loss(tree):
        return sum(jnp.sum(x**2) for x in tree.values())

    lens = sl.lens("[1]? | [2]")
    for _ in range(2):
        assert sl.grad(loss, lens)({True: jnp.ones(1), 2: jnp.ones(1)})[True] is None
        assert sl.grad(loss, lens)({1: jnp.ones(1), 2: jnp.ones(1)})[1] == 2


def test_keys_that_cannot_be_compared_with_those_of_another_tree_are_no_problem():
    x = jnp.ones(1)
    for tree in ({np.int64(3): x}, {("layer", "w"): x}, {np.int64(3): x}):
        for make in (dict, sl.State):
            assert len(sl.lens("**").paths({"a": make(tree)})) == 1


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"a": {1: 1.0, "b": jnp.ones(1)}},
            r"that at \['a'\]\n.* 1 and 'b' can't be compared",
        ),
        ({1: 1.0, "b": jnp.ones(1)}, r"a dictionary\nJAX sorts its keys, .*(.|\n)*OrderedDict"),
        (
            {("a", 1): 1.0, ("a", "b"): jnp.ones(1)},
            r"\('a', 1\) and \('a', 'b'\) can't be compared",
        ),
        ([{None: 1.0, "b": jnp.ones(1)}], r"at \[0\]\n.*None and 'b' can't be compared"),
    ],
)
@pytest.mark.parametrize("use", ["paths", "get", "partition", "mask"])
def test_keys_that_cannot_be_sorted_are_refused(tree, message, use):
    with pytest.raises(sl.StructureError, match=message):
        getattr(sl.lens("**"), use)(tree)


def test_a_state_refuses_keys_that_cannot_be_sorted():
    with pytest.raises(sl.StructureError, match=r"that at \['a'\]\n.* 1 and 'b' can't be"):
        sl.State({"a": {1: 1.0, "b": jnp.ones(1)}})


class Static(eqx.Module):
    """A module with something of the user's in its structure."""

    w: jax.Array
    fun: object = eqx.field(static=True)


def test_a_structure_with_a_function_in_it_is_known_again_as_long_as_that_lives():
    calls = []
    lens = sl.lens(lambda path, unit: calls.append(path) or True)

    def calls_on(*funs):
        calls.clear()
        tree = [Static(jnp.ones(2), {"nested": (fun, 1)}) for fun in funs]
        assert lens.count(tree) == 2 * len(funs)
        return len(calls)

    def one(x):
        return x

    def other(x):
        return -x

    assert [calls_on(one, other), calls_on(one, other)] == [2, 0]
    assert [calls_on(other, one), calls_on(other, one)] == [2, 0]
    assert [calls_on(one, one), calls_on(one, other)] == [2, 0]
    assert [calls_on(lambda x: x), calls_on(lambda x: x)] == [1, 1]


def test_lenses_that_are_made_again_of_one_function_are_one():
    calls = []

    class Chooser:
        def choose(self, path, unit):
            calls.append(path)
            return True

    chooser, tree = Chooser(), {"a": jnp.ones(2)}
    for _ in range(3):
        assert (sl.lens(chooser.choose) & ~sl.lens("b?")).count(tree) == 2
    assert len(calls) == 1
