"""Places: where the nodes of a tree lie, and how others are put there.

A node lies in a value (the tree, an attribute of a mutable node, the value of a cell) by the keys
that lead to it from there; a mutable node or a cell is the same wherever it lies. So what is
shared is found by each of its paths, and is replaced everywhere at once.
"""

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, NoReturn

import jax.tree_util as jtu

from .._errors import PathError, SelectionError
from .._tree import (
    Cell,
    LensLeaf,
    MutableNode,
    Path,
    closest,
    format,
    from_jax,
    is_sortable,
    open_hidden,
)
from ._coverage import Scope, Selector
from ._units import UnitMapping


class Place(NamedTuple):
    """Where a node lies: in which cell or mutable node, or the tree itself, by which keys."""

    owner: int
    # None for the cell or mutable node itself.
    inner: Path | None

    @classmethod
    def of(cls, node: Any, within: "Place", keys: Path) -> "Place":
        """Returns the place of a node that lies in another by some keys."""
        is_owner = isinstance(node, (Cell, MutableNode))
        return cls(id(node), None) if is_owner else cls(within.owner, (within.inner or ()) + keys)


_TREE = Place(0, None)


class Met(NamedTuple):
    """A node that was met in a tree: by which path, and in which place."""

    path: Path
    place: Place
    node: Any

    @property
    def identity(self) -> Any:
        """What it has in common with the same node in other places."""
        # Arrays, numbers and functions are the same by chance.
        return id(self.node) if Parts.of(self.node).keys else self.place


class Parts(NamedTuple):
    """What lies directly in a node, by the keys that lead there, and how to put it together."""

    keys: list[Path]
    children: list[Any]
    join: Callable[[Iterable[Any]], Any]

    @classmethod
    def of(cls, node: Any) -> "Parts":
        """Takes a node apart by one level."""
        if isinstance(node, MutableNode):
            # What is in it is set in place.
            attributes = node._attributes()
            return cls([(name,) for name in attributes], list(attributes.values()), lambda _: node)
        if isinstance(node, Cell):
            return cls([()], [open_hidden(node)], lambda news: node.with_value(*news))
        if type(node) in (dict, defaultdict) and not is_sortable(node):
            keys = [from_jax((jtu.DictKey(key),))[0] for key in node]
            return cls(keys, list(node.values()), partial(_with_values, node))
        if isinstance(node, (LensLeaf, UnitMapping)):
            return cls([], [], lambda _: node)
        below, treedef = jtu.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
        below = [] if treedef == _LEAF else below
        keys = [from_jax(keys)[0] for keys, _ in below]
        return cls(keys, [child for _, child in below], treedef.unflatten)


_LEAF = jtu.tree_structure(0)


def _with_values(node: dict[Any, Any], values: Iterable[Any]) -> dict[Any, Any]:
    filled = node.copy()
    filled.update(zip(node, values, strict=True))
    return filled


# A mutable node that is shared has several paths; as many are looked at as by a lens.
_MOST_PATHS = 4


def _walk(tree: Any, most_paths: int, stops: Callable[[Place], bool]) -> Iterator[Met]:
    """Lists nodes depth first, each by so many paths, and nothing below those that stop it."""
    # On a stack of its own: modules may lie deeper than Python's calls may.
    visits: Counter[Place] = Counter()
    stack = [Met((), Place.of(tree, _TREE, ()), tree)]
    while stack:
        met = stack.pop()
        visits[met.place] += 1
        if met.node is None or visits[met.place] > most_paths:
            continue
        yield met
        if not stops(met.place):
            keys, children, _ = Parts.of(met.node)
            stack += [
                Met(met.path + inner, Place.of(child, met.place, inner), child)
                for inner, child in zip(reversed(keys), reversed(children), strict=True)
            ]


