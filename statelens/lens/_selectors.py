"""Selectors: the kinds of things that a lens can select by.

Each is a small immutable value that answers for one unit, see `_picks`. None of them looks
at the numbers in an array: what it selects follows from the tree's structure, the cells'
classes and tags, and where it says so, shapes and dtypes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from .._errors import SelectionError, explain
from .._tree import (
    MISSING,
    Cell,
    Index,
    Path,
    Pattern,
    Site,
    TreeDef,
    atoms,
    flatten_with_path,
    format,
    format_pattern,
    is_array,
    leaves_with_path,
    matches,
)
from ._coverage import WHOLE, CacheKeyDepth, Coverage, Scope, Selector, complement, intersect, unite


@dataclass(frozen=True)
class Everything(Selector):
    """``...``: all units."""

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return WHOLE

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        return True

    def written(self, level: int = 0) -> str:
        return "..."


@dataclass(frozen=True)
class ByPath(Selector):
    """Units whose written path or keys match.

    Attributes:
        pattern: The parsed pattern, or the source of a regular expression.
    """

    pattern: Pattern | str
    key_depth = CacheKeyDepth.VALUES

    def _matches(self, path: Path, scope: Scope) -> bool:
        if isinstance(self.pattern, str):
            return re.fullmatch(self.pattern, format(path)) is not None
        return matches(self.pattern, path, scope.lengths(path))

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        pick: Coverage = None
        if any(self._matches(path, scope) for path in site.paths):
            pick = WHOLE
        elif isinstance(site.unit, Cell):
            pick = {
                inner: None
                for inner, _ in atoms(site.unit)
                if inner and any(self._matches(path + inner, scope) for path in site.paths)
            } or None
        if pick is not None:
            scope.matched.add(self)
        return pick

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        found = self._matches(path, scope)
        if found:
            scope.matched.add(self)
        return found

    def written(self, level: int = 0) -> str:
        pattern = self.pattern
        return f"re:{pattern!r}" if isinstance(pattern, str) else format_pattern(pattern) or "''"


@dataclass(frozen=True)
class OfClass(Selector):
    """Cells of a class, or units inside nodes of a class."""

    cls: type

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        if issubclass(self.cls, Cell):
            return WHOLE if isinstance(site.unit, self.cls) else None
        nodes = [node for path in site.paths for node in scope.nodes(path)]
        return WHOLE if any(isinstance(node, self.cls) for node in nodes) else None

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        return isinstance(node, self.cls)

    def __str__(self) -> str:
        return self.cls.__qualname__


@dataclass(frozen=True)
class Predicate(Selector):
    """Units for which a function of path and unit says so; asked once for each structure."""

    function: Callable[[Path, Any], Any]
    key_depth = CacheKeyDepth.ARRAYS

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return WHOLE if any(self.function(path, site.unit) for path in site.paths) else None

    def __str__(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


@dataclass(frozen=True)
class OfArrays(Selector):
    """Arrays, inside cells or not, for which a function of the array says so."""

    label: str
    function: Callable[[Any], Any]
    key_depth = CacheKeyDepth.ARRAYS

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        inside = atoms(site.unit)
        picked = {path: None for path, leaf in inside if self.function(leaf)}
        return WHOLE if picked and len(picked) == len(inside) else picked or None

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Compared(Selector):
    """Arrays of which an attribute compares with a value.

    Attributes:
        attribute: ``ndim``, ``size``, ``dtype``, or ``name`` for the last key of the path.
        comparison: A function of the `operator` module.
        value: What the attribute is compared with.
    """

    attribute: str
    comparison: Callable[[Any, Any], bool]
    value: Any
    key_depth = CacheKeyDepth.ARRAYS

    _SYMBOLS: ClassVar = {"eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        if self.attribute == "name":
            if any(self._is_named(path) for path in site.paths):
                return WHOLE
            inside = [path for path, _ in atoms(site.unit)]
            return {path: None for path in inside if self._is_named(path)} or None
        return OfArrays(str(self), self._holds).coverage(site, scope)

    def _is_named(self, path: Path) -> bool:
        return bool(path) and self.comparison(path[-1], self.value)

    def _holds(self, leaf: Any) -> bool:
        return is_array(leaf) and self.comparison(getattr(leaf, self.attribute), self.value)

    def __str__(self) -> str:
        return f"{self.attribute} {self._SYMBOLS[self.comparison.__name__]} {self.value}"


@dataclass(frozen=True)
class Tagged(Selector):
    """Cells that bear a tag."""

    tag: str
    key_depth = CacheKeyDepth.LABELS

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return WHOLE if isinstance(site.unit, Cell) and self.tag in site.unit.tag else None

    def __str__(self) -> str:
        return f"tagged({self.tag!r})"


@dataclass(frozen=True)
class Masked(Selector):
    """Units under the true leaves of a prefix tree of booleans."""

    leaves: tuple[bool, ...]
    structure: TreeDef
    key_depth = CacheKeyDepth.VALUES

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        mask = scope.once(self, lambda: self._by_path(scope.tree))
        marked = {path for path, _ in atoms(site.unit) if self._marks(mask, site, path)}
        if not marked:
            return None
        return WHOLE if len(marked) == len(atoms(site.unit)) else dict.fromkeys(marked)

    @staticmethod
    def _marks(mask: dict[Path, bool], site: Site, inner: Path) -> bool:
        full = [path + inner for path in site.paths]
        return any(mask.get(path[:n], False) for path in full for n in range(len(path) + 1))

    def _by_path(self, tree: Any) -> dict[Path, bool]:
        mask = dict(leaves_with_path(self.structure.unflatten(self.leaves)))
        there = [path for path, _ in leaves_with_path(tree)]
        there += [path for path, _ in flatten_with_path(tree)[0]]
        prefixes = {path[:n] for path in there for n in range(len(path) + 1)}
        for path in mask:
            if path not in prefixes:
                raise SelectionError(
                    explain(
                        "asked for the units under a tree of booleans",
                        f"it has the path '{format(path)}', which the tree has not",
                        "booleans in the tree's own structure, or in a prefix of it",
                    )
                )
        return mask

    def __str__(self) -> str:
        return f"mask({sum(self.leaves)} of {len(self.leaves)})"


@dataclass(frozen=True)
class And(Selector):
    """What both select."""

    a: Selector
    b: Selector

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return intersect(self.a.coverage(site, scope), self.b.coverage(site, scope))

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        return self.a.covers(path, node, scope) and self.b.covers(path, node, scope)

    def written(self, level: int = 0) -> str:
        return _enclose(f"{self.a.written(2)} & {self.b.written(3)}", level > 2)

    def parts(self) -> tuple[Selector, ...]:
        return self.a, self.b


def both(a: Selector, b: Selector) -> Selector:
    """Returns what both select, without an `Everything` that would say nothing."""
    return b if isinstance(a, Everything) else And(a, b)


@dataclass(frozen=True)
class Or(Selector):
    """What either selects."""

    a: Selector
    b: Selector

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return unite(self.a.coverage(site, scope), self.b.coverage(site, scope))

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        return self.a.covers(path, node, scope) or self.b.covers(path, node, scope)

    def written(self, level: int = 0) -> str:
        return _enclose(f"{self.a.written(1)} | {self.b.written(2)}", level > 1)

    def parts(self) -> tuple[Selector, ...]:
        return self.a, self.b


@dataclass(frozen=True)
class Not(Selector):
    """What the other leaves."""

    a: Selector

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return complement(self.a.coverage(site, scope), site.unit)

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        return not self.a.covers(path, node, scope)

    def written(self, level: int = 0) -> str:
        return _enclose(f"~{self.a.written(5)}", level > 5)

    def parts(self) -> tuple[Selector, ...]:
        return (self.a,)


@dataclass(frozen=True)
class Optional(Selector):
    """What the other selects, and no error where that is nothing."""

    a: Selector

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return self.a.coverage(site, scope)

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        return self.a.covers(path, node, scope)

    def written(self, level: int = 0) -> str:
        return f"{self.a.written(6)}?"

    def parts(self) -> tuple[Selector, ...]:
        return (self.a,)


@dataclass(frozen=True)
class Within(Selector):
    """What the second selects inside nodes that the first selects."""

    a: Selector
    b: Selector

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        picked: Coverage = None
        for path in site.paths:
            for depth, node in enumerate(scope.nodes(path)):
                if node is not MISSING and self.a.covers(path[:depth], node, scope):
                    inside = scope.below(node, path[:depth])
                    below = Site((path[depth:],), site.positions, site.unit)
                    picked = unite(picked, self.b.coverage(below, inside))
        return picked

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        above = scope.nodes(path)
        return any(
            self.a.covers(path[:depth], above[depth], scope)
            and self.b.covers(path[depth:], node, scope.below(above[depth], path[:depth]))
            for depth in range(len(path) + 1)
        )

    def written(self, level: int = 0) -> str:
        return _enclose(f"{self.a.written(4)} / {self.b.written(5)}", level > 4)

    def parts(self) -> tuple[Selector, ...]:
        return self.a, self.b


@dataclass(frozen=True)
class Sliced(Selector):
    """A part of each array that the other selects."""

    a: Selector
    index: Index
    key_depth = CacheKeyDepth.ARRAYS

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        pick = self.a.coverage(site, scope)
        if pick is None:
            return None
        inside = dict(atoms(site.unit))
        chosen = inside if pick is WHOLE else pick
        if pick is not WHOLE and any(index is not None for index in pick.values()):
            raise SelectionError(
                explain(
                    f"asked for the part {self.index} of a part of '{format(site.paths[0])}'",
                    "a lens chooses a part of a whole array",
                    "one index that chooses both",
                )
            )
        for path in chosen:
            self.index.check(site.paths[0] + path, inside[path])
        return dict.fromkeys(chosen, self.index)

    def written(self, level: int = 0) -> str:
        return f"({self.a.written()}){self.index}"

    def parts(self) -> tuple[Selector, ...]:
        return (self.a,)


def _enclose(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


def is_inexact(leaf: Any) -> bool:
    """Says whether an array holds floating-point or complex numbers."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
