"""Large trees: what is known of one of them holds for those that are like it, and no others."""

import itertools
import pickle
import sys
from collections import OrderedDict, namedtuple

import jax
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given

import statelens as sl
from tests.strategies import Point, lenses, same, trees

Pair = namedtuple("Pair", "x y")


def array():
    return np.zeros(1)


def large(tree):
    return {"layers": [{"b": array(), "w": array()} for _ in range(40)], "tree": tree}


def kinds_of(tree):
    """What a tree is made of, with keys and classes where JAX takes equal for the same."""
    if isinstance(tree, dict):
        below = {(type(key), key): kinds_of(child) for key, child in tree.items()}
        return type(tree), below
    if isinstance(tree, (list, tuple)):
        return type(tree), list(map(kinds_of, tree))
    return type(tree)


def assert_goes_well(lens, tree):
    leaves, structure = jax.tree.flatten(tree)
    values, halves = lens.get(tree), lens.partition(tree)
    assert all(sl.path.resolve(tree, path) is value for path, value in values.items())
    for back in (sl.combine(*halves), lens.set(tree, values), lens.update(tree, lambda x: x)):
        assert kinds_of(back) == kinds_of(tree)
        assert jax.tree.structure(back) == structure
        assert all(map(lambda a, b: a is b, jax.tree.leaves(back), leaves))


LIKE = [
    {"a": [array(), array()], "b": (array(), array())},
    {"b": (array(), array()), "a": [array(), array()]},
    {"a": [array(), None], "b": (None, array())},
    {"a": [array(), 3], "b": ("text", array())},
]
UNLIKE = [
    {"a": [array(), array()], "b": array()},
    {"a": [array(), array()], "b": [array(), array()]},
    {"a": [array(), array()], "b": (array(),)},
    {"a": [array(), array()], "b": (array(), array(), array())},
    {"a": [array()], "b": (array(), array(), array())},
    {"a": [array(), array()], "b": Pair(array(), array())},
    {"a": [array(), array()], "b": (array(), [array()])},
    {"a": [array(), array()], "b": (array(), Point(array(), array()))},
    {"a": [array(), array()], "b": (array(), {})},
    {"a": [array(), array()], "c": (array(), array())},
    {"a": [array(), array()], "b": (array(), array()), "c": array()},
    {"a": [array(), array()]},
    OrderedDict(a=[array(), array()], b=(array(), array())),
    [[array(), array()], (array(), array())],
    array(),
    None,
]


@pytest.mark.parametrize("tree", LIKE + UNLIKE, ids=lambda tree: str(jax.tree.structure(tree)))
@pytest.mark.parametrize("known", LIKE[:2], ids=["as JAX orders it", "in another order"])
def test_a_tree_is_taken_for_what_it_is_beside_another_one_that_is_known(known, tree):
    lens = sl.lens("layers[*].w") | sl.lens("tree.**", optional=True)
    lens.partition(large(known))
    assert_goes_well(lens, large(tree))


def test_layers_that_differ_are_told_apart():
    lens = sl.lens("**.w")
    known, tree = large(array()), large(array())
    lens.partition(known)
    tree["layers"][7] = {"b": array(), "v": array()}
    assert_goes_well(lens, tree)
    assert len(lens.get(tree)) == 39


def test_keys_that_are_equal_and_not_the_same_are_kept():
    lens = sl.lens("layers[*].w")
    for key in (1, True, 1.0):
        assert_goes_well(lens, large({key: array()}))


def test_a_class_that_becomes_a_node_is_no_leaf_any_longer():
    class Late:
        def __init__(self, x):
            self.x = x

    lens = sl.lens("layers[*].w") | sl.lens("tree.**", optional=True)
    tree = large(Late(array()))
    assert len(lens.get(tree)) == 40
    jtu.register_pytree_with_keys(
        Late, lambda late: (((jtu.GetAttrKey("x"), late.x),), None), lambda _, x: Late(*x)
    )
    assert len(lens.get(tree)) == 41


@given(trees, trees, lenses)
def test_any_tree_beside_any_other(one, other, lens):
    lens.partition(large(one))
    assert same(sl.combine(*lens.partition(large(other))), large(other))


