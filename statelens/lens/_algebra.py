"""The algebra of selectors: and, or, not, inside, a part of each array.

What is written is read back: `OPERATORS` says how tightly each operator binds, for the text of
a selector and for the reading of one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import ClassVar

from .._errors import SelectionError
from .._tree import MISSING, Cell, Index, Path, Site, atoms, format
from ._coverage import WHOLE, CacheKeyDepth, Coverage, Scope, Selector, complement, intersect, unite


@dataclass(frozen=True, init=False)
class _Joined(Selector):
    """Any number of selectors with one operator between them: in a row, and not nested."""

    operands: tuple[Selector, ...]
    symbol: ClassVar[str]

    def __init__(self, *operands: Selector):
        flat = [one.operands if type(one) is type(self) else (one,) for one in operands]
        object.__setattr__(self, "operands", tuple(chain.from_iterable(flat)))

    def parts(self) -> tuple[Selector, ...]:
        return self.operands

    def written(self, level: int = 0) -> str:
        own = _LEVELS[self.symbol]
        text = f" {self.symbol} ".join(one.written(own + 1) for one in self.operands)
        return f"({text})" if level > own else text


class And(_Joined):
    """What all select."""

    symbol = "&"

    @property
    def is_optional(self) -> bool:
        return self.operands[0].is_optional

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return reduce(intersect, [one.coverage(site, scope) for one in self.operands])

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        return all(one.covers(path, node, scope) for one in self.operands)


class Or(_Joined):
    """What any selects."""

    symbol = "|"

    @property
    def is_optional(self) -> bool:
        return any(one.is_optional for one in self.operands)

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return reduce(unite, [one.coverage(site, scope) for one in self.operands])

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        return any(one.covers(path, node, scope) for one in self.operands)


@dataclass(frozen=True)
class Within(Selector):
    """What the second selects inside nodes that the first selects.

    What is said of a path is kept: in ``** / ** / **`` the same is asked by each way to
    divide the path, and there are very many.
    """

    a: Selector
    b: Selector
    key_depth = CacheKeyDepth.VALUES

    @property
    def is_optional(self) -> bool:
        return self.a.is_optional

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return reduce(unite, [self._coverage_at(path, site, scope) for path in site.paths])

    def _coverage_at(self, path: Path, site: Site, scope: Scope) -> Coverage:
        def compute() -> Coverage:
            covered: Coverage = None
            for depth, inside in self._inside(path, scope):
                below = Site((path[depth:],), site.positions, site.unit)
                covered = unite(covered, self.b.coverage(below, inside))
            return unite(covered, self._coverage_in_value(path, site, scope))

        return scope.once(("coverage", self, path), compute)

    def _coverage_in_value(self, path: Path, site: Site, scope: Scope) -> Coverage:
        """Covers the atoms of a cell that lie in nodes of its value."""
        covered: Coverage = None
        for inner, leaf in atoms(site.unit) if isinstance(site.unit, Cell) else []:
            for depth, inside in self._inside(path + inner, scope):
                if depth > len(path):
                    below = Site(((path + inner)[depth:],), site.positions, leaf)
                    part = self.b.coverage(below, inside)
                    if part is not None:
                        covered = unite(covered, {inner: None if part is WHOLE else part[()]})
        return covered

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        def compute() -> bool:
            inside = self._inside(path, scope)
            return any(self.b.covers(path[depth:], node, below) for depth, below in inside)

        return scope.once(("covers", self, path), compute)

    def names(self, path: Path, scope: Scope) -> bool:
        def compute() -> bool:
            inside = self._inside(path, scope)
            return any(self.b.names(path[depth:], below) for depth, below in inside)

        return scope.once(("names", self, path), compute)

    def _inside(self, path: Path, scope: Scope) -> Iterator[tuple[int, Scope]]:
        """Gives the scopes of the nodes along a path in which the second looks."""
        for depth, node in enumerate(scope.nodes(path)):
            # A cell is on the path for itself, and for the value that is in it.
            both = [node, node.look()] if isinstance(node, Cell) else [node]
            if node is not MISSING and any(self.a.covers(path[:depth], x, scope) for x in both):
                yield depth, scope.below(node, path[:depth])

    def written(self, level: int = 0) -> str:
        own = _LEVELS["/"]
        text = f"{self.a.written(own)} / {self.b.written(own + 1)}"
        return f"({text})" if level > own else text


@dataclass(frozen=True)
class Not(Selector):
    """What the other leaves."""

    a: Selector

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return complement(self.a.coverage(site, scope), site.unit)

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        return not self.a.covers(path, node, scope)

    def written(self, level: int = 0) -> str:
        text = f"~{self.a.written(_PREFIX)}"
        return f"({text})" if level > _PREFIX else text


@dataclass(frozen=True)
class _Said(Selector):
    """What the other selects, with something said of it."""

    a: Selector

    @property
    def is_optional(self) -> bool:
        return self.a.is_optional

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return self.a.coverage(site, scope)

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        return self.a.covers(path, node, scope)


class Optional(_Said):
    """What the other selects, and no error where that is nothing."""

    @property
    def is_optional(self) -> bool:
        return True

    def written(self, level: int = 0) -> str:
        return f"{self.a.written(_PREFIX + 1)}?"

    def required(self) -> list[Selector]:
        return []


class Numbers(_Said):
    """What the other selects, of Python's numbers too."""

    def names(self, path: Path, scope: Scope) -> bool:
        return True

    def written(self, level: int = 0) -> str:
        return f"@numbers({self.a.written()})"


