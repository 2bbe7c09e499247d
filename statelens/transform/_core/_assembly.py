"""Equinox modules put together again and again, from other leaves.

JAX makes a module by a Python function that sets one attribute after the other. What a module is
lies in its ``__dict__``: a copy of that with other leaves in it makes another one faster. A table
says, node by node from the leaves up, how it is made; what isn't a module is left to JAX.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax

from ..._tree import TreeDef
from ._module_cache import is_seen_through
from ._static import DYNAMIC, Static

Nodes = list[Any]
"""The dynamic leaves of a module, and after them the nodes that have been made of them."""


# A leaf for JAX, so that a tree of them has the structure of the tree that they describe.
@dataclasses.dataclass(frozen=True)
class _Part:
    """A node that is the same each time, or its place among `Nodes`."""

    value: Any
    place: int | None = None

    def read(self, nodes: Nodes) -> Any:
        return self.value if self.place is None else nodes[self.place]


class Assembly:
    """How a module is put together from its dynamic leaves.

    Args:
        module: The module, as JAX has put it together.
        static: Its static half.
    """

    def __init__(self, module: Any, static: Static):
        self._steps: list[Callable[[Nodes], Any]] = []
        self._containers: list[_Part] = []
        self._count = len(static.holes)
        holes = iter(range(self._count))
        leaves = (
            _Part(None, next(holes)) if leaf is DYNAMIC else _Part(leaf) for leaf in static.values
        )
        nodes, treedef = jax.tree.flatten(module, is_leaf=lambda node: not is_seen_through(node))
        parts = [self._opaque(node, leaves) for node in nodes]
        # What isn't the same object in both trees is made each time.
        self._root = self._node(treedef.unflatten(parts), treedef.unflatten(parts))

    def assemble(self, dynamic: list[Any]) -> tuple[Any, list[Any]]:
        """Puts the module together; gives it, and the lists and dictionaries in it."""
        nodes = list(dynamic)
        for step in self._steps:
            nodes.append(step(nodes))
        return self._root.read(nodes), [part.read(nodes) for part in self._containers]

    def _opaque(self, node: Any, leaves: Iterator[_Part]) -> _Part:
        """Describes a leaf, or a node that only JAX can make."""
        if node is None:
            return _Part(None)
        treedef = jax.tree.structure(node)
        parts = list(itertools.islice(leaves, treedef.num_leaves))
        return parts[0] if treedef == _LEAF else self._made(_Unflatten(treedef, parts))

    def _node(self, node: Any, twin: Any) -> _Part:
        """Describes a node, given the same one of another tree."""
        if isinstance(node, _Part):
            return node
        if node is twin:
            return _Part(node)
        children, others = _children(node), _children(twin)
        parts: list[_Part] = []
        for child, other in zip(children, others, strict=True):
            # No comprehension, whose frame would halve how deep a tree may be.
            parts.append(self._node(child, other))
        if isinstance(node, eqx.Module):
            return self._made(_Copy(node, parts))
        treedef = jax.tree.structure(node, is_leaf=lambda inner: inner is not node)
        made = self._made(_Unflatten(treedef, parts))
        if type(node) in (list, dict):
            self._containers.append(made)
        return made

    def _made(self, step: Callable[[Nodes], Any]) -> _Part:
        self._steps.append(step)
        return _Part(None, self._count + len(self._steps) - 1)


class _Copy:
    """Makes a module with other parts in the places of some attributes."""

    def __init__(self, module: eqx.Module, parts: list[_Part]):
        named = dict(zip(vars(module), parts, strict=True))
        self._cls = type(module)
        self._contents = {name: part.value for name, part in named.items()}
        self._places = [(n, part.place) for n, part in named.items() if part.place is not None]

    def __call__(self, nodes: Nodes) -> Any:
        contents = self._contents.copy()
        for name, place in self._places:
            contents[name] = nodes[place]
        module = object.__new__(self._cls)
        object.__setattr__(module, "__dict__", contents)
        return module


class _Unflatten:
    """Has JAX make a node."""

    def __init__(self, treedef: TreeDef, parts: list[_Part]):
        self._treedef = treedef
        self._parts = parts

    def __call__(self, nodes: Nodes) -> Any:
        return self._treedef.unflatten([part.read(nodes) for part in self._parts])


_LEAF = jax.tree.structure(0)


def _children(node: Any) -> list[Any]:
    if isinstance(node, eqx.Module):
        return list(vars(node).values())
    return jax.tree.leaves(node, is_leaf=lambda inner: inner is not node)
