"""Flattening a graph of mutable nodes as one pytree node.

Nodes that are shared, or that refer back to their owner, have no place in a tree. So a graph
is flattened all at once, from the node that JAX meets first: each node, and each state, is
recorded where it is reached first, and referred to by number after that. What comes back
has the same sharing.

Arrays and states are the graph's children; any other leaf (a number, a function, a text) is
part of its structure. `None` counts as a child, so that a tree and its two halves have the
same structure.
"""

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax

from .._tree import (
    CONTAINERS,
    PLAIN_TYPES,
    Cell,
    GraphKey,
    KeyIdentity,
    LensLeaf,
    MutableNode,
    Path,
    TreeDef,
    is_array,
    is_probed,
    looking,
)
from . import _attribute_tree as tree
from ._attribute_tree import Held, is_mutable

if TYPE_CHECKING:
    from ._module import Module


class Child(NamedTuple):
    """A leaf that is a child of the graph, or the same child once more."""

    number: int


class Reference(NamedTuple):
    """A leaf that is a node of the graph, or a function bound to one as a method."""

    number: int
    function: Callable[..., Any] | None = None


class Static(NamedTuple):
    """A leaf that is part of the structure; its type too, since 1 == 1.0 == True."""

    kind: type
    value: Any


class Borrowed(NamedTuple):
    """A leaf that a bound lens holds, wherever it belongs."""

    at: Child | Reference | Static


Leaf: TypeAlias = Child | Reference | Static | Borrowed


class Attribute(NamedTuple):
    """An attribute: the structure of its value, its keys, and what each leaf is."""

    name: str
    treedef: TreeDef
    # Structures are equal where their keys are, though 1, True and 1.0 are different paths.
    keys: KeyIdentity
    leaves: tuple[Leaf, ...]
    # Whether the structure is of a tree in which other nodes stand for what JAX doesn't flatten.
    has_stand_ins: bool


class Record(NamedTuple):
    """A node: its class and its attributes."""

    cls: type
    attributes: tuple[Attribute, ...]