@dataclass(frozen=True)
class Sliced(Selector):
    """A part of each array that the other selects."""

    a: Selector
    index: Index
    key_depth = CacheKeyDepth.ARRAYS

    @property
    def is_optional(self) -> bool:
        return self.a.is_optional

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        covered = self.a.coverage(site, scope)
        if covered is None:
            return None
        inside = dict(atoms(site.unit))
        if covered is not WHOLE and any(index is not None for index in covered.values()):
            raise SelectionError(
                f"asked for the part {self.index} of a part of '{format(site.paths[0])}'",
                "a lens chooses a part of a whole array",
                "one index that chooses both",
            )
        chosen = inside if covered is WHOLE else covered
        for path in chosen:
            self.index.check(site.paths[0] + path, inside[path])
        return dict.fromkeys(chosen, self.index)

    def written(self, level: int = 0) -> str:
        return f"({self.a.written()}){self.index}"


@dataclass(frozen=True)
class Subscripted(Selector):
    """What ``embed.weight[7:10]`` means: items of a node, or else rows of an array."""

    items: Selector
    rows: Sliced

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        covered = self.items.coverage(site, scope) or self._rows_of(site, scope)
        if covered is not None:
            scope.matched.add(self)
        return covered

    def _rows_of(self, site: Site, scope: Scope) -> Coverage:
        named = self.rows.a.coverage(site, scope)
        inside = dict(atoms(site.unit))
        # Of a state that is named it is the value, and that may be no array.
        paths = [()] if named is WHOLE else named or []
        index = self.rows.index
        return {
            path: index for path in paths if path in inside and index.fits(inside[path])
        } or None

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        found = self.items.covers(path, node, scope)
        if found:
            scope.matched.add(self)
        return found

    def names(self, path: Path, scope: Scope) -> bool:
        return self.items.names(path, scope)

    def written(self, level: int = 0) -> str:
        return self.items.written(level)

    def required(self) -> list[Selector]:
        return [self]


def without(a: Selector, b: Selector) -> Selector:
    """Returns what only the first selects."""
    return And(a, Not(b))


OPERATORS: dict[str, Callable[[Selector, Selector], Selector]] = {
    "|": Or,
    "&": And,
    "-": without,
    "/": Within,
}
"""The operators between lenses in text, from the loosest to the tightest, as in Python."""

_LEVELS = {symbol: level for level, symbol in enumerate(OPERATORS, 1)}
_PREFIX = len(OPERATORS) + 1
