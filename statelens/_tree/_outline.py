"""Outlines: large trees of a structure that was met before, flattened at half the cost.

Most of what JAX does to flatten a tree of lists, tuples and dictionaries is to write down
its structure, and to compare that with another one costs as much again. An *outline* has it
already. It goes through a tree level by level, all nodes of a kind at once, and checks that
they have the classes, lengths and keys that it knows. Whatever doesn't fit is left to JAX.
"""

import operator
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import jax.tree_util as jtu

from ._positions import Positions
from ._protocols import Stop

TreeDef: TypeAlias = Any
"""A `jax.tree_util.PyTreeDef`, which type checkers take for a variable."""


Flat: TypeAlias = tuple[list[Any], TreeDef, list[type]]
"""A flattened tree: its leaves, its structure, and the class of each leaf."""


def is_stop(node: Any) -> bool:
    """Says where flattening stops: at cells, at markers and at `None`."""
    return node is None or isinstance(node, Stop)


def leaf_types(nodes: Sequence[Any]) -> list[type] | None:
    """Lists the class of each leaf; gives None if some are no leaves, but whole trees."""
    types = list(map(type, nodes))
    return types if _are_leaves(nodes, _one_of_each(types)) else None


def _one_of_each(types: list[type]) -> list[int]:
    return [types.index(kind) for kind in set(types)]


def _are_leaves(nodes: Sequence[Any], positions: list[int]) -> bool:
    return all(is_stop(nodes[at]) or jtu.all_leaves([nodes[at]]) for at in positions)


class _Group(NamedTuple):
    """The nodes of one class at one depth; of dictionaries, those with the same keys.

    Attributes:
        members: Where they lie among all nodes of that depth.
        kinds: The class, for each.
        lengths: The length of each.
        keys: The keys of dictionaries; None for sequences.
    """

    members: Positions
    kinds: list[type]
    lengths: list[int]
    keys: tuple[str, ...] | None

    def below(self, nodes: Sequence[Any]) -> Iterable[Any] | None:
        """Gives what lies in the nodes, in an order of its own; None if they differ."""
        members = self.members.read(nodes)
        if list(map(type, members)) != self.kinds or list(map(len, members)) != self.lengths:
            return None
        if self.keys is None:
            return chain.from_iterable(members)
        # As many keys, and each of them there: no other one is.
        if len(self.keys) > len(members):
            return chain.from_iterable(map(operator.itemgetter(*self.keys), members))
        return chain.from_iterable([map(operator.itemgetter(key), members) for key in self.keys])


class _Level(NamedTuple):
    """The nodes of one depth: those with something below them, and where the leaves lie."""

    groups: list[_Group]
    leaves: Positions


class Outline:
    """A structure of lists, tuples and dictionaries, and how its leaves are found.

    Args:
        treedef: The structure.
        levels: Its nodes, from the root downwards.
    """

    def __init__(self, treedef: TreeDef, levels: list[_Level]):
        self.treedef = treedef
        self._levels = levels
        self._order = Positions(self._found(treedef.unflatten(range(treedef.num_leaves))) or ())
        self._last: tuple[list[type], list[int]] = [], []

    def flatten(self, tree: Any) -> Flat | None:
        """Flattens a tree; gives None if it has another structure."""
        try:
            found = self._found(tree)
        except KeyError:
            return None
        if found is None:
            return None
        leaves = [None] * len(found)
        self._order.write(leaves, found)
        types, last = list(map(type, leaves)), self._last
        if types != last[0]:
            last = self._last = types, _one_of_each(types)
        return (leaves, self.treedef, types) if _are_leaves(leaves, last[1]) else None

    def _found(self, tree: Any) -> list[Any] | None:
        """Lists what lies in the places of leaves, level by level."""
        nodes: list[Any] = [tree]
        found: list[Any] = []
        for groups, leaves in self._levels:
            if not groups:  # all nodes of the last level are leaves
                return found + nodes if found else nodes
            found += leaves.read(nodes)
            inside: list[Any] = []
            for group in groups:
                below = group.below(nodes)
                if below is None:
                    return None
                inside += below
            nodes = inside
        return found


_MOST_GROUPS = 32


def _outline(tree: Any, treedef: TreeDef) -> Outline | None:
    """Makes an outline, if the tree is fit for it."""
    levels: list[_Level] = []
    nodes = [tree]
    while nodes:
        groups, leaves = _grouped(nodes)
        keys = {type(key) for group in groups for key in group.keys or ()}
        # Numbers may be equal as keys and yet not the same: 1, 1.0 and True.
        if len(groups) > _MOST_GROUPS or not keys <= {str}:
            return None
        if leaf_types(leaves.read(nodes)) is None:
            return None
        levels.append(_Level(groups, leaves))
        nodes = list(chain.from_iterable(group.below(nodes) or () for group in groups))
    return Outline(treedef, levels)


def _grouped(nodes: list[Any]) -> _Level:
    positions: dict[tuple[type, tuple[Any, ...] | None], list[int]] = {}
    leaves: list[int] = []
    for position, node in enumerate(nodes):
        if type(node) in _KINDS:
            label = type(node), tuple(node) if type(node) is dict else None
            positions.setdefault(label, []).append(position)
        else:
            leaves.append(position)
    groups = [
        _Group(Positions(own), [kind] * len(own), [len(nodes[position]) for position in own], keys)
        for (kind, keys), own in positions.items()
    ]
    return _Level(groups, Positions(leaves))


_KINDS = (dict, list, tuple)
_FEWEST_LEAVES = 64
_MOST_OUTLINES = 256
_MOST_ALIKE = 4
_MOST_KEYS = 16
_DEEPEST_GLANCE = 4
_outlines: OrderedDict[Hashable, tuple[Outline, ...]] = OrderedDict()


def _glance(tree: Any) -> Hashable:
    """Returns what tells most trees apart: classes, lengths and keys next to the root."""
    seen: list[Any] = []
    for _ in range(_DEEPEST_GLANCE):
        if type(tree) is dict and len(tree) <= _MOST_KEYS:
            seen.append(frozenset(tree))
            if len(tree) != 1:
                break
            (tree,) = tree.values()
        elif type(tree) in _KINDS and tree:
            seen.append((type(tree), len(tree)))
            if type(tree) is dict:
                break
            tree = tree[0]
        else:
            break
    return tuple(seen)


def remember(tree: Any, treedef: TreeDef) -> None:
    """Keeps the outline of a tree whose like is going to be flattened again.

    Args:
        tree: The tree.
        treedef: Its structure.
    """
    if type(tree) not in _KINDS or treedef.num_leaves < _FEWEST_LEAVES:
        return
    glance = _glance(tree)
    alike = _outlines.get(glance, ())
    if any(known.treedef == treedef for known in alike):
        return
    outline = _outline(tree, treedef)
    if outline is not None:
        _outlines[glance] = (outline, *alike[: _MOST_ALIKE - 1])
        while len(_outlines) > _MOST_OUTLINES:
            _outlines.popitem(last=False)


def flatten_again(tree: Any) -> Flat | None:
    """Flattens a tree by the outline of one like it; gives None if there is none."""
    if type(tree) not in _KINDS or not _outlines:
        return None
    for outline in _outlines.get(_glance(tree), ()):
        flat = outline.flatten(tree)
        if flat is not None:
            return flat
    return None
