"""Selections: what a selector selects in a whole tree.

A selection depends on nothing but the tree's structure, and as closely as its selector looks,
on what the units are like. It is computed once for each, and holds what the operations of a
lens need to move leaves without looking at them one by one.
"""

import functools
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, overload

from .._tree import (
    Cell,
    Index,
    Path,
    Site,
    TreeDef,
    flatten,
    flatten_with_path,
    has_owners,
    kinds,
    looking,
    sites,
)
from ._coverage import WHOLE, CacheKeyDepth, Parts, Scope, Selector, walk
from ._selectors import ByPath, Optional


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


class Selection(Sequence[Entry]):
    """What a selector selects in every tree of one structure: entries, in order.

    Args:
        entries: The entries.
        cells: The positions of leaves that are cells.
        unmatched: Patterns that match nothing and aren't optional.
        has_owners: Whether there are cells or mutable nodes in the tree.

    Attributes:
        paths: The path of each entry.
        positions: Where the unit of each entry lies first.
        arrays: The numbers of the entries that are whole arrays.
        cells: The numbers of those that are whole cells.
        parts: The numbers of those that are parts of a unit, by the unit's position.
        repeats: Positions of units that occur again, each with its first position.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        cells: Collection[int] = (),
        unmatched: tuple[ByPath, ...] = (),
        has_owners: bool = False,
    ):
        self.entries = tuple(entries)
        self.has_owners = has_owners
        self.unmatched = unmatched
        self.paths = tuple([entry.path for entry in self.entries])
        self.positions = tuple([entry.positions[0] for entry in self.entries])
        self.repeats = {
            again: entry.positions[0] for entry in self.entries for again in entry.positions[1:]
        }
        self.arrays: list[int] = []
        self.cells: list[int] = []
        self.parts: dict[int, list[int]] = {}
        for number, entry in enumerate(self.entries):
            position = entry.positions[0]
            if entry.atom is not None or entry.index is not None:
                self.parts.setdefault(position, []).append(number)
            else:
                (self.cells if position in cells else self.arrays).append(number)

    @overload
    def __getitem__(self, number: int) -> Entry: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, number: int | slice) -> Entry | tuple[Entry, ...]:
        return self.entries[number]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)


_CACHE_SIZE = 1024
_MOST_SEEN = 4
_cache: OrderedDict[Hashable, tuple[tuple["_Seen", Selection], ...]] = OrderedDict()


def select(selector: Selector, tree: Any, leaves: list[Any], treedef: TreeDef) -> Selection:
    """Returns what a selector selects in a flattened tree, computed once for each structure."""
    types = list(map(type, leaves))
    sight = key_depth_of(selector)
    key = (selector, treedef)
    try:
        known = _cache.get(key, ())
    except TypeError:
        # Something static in the tree can't be hashed.
        return _select(selector, tree)
    for seen, selection in known:
        if seen.holds(sight, leaves, types):
            return selection
    selection = _select(selector, tree)
    _cache[key] = ((_Seen(sight, leaves, types), selection), *known[: _MOST_SEEN - 1])
    while len(_cache) > _CACHE_SIZE:
        _cache.popitem(last=False)
    return selection


@functools.lru_cache(maxsize=_CACHE_SIZE)
def key_depth_of(selector: Selector) -> CacheKeyDepth:
    """Returns how closely a selector looks at units, with all that it is made of."""
    return max(part.key_depth for part in walk(selector))


class _Seen:
    """What a selection depends on beyond the tree's structure."""

    def __init__(self, sight: CacheKeyDepth, leaves: list[Any], types: list[type]):
        self._types = types
        self._has_cells = any(issubclass(kind, Cell) for kind in set(types))
        self._cells, arrays = _cells(sight, leaves) if self._has_cells else ([], leaves)
        self._kinds = kinds(arrays) if sight >= CacheKeyDepth.ARRAYS else []

    def holds(self, sight: CacheKeyDepth, leaves: list[Any], types: list[type]) -> bool:
        """Says whether it is the same for other leaves."""
        if types != self._types:
            return False
        cells, arrays = _cells(sight, leaves) if self._has_cells else ([], leaves)
        return cells == self._cells and (
            sight < CacheKeyDepth.ARRAYS or kinds(arrays) == self._kinds
        )


def _cells(sight: CacheKeyDepth, leaves: list[Any]) -> tuple[list[Any], list[Any]]:
    """Lists what is seen of cells, and all arrays that are seen."""
    seen: list[Any] = []
    arrays = list(leaves)
    first: dict[int, int] = {}
    for position, leaf in enumerate(leaves):
        if isinstance(leaf, Cell):
            seen.append(first.setdefault(id(leaf), position))
            if sight >= CacheKeyDepth.LABELS:
                seen.append(leaf.metadata)
            if sight >= CacheKeyDepth.VALUES:
                inner, structure = flatten(leaf.look())
                seen.append((structure, tuple(map(type, inner))))
                arrays += inner
    return seen, arrays


def _select(selector: Selector, tree: Any) -> Selection:
    scope = Scope(tree, set())
    with looking():
        paths, leaves, _ = flatten_with_path(tree)
    entries: list[Entry] = []
    cells: set[int] = set()
    for site in sites(paths, leaves):
        if isinstance(site.unit, Cell):
            cells.update(site.positions)
        pick = selector.coverage(site, scope)
        if pick is WHOLE:
            entries.append(Entry(site.paths[0], site.positions, None, (), None))
        elif pick:
            entries += _part_entries(site, pick)
    unmatched = tuple(p for p in _required(selector) if p not in scope.matched)
    return Selection(entries, cells, unmatched, has_owners(tree))


def _required(selector: Selector) -> list[ByPath]:
    """Lists the patterns that have to match something."""
    if isinstance(selector, Optional):
        return []
    own = [selector] if isinstance(selector, ByPath) else []
    return own + [pattern for part in selector.parts() for pattern in _required(part)]


def _part_entries(site: Site, pick: Parts) -> list[Entry]:
    if not isinstance(site.unit, Cell):
        return [Entry(site.paths[0], site.positions, None, (), pick[()])]
    paths, _, _ = flatten_with_path(site.unit.look())
    return [
        Entry(site.paths[0] + inner, site.positions, position, inner, pick[inner])
        for position, (inner, _) in enumerate(paths)
        if inner in pick
    ]
