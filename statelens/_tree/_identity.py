"""Which structures are the same, and not merely equal.

JAX compares structures by `==`: what equals 1 may be 1.0 or True, and classes may define equality
as they like. So two trees of equal structures may not be put together alike, nor have the same
paths.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator
from typing import Any

import numpy as np

PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes)
"""The classes of plain values, which are alike where their type and their text are."""


def is_same(one: Any, other: Any) -> bool:
    """Says whether two values are one object, or plain values, or collections of these, alike.

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
    return isinstance(one, (*PLAIN_TYPES, np.generic)) and repr(one) == repr(other)


class Identity:
    """What a structure is of, to be compared with a structure that is equal.

    Args:
        treedef: The structure.
    """

    def __init__(self, treedef: Any):
        data = list(_node_data(treedef))
        # None, if nothing in it may equal something else.
        self._data = None if all(map(_is_plain, data)) else data

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
    # JAX keeps the keys of a dictionary as a list.
    if type(one) is type(other) and type(one) in (list, tuple):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return is_same(one, other)
