"""Trees of arrays and of other things, as JAX's staged functions take them.

A staged function takes arrays. What else is in an argument (a function, a text, the numbers
that an Equinox module keeps) is part of the program, and a program is chosen by it. So a tree
travels as a `Partitioned` one: its dynamic leaves, and a hashable `Static` half.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax.tree_util as jtu

from ..._tree import TreeDef, is_array, is_numeric
from ...state import LazyValue

_NOT_LOADED: Any = object()


# As a dataclass, whose fields JAX knows, it is flattened without a call of Python.
@functools.partial(jtu.register_dataclass, data_fields=["dynamic"], meta_fields=["static"])
class Partitioned(LazyValue):
    """A tree of which only some leaves are dynamic.

    Attributes:
        dynamic: The leaves that are traced.
        static: All else of the tree.
    """

    __slots__ = ("_loaded", "dynamic", "static")

    def __init__(self, dynamic: list[Any], static: "Static"):
        self.dynamic = dynamic
        self.static = static
        self._loaded = _NOT_LOADED

    @property
    def tree(self) -> Any:
        """The tree as it was."""
        return self.static.merged_with(self.dynamic)

    def load(self) -> Any:
        """Returns the tree, the same object each time."""
        if self._loaded is _NOT_LOADED:
            self._loaded = self.tree
        return self._loaded

    @property
    def is_loaded(self) -> bool:
        """Whether someone has the tree, and may have changed it in place."""
        return self._loaded is not _NOT_LOADED

    def with_dynamic(self, leaves: list[Any]) -> "Partitioned":
        """Returns a tree of the same structure, given one thing for each leaf."""
        return Partitioned([leaves[position] for position in self.static.holes], self.static)


class Static:
    """The static half of a tree: its structure, and its leaves but for the dynamic ones.

    Attributes:
        leaves: A `Constant` for each static leaf, `DYNAMIC` for the others.
        treedef: The structure.
        holes: The positions of the dynamic leaves.
        values: The static leaves themselves, and `DYNAMIC` for the others.
        assembly: How to put a module together that programs return, once it is known.
    """

    def __init__(self, leaves: Sequence[Any], treedef: TreeDef):
        self.leaves = tuple(leaves)
        self.treedef = treedef
        self.holes = [position for position, leaf in enumerate(leaves) if leaf is DYNAMIC]
        self.assembly: Any = None
        self.values = [leaf.value if isinstance(leaf, Constant) else leaf for leaf in leaves]

    def merged_with(self, dynamic: Sequence[Any]) -> Any:
        """Returns the tree with these dynamic leaves."""
        if len(dynamic) == len(self.leaves):
            return self.treedef.unflatten(dynamic)
        values = self.values.copy()
        for hole, leaf in zip(self.holes, dynamic, strict=True):
            values[hole] = leaf
        return self.treedef.unflatten(values)

    @property
    def paths(self) -> list[str]:
        """Where in the tree the dynamic leaves are, as JAX writes it."""
        try:
            tree = self.treedef.unflatten(range(len(self.leaves)))
            places = {leaf: jtu.keystr(keys) for keys, leaf in jtu.tree_leaves_with_path(tree)}
            return [places[hole] for hole in self.holes]
        except Exception:  # a node of another library may take nothing but arrays
            return [f"[{hole}]" for hole in self.holes]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Static):
            return False
        return self.leaves == other.leaves and self.treedef == other.treedef

    def __hash__(self) -> int:
        return hash((self.leaves, self.treedef))

    def __repr__(self) -> str:
        return f"{self.treedef} of {', '.join(map(repr, self.leaves))}"


class _Dynamic:
    def __repr__(self) -> str:
        return "<traced>"


DYNAMIC = _Dynamic()


class Constant:
    """A leaf that is part of the program; 1, 1.0 and True are three different ones."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)


def split_numbers(tree: Any) -> Any:
    """Splits numbers and arrays from the rest of a value whose trace is still running.

    Nothing is cached, and leaves need not be hashable: what holds states ends with a trace.
    """
    if tree is None or is_array(tree):
        return tree
    leaves, treedef = jtu.tree_flatten(tree)
    half = [DYNAMIC if is_numeric(leaf) else Constant(leaf) for leaf in leaves]
    dynamic = [leaf for leaf, part in zip(leaves, half, strict=True) if part is DYNAMIC]
    return Partitioned(dynamic, Static(half, treedef))


MOST_NESTED = 16
"""How deep in tuples items are split one by one: what is deeper is split as a whole."""


def merge_static(tree: Any, nested: int = MOST_NESTED) -> Any:
    """Returns the tree that was split, whole or item by item; any other one as it is."""
    if isinstance(tree, Partitioned):
        return tree.tree
    if nested and is_plain_tuple(type(tree)) and any(map(_may_be_split, tree)):
        return remade(tree, [merge_static(item, nested - 1) for item in tree])
    return tree


def _may_be_split(item: Any) -> bool:
    return isinstance(item, Partitioned) or is_plain_tuple(type(item))


@functools.lru_cache(maxsize=1024)
def is_plain_tuple(cls: type) -> bool:
    """Says whether a class is that of tuples, or named ones, whose items JAX takes in order."""
    if cls is tuple:
        return True
    # Of the class: modules are slow to say that they aren't instances.
    fields = getattr(cls, "_fields", None) if issubclass(cls, tuple) else None
    if fields is None:
        return False
    # A class of named tuples may be registered to be flattened otherwise, or iterate otherwise.
    items = [object() for _ in fields]
    node = tuple.__new__(cls, items)
    return jtu.tree_leaves(node, is_leaf=lambda inner: inner is not node) == items == list(node)


def remade(node: Any, items: list[Any]) -> Any:
    """Makes a tuple, or a named one, of other items."""
    return tuple.__new__(type(node), items)
