"""Coverage: how much of a unit a selector selects.

A selector looks at one unit and answers with its *coverage*: nothing (`None`), all of it
(`WHOLE`), or some of its atoms, each of them whole or a part of the array. Coverages form a
Boolean algebra, and selectors combine by it.
"""

import abc
import enum
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar, TypeAlias

from .._errors import SelectionError
from .._tree import Cell, Index, Path, PathNode, Site, ancestors, atoms, is_array


class _Whole(enum.Enum):
    """The coverage of a whole unit."""

    WHOLE = enum.auto()


WHOLE = _Whole.WHOLE
MOST_NESTED = 50
"""How deep selectors may lie in one another, as text and built in code."""

Parts: TypeAlias = Mapping[Path, Index | None]
Coverage: TypeAlias = _Whole | Parts | None


def intersect(a: Coverage, b: Coverage) -> Coverage:
    """Returns what both cover."""
    if a is None or b is None:
        return None
    if a is WHOLE:
        return b
    if b is WHOLE:
        return a
    return {path: _narrower(a[path], b[path]) for path in a if path in b} or None


def unite(a: Coverage, b: Coverage) -> Coverage:
    """Returns what either covers."""
    if a is WHOLE or b is WHOLE:
        return WHOLE
    if not a or not b:
        return a or b
    both = {
        path: None if None in (a[path], b[path]) else _narrower(a[path], b[path])
        for path in a
        if path in b
    }
    return {**a, **b, **both}


def complement(coverage: Coverage, unit: Any) -> Coverage:
    """Returns what a coverage leaves of a unit."""
    if coverage is None:
        return WHOLE
    if coverage is WHOLE:
        return None
    for index in coverage.values():
        if index is not None:
            raise SelectionError(
                f"asked for everything but the part {index} of an array",
                "the complement of a part is no part that an index can choose",
                "hold the whole array still, or focus on the part itself",
            )
    return {path: None for path, _ in atoms(unit) if path not in coverage} or None


def _narrower(a: Index | None, b: Index | None) -> Index | None:
    if a is None or b is None:
        return a or b
    if a != b:
        raise SelectionError(
            f"asked for the parts {a} and {b} of one array",
            "a lens focuses on one part of an array at a time",
            "one index that covers both parts",
        )
    return a


class Scope:
    """The tree that a selector looks at, with the selectors that have matched in it."""

    def __init__(self, tree: Any, matched: set["Selector"]):
        self.tree = tree
        self.matched = matched
        self._facts: dict[Hashable, Any] = {}
        # By their paths from the root, which is above all of them, the scopes of nodes.
        self._path: Path = ()
        self._scopes: dict[Path, Scope] = {(): self}
        # Nodes of mappings by path, as long as the tree is there.
        self._nested: dict[int, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Returns what `compute` gives, computed on the first call for `key` only."""
        if key not in self._facts:
            self._facts[key] = compute()
        return self._facts[key]

    def nodes(self, path: Path) -> list[Any]:
        """Lists the nodes from the root to `path`."""
        return self.once(("nodes", path), lambda: ancestors(self.tree, path, self._nested))

    def length(self, path: Path, depth: int) -> int | None:
        """Returns the length of the sequence at a depth along `path`, or None if it is none."""
        nodes = self.nodes(path)
        node = nodes[depth] if depth < len(nodes) else None
        node = node.look() if isinstance(node, Cell) else node
        if isinstance(node, PathNode):
            return node.length
        return len(node) if isinstance(node, (list, tuple)) else None

    def below(self, node: Any, path: Path) -> "Scope":
        """Returns the scope in which paths start at `node`, one for each node."""
        place = self._path + path
        if place not in self._scopes:
            scope = self._scopes[place] = Scope(node, self.matched)
            scope._path, scope._scopes = place, self._scopes
        return self._scopes[place]


class CacheKeyDepth(enum.IntEnum):
    """What a selection depends on beyond the tree's structure; each includes those before it."""

    CLASSES = enum.auto()
    """The classes of leaves."""
    FREE_ARRAYS = enum.auto()
    """Shapes and dtypes of arrays outside of cells."""
    LABELS = enum.auto()
    """Names and tags of cells."""
    VALUES = enum.auto()
    """The structure of cells' values."""
    ARRAYS = enum.auto()
    """Shapes and dtypes of arrays inside of cells."""


class Selector(abc.ABC):
    """Says how much of each unit is selected. Immutable and hashable."""

    # What the answer depends on, apart from that of its parts.
    key_depth: ClassVar[CacheKeyDepth] = CacheKeyDepth.CLASSES

    @functools.cached_property
    def whole_key_depth(self) -> CacheKeyDepth:
        """What the answer depends on, with that of its parts."""
        return max([self.key_depth, *[part.whole_key_depth for part in self.parts()]])

    @property
    def is_optional(self) -> bool:
        """Whether it is meant that nothing may be selected."""
        return False

    @abc.abstractmethod
    def coverage(self, site: Site, scope: Scope) -> Coverage:
        """Returns how much of the unit is selected."""

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        """Says whether a node of the tree is selected, for ``a / b``."""
        is_unit = isinstance(node, Cell) or is_array(node)
        return is_unit and self.coverage(Site((path,), (0,), node), scope) is WHOLE

    def names(self, path: Path, scope: Scope) -> bool:
        """Says whether a pattern in it asks for the leaf at a path by its name."""
        # Numbers of Python are units where they are asked for so, and only there.
        return any(part.names(path, scope) for part in self.parts())

    def is_text(self) -> bool:
        """Whether it can be read back from what is written, apart from its parts."""
        return True

    def written(self, level: int = 0) -> str:
        """Writes the selector; what can't be read back stands in ``@<...>``."""
        return f"@{self}" if self.is_text() else f"@<{self}>"

    def parts(self) -> tuple["Selector", ...]:
        """Returns the selectors that this one is made of."""
        return tuple(part for part in vars(self).values() if isinstance(part, Selector))

    @functools.cached_property
    def nesting(self) -> int:
        """How many selectors lie in one another here."""
        return 1 + max([part.nesting for part in self.parts()], default=0)

    def required(self) -> list["Selector"]:
        """Lists the patterns in it that have to match something."""
        return [pattern for part in self.parts() for pattern in part.required()]
