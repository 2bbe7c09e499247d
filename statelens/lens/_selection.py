"""Selections: what a selector selects in a whole tree.

A selection depends on nothing but the tree's structure, and as deeply as its selector needs,
on what the units are like. It is computed once for each, and says where the leaves lie that
the operations of a lens move.
"""

from collections.abc import Collection, Hashable, Iterable
from typing import Any, NamedTuple, Self

from jax.tree_util import PyTreeDef

from .._errors import PathError, SelectionError
from .._lru_cache import LruCache
from .._tree import (
    Cell,
    Index,
    KeyIdentity,
    Path,
    Site,
    TreeDef,
    flatten,
    flatten_with_path,
    is_number,
    kinds,
    looking,
    sites,
    weakly,
)
from ._coverage import WHOLE, CacheKeyDepth, Parts, Scope, Selector
from ._messages import empty, unmatched


class Entry(NamedTuple):
    """One thing in the focus: a unit, or a part of one."""

    path: Path
    # Where the unit lies among the leaves, once for each time it occurs.
    positions: tuple[int, ...]
    # The position and path among the leaves of a cell's value; None and () for a whole unit.
    atom: int | None
    inner: Path
    # Which part of the array, or None for all of it.
    index: Index | None


class Selection(tuple[Entry, ...]):
    """What a selector selects in every tree of one structure: entries, in order."""

    def __new__(cls, entries: Iterable[Entry], **_: Any) -> Self:
        return super().__new__(cls, entries)

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        cells: Collection[int] = (),
        unmatched: tuple[Selector, ...] = (),
    ):
        # Patterns that match nothing and aren't optional.
        self.unmatched = unmatched
        self.paths: tuple[Path, ...] = tuple([entry.path for entry in self])
        self.positions: tuple[int, ...] = tuple([entry.positions[0] for entry in self])
        # Positions of units that occur again, each with its first position.
        self.repeats: dict[int, int] = {
            again: entry.positions[0] for entry in self for again in entry.positions[1:]
        }
        # The numbers of the entries that are whole arrays, whole cells, and parts of the unit
        # at a position.
        self.arrays: list[int] = []
        self.cells: list[int] = []
        self.parts: dict[int, list[int]] = {}
        for number, entry in enumerate(self):
            position = entry.positions[0]
            if entry.atom is not None or entry.index is not None:
                self.parts.setdefault(position, []).append(number)
            else:
                (self.cells if position in cells else self.arrays).append(number)


class Focused(NamedTuple):
    """A tree, flattened down to cells, and what a lens selects in it."""

    leaves: list[Any]
    treedef: TreeDef
    entries: Selection


def focus_on(
    selector: Selector,
    tree: Any,
    *,
    required_by: str | None = None,
    may_be_empty: bool = False,
) -> Focused:
    """Flattens a tree and selects in it; an operation may require that there is something."""
    leaves, treedef = flatten(tree)
    entries = _select(selector, tree, leaves, treedef)
    if required_by is not None:
        if entries.unmatched:
            raise PathError(unmatched(entries.unmatched[0].written(), tree, required_by))
        if not (entries or may_be_empty or selector.is_optional):
            raise SelectionError(empty(selector.written(), tree, required_by))
    return Focused(leaves, treedef, entries)


_MOST_VERSIONS = 4


class _Version:
    """A selection, with what its selector saw of the tree beyond equal structures."""

    def __init__(self, seen: "_Seen", selection: Selection):
        self._seen = seen._replace(structures=weakly(seen.structures), cells=weakly(seen.cells))
        self._keys = list(map(KeyIdentity, seen.structures))
        self.selection = selection

    def is_of(self, seen: "_Seen") -> bool:
        """Says whether the selector sees the same in another tree."""
        return self._seen == seen and all(
            keys.is_that_of(treedef)
            for keys, treedef in zip(self._keys, seen.structures, strict=True)
        )


