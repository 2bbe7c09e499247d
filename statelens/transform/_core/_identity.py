"""Which structures are the same, and not merely equal.

JAX compares structures by `==`: what equals 1 may be 1.0 or True, and classes may define equality
as they like. So two trees of equal structures may not be put together alike.
"""

from collections.abc import Iterator
from typing import Any

from ..._tree import TreeDef
from ...state import is_same


class Identity:
    """What a structure is of, to be compared with a structure that is equal.

    Args:
        treedef: The structure.
    """

    def __init__(self, treedef: TreeDef):
        data = list(_node_data(treedef))
        # None, if nothing in it may equal something else.
        self._data = None if all(map(_is_plain, data)) else data

    def is_that_of(self, treedef: TreeDef) -> bool:
        """Says whether a structure that equals this one is of the very same things."""
        return self._data is None or all(map(_are_same, self._data, _node_data(treedef)))


def _node_data(treedef: TreeDef) -> Iterator[Any]:
    """Gives what JAX keeps of each node in a structure."""
    nodes = [treedef]
    while nodes:
        node = nodes.pop()
        yield node.node_data()
        nodes += node.children()


def _is_plain(data: Any) -> bool:
    """Says whether what is kept of a node equals nothing but itself."""
    return data is None or data[1] is None or (data[0] is dict and set(map(type, data[1])) <= {str})


def _are_same(one: Any, other: Any) -> bool:
    # JAX keeps the keys of a dictionary as a list.
    if type(one) is type(other) and type(one) in (list, tuple):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return is_same(one, other)
