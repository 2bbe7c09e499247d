"""Equinox modules that were taken apart, or put together, before: their leaves are known.

A training step returns the model that the next step takes. To take it apart costs a Python call
for each of its modules; but modules are immutable, so that their leaves are those that they were
made of. That is taken on trust: `object.__setattr__` would get past it. Lists and dictionaries in
them may change, and are compared.
"""

import itertools
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu

Getter = tuple[Callable[[Any], Any], ...]
"""How to get to a node of a tree, step by step."""


class Memory(weakref.ref):
    """A weak reference to a module, with what is remembered of it.

    Attributes:
        key: Where the memory is among all memories.
        mixed: The module taken apart.
        iterables: The lists and dictionaries in it; of a dictionary the values too.
        lengths: Of each how much it had in it, if there are any.
        items: All that they had in them, if there are any.
    """

    __slots__ = ("items", "iterables", "key", "lengths", "mixed")

    items: list[Any]
    iterables: list[Any]
    key: int
    lengths: list[int]
    mixed: Any


_MOST_KNOWN = 256
_memories: dict[int, Memory] = {}


def get(module: Any) -> Any:
    """Returns a module taken apart, as it is remembered.

    Args:
        module: The module.

    Returns:
        What was given to `remember`; None, if nothing was, or it no longer holds.
    """
    memory = _memories.get(id(module))
    if memory is None:
        return None
    if memory() is module:
        iterables = memory.iterables
        # By three calls of C: a program waits for this.
        if not iterables or (
            list(map(len, iterables)) == memory.lengths
            and all(map(operator.is_, itertools.chain.from_iterable(iterables), memory.items))
        ):
            return memory.mixed
    # What was replaced in the module must not live as long as it.
    _memories.pop(id(module), None)
    return None


def put(module: Any, mixed: Any, containers: Iterable[Any]) -> None:
    """Remembers a module, as long as it lives and not too many others come.

    Args:
        module: The module.
        mixed: The module taken apart: leaves that are traced, and all else.
        containers: All lists and dictionaries in it: what isn't among them is taken on trust.
    """
    # A module that its own function leads to would never end while it is remembered.
    if len(_memories) >= _MOST_KNOWN:
        forget_some(_memories)
    # Not by an `__init__`: two calls of Python would be most of what this takes, at each step.
    memory = Memory(module, _forget)
    memory.key = key = id(module)
    memory.mixed = mixed
    memory.iterables = iterables = [*containers]
    if iterables:
        iterables += [container.values() for container in iterables if type(container) is dict]
        memory.lengths = list(map(len, iterables))
        memory.items = list(itertools.chain.from_iterable(iterables))
    _memories[key] = memory


def forget_some(known: dict[Any, Any]) -> None:
    """Makes room for one more thing in what is known, by the oldest."""
    while len(known) >= _MOST_KNOWN:
        known.pop(next(iter(known)), None)


def places_of_containers(tree: Any) -> tuple[Getter, ...] | None:
    """Finds the lists and dictionaries in a module.

    Args:
        tree: Any pytree.

    Returns:
        How to get to each; None if the tree isn't a module, or if there are nodes in it that
        may change in ways that aren't known.
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
    return isinstance(node, eqx.Module) or type(node) in (list, dict) or is_seen_tuple(node)


def is_tuple(cls: type) -> bool:
    """Says whether a class is one of tuples: plain or named ones."""
    # Of the class: modules are slow to say that they aren't instances.
    return cls is tuple or (issubclass(cls, tuple) and hasattr(cls, "_fields"))


def is_seen_tuple(node: Any) -> bool:
    """Says whether a node is a tuple of which JAX takes the items, in the order in which they are.

    A class of named tuples may be registered to be taken otherwise, or iterate otherwise.
    """
    if type(node) is tuple:
        return True
    if not is_tuple(type(node)):
        return False
    children, treedef = jax.tree.flatten(node, is_leaf=lambda inner: inner is not node)
    # Others in their places, since the same one may lie in two of them.
    others = [object() for _ in children]
    return list(treedef.unflatten(others)) == others


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


# Bound, since a module may end after the names of this file have, when Python does.
def _forget(memory: Memory, memories: dict[int, Memory] = _memories) -> None:
    if memories.get(memory.key) is memory:
        memories.pop(memory.key, None)  # another thread may have been sooner