def nodes_in(selector: Selector, tree: Any, required_by: str) -> list[Met]:
    """Lists the outermost nodes that are selected by any of their paths, each place once."""
    scope = Scope(tree, set())
    every = list(_walk(tree, _MOST_PATHS, lambda place: False))

    def selected_by(one: Selector) -> set[Place]:
        return {met.place for met in every if one.covers(met.path, met.node, scope)}

    places = selected_by(selector)
    for pattern in selector.required():
        # What was asked of no node may match one all the same.
        if pattern not in scope.matched and not selected_by(pattern):
            _refuse_unmatched(pattern, every, required_by)
    if not places and not selector.is_optional:
        _refuse_nothing(selector, every, required_by)
    return [met for met in _walk(tree, 1, places.__contains__) if met.place in places]


class _Write(NamedTuple):
    """An attribute of a cell or a mutable node that is to be set."""

    owner: Any
    name: str
    old: Any
    new: Any


class Replacement:
    """Puts other nodes in places: in a new tree, and in mutable nodes in place."""

    def __init__(self, news: dict[Place, Any]):
        self._news = news
        # What was made of immutable nodes, with what keeps the ids by which it is found.
        self._made: dict[Any, tuple[Any, ...]] = {}
        self._mutables: dict[int, Any] = {}
        self._writes: list[_Write] = []

    def of(self, tree: Any) -> Any:
        """Returns the tree with the new nodes; all attributes are set, or none."""
        out = self._at(tree, Place.of(tree, _TREE, ()))
        seen: set[int] = set()
        while len(seen) < len(self._mutables):
            for node in [self._mutables[key] for key in self._mutables if key not in seen]:
                seen.add(id(node))
                self._update_inside(node)
        self._write_all()
        return out

    def _update_inside(self, node: Any) -> None:
        for name, value in node._attributes().items():
            new = self._at(value, Place.of(value, Place(id(node), None), (name,)), in_place=True)
            if new is not value:
                self._writes.append(_Write(node, name, value, new))

    def _at(self, node: Any, place: Place, *, in_place: bool = False) -> Any:
        """Returns what a node in some place becomes."""
        if place in self._news:
            return self._news[place]
        if isinstance(node, MutableNode):
            self._mutables.setdefault(id(node), node)
            return node
        keys, children, join = Parts.of(node)
        places = [Place.of(x, place, key) for key, x in zip(keys, children, strict=True)]
        news = [self._at(*pair, in_place=in_place) for pair in zip(children, places, strict=True)]
        if all(map(operator.is_, children, news)):
            return node
        if in_place and isinstance(node, Cell):
            self._writes.append(_Write(node, "value", *children, *news))
            return node
        # What is shared is made once.
        made = (id(node), *map(id, news))
        if made not in self._made:
            self._made[made] = join(news), node, news
        return self._made[made][0]

    def _write_all(self) -> None:
        for number, (owner, name, _, new) in enumerate(self._writes):
            try:
                setattr(owner, name, new)
            except BaseException:
                for owner, name, old, _ in reversed(self._writes[:number]):
                    setattr(owner, name, old)
                raise


def _refuse_nothing(selector: Selector, every: list[Met], required_by: str) -> NoReturn:
    """Says of which classes there are nodes."""
    inner = {met.place: met.node for met in every if Parts.of(met.node).keys}
    counts = Counter(type(node).__qualname__ for node in inner.values())
    shown = ", ".join(f"{name} ({count})" for name, count in counts.most_common(10))
    raise SelectionError(
        f"asked {required_by} for nodes({selector.written()!r}), of which there are none",
        f"the tree's nodes are of the classes {shown}" if shown else "the tree has no nodes",
        "one of these classes, several in a tuple, or the path of a node",
        "lens(..., optional=True), if there may be none",
    )


def _refuse_unmatched(pattern: Selector, every: list[Met], required_by: str) -> NoReturn:
    """Says which paths are the closest to a pattern."""
    paths = list(dict.fromkeys(met.path for met in every if met.path))
    near = closest(pattern.written(), paths)
    shown = ", ".join(f"'{path}'" for path in near or list(map(format, paths))[:5])
    raise PathError(
        f"asked {required_by} for nodes at '{pattern.written()}', where there are none",
        f"the {'closest paths' if near else 'paths'} are {shown}" if paths else "the tree is empty",
        f"'{near[0]}'" if near else "a path of a node, or a pattern that matches some",
        "lens(..., optional=True), if there may be none",
    )
