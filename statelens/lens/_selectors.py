"""Selectors: the kinds of things that a lens can select by.

Each is a small immutable value that answers for one unit. None of them looks at the numbers
in an array: what it selects follows from the tree's structure, the cells' classes and tags,
and where it says so, shapes and dtypes.
"""

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._errors import ArgumentTypeError, SelectionError
from .._tree import (
    Cell,
    Path,
    Pattern,
    Site,
    TreeDef,
    atoms,
    flatten,
    flatten_with_path,
    format,
    format_pattern,
    is_array,
    is_inexact,
    is_named,
    leaves_with_path,
    matches,
    matches_expression,
)
from ._coverage import WHOLE, CacheKeyDepth, Coverage, Scope, Selector


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
    """Units whose keys match a pattern, or whose written path matches a regular expression."""

    pattern: Pattern | str
    key_depth = CacheKeyDepth.VALUES

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return _covered_by_path(site, lambda path: self.covers(path, site.unit, scope))

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        found = self._matches(path, scope)
        if found:
            scope.matched.add(self)
        return found

    def names(self, path: Path, scope: Scope) -> bool:
        pattern = self.pattern
        return not isinstance(pattern, str) and is_named(pattern) and self._matches(path, scope)

    def _matches(self, path: Path, scope: Scope) -> bool:
        if isinstance(self.pattern, str):
            return matches_expression(self.pattern, format(path))
        return matches(self.pattern, path, partial(scope.length, path))

    def written(self, level: int = 0) -> str:
        pattern = self.pattern
        return f"re:{pattern!r}" if isinstance(pattern, str) else format_pattern(pattern) or "''"

    def required(self) -> list[Selector]:
        return [self]


def _covered_by_path(site: Site, accepts: Callable[[Path], bool]) -> Coverage:
    """Covers a unit if one of its paths is accepted, or else the atoms in it whose paths are."""
    if any(map(accepts, site.paths)):
        return WHOLE
    return {
        inner: None
        for inner, _ in atoms(site.unit)
        if inner and any(accepts(path + inner) for path in site.paths)
    } or None


def _covered_by_atom(site: Site, accepts: Callable[[Path, Any], Any]) -> Coverage:
    """Covers the atoms in a unit that are accepted, and the unit if all of them are."""
    inside = atoms(site.unit)
    covered = {path: None for path, leaf in inside if accepts(path, leaf)}
    return WHOLE if covered and len(covered) == len(inside) else covered or None


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

    def is_text(self) -> bool:
        return cell_classes().get(str(self)) is self.cls

    def __str__(self) -> str:
        return self.cls.__qualname__


def cell_classes() -> dict[str, type[Cell]]:
    """Returns the classes of cells of this package by name; others may have a name in common."""
    classes: list[type[Cell]] = [Cell]
    for cls in classes:
        classes += cls.__subclasses__()
    package = __name__.partition(".")[0]
    return {cls.__qualname__: cls for cls in classes if cls.__module__.startswith(f"{package}.")}


class _OnlyCode(Selector):
    """Selectors that no text means."""

    def is_text(self) -> bool:
        return False


@dataclass(frozen=True)
class Predicate(_OnlyCode):
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
        return _covered_by_atom(site, lambda _, leaf: self.function(leaf))

    def is_text(self) -> bool:
        return OF_ARRAYS.get(self.label) is self.function

    def __str__(self) -> str:
        return self.label


OF_ARRAYS: dict[str, Callable[[Any], bool]] = {"arrays": is_array, "inexact": is_inexact}


def check_dtype(dtype: Any, asked_by: str) -> np.dtype[Any]:
    """Reads a dtype, or says that it is none."""
    try:
        return jnp.dtype(dtype)
    except TypeError:
        raise ArgumentTypeError(
            f"asked {asked_by} for dtype={dtype!r}",
            "that names no dtype",
            "a dtype or its name, as jnp.bfloat16 or 'float32'",
        ) from None


ATTRIBUTES = frozenset({"ndim", "size", "dtype", "name"})
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Compared(Selector):
    """Arrays whose ndim, size, dtype, or name (the last key of the path) compares with a value."""

    attribute: str
    comparison: Callable[[Any, Any], bool]
    value: Any
    key_depth = CacheKeyDepth.ARRAYS

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        if self.attribute == "name":
            return _covered_by_path(site, self._is_named)
        return _covered_by_atom(site, self._holds)

    def _is_named(self, path: Path) -> bool:
        return bool(path) and self.comparison(path[-1], self.value)

    def _holds(self, _: Path, leaf: Any) -> bool:
        return is_array(leaf) and self.comparison(getattr(leaf, self.attribute), self.value)

    def is_text(self) -> bool:
        if not isinstance(self.value, (str, int, float, NoneType, np.dtype)):
            return False
        try:
            return read_compared(self.attribute, self._value()) == self.value
        except (TypeError, ValueError, SyntaxError):
            return False

    def _value(self) -> str:
        if self.attribute != "dtype":
            return repr(self.value)
        return str(self.value) if str(self.value).isidentifier() else repr(str(self.value))

    def __str__(self) -> str:
        symbol = next(text for text, one in COMPARISONS.items() if one is self.comparison)
        return f"{self.attribute} {symbol} {self._value()}"