def test_a_shared_state_of_a_large_tree_stays_shared():
    lens = sl.lens(sl.State)
    for _ in range(2):
        state = sl.State(array())
        tree = large([state, state])
        assert list(lens.get(tree)) == [("tree", 0)]
        for back in (sl.combine(*lens.partition(tree)), lens.update(tree, lambda x: x + 1)):
            assert back["tree"][0] is back["tree"][1]


@pytest.mark.parametrize("whole", [[array()], {"x": array()}, Point(array(), array())], ids=str)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["focus first", "rest first"])
def test_a_half_with_a_tree_in_a_hole_is_refused(whole, order):
    halves = list(sl.lens("layers[*].w").partition(large(array())))
    halves[0]["layers"][3]["b"] = halves[1]["layers"][3]["b"] = None
    halves[1]["layers"][3]["b"] = whole
    with pytest.raises(sl.StructureError, match=r"differ at 'layers\[3\].b"):
        sl.combine(*(halves[number] for number in order))


def test_a_value_that_does_not_fit_among_many_that_do_is_refused_by_its_path():
    lens = sl.lens("layers[*].w")
    tree = large(array())
    values = lens.get(tree)
    for wrong, what in ((np.zeros(2), "shape"), (np.zeros(1, np.float32), "dtype")):
        with pytest.raises(sl.StructureError, match=rf"'layers\[7\].w'\nits {what} is"):
            lens.set(tree, {**values, ("layers", 7, "w"): wrong})


def test_lenses_of_many_specs_are_as_good_as_of_two():
    keys = [f"k{number}" for number in range(1100)]
    tree = {key: np.ones(1) for key in keys[:2]}
    every, text = sl.lens(keys), " | ".join(keys)
    assert str(every) == text
    assert {every: "found"}[sl.lens(text)] == "found"
    assert sl.lens(every, optional=True).count(tree) == 2
    others = sl.lens("**? - " + " - ".join(keys[1:]))
    assert sl.lens(others, optional=True).paths(tree) == (("k0",),)
    built = sl.lens("k0")
    for key in keys[1:]:
        built |= key
    assert built == every


@pytest.mark.parametrize(
    "text", ["(" * 3000 + "a" + ")" * 3000, "~" * 3000 + "a", " / ".join(["*"] * 3000)]
)
def test_a_lens_that_is_nested_too_deep_is_refused(text):
    with pytest.raises(sl.PatternError, match="nested more than 50 deep"):
        sl.lens(text)
    assert sl.lens("(" * 40 + "a" + ")" * 40) == sl.lens("a")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda lens: ~lens,
        lambda lens: lens / "*",
        lambda lens: "*" / lens,
        lambda lens: "b?" - lens,
    ],
)
def test_a_lens_that_is_built_too_deep_is_refused(wrap):
    lenses = [sl.lens("**", optional=True)]
    with pytest.raises(
        sl.ArgumentError, match=r"more than 50 deep(.|\n)*any number stand in a row"
    ):
        lenses += map(wrap, itertools.islice(lenses, 1000))
    last = lenses[-1]
    assert last.mask({"a": [np.ones(1)]}) in ({"a": [True]}, {"a": [False]})
    assert sl.lens(str(last)) == pickle.loads(pickle.dumps(last)) == last


class Counted(str):
    """A key that counts comparisons with others."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def comparisons(use):
    Counted.compared = 0
    with pytest.raises(sl.StructureError, match="they differ at 'zz', which only one of them has"):
        use()
    return Counted.compared


@pytest.mark.parametrize("use", [sl.combine, sl.lens("**").apply_updates], ids=["combine", "add"])
def test_an_error_over_a_large_tree_costs_what_a_small_one_does_for_each_leaf(use):
    def cost(count):
        ours, theirs = ({Counted(f"k{i}"): np.ones(1) for i in range(count)} for _ in range(2))
        return comparisons(lambda: use(ours, {**theirs, "zz": np.ones(1)}))

    assert cost(400) < 6 * cost(100)


def test_halves_of_many_states_are_combined_at_the_cost_of_each():
    calls = []

    def cost(count):
        calls.clear()
        tree = {f"k{i}": sl.State({"a": array(), "b": array()}) for i in range(count)}
        halves = sl.lens("*.a").partition(tree)
        sys.setprofile(lambda frame, event, arg: calls.append(event))
        try:
            sl.combine(*halves)
        finally:
            sys.setprofile(None)
        return len(calls)

    assert cost(200) < 6 * cost(50)
