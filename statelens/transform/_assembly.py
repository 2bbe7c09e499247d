"""Trees with Equinox modules in them, put together again and again from other leaves.

JAX puts a module together by a function of Python that sets one attribute after the other. What
a module is lies in its ``__dict__``: a copy of that, with other leaves in it, makes another one
sooner. All but modules, lists, tuples and dictionaries is left to JAX.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax

from ._recall import is_seen_through

_new, _set_attribute = object.__new__, object.__setattr__


class Hole(NamedTuple):
    """Takes the place of a leaf that isn't the same each time.

    Attributes:
        place: Where the leaf is among those that aren't.
    """

    place: int


class _Step(NamedTuple):
    """How to put one node together.

    Attributes:
        cls: Its class.
        unflatten: What makes it of its children; None for a module.
        contents: Its children, or the attributes of a module.
        places: For those that aren't the same each time, where they are among all values.
    """

    cls: type
    unflatten: Callable[[list[Any]], Any] | None
    contents: Any
    places: list[tuple[Any, int]]


class _Found(NamedTuple):
    """What is known of a node.

    Attributes:
        place: Where it is among all values; None, if it is the same each time.
        holes: Which leaves that aren't the same each time are in it.
        constant: What it is, if it is the same each time.
    """

    place: int | None
    holes: list[int]
    constant: Any = None


class Assembly:
    """How a tree is put together from some of its leaves.

    Args:
        tree: The tree, as JAX has put it together.
        leaves: All of its leaves; a `Hole` for each that isn't the same each time.

    Attributes:
        modules: The modules that lie in no other one: where each is among all values, and which
            of the leaves are its own.
    """

    def __init__(self, tree: Any, leaves: Sequence[Any]):
        self.modules: list[tuple[int, slice]] = []
        self._steps: list[_Step] = []
        self._count = sum(isinstance(leaf, Hole) for leaf in leaves)
        rest = iter(leaves)
        nodes, treedef = jax.tree.flatten(tree, is_leaf=lambda node: not is_seen_through(node))
        found = [_Known(self._opaque(node, rest)) for node in nodes]
        # What isn't the same object in both is made for each tree.
        root = self._add(treedef.unflatten(found), treedef.unflatten(found))
        if not self._steps or root.place != self._last:
            places = [] if root.place is None else [(0, root.place)]
            self._made(_Step(type(tree), _LEAF.unflatten, [root.constant], places), root.holes)

    def values(self, leaves: Sequence[Any]) -> list[Any]:
        """Puts the tree together.

        Args:
            leaves: The leaves that aren't the same each time.

        Returns:
            These, and all nodes that were made; the tree is the last one.
        """
        values = [*leaves]
        for cls, unflatten, contents, places in self._steps:
            contents = contents.copy()
            for key, place in places:
                contents[key] = values[place]
            if unflatten is None:
                node = _new(cls)
                _set_attribute(node, "__dict__", contents)
            else:
                node = unflatten(contents)
            values.append(node)
        return values

    def _opaque(self, node: Any, leaves: Iterator[Any]) -> _Found:
        """Finds out how a leaf is made, or a node that only JAX knows."""
        treedef = jax.tree.structure(node)
        own = list(itertools.islice(leaves, treedef.num_leaves))
        holes = [(key, leaf.place) for key, leaf in enumerate(own) if isinstance(leaf, Hole)]
        if treedef != _LEAF:
            step = _Step(type(node), treedef.unflatten, own, holes)
            return self._made(step, [place for _, place in holes])
        return _Found(own[0].place, [own[0].place]) if holes else _Found(None, [], own[0])

    @property
    def _last(self) -> int:
        """Where what the last step makes is among all values."""
        return self._count + len(self._steps) - 1

    def _made(self, step: _Step, holes: list[int]) -> _Found:
        self._steps.append(step)
        return _Found(self._last, holes)

    def _add(self, node: Any, twin: Any, is_inside: bool = False) -> _Found:
        """Finds out how a node is made."""
        if isinstance(node, _Known):
            return node.found
        is_module, unflatten = isinstance(node, eqx.Module), None
        if is_module:
            contents, others = dict(vars(node)), vars(twin)
        else:
            children, treedef = jax.tree.flatten(node, is_leaf=_is_module)
            contents, unflatten = dict(enumerate(children)), treedef.unflatten
            others = dict(enumerate(jax.tree.leaves(twin, is_leaf=_is_module)))
        places: list[tuple[Any, int]] = []
        holes: list[int] = []
        for key, value in contents.items():
            if not isinstance(value, _Known) and value is others[key]:
                continue
            found = self._add(value, others[key], is_inside or is_module)
            holes += found.holes
            contents[key] = found.constant
            if found.place is not None:
                places.append((key, found.place))
        kept = contents if is_module else list(contents.values())
        made = self._made(_Step(type(node), unflatten, kept, places), holes)
        if is_module and not is_inside:
            span = slice(min(holes, default=0), max(holes, default=-1) + 1)
            self.modules.append((self._last, span))
        return made


def has_modules(tree: Any) -> bool:
    """Says whether there are Equinox modules in a tree."""
    return any(map(_is_module, jax.tree.leaves(tree, is_leaf=_is_module)))


class _Known:
    """Takes the place of what needn't be looked at any more."""

    def __init__(self, found: _Found):
        self.found = found


_LEAF = jax.tree.structure(0)


def _is_module(node: Any) -> bool:
    return isinstance(node, eqx.Module)
