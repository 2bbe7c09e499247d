"""How a tree differs from another one, in words: by paths, where both are the same so far."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.tree_util as jtu

from ..._tree import Cell, format, from_jax, is_array, is_numeric
from ._split import MODULES
from ._static import merge_static

_MOST = 3
_LEAF = jax.tree.structure(0)


def describe_types(tree: Any) -> str:
    """Describes the arrays in a tree, as in ``float32[3]``."""
    found = ", ".join(jax.typeof(leaf).str_short() for leaf in jax.tree.leaves(tree))
    return found or "nothing"


def describe_difference(found: Any, other: Any) -> str:
    """Says in words how a tree differs from another one, in structure or in kinds.

    Args:
        found: A pytree.
        other: The other one.

    Returns:
        The differences, the first few of them.
    """
    found, other = merge_static(found), merge_static(other)
    said = list(_differences(found, other, (), are_traced=True))
    if not said:
        return f"it is {jax.tree.structure(found)}, not {jax.tree.structure(other)}"
    rest = f"; and {len(said) - _MOST} more" if len(said) > _MOST else ""
    return "; ".join(said[:_MOST]) + rest


def children_of(node: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Gives a node's own structure, and its children with the keys that lead to them."""
    below, form = jtu.tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)
    return form, below


def described(node: Any) -> str:
    """Describes a node by its class and what is in it, an array by its dtype and shape."""
    if node is None:
        return "None"
    form, below = children_of(node)
    name = type(node).__name__
    if form == _LEAF:
        return jax.typeof(node).str_short() if is_numeric(node) else f"a {name}"
    if not below:
        return f"an empty {name}"
    keys = ", ".join(format(from_jax(keys)[0]) for keys, _ in below)
    return f"a {name} of {len(below) if type(node) in (list, tuple) else _cut(keys)}"


def written(keys: Any) -> str:
    """Writes a JAX key path; states by path are a dictionary, whose keys are paths themselves."""
    path = from_jax(keys)[0]
    parts = (part for key in path for part in (key if isinstance(key, tuple) else (key,)))
    return format(tuple(parts))


def _differences(found: Any, other: Any, keys: Any, *, are_traced: bool) -> Iterator[str]:
    """Gives differences; `are_traced` says whether numbers are, which they aren't in modules."""
    (form, below), (other_form, other_below) = children_of(found), children_of(other)
    what = f"'{written(keys)}'" if keys else "it"
    ours, theirs = (
        _shown(node) if kind == _LEAF and _is_static(node, are_traced) else described(node)
        for node, kind in ((found, form), (other, other_form))
    )
    is_leaf = form == other_form == _LEAF
    if ours != theirs or (is_leaf and _is_static(found, are_traced) and found != other):
        yield f"{what} is {ours}, not {theirs}"
        return
    if is_leaf:
        return
    if form != other_form:
        cls, other_cls = type(found), type(other)
        if cls is not other_cls:
            names = [f"{each.__module__}.{each.__qualname__}" for each in (cls, other_cls)]
            yield f"{what} is of the class {names[0]}, not {names[1]}"
            return
        static, other_static = (_shown(each.node_data()[1]) for each in (form, other_form))
        yield f"{what} is {ours} with {static}, not with {other_static}"
    if isinstance(found, Cell):
        are_traced = True
    elif isinstance(found, MODULES):
        are_traced = False
    for (key, own), (_, others) in zip(below, other_below, strict=True):
        yield from _differences(own, others, (*keys, *key), are_traced=are_traced)


def _is_static(leaf: Any, are_traced: bool) -> bool:
    return not (is_numeric(leaf) if are_traced else is_array(leaf))


def _shown(value: Any) -> str:
    return _cut(getattr(value, "__qualname__", None) or repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
