"""The lens laws, over random trees and random lenses."""

import jax
from hypothesis import given

import statelens as sl
from tests.strategies import filled_with, lenses, same, trees


def values_of(lens, tree, number):
    return {path: filled_with(number, unit) for path, unit in lens.get(tree).items()}


@given(trees, lenses)
def test_setting_what_is_there_changes_nothing(tree, lens):
    assert same(lens.set(tree, lens.get(tree)), tree)


@given(trees, lenses)
def test_what_is_set_is_what_is_there(tree, lens):
    values = values_of(lens, tree, 1)
    found = lens.get(lens.set(tree, values))
    assert list(found) == list(values)
    assert all(same(found[path], values[path]) for path in values)


@given(trees, lenses)
def test_the_last_set_wins(tree, lens):
    ones, zeros = values_of(lens, tree, 1), values_of(lens, tree, 0)
    assert same(lens.set(lens.set(tree, ones), zeros), lens.set(tree, zeros))


@given(trees, lenses)
def test_set_keeps_structure_and_sharing_and_leaves_the_rest_the_same_objects(tree, lens):
    after = lens.set(tree, values_of(lens, tree, 1))
    assert same(lens.mask(after), lens.mask(tree))
    leaves = zip(
        jax.tree.leaves(lens.mask(tree)), jax.tree.leaves(tree), jax.tree.leaves(after), strict=True
    )
    assert all(old is new for selected, old, new in leaves if not selected)


@given(trees, lenses)
def test_update_is_set_of_the_function_of_get(tree, lens):
    updated = lens.update(tree, lambda value: filled_with(1, value))
    assert same(updated, lens.set(tree, values_of(lens, tree, 1)))


@given(trees, lenses)
def test_halves_combine_to_the_tree_of_the_same_objects(tree, lens):
    focus, rest = lens.partition(tree)
    for together in (sl.combine(focus, rest), sl.combine(rest, focus)):
        assert same(together, tree)
        old, new = jax.tree.leaves(tree), jax.tree.leaves(together)
        assert all(a is b for a, b in zip(old, new, strict=True))


@given(trees, lenses, lenses)
def test_the_rest_can_be_split_again(tree, one, other):
    focus, rest = one.partition(tree)
    assert same(sl.combine(focus, *other.partition(rest)), tree)


@given(trees, lenses)
def test_the_focus_holds_what_the_mask_marks(tree, lens):
    focus, _ = lens.partition(tree)
    leaves, mask = jax.tree.leaves(tree), jax.tree.leaves(lens.mask(tree))
    marked = {id(leaf) for leaf, selected in zip(leaves, mask, strict=True) if selected}
    assert {id(leaf) for leaf in jax.tree.leaves(focus)} == marked


# A number of Python is a unit where a part of the lens names it, so that lenses that are equal by
# the laws of algebra, but don't name the same, may differ there.
trees_of_units = trees.filter(
    lambda tree: not {int, float}.intersection(map(type, jax.tree.leaves(tree)))
)


@given(trees_of_units, lenses, lenses)
def test_and_and_or_commute(tree, a, b):
    assert same((a & b).mask(tree), (b & a).mask(tree))
    assert same((a | b).mask(tree), (b | a).mask(tree))


@given(trees_of_units, lenses, lenses, lenses)
def test_and_and_or_associate(tree, a, b, c):
    assert same(((a & b) & c).mask(tree), (a & (b & c)).mask(tree))
    assert same(((a | b) | c).mask(tree), (a | (b | c)).mask(tree))


@given(trees_of_units, lenses, lenses, lenses)
def test_and_and_or_distribute(tree, a, b, c):
    assert same((a & (b | c)).mask(tree), ((a & b) | (a & c)).mask(tree))
    assert same((a | (b & c)).mask(tree), ((a | b) & (a | c)).mask(tree))


@given(trees_of_units, lenses, lenses)
def test_absorption(tree, a, b):
    assert same((a & (a | b)).mask(tree), a.mask(tree))
    assert same((a | (a & b)).mask(tree), a.mask(tree))


@given(trees_of_units, lenses, lenses)
def test_de_morgan(tree, a, b):
    assert same((~(a & b)).mask(tree), (~a | ~b).mask(tree))
    assert same((~(a | b)).mask(tree), (~a & ~b).mask(tree))


@given(trees_of_units, lenses, lenses)
def test_difference_is_what_only_the_first_selects(tree, a, b):
    assert same((a - b).mask(tree), (a & ~b).mask(tree))


@given(trees_of_units, lenses)
def test_a_lens_and_its_complement_share_out_the_tree(tree, a):
    assert (a & ~a).paths(tree) == ()
    assert same((a | ~a).mask(tree), sl.lens(...).mask(tree))
    assert same((~~a).mask(tree), a.mask(tree))


@given(trees_of_units, lenses)
def test_counts_of_a_lens_and_its_complement_add_up(tree, a):
    everything = sl.lens(...)
    assert a.count(tree) + (~a).count(tree) == everything.count(tree)
    assert a.nbytes(tree) + (~a).nbytes(tree) == everything.nbytes(tree)
