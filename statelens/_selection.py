"""Selections: what a selector selects in a whole tree.

A selection depends on nothing but the tree's structure, and is computed once for each.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

from ._cell import Cell
from ._picks import WHOLE, Parts, Scope, Selector, walk
from ._select import ByPath, Optional
from ._units import Index, Site, TreeDef, flatten, flatten_with_path, is_array, sites
from .path import Path


class Entry(NamedTuple):
    """One thing in the focus.

    Attributes:
        path: Its path; that of a part goes on inside the cell.
        positions: Where its unit lies among the leaves, once for each time it occurs.
        atom: Its position among the leaves of the cell's value, or None for a whole unit.
        inner: Its path inside the cell's value.
        index: Which part of the array it is, or None for all of it.
    """

    path: Path
    positions: tuple[int, ...]
    atom: int | None
    inner: Path
    index: Index | None


class Selection(NamedTuple):
    """What a selector selects in every tree of one structure.

    Attributes:
        entries: What is in the focus, in order.
        unmatched: Patterns that match nothing and aren't optional.
    """

    entries: tuple[Entry, ...]
    unmatched: tuple[ByPath, ...]


_CACHE_SIZE = 1024
_cache: OrderedDict[Hashable, Selection] = OrderedDict()


def select(selector: Selector, tree: Any, leaves: list[Any], treedef: TreeDef) -> Selection:
    """Returns what a selector selects in a tree, computed once for each structure.

    Args:
        selector: The selector.
        tree: The tree.
        leaves: Its leaves, as `_units.flatten` gives them.
        treedef: Its structure.

    Returns:
        The selection.
    """
    key = (selector, treedef, _structure(selector, leaves))
    try:
        selection = _cache.get(key)
    except TypeError:
        # Something static in the tree can't be hashed.
        return _select(selector, tree)
    if selection is None:
        selection = _cache[key] = _select(selector, tree)
        while len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    return selection


def _structure(selector: Selector, leaves: list[Any]) -> Hashable:
    """Returns what a selection depends on beyond the tree's structure."""
    types = tuple(map(type, leaves))
    key: list[Hashable] = [types]
    arrays = leaves
    if any(issubclass(kind, Cell) for kind in set(types)):
        arrays = list(leaves)
        first: dict[int, int] = {}
        for position, leaf in enumerate(leaves):
            if isinstance(leaf, Cell):
                inner, structure = flatten(leaf.value)
                known = first.setdefault(id(leaf), position)
                key.append((known, leaf.metadata, structure, tuple(map(type, inner))))
                arrays += inner
    if any(part.sees_arrays for part in walk(selector)):
        key.append(tuple([(x.shape, x.dtype) for x in arrays if is_array(x)]))
    return tuple(key)


def _select(selector: Selector, tree: Any) -> Selection:
    scope = Scope(tree, set())
    paths, leaves, _ = flatten_with_path(tree)
    entries: list[Entry] = []
    for site in sites(paths, leaves):
        pick = selector.pick(site, scope)
        if pick is WHOLE:
            entries.append(Entry(site.paths[0], site.positions, None, (), None))
        elif pick:
            entries += _part_entries(site, pick)
    unmatched = tuple(p for p in _required(selector) if p not in scope.matched)
    return Selection(tuple(entries), unmatched)


def _required(selector: Selector) -> list[ByPath]:
    """Lists the patterns that have to match something."""
    if isinstance(selector, Optional):
        return []
    own = [selector] if isinstance(selector, ByPath) else []
    return own + [pattern for part in selector.parts() for pattern in _required(part)]


def _part_entries(site: Site, pick: Parts) -> list[Entry]:
    if not isinstance(site.unit, Cell):
        return [Entry(site.paths[0], site.positions, None, (), pick[()])]
    paths, _, _ = flatten_with_path(site.unit.value)
    return [
        Entry(site.paths[0] + inner, site.positions, position, inner, pick[inner])
        for position, (inner, _) in enumerate(paths)
        if inner in pick
    ]
