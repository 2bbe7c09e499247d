"""Equinox modules that were split, or put together, before: their leaves are known.

A training step returns the model that the next step takes. To split it costs a Python call
for each of its modules; but modules are immutable, so that their leaves are those that they were
made of. That is taken on trust: `object.__setattr__` would get past it. Lists and dictionaries in
them may change, and are compared.
"""

import functools
import itertools
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax.tree_util as jtu

from ._static import is_plain_tuple

Getter = tuple[Callable[[Any], Any], ...]
"""How to get to a node of a tree, step by step."""


class _Entry(weakref.ref):
    """A weak reference to a module, with what is cached of it.

    Attributes:
        partitioned: The module, split.
        iterables: The lists and dictionaries in it; of a dictionary the values too.
        lengths: Of each how much it had in it, if there are any.
        items: All that they had in them, if there are any.
    """

    __slots__ = ("items", "iterables", "lengths", "partitioned")

    items: list[Any]
    iterables: list[Any]
    lengths: list[int]
    partitioned: Any


# Not an `LruCache`: at each step modules come and go, and the oldest are gone anyway.
_MOST_ENTRIES = 256
_entries: dict[int, _Entry] = {}


def get(module: Any) -> Any:
    """Returns a module as it was split, or None where that isn't known, or no longer holds."""
    entry = _entries.get(id(module))
    if entry is None:
        return None
    if entry() is module:
        iterables = entry.iterables
        # In C: this is on the path of every call.
        if not iterables or (
            list(map(len, iterables)) == entry.lengths
            and all(map(operator.is_, itertools.chain.from_iterable(iterables), entry.items))
        ):
            return entry.partitioned
    # What was replaced in the module must not live as long as it.
    _entries.pop(id(module), None)
    return None


def put(module: Any, partitioned: Any, containers: Iterable[Any]) -> None:
    """Caches a module that was split, as long as it lives and not too many others come.

    Args:
        module: The module.
        partitioned: What it was split into.
        containers: All lists and dictionaries in it: what isn't among them is taken on trust.
    """
    # A module that its own function leads to would never end while it is cached.
    while len(_entries) >= _MOST_ENTRIES:
        _entries.pop(next(iter(_entries)), None)
    # Not by an `__init__`: two calls of Python would be most of what this takes, at each step.
    key = id(module)
    # In C: an interrupt that comes while a callback of Python runs is lost.
    entry = _Entry(module, functools.partial(_entries.pop, key))
    entry.partitioned = partitioned
    entry.iterables = iterables = [*containers]
    if iterables:
        iterables += [container.values() for container in iterables if type(container) is dict]
        entry.lengths = list(map(len, iterables))
        entry.items = list(itertools.chain.from_iterable(iterables))
    _entries[key] = entry


def places_of_containers(tree: Any) -> tuple[Getter, ...] | None:
    """Finds how to get to each list and dictionary in a module.

    Gives None if the tree isn't a module, or has nodes that may change in ways that aren't known.
    """
    if not isinstance(tree, eqx.Module):
        return None
    nodes = list(_nodes(tree, ()))
    if not all(is_seen_through(node) for _, node in nodes):
        return None
    return tuple(place for place, node in nodes if type(node) in (list, dict))


def at(tree: Any, place: Getter) -> Any:
    """Returns the node at a place of a tree."""
    for step in place:
        tree = step(tree)
    return tree


def is_seen_through(node: Any) -> bool:
    """Says whether a node is a module, or a list, tuple or dictionary as JAX takes them."""
    cls = type(node)
    return isinstance(node, eqx.Module) or cls in (list, dict) or is_plain_tuple(cls)


def _nodes(tree: Any, place: Getter) -> Iterator[tuple[Getter, Any]]:
    """Gives the nodes of a tree that aren't leaves."""
    if tree is None or jtu.all_leaves([tree]):
        return
    yield place, tree
    if is_seen_through(tree):
        children = jtu.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
        for (key,), child in children:
            yield from _nodes(child, (*place, _step(key)))


def _step(key: Any) -> Callable[[Any], Any]:
    if isinstance(key, jtu.GetAttrKey):
        return operator.attrgetter(key.name)
    return operator.itemgetter(key.idx if isinstance(key, jtu.SequenceKey) else key.key)
