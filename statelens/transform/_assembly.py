"""Trees with Equinox modules in them, put together again and again from other leaves.

JAX puts a module together by a function of Python that sets one attribute after the other. What
a module is lies in its ``__dict__``: a copy of that, with other leaves in it, makes another one
sooner. One function is written for all nodes of a tree; it leaves to JAX what isn't a module.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax

from .._units import TreeDef
from ._recall import is_seen_through
from ._source import Source, tuple_of


class Hole(NamedTuple):
    """Takes the place of a leaf that isn't the same each time.

    Attributes:
        place: Where the leaf is among those that aren't.
    """

    place: int


class _Part(NamedTuple):
    """What is known of a node.

    Attributes:
        value: What it is, if it is the same each time.
        name: What the written function calls it, if it isn't.
        holes: Which leaves that aren't the same each time are in it.
    """

    value: Any
    name: str | None = None
    holes: tuple[int, ...] = ()


class Assembly:
    """How a tree is put together from some of its leaves.

    Args:
        tree: The tree, as JAX has put it together.
        leaves: All of its leaves; a `Hole` for each that isn't the same each time.

    Attributes:
        assemble: Puts the tree together: gives it, and its modules that lie in no other one. It
            takes the leaves that aren't the same each time.
        spans: For each of these modules, which of those leaves are its own.
    """

    def __init__(self, tree: Any, leaves: Sequence[Any]):
        self.spans: list[slice] = []
        self._source = Source("assembly", new=object.__new__, put=object.__setattr__)
        self._modules: list[str] = []
        self._count = 0
        count = sum(isinstance(leaf, Hole) for leaf in leaves)
        self._source.unpack("leaves", map(_name_of, range(count)))
        rest = iter(leaves)
        nodes, treedef = jax.tree.flatten(tree, is_leaf=lambda node: not is_seen_through(node))
        known = [_Known(self._opaque(node, rest)) for node in nodes]
        # What isn't the same object in both is made for each tree.
        root = self._add(treedef.unflatten(known), treedef.unflatten(known))
        result = tuple_of([self._named(root), tuple_of(self._modules)])
        self.assemble: Callable[[Sequence[Any]], tuple[Any, tuple[Any, ...]]]
        self.assemble = self._source.function("leaves", result)

    def _opaque(self, node: Any, leaves: Iterator[Any]) -> _Part:
        """Writes how a leaf is made, or a node that only JAX knows."""
        treedef = jax.tree.structure(node)
        own = list(itertools.islice(leaves, treedef.num_leaves))
        parts = [
            _Part(None, _name_of(leaf.place), (leaf.place,))
            if isinstance(leaf, Hole)
            else _Part(leaf)
            for leaf in own
        ]
        if node is None or treedef == _LEAF:
            return parts[0] if parts else _Part(None)
        return self._unflattened(treedef, parts)

    def _add(self, node: Any, twin: Any, is_inside: bool = False) -> _Part:
        """Writes how a node is made."""
        if isinstance(node, _Known):
            return node.part
        if node is twin:
            return _Part(node)
        is_module = _is_module(node)
        parts: list[_Part] = []
        for child, other in zip(_children(node), _children(twin), strict=True):
            # No comprehension, whose frame would halve how deep a tree may be.
            parts.append(self._add(child, other, is_inside or is_module))
        if not is_module:
            return self._add_container(node, parts)
        made = self._add_module(node, parts)
        if not is_inside:
            self._modules.append(self._named(made))
            self.spans.append(slice(min(made.holes, default=0), max(made.holes, default=-1) + 1))
        return made

    def _add_module(self, node: eqx.Module, parts: list[_Part]) -> _Part:
        named = dict(zip(vars(node), parts, strict=True))
        contents = self._source.named({key: part.value for key, part in named.items()})
        self._source.add(f"contents = {contents}.copy()")
        for key, part in named.items():
            if part.name is not None:
                self._source.add(f"contents[{key!r}] = {part.name}")
        made = self._made(f"new({self._source.named(type(node))})", parts)
        self._source.add(f"put({made.name}, '__dict__', contents)")
        return made

    def _add_container(self, node: Any, parts: list[_Part]) -> _Part:
        treedef = jax.tree.structure(node, is_leaf=_is_module)
        if type(node) is tuple and treedef.num_nodes == 1 + len(parts):
            return self._made(tuple_of(map(self._named, parts)), parts)
        return self._unflattened(treedef, parts)

    def _unflattened(self, treedef: TreeDef, parts: list[_Part]) -> _Part:
        """Writes that JAX makes a node of these parts."""
        items = tuple_of(map(self._named, parts))
        return self._made(f"{self._source.named(treedef.unflatten)}({items})", parts)

    def _made(self, expression: str, parts: list[_Part]) -> _Part:
        """Writes that a node of these parts is made so."""
        name = f"node_{self._count}"
        self._count += 1
        self._source.add(f"{name} = {expression}")
        return _Part(None, name, tuple(hole for part in parts for hole in part.holes))

    def _named(self, part: _Part) -> str:
        return self._source.named(part.value) if part.name is None else part.name


class _Known:
    """Takes the place of what needn't be looked at any more."""

    def __init__(self, part: _Part):
        self.part = part


_LEAF = jax.tree.structure(0)


def _name_of(place: int) -> str:
    return f"leaf_{place}"


def _is_module(node: Any) -> bool:
    return isinstance(node, eqx.Module)


def _children(node: Any) -> list[Any]:
    """Lists the attributes of a module, or what is in a container."""
    if _is_module(node):
        return list(vars(node).values())
    return jax.tree.leaves(node, is_leaf=_is_module)


def has_modules(tree: Any) -> bool:
    """Says whether there are Equinox modules in a tree."""
    return any(map(_is_module, jax.tree.leaves(tree, is_leaf=_is_module)))