class Structure:
    """A graph without its children; what JAX keeps of it."""

    def __init__(self, records: tuple[Record, ...]):
        # The nodes, the first one the root.
        self.records = records
        # The node that was made from this structure, as long as nothing in it has changed.
        self.root: weakref.ref[Module] | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structure) and self.records == other.records)

    def __hash__(self) -> int:
        return hash(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {"records": self.records, "root": None}

    def __repr__(self) -> str:
        return f"Structure({', '.join(record.cls.__name__ for record in self.records)})"


_PLAIN = frozenset(PLAIN_TYPES)
"""The classes of most attributes: nothing lies in their objects."""


def contains_mutables(value: Any) -> bool:
    """Says whether there are states or mutable nodes in a value."""
    # Counters and flags are what is set again and again.
    return type(value) not in _PLAIN and any(map(is_mutable, tree.leaves(value, is_mutable)))


def _is_stop(value: Any) -> bool:
    return value is None or isinstance(value, (MutableNode, LensLeaf))


def _is_method(value: Any) -> bool:
    return isinstance(value, MethodType) and isinstance(value.__self__, MutableNode)


_LEAF = jax.tree.structure(0)
_NO_KEYS = KeyIdentity(_LEAF)


def _flatten(value: Any) -> tree.Flat:
    # Most attributes are leaves themselves, for which there is no need of JAX.
    if isinstance(value, (MutableNode, LensLeaf)) or type(value) in _PLAIN:
        return tree.Flat([value], _LEAF, False)
    return tree.flatten(value, _is_stop)


_Steps: TypeAlias = Iterator["_Steps"]
"""A walk that gives further walks, each to be made to its end before it goes on."""


def _make(walk: _Steps) -> None:
    # On a stack of its own: modules may lie deeper than Python's calls may.
    stack = [walk]
    while stack:
        inner = next(stack[-1], None)
        if inner is None:
            stack.pop()
        else:
            stack.append(inner)


class _Walk:
    """One walk over a graph, which collects its children and its structure."""

    def __init__(self) -> None:
        self.children: list[Any] = []
        self._nodes: dict[int, int] = {}
        self._cells: dict[int, int] = {}
        self._records: list[Record | None] = []
        # An id is only good as long as its object lives.
        self._kept: list[Any] = []
        self._has_held = False

    def visit(self, node: Any) -> _Steps:
        number = len(self._records)
        self._nodes[id(node)] = number
        self._records.append(None)
        attributes = []
        for name, value in node._attributes().items():
            leaves, treedef, has_stand_ins = _flatten(value)
            self._kept.append(value)
            found = []
            for leaf in leaves:
                owner = leaf.__self__ if _is_method(leaf) else leaf
                if isinstance(owner, MutableNode) and id(owner) not in self._nodes:
                    yield self.visit(owner)
                found.append(self._leaf(leaf))
            keys = _NO_KEYS if treedef is _LEAF else KeyIdentity(treedef)
            attributes.append(Attribute(name, treedef, keys, tuple(found), has_stand_ins))
        self._records[number] = Record(type(node), tuple(attributes))

    def _leaf(self, leaf: Any) -> Any:
        if isinstance(leaf, Held):
            # What is only looked at may be met later on, where it belongs.
            self._has_held = True
            return leaf
        if isinstance(leaf, MutableNode):
            return Reference(self._nodes[id(leaf)])
        if _is_method(leaf):
            return Reference(self._nodes[id(leaf.__self__)], leaf.__func__)
        if isinstance(leaf, Cell) and id(leaf) in self._cells:
            return Child(self._cells[id(leaf)])
        if leaf is None or isinstance(leaf, LensLeaf) or is_array(leaf):
            if isinstance(leaf, Cell):
                self._cells[id(leaf)] = len(self.children)
            self.children.append(leaf)
            return Child(len(self.children) - 1)
        # Though JAX takes it for a leaf, it may change: a structure has the items that there were.
        is_container = isinstance(leaf, CONTAINERS)
        return Static(type(leaf), copy.copy(leaf) if is_container else leaf)

    def structure(self) -> Structure:
        records = [record for record in self._records if record is not None]
        return Structure(tuple(map(self._resolved, records) if self._has_held else records))

    def _resolved(self, record: Record) -> Record:
        """Returns a record in which what is looked at is what it is in the graph."""
        attributes = [
            each._replace(leaves=tuple(map(self._resolved_leaf, each.leaves)))
            for each in record.attributes
        ]
        return record._replace(attributes=tuple(attributes))

    def _resolved_leaf(self, leaf: Any) -> Leaf:
        if not isinstance(leaf, Held):
            return leaf
        owner = leaf.owner
        if id(owner) in self._nodes:
            return Borrowed(Reference(self._nodes[id(owner)]))
        number = self._cells.get(id(owner))
        return Borrowed(Static(type(owner), owner) if number is None else Child(number))


_NOTHING = Structure(())


def flatten_graph(root: "Module") -> tuple[list[Any], Structure]:
    """Returns the children of the graph that a node is the root of, and its structure."""
    if is_probed():
        return [], _NOTHING
    structure = root._made_from
    if structure is not None and structure.root is not None and structure.root() is root:
        children = _children_as_before(root, structure)
        if children is not None:
            return children, structure
    walk = _Walk()
    _make(walk.visit(root))
    return walk.children, walk.structure()


def _children_as_before(root: "Module", structure: Structure) -> list[Any] | None:
    """Reads the children by a known structure; None where anything but children has changed."""
    # A leaf that a tree map replaced (by a label, a boolean, a whole tree) is still a child,
    # though it doesn't look like one.
    children: dict[int, Any] = {}
    nodes: dict[int, Any] = {0: root}
    for number, record in enumerate(structure.records):
        node = nodes[number]
        attributes = node._attributes()
        names = [attribute.name for attribute in record.attributes]
        if type(node) is not record.cls or list(attributes) != names:
            return None
        for name, treedef, keys, leaves, has_stand_ins in record.attributes:
            try:
                value = attributes[name]
                value = tree.with_stand_ins(value, _is_stop) if has_stand_ins else value
                values = [value] if treedef is _LEAF else treedef.flatten_up_to(value)
            except (ValueError, TypeError):
                return None
            # Keys of text equal nothing else, and need not be looked at.
            if keys and not keys.is_that_of(_structure_down_to(values, value)):
                return None
            for leaf, value in zip(leaves, values, strict=True):
                if not _is_as_before(leaf, value, children, nodes):
                    return None
    return [children[number] for number in range(len(children))]


def _structure_down_to(ends: list[Any], value: Any) -> TreeDef:
    known = set(map(id, ends))
    return jax.tree.structure(value, is_leaf=lambda node: id(node) in known)


def _is_as_before(leaf: Leaf, value: Any, children: dict[int, Any], nodes: dict[int, Any]) -> bool:
    match leaf:
        case Child(number):
            # A node is never a child, and the same child is the same object everywhere.
            is_node = isinstance(value, MutableNode)
            return not is_node and children.setdefault(number, value) is value
        case Reference(number, function):
            node, bound = (value.__self__, value.__func__) if _is_method(value) else (value, None)
            known = isinstance(node, MutableNode) and bound is function
            return known and nodes.setdefault(number, node) is node
        case Static(kind, static):
            return type(value) is kind and bool(value == static)
        case Borrowed(at):
            return isinstance(value, Held) and _is_as_before(at, value.owner, children, nodes)


def unflatten_graph(structure: Structure, children: Any) -> Any:
    """Makes a graph from its structure and its children, and returns the root."""
    children = list(children)
    structure = Structure(structure.records)
    nodes: list[Any] = [object.__new__(record.cls) for record in structure.records]
    for node, record in zip(nodes, structure.records, strict=True):
        attributes = {}
        for name, treedef, _, leaves, _ in record.attributes:
            attributes[name] = treedef.unflatten(_filled(leaves, nodes, children))
        node._restore(attributes, structure)
    structure.root = weakref.ref(nodes[0])
    return nodes[0]


def _filled(leaves: tuple[Leaf, ...], nodes: list[Any], children: list[Any]) -> Iterator[Any]:
    for leaf in leaves:
        match leaf.at if isinstance(leaf, Borrowed) else leaf:
            case Child(number):
                yield children[number]
            case Reference(number, function):
                node = nodes[number]
                yield node if function is None else MethodType(function, node)
            case Static(_, value):
                yield copy.copy(value) if isinstance(value, CONTAINERS) else value


def flatten_graph_with_keys(root: "Module") -> tuple[list[tuple[GraphKey, Any]], Structure]:
    """Flattens a graph as `flatten_graph` does, with all paths of each child as its key."""
    children, structure = flatten_graph(root)
    paths: list[list[Path]] = [[] for _ in children]
    _make(_collect_paths(structure, 0, (), frozenset(), Counter(), paths))
    keys = [GraphKey(tuple(found)) for found in paths]
    return list(zip(keys, children, strict=True)), structure


# A node that is shared has several paths. All of them would be too many where shared nodes
# share nodes in turn.
_MOST_PATHS = 4


def _collect_paths(
    structure: Structure,
    number: int,
    path: Path,
    above: frozenset[int],
    visits: Counter[int],
    paths: list[list[Path]],
) -> _Steps:
    if number in above or visits[number] == _MOST_PATHS:
        return
    visits[number] += 1
    above = above | {number}
    for name, treedef, _, leaves, _ in structure.records[number].attributes:
        positions = 0 if treedef == _LEAF else treedef.unflatten(range(len(leaves)))
        for inner, position in tree.leaves_with_path(positions, _is_stop):
            below = (*path, name, *inner)
            match leaves[position]:
                case Child(child):
                    paths[child].append(below)
                case Reference(node, function):
                    below = below if function is None else (*below, "__self__")
                    yield _collect_paths(structure, node, below, above, visits, paths)


def nodes_with_path(root: MutableNode) -> Iterator[tuple[Path, Any]]:
    """Lists each node of a graph once, with the first path that leads to it."""
    seen: set[int] = set()
    stack: list[tuple[Path, Any]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield path, node
        attributes = looking(node._attributes)
        stack += reversed(
            [
                ((*path, name, *inner), leaf)
                for name, value in attributes.items()
                for inner, leaf in tree.leaves_with_path(value, _is_stop)
                if isinstance(leaf, MutableNode)
            ]
        )
