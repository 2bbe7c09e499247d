"""Structures as keys of caches: which are the same, and how they keep nothing alive.

JAX compares structures by `==`: what equals 1 may be 1.0 or True, and classes may define equality
as they like. So two trees of equal structures may not be put together alike, nor have the same
paths. And a structure holds what its nodes say of themselves, such as the static fields of Equinox
modules: functions of the user's, and what they close over. So a cache has weak structures for its
keys, and finds them by plain ones.
"""

import functools
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax.tree_util as jtu
import numpy as np

K = TypeVar("K")
V = TypeVar("V")

PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes)
"""The classes of plain values, which are alike where their type and their text are."""

CONTAINERS = (list, dict, set, deque, bytearray)
"""The classes of what has items, and may change in place."""


def is_same(one: Any, other: Any) -> bool:
    """Says whether two values are one object, or plain values, or collections of these, alike.

    So are modules of Equinox, which are immutable, if all that is in them is the same.
    1, 1.0 and True are three values, 0.0 and -0.0 two, and nan is what it was.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, frozenset):
        return one == other and all(any(is_same(x, y) for y in other) for x in one)
    if isinstance(one, eqx.Module):
        mine, theirs = vars(one), vars(other)
        # What may have changed in place since is not what it was, though it is one object.
        return mine.keys() == theirs.keys() and all(
            is_same(mine[name], theirs[name]) and not _changes_in_place(mine[name]) for name in mine
        )
    return isinstance(one, (*PLAIN_TYPES, np.generic)) and repr(one) == repr(other)


def _changes_in_place(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_changes_in_place, value))
    return isinstance(value, CONTAINERS)


def reference(value: Any, on_end: Callable[[Any], None] | None = None) -> Callable[[], Any]:
    """Refers to an object weakly, and to a bound method as long as its object is there."""
    if not hasattr(type(value), "__func__"):
        return weakref.ref(value, on_end)
    # A bound method is made each time that it is asked for. Not a `weakref.WeakMethod`, whose own
    # callback is Python's.
    parts = [weakref.ref(part, on_end) for part in (value.__func__, value.__self__)]
    return functools.partial(_bound_again, type(value), parts)


def _bound_again(cls: type, parts: list[Any]) -> Any:
    function, instance = [part() for part in parts]
    return None if function is None or instance is None else cls(function, instance)


def put_weakly(registry: dict[K, weakref.ref[V]], key: K, value: V) -> None:
    """Puts an object in a registry until it ends.

    The end is a call of C: an interrupt that comes while a callback of Python runs is lost.
    """
    registry[key] = weakref.ref(value, functools.partial(registry.pop, key))


class Weak:
    """Equals an object that it doesn't keep alive, and nothing once that is gone.

    Args:
        value: The object.
    """

    __slots__ = ("_hash", "_ref")

    def __init__(self, value: Any):
        self._ref = reference(value)
        try:
            self._hash = hash(value)
        except TypeError:  # JAX doesn't ask for the hash of what a node says of itself
            self._hash = 0

    def is_of(self, value: Any) -> bool:
        """Says whether it stands for this very object."""
        return value is not None and self._ref() is value

    def __eq__(self, other: object) -> bool:
        mine = self._ref()
        if mine is None:
            return self is other
        return mine is other or bool(mine == other)

    def __hash__(self) -> int:
        return self._hash


def weakly(value: Any) -> Any:
    """Returns what equals a value and keeps nothing alive but classes and plain values.

    Tuples, lists, dictionaries, frozen sets and structures are looked into. What needs no change
    is given back as it is, and so is what Python has no weak references to.
    """
    if isinstance(value, (*PLAIN_TYPES, type)) or _is_marker(value):
        return value
    if isinstance(value, jtu.PyTreeDef):
        is_kept = all(data is None or weakly(data) is data for data in _node_data(value))
        return value if is_kept else _weak_structure(value)
    if isinstance(value, tuple):
        return _unless_kept(value, list(value), lambda items: tuple.__new__(type(value), items))
    if type(value) is list:
        return _unless_kept(value, value, list)
    if type(value) is dict:
        return _unless_kept(
            value, list(value.values()), lambda items: dict(zip(value, items, strict=True))
        )
    if type(value) is frozenset and all(weakly(item) is item for item in value):
        return value
    try:
        return Weak(value)
    except TypeError:
        return value


def _unless_kept(value: Any, items: list[Any], make: Any) -> Any:
    weak = list(map(weakly, items))
    return (
        value if all(one is other for one, other in zip(weak, items, strict=True)) else make(weak)
    )


def _weak_structure(treedef: Any) -> Any:
    data = treedef.node_data()
    if data is None:
        return treedef
    children = map(_weak_structure, treedef.children())
    return jtu.PyTreeDef.from_node_data_and_children(jtu.default_registry, weakly(data), children)


def _is_marker(value: Any) -> bool:
    # Equinox has one in place of each field that isn't static.
    return type(value).__module__.startswith("equinox.") and getattr(value, "__dict__", 0) == {}


class Identity:
    """What a structure is of, to be compared with a structure that is equal; it keeps nothing.

    Args:
        treedef: The structure.
    """

    def __init__(self, treedef: Any):
        data = list(_node_data(treedef))
        # None, if nothing in it may equal something else.
        self._data = None if all(map(_is_plain, data)) else list(map(weakly, data))

    def is_that_of(self, treedef: Any) -> bool:
        """Says whether a structure that equals this one is of the very same things."""
        return self._data is None or all(map(_are_same, self._data, _node_data(treedef)))


class KeyIdentity:
    """The keys of dictionaries in a structure, to be compared with those of one that is equal.

    Args:
        treedef: The structure.
    """

    def __init__(self, treedef: Any):
        keys = tuple(_dict_keys(treedef))
        # None, if nothing in them may equal something else.
        self._keys = None if all(map(_is_text, keys)) else keys

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyIdentity) and is_same(self._keys, other._keys)

    def __hash__(self) -> int:
        return hash(self._keys)

    def __bool__(self) -> bool:
        """Says whether there are keys that may equal others."""
        return self._keys is not None

    def is_that_of(self, treedef: Any) -> bool:
        """Says whether a structure that equals this one has the very same keys."""
        return self._keys is None or all(map(is_same, self._keys, _dict_keys(treedef)))


def _node_data(treedef: Any) -> Iterator[Any]:
    """Gives what JAX keeps of each node in a structure, but for leaves."""
    nodes = [treedef]
    while nodes:
        node = nodes.pop()
        yield node.node_data()
        # Of a node with nothing but leaves below, which may be many, they aren't asked for.
        if node.num_nodes > node.num_leaves + 1:
            nodes += node.children()


def _dict_keys(treedef: Any) -> Iterator[Hashable]:
    """Gives the keys of all dictionaries in a structure."""
    for data in _node_data(treedef):
        if data is not None and data[0] in (dict, OrderedDict, defaultdict):
            yield from data[1][1] if data[0] is defaultdict else data[1]


def _is_text(key: Hashable) -> bool:
    return type(key) is str or (type(key) is tuple and all(map(_is_text, key)))


def _is_plain(data: Any) -> bool:
    """Says whether what is kept of a node equals nothing but itself."""
    return data is None or data[1] is None or (data[0] is dict and set(map(type, data[1])) <= {str})


def _are_same(one: Any, other: Any) -> bool:
    if isinstance(one, Weak):
        return one.is_of(other)
    # JAX keeps the keys of a dictionary as a list.
    if type(one) is type(other) and isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_are_same, one, other))
    if type(one) is type(other) is dict:
        return _are_same(list(one.items()), list(other.items()))
    return is_same(one, other)
