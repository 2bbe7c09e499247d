"""Dictionaries whose keys don't compare: JAX, which sorts them, takes no tree with one."""

from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

import jax.tree_util as jtu

from .._errors import StructureError
from ._protocols import Cell, LensLeaf, MutableNode


def flatten_as_jax(
    tree: Any,
    is_leaf: Callable[[Any], Any] | None = None,
    name: Callable[[], str] | None = None,
) -> tuple[list[Any], Any]:
    """Flattens a tree as JAX does, whose error for keys that don't compare names no place."""
    try:
        return jtu.tree_flatten(tree, is_leaf)
    except ValueError:
        refuse_unsortable(tree, name)
        raise


def refuse_unsortable(tree: Any, name: Callable[[], str] | None = None) -> None:
    """Refuses a tree, which is called by a name, that has a dictionary whose keys don't compare."""
    below: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    while below:
        keys, node = below.pop()
        if isinstance(node, Cell):
            below.append(((*keys, jtu.GetAttrKey("value")), node.look()))
        if isinstance(node, (LensLeaf, MutableNode)):
            continue
        if isinstance(node, dict) and not is_sortable(node):
            one, other = _incomparable(node)
            raise StructureError(
                "asked to flatten a dictionary"
                + (f" in {name()}" if name else "")
                + (f", that at {jtu.keystr(keys)}" if keys else ""),
                f"JAX sorts its keys, and {one!r} and {other!r} can't be compared",
                "keys of one type",
                "a collections.OrderedDict, whose keys stay in their order",
            )
        children = jtu.tree_flatten_with_path(node, is_leaf=lambda x, node=node: x is not node)[0]
        below += [((*keys, *inner), child) for inner, child in children if child is not node]


def is_sortable(keys: Iterable[Any]) -> bool:
    """Says whether keys compare with one another, as JAX needs them to."""
    try:
        sorted(keys)
    except Exception:  # whatever a comparison raises
        return False
    return True


def _incomparable(keys: Iterable[Any]) -> tuple[Any, ...]:
    pairs = combinations(keys, 2)
    return next((pair for pair in pairs if not is_sortable(pair)), (*keys,)[:2])