class _Seen(NamedTuple):
    """What a selection depends on; of the structures, also their keys, which may be equal."""

    structures: list[TreeDef]
    classes: list[type]
    cells: list[Any]
    arrays: list[Any]


# By selector and tree structure, both weak.
_selections: LruCache[Hashable, list[_Version]] = LruCache(1024)


def _select(selector: Selector, tree: Any, leaves: list[Any], treedef: TreeDef) -> Selection:
    """Returns what a selector selects in a flattened tree, computed once for each structure."""
    key = (selector, treedef)
    seen = _seen_in(selector.whole_key_depth, leaves, treedef)
    try:
        versions = _selections.get(key) or []
        for version in versions:
            if version.is_of(seen):
                return version.selection
    except Exception:
        # Something static in the tree can't be hashed, or a key in it can't be compared with
        # one of another tree.
        return _select_uncached(selector, tree)
    selection = _select_uncached(selector, tree)
    known = [_Version(seen, selection), *versions[: _MOST_VERSIONS - 1]]
    _selections.put((_weakened(selector), weakly(treedef)), known)
    return selection


def _weakened(part: Any) -> Any:
    """Returns a selector that equals one, and doesn't keep the functions in it alive."""
    if isinstance(part, Selector):
        weak = object.__new__(type(part))
        vars(weak).update({name: _weakened(value) for name, value in vars(part).items()})
        return weak
    if isinstance(part, tuple) and any(isinstance(item, Selector) for item in part):
        return tuple(map(_weakened, part))
    return weakly(part) if callable(part) or isinstance(part, PyTreeDef) else part


def _seen_in(depth: CacheKeyDepth, leaves: list[Any], treedef: TreeDef) -> _Seen:
    """Looks at a flattened tree as deeply as a selection depends on it."""
    structures, types, cells, arrays = [treedef], list(map(type, leaves)), [], leaves
    if [kind for kind in set(types) if issubclass(kind, Cell)]:
        arrays = [leaf for leaf in leaves if not isinstance(leaf, Cell)]
        first: dict[int, int] = {}
        for position, leaf in enumerate(leaves):
            if isinstance(leaf, Cell):
                cells.append(first.setdefault(id(leaf), position))
                if depth >= CacheKeyDepth.LABELS:
                    cells.append(leaf.metadata)
                if depth >= CacheKeyDepth.VALUES:
                    inner, structure = flatten(leaf.look(), leaf._description)
                    structures.append(structure)
                    cells.append(list(map(type, inner)))
                    arrays += inner if depth >= CacheKeyDepth.ARRAYS else []
    seen = kinds(arrays) if depth >= CacheKeyDepth.FREE_ARRAYS else []
    return _Seen(structures, types, cells, seen)


def _select_uncached(selector: Selector, tree: Any) -> Selection:
    scope = Scope(tree, set())
    found = looking(sites, tree, lambda path, leaf: is_number(leaf) and selector.names(path, scope))
    entries: list[Entry] = []
    cells: set[int] = set()
    for site in found:
        if isinstance(site.unit, Cell):
            cells.update(site.positions)
        coverage = selector.coverage(site, scope)
        if coverage is WHOLE:
            entries.append(Entry(site.paths[0], site.positions, None, (), None))
        elif coverage:
            entries += _parts(site, coverage)
    unmatched = tuple(p for p in selector.required() if p not in scope.matched)
    return Selection(entries, cells=cells, unmatched=unmatched)


def _parts(site: Site, coverage: Parts) -> list[Entry]:
    if not isinstance(site.unit, Cell):
        return [Entry(site.paths[0], site.positions, None, (), coverage[()])]
    paths = flatten_with_path(site.unit.look(), site.unit._description)[0]
    return [
        Entry(site.paths[0] + inner, site.positions, position, inner, coverage[inner])
        for position, inner in enumerate(paths)
        if inner in coverage
    ]