def read_compared(attribute: str, text: str) -> Any:
    """Reads a value that an attribute is compared with, or raises one of Python's errors."""
    if attribute != "dtype":
        return ast.literal_eval(text)
    return jnp.dtype(text if text.isidentifier() else ast.literal_eval(text))


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
class Below(_OnlyCode):
    """Units at some paths, and all below them."""

    paths: frozenset[Path]
    key_depth = CacheKeyDepth.VALUES

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        def is_below(inner: Path, leaf: Any) -> bool:
            return any(not self.paths.isdisjoint(_prefixes(path + inner)) for path in site.paths)

        return _covered_by_atom(site, is_below)

    def __str__(self) -> str:
        return f"below({', '.join(map(format, self.paths))})"


@dataclass(frozen=True)
class Masked(_OnlyCode):
    """Units under the true leaves of a prefix tree of booleans."""

    leaves: tuple[bool, ...]
    structure: TreeDef
    key_depth = CacheKeyDepth.VALUES

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        marked = scope.once(self, lambda: Below(self._marked(scope.tree)))
        return marked.coverage(site, scope)

    def _marked(self, tree: Any) -> frozenset[Path]:
        mask = dict(leaves_with_path(self.structure.unflatten(self.leaves)))
        there = [path for path, _ in leaves_with_path(tree)]
        there += flatten_with_path(tree)[0]
        known = {prefix for path in there for prefix in _prefixes(path)}
        for path in mask:
            if path not in known:
                raise SelectionError(
                    "asked for the units under a tree of booleans",
                    f"it has the path '{format(path)}', which the tree has not",
                    "booleans in the tree's own structure, or in a prefix of it",
                )
        return frozenset(path for path, is_marked in mask.items() if is_marked)

    def __str__(self) -> str:
        return f"mask({sum(self.leaves)} of {len(self.leaves)})"


def _prefixes(path: Path) -> list[Path]:
    return [path[:length] for length in range(len(path) + 1)]


@dataclass(frozen=True)
class Accessed(_OnlyCode):
    """Units that a function of the tree returns, as `equinox.tree_at` selects them."""

    function: Callable[[Any], Any]
    key_depth = CacheKeyDepth.VALUES

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return _covered_by_path(site, self._paths(scope).__contains__)

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        accessed = self._paths(scope)
        inside = [path + inner for inner, _ in leaves_with_path(node)]
        return path in accessed or (bool(inside) and accessed.issuperset(inside))

    def _paths(self, scope: Scope) -> set[Path]:
        return scope.once(self, lambda: self._access(scope.tree))

    def _access(self, tree: Any) -> set[Path]:
        # The function gets a tree with a probe in the place of each leaf, and in a copy of each
        # cell: what it returns of these tells the paths.
        copies: dict[int, Cell] = {}
        paths_of_copies: dict[int, Path] = {}

        def probe(leaf: Any, path: Path) -> Any:
            if not isinstance(leaf, Cell):
                return None if leaf is None else _Probe(path)
            if id(leaf) not in copies:
                copy = copies[id(leaf)] = leaf.with_value(_map_leaves(probe, leaf.look(), path))
                paths_of_copies[id(copy)] = path
            return copies[id(leaf)]

        probes = _map_leaves(probe, tree)
        try:
            found = flatten(self.function(probes))[0]
        except (AttributeError, TypeError, LookupError) as error:
            raise SelectionError(
                f"asked for what the accessor {self} returns",
                f"it raised {type(error).__name__}: {error}",
                "return nodes or leaves of the tree, as in at(lambda m: m.layers[0].weight)",
                "index the lens for a part of an array, as in at(lambda m: m.weight)[0]",
            ) from None
        accessed = [
            leaf.path if isinstance(leaf, _Probe) else paths_of_copies.get(id(leaf))
            for leaf in found
        ]
        if not accessed or None in accessed:
            raise SelectionError(
                f"asked for what the accessor {self} returns",
                f"it returned {found!r}, which is no part of the tree",
                "return nodes or leaves of the tree, as in at(lambda m: m.layers[0].weight)",
            )
        return {path for path in accessed if path is not None}

    def __str__(self) -> str:
        return f"at({getattr(self.function, '__qualname__', self.function)})"


@dataclass(frozen=True, eq=False)
class _Probe:
    """A leaf that an accessor may return."""

    path: Path


def _map_leaves(function: Callable[[Any, Path], Any], tree: Any, prefix: Path = ()) -> Any:
    paths, leaves, treedef = flatten_with_path(tree)
    return treedef.unflatten(
        function(leaf, prefix + path) for path, leaf in zip(paths, leaves, strict=True)
    )
