"""The laws of nodes, over random trees."""

from typing import Any

import equinox as eqx
import jax
from hypothesis import given
from hypothesis import strategies as st

import statelens as sl
from tests.strategies import Layer, Point, same, trees


class Box(eqx.Module):
    node: Any


specs = st.sampled_from(
    [list, dict, Point, Layer, sl.State, jax.Array, sl.ndim == 2, "**", "*", "**.w", "layers[*]"]
).map(lambda spec: sl.nodes(sl.lens(spec, optional=True)))
boxes = sl.nodes(sl.lens(Box, optional=True))


@given(trees, specs)
def test_the_identity_changes_nothing(tree, nodes):
    assert nodes.update(tree, lambda node: node) is tree


@given(trees, specs)
def test_what_is_wrapped_is_unwrapped_again(tree, nodes):
    boxed = nodes.update(tree, Box)
    # A state at two places has a box at each.
    assert set(boxes.paths(boxed)) >= set(nodes.paths(tree))
    assert same(boxes.update(boxed, lambda box: box.node), tree)


@given(trees, specs)
def test_each_node_is_there_once_and_none_lies_in_another(tree, nodes):
    found = nodes.get(tree)
    assert tuple(found) == nodes.paths(tree)
    inside = lambda path, other: path[: len(other)] == other  # noqa: E731
    pairs = [(a, b) for a in found for b in found if a != b]
    # (What is in a state has the path of the state.)
    assert not any(inside(a, b) for a, b in pairs)
