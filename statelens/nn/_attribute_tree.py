"""Values of attributes as trees, with what JAX doesn't flatten as a module has to be.

That is a dictionary whose keys don't sort, and a bound lens: it looks at modules and states, and
owns none of them.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from .._tree import Cell, MutableNode, Path, TreeDef, from_jax, is_sortable
from ..lens import BoundLens


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
    return not is_sortable(value)


class Held:
    """A leaf that stands for a module or a state at which a bound lens looks."""

    __slots__ = ("owner",)

    def __init__(self, owner: Any):
        self.owner = owner


@jtu.register_pytree_with_keys_class
class _Lens:
    """Stands in a tree for a bound lens."""

    def __init__(self, bound: BoundLens[Any]):
        self.bound = bound

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        tree = jax.tree.map(_held, self.bound.module, is_leaf=is_mutable)
        return [(jtu.GetAttrKey("module"), tree)], self.bound.selector

    @classmethod
    def tree_unflatten(cls, selector: Any, children: Any) -> Any:
        """Makes the bound lens again, of whatever takes the place of the module."""
        return BoundLens(selector, *children)


def is_mutable(value: Any) -> bool:
    """Says whether a value is a state or a mutable node."""
    return isinstance(value, (Cell, MutableNode))


def _held(value: Any) -> Any:
    return Held(value) if is_mutable(value) else value


def _is_special(value: Any) -> bool:
    return isinstance(value, BoundLens) or _is_unsortable(value)


class Flat(NamedTuple):
    """A flat tree: its leaves, its structure, and whether other nodes stand for some of its own."""

    leaves: list[Any]
    treedef: TreeDef
    has_stand_ins: bool


def flatten(value: Any, is_leaf: Callable[[Any], bool]) -> Flat:
    """Flattens the value of an attribute down to leaves of JAX, or such as are said to be some."""
    leaves, treedef = jax.tree.flatten(value, is_leaf=lambda x: _is_special(x) or is_leaf(x))
    if any(map(_is_special, leaves)):
        plain = _with_stand_ins(treedef, leaves, is_leaf)
        return Flat(*jax.tree.flatten(plain, is_leaf=is_leaf), True)
    return Flat(leaves, treedef, False)


def leaves(value: Any, is_leaf: Callable[[Any], bool]) -> list[Any]:
    """Lists the leaves of the value of an attribute."""
    return flatten(value, is_leaf).leaves


def leaves_with_path(value: Any, is_leaf: Callable[[Any], bool]) -> list[tuple[Path, Any]]:
    """Lists the leaves of the value of an attribute with their first paths."""
    if jtu.all_leaves([value], lambda x: _is_special(x) or is_leaf(x)) and not _is_special(value):
        return [((), value)]
    found = jtu.tree_flatten_with_path(with_stand_ins(value, is_leaf), is_leaf=is_leaf)[0]
    return [(from_jax(keys)[0], leaf) for keys, leaf in found]


def with_stand_ins(value: Any, is_leaf: Callable[[Any], bool]) -> Any:
    """Returns a tree that JAX flattens, in which other nodes stand for the special ones."""
    leaves, treedef = jax.tree.flatten(value, is_leaf=lambda x: _is_special(x) or is_leaf(x))
    return _with_stand_ins(treedef, leaves, is_leaf) if any(map(_is_special, leaves)) else value


def _with_stand_ins(treedef: TreeDef, leaves: list[Any], is_leaf: Callable[[Any], bool]) -> Any:
    def stand_in(leaf: Any) -> Any:
        if isinstance(leaf, BoundLens):
            return _Lens(leaf)
        if not _is_unsortable(leaf):
            return leaf
        entries = leaf.copy()
        for key, value in leaf.items():
            entries[key] = with_stand_ins(value, is_leaf)
        return _Unsorted(entries)

    return treedef.unflatten(map(stand_in, leaves))
