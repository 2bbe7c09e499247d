"""Trees with Equinox modules in them, put together again and again from other leaves.

JAX puts a module together by a function of Python that sets one attribute after the other. What
a module is lies in its ``__dict__``: a copy of that, with other leaves in it, makes another one
sooner. One function is written for all nodes of a tree; it leaves to JAX what isn't a module.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax

from ..._tree import TreeDef
from ._module_cache import is_seen_through
from ._source import Source, tuple_of


class Hole(NamedTuple):
    """Takes the place of a leaf that isn't the same each time.

    Attributes:
        place: Where the leaf is among those that aren't.
    """

    place: int


class Assembly(NamedTuple):
    """How a tree is put together from some of its leaves.

    Attributes:
        assemble: Puts the tree together: gives it, its modules that lie in no other one, and for
            each of them the lists and dictionaries in it. It takes the leaves that aren't the
            same each time.
        spans: For each of these modules, which of those leaves are its own.
    """

    assemble: Callable[[Sequence[Any]], tuple[Any, tuple[Any, ...], tuple[tuple[Any, ...], ...]]]
    spans: list[slice]


def assembly(tree: Any, leaves: Sequence[Any]) -> Assembly:
    """Finds out how a tree is put together.

    Args:
        tree: The tree, as JAX has put it together.
        leaves: All of its leaves; a `Hole` for each that isn't the same each time.
    """
    source = _AssemblySource()
    return Assembly(source.assemble(tree, leaves), source.spans)


@dataclasses.dataclass(frozen=True)
class _Written:
    """What is known of a node; a leaf, for JAX.

    Attributes:
        value: What it is, if it is the same each time.
        name: What the function calls it, if it isn't.
        holes: Which leaves that aren't the same each time are in it.
    """

    value: Any
    name: str | None = None
    holes: tuple[int, ...] = ()


class _AssemblySource(Source):
    """What a function is written of that puts a tree together."""

    def __init__(self):
        super().__init__("assemble", new=object.__new__, put=object.__setattr__)
        self.spans: list[slice] = []
        self._modules: list[str] = []
        self._containers: list[list[str]] = []
        self._count = 0

    def assemble(self, tree: Any, leaves: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
        """Gives the function; see `assembly`."""
        count = sum(isinstance(leaf, Hole) for leaf in leaves)
        self.unpack("leaves", map(_name_of_leaf, range(count)))
        rest = iter(leaves)
        nodes, treedef = jax.tree.flatten(tree, is_leaf=lambda node: not is_seen_through(node))
        written = [self._opaque(node, rest) for node in nodes]
        # What isn't the same object in both is made for each tree.
        root = self._node(treedef.unflatten(written), treedef.unflatten(written))
        containers = tuple_of(map(tuple_of, self._containers))
        found = self._expression(root), tuple_of(self._modules), containers
        return self.function("leaves", tuple_of(found))

    def _opaque(self, node: Any, leaves: Iterator[Any]) -> _Written:
        """Writes how a leaf is made, or a node that only JAX knows."""
        if node is None:
            return _Written(None)
        treedef = jax.tree.structure(node)
        own = [
            _Written(None, _name_of_leaf(leaf.place), (leaf.place,))
            if isinstance(leaf, Hole)
            else _Written(leaf)
            for leaf in itertools.islice(leaves, treedef.num_leaves)
        ]
        return own[0] if treedef == _LEAF else self._unflattened(treedef, own)

    def _node(self, node: Any, twin: Any, is_inside: bool = False) -> _Written:
        """Writes how a node is made.

        Args:
            node: The node.
            twin: The same node of another tree.
            is_inside: Whether it lies in a module.
        """
        if isinstance(node, _Written):
            return node
        if node is twin:
            return _Written(node)
        is_module = _is_module(node)
        is_outermost = is_module and not is_inside
        if is_outermost:
            self._containers.append([])
        children, others = (_children(each, is_inside) for each in (node, twin))
        parts: list[_Written] = []
        for child, other in zip(children, others, strict=True):
            # No comprehension, whose frame would halve how deep a tree may be.
            parts.append(self._node(child, other, is_inside or is_module))
        if not is_module:
            return self._container(node, parts, is_inside)
        made = self._module(node, parts)
        if is_outermost:
            self._modules.append(self._expression(made))
            self.spans.append(slice(min(made.holes, default=0), max(made.holes, default=-1) + 1))
        return made

    def _module(self, node: eqx.Module, parts: list[_Written]) -> _Written:
        attributes = dict(zip(vars(node), parts, strict=True))
        contents = self.name_for({name: part.value for name, part in attributes.items()})
        self.add(f"contents = {contents}.copy()")
        for name, part in attributes.items():
            if part.name is not None:
                self.add(f"contents[{name!r}] = {part.name}")
        made = self._made(f"new({self.name_for(type(node))})", parts)
        self.add(f"put({made.name}, '__dict__', contents)")
        return made

    def _container(self, node: Any, parts: list[_Written], is_inside: bool) -> _Written:
        treedef = jax.tree.structure(node, is_leaf=_ends(node, is_inside))
        is_flat = treedef.num_nodes == 1 + len(parts)
        items = tuple_of(map(self._expression, parts))
        if is_flat and type(node) is tuple:
            made = self._made(items, parts)
        elif is_flat and type(node) is list:
            made = self._made(f"[{items[1:-1]}]", parts)
        else:
            made = self._unflattened(treedef, parts)
        if is_inside and type(node) in (list, dict):
            self._containers[-1].append(self._expression(made))
        return made

    def _unflattened(self, treedef: TreeDef, parts: list[_Written]) -> _Written:
        """Writes that JAX makes a node of these parts."""
        items = tuple_of(map(self._expression, parts))
        return self._made(f"{self.name_for(treedef.unflatten)}({items})", parts)

    def _made(self, expression: str, parts: list[_Written]) -> _Written:
        """Writes that a node of these parts is made so."""
        name = f"node_{self._count}"
        self._count += 1
        self.add(f"{name} = {expression}")
        return _Written(None, name, tuple(hole for part in parts for hole in part.holes))

    def _expression(self, part: _Written) -> str:
        return self.name_for(part.value) if part.name is None else part.name


_LEAF = jax.tree.structure(0)


def _name_of_leaf(place: int) -> str:
    return f"leaf_{place}"


def _is_module(node: Any) -> bool:
    return isinstance(node, eqx.Module)


def _ends(container: Any, is_inside: bool) -> Callable[[Any], bool]:
    """Says where the parts of a container are: one level below, or at modules outside of them."""
    return (lambda node: node is not container) if is_inside else _is_module


def _children(node: Any, is_inside: bool) -> list[Any]:
    """Lists the attributes of a module, or the parts of a container."""
    if _is_module(node):
        return list(vars(node).values())
    return jax.tree.leaves(node, is_leaf=_ends(node, is_inside))


def has_modules(tree: Any) -> bool:
    """Says whether there are Equinox modules in a tree."""
    return any(map(_is_module, jax.tree.leaves(tree, is_leaf=_is_module)))
