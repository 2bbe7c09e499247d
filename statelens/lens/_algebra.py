"""The algebra of selectors: and, or, not, inside, a part of each array.

What is written is read back: `OPERATORS` says how tightly each operator binds, for the text of
a selector and for the reading of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .._errors import SelectionError
from .._tree import MISSING, Index, Path, Site, atoms, format
from ._coverage import WHOLE, CacheKeyDepth, Coverage, Scope, Selector, complement, intersect, unite


@dataclass(frozen=True)
class _Operation(Selector):
    """Two selectors with an operator between them."""

    a: Selector
    b: Selector
    symbol: ClassVar[str]

    @property
    def is_optional(self) -> bool:
        return self.a.is_optional

    def written(self, level: int = 0) -> str:
        own = _LEVELS[self.symbol]
        text = f"{self.a.written(own)} {self.symbol} {self.b.written(own + 1)}"
        return f"({text})" if level > own else text


@dataclass(frozen=True)
class And(_Operation):
    """What both select."""

    symbol = "&"

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return intersect(self.a.coverage(site, scope), self.b.coverage(site, scope))

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        return self.a.covers(path, node, scope) and self.b.covers(path, node, scope)


@dataclass(frozen=True)
class Or(_Operation):
    """What either selects."""

    symbol = "|"

    @property
    def is_optional(self) -> bool:
        return self.a.is_optional or self.b.is_optional

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return unite(self.a.coverage(site, scope), self.b.coverage(site, scope))

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        return self.a.covers(path, node, scope) or self.b.covers(path, node, scope)


@dataclass(frozen=True)
class Within(_Operation):
    """What the second selects inside nodes that the first selects."""

    symbol = "/"

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        covered: Coverage = None
        for path in site.paths:
            for depth, node in enumerate(scope.nodes(path)):
                if node is not MISSING and self.a.covers(path[:depth], node, scope):
                    inside = scope.below(node, path[:depth])
                    below = Site((path[depth:],), site.positions, site.unit)
                    covered = unite(covered, self.b.coverage(below, inside))
        return covered

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        above = scope.nodes(path)
        return any(
            self.a.covers(path[:depth], above[depth], scope)
            and self.b.covers(path[depth:], node, scope.below(above[depth], path[:depth]))
            for depth in range(len(path) + 1)
        )


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
class Optional(Selector):
    """What the other selects, and no error where that is nothing."""

    a: Selector

    @property
    def is_optional(self) -> bool:
        return True

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        return self.a.coverage(site, scope)

    def covers(self, path: Path, node: object, scope: Scope) -> bool:
        return self.a.covers(path, node, scope)

    def written(self, level: int = 0) -> str:
        return f"{self.a.written(_PREFIX + 1)}?"

    def required(self) -> list[Selector]:
        return []


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
