"""Values of attributes as trees, in which a dictionary may have keys that JAX can't sort."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.tree_util as jtu

from .._tree import Path, TreeDef, from_jax


@jtu.register_pytree_with_keys_class
class _Unsorted:
    """Stands in a tree for a dictionary whose entries stay in the order that they have."""

    def __init__(self, entries: dict[Any, Any]):
        self.entries = entries

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        # With their classes, since 1 == 1.0 == True.
        typed = tuple((type(key), key) for key in self.entries)
        aux = type(self.entries), getattr(self.entries, "default_factory", None), typed
        return [(jtu.DictKey(key), value) for key, value in self.entries.items()], aux

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> Any:
        """Makes the dictionary again, of which nobody needs to know how it was flattened."""
        kind, factory, typed = aux
        entries = dict(zip([key for _, key in typed], children, strict=True))
        return entries if kind is dict else defaultdict(factory, entries)


def _is_unsortable(value: Any) -> bool:
    if type(value) is not dict and type(value) is not defaultdict:
        return False
    if set(map(type, value)) <= {str}:
        return False
    try:
        sorted(value)
    except Exception:
        return True
    return False


def flatten(value: Any, is_leaf: Callable[[Any], bool]) -> tuple[list[Any], TreeDef]:
    """Flattens the value of an attribute down to leaves of JAX, or such as are said to be some."""
    leaves, treedef = jax.tree.flatten(value, is_leaf=lambda x: _is_unsortable(x) or is_leaf(x))
    # A dictionary among the leaves is one that doesn't sort.
    if any(map(_is_unsortable, leaves)):
        return jax.tree.flatten(sortable(value, is_leaf), is_leaf=is_leaf)
    return leaves, treedef


def leaves(value: Any, is_leaf: Callable[[Any], bool]) -> list[Any]:
    """Lists the leaves of the value of an attribute."""
    return flatten(value, is_leaf)[0]


def leaves_with_path(value: Any, is_leaf: Callable[[Any], bool]) -> list[tuple[Path, Any]]:
    """Lists the leaves of the value of an attribute with their first paths."""
    if not isinstance(value, (list, tuple, dict)) and (is_leaf(value) or jtu.all_leaves([value])):
        return [((), value)]
    found = jtu.tree_flatten_with_path(sortable(value, is_leaf), is_leaf=is_leaf)[0]
    return [(from_jax(keys)[0], leaf) for keys, leaf in found]


def sortable(value: Any, is_leaf: Callable[[Any], bool]) -> Any:
    """Returns a tree that JAX can flatten."""
    found, treedef = jax.tree.flatten(value, is_leaf=lambda x: _is_unsortable(x) or is_leaf(x))
    if not any(map(_is_unsortable, found)):
        return value
    return treedef.unflatten(_wrapped(x, is_leaf) if _is_unsortable(x) else x for x in found)


def _wrapped(entries: dict[Any, Any], is_leaf: Callable[[Any], bool]) -> _Unsorted:
    inner = entries.copy()
    for key, value in entries.items():
        inner[key] = sortable(value, is_leaf)
    return _Unsorted(inner)
