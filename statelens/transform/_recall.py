"""Equinox modules that were taken apart, or put together, before: their leaves are known.

A training step returns the model that the next step takes. To take it apart costs a Python call
for each of its modules; but modules are immutable, so that their leaves are those that they were
made of. That is taken on trust: `object.__setattr__` would get past it. Lists and dictionaries in
them may change, and are compared.
"""

import operator
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax.tree_util as jtu

from .._reads import has_still, items_of
from .._trace import concrete_types, is_concrete

Getter = tuple[Callable[[Any], Any], ...]
"""How to get to a node of a tree, step by step."""


class Memory:
    """What is remembered of a module.

    Attributes:
        mixed: The module taken apart.
    """

    __slots__ = ("_contents", "_module", "mixed")

    def __init__(self, module: Any, mixed: Any, places: "list[Getter]"):
        self._module = _Reference(module, _forget)
        self._module.key = id(module)
        containers = [_get(module, place) for place in places]
        self._contents = [(found, items_of(found)) for found in containers]
        self.mixed = mixed

    def is_of(self, module: Any) -> bool:
        """Says whether it is the module's memory, and nothing in that has changed."""
        if self._module() is not module:
            return False
        return not self._contents or all(has_still(*content) for content in self._contents)


class _Reference(weakref.ref):
    """A weak reference to a module.

    Attributes:
        key: Where the module's memory is.
    """

    __slots__ = ("key",)
    key: int


_MOST_KNOWN = 256
_memories: dict[int, Memory] = {}


def recall(module: Any) -> Any:
    """Returns a module taken apart, as it is remembered.

    Args:
        module: The module.

    Returns:
        What was given to `remember`; None, if nothing was, or it no longer holds.
    """
    memory = _memories.get(id(module))
    if memory is None:
        return None
    if memory.is_of(module):
        return memory.mixed
    # What was replaced in the module must not live as long as it.
    _memories.pop(id(module), None)
    return None


class Recalled(NamedTuple):
    """What is remembered of the modules in nested tuples, such as the state of an optimiser.

    Attributes:
        traced: All leaves that are traced.
        static: What isn't traced of each module.
        key: What is the same for trees of which only the traced leaves differ.
    """

    traced: list[Any]
    static: list[Any]
    key: Hashable


_MOST_NODES = 64


def recall_all(tree: tuple[Any, ...]) -> Recalled | None:
    """Returns what is remembered of all modules in nested tuples; None, if of one it isn't."""
    traced: list[Any] = []
    static: list[Any] = []
    structure: list[Hashable] = []
    nodes: list[Any] = [tree]
    # A training step waits for this, and with caches that its predecessor has emptied each
    # function costs microseconds: so it is one loop, and the usual classes come first.
    while nodes:
        node = nodes.pop()
        kind = type(node)
        if kind in concrete_types:
            traced.append(node)
            structure.append(kind)
        elif node is None:
            structure.append(None)
        elif issubclass(kind, tuple):
            if not _is_tuple(node) or len(structure) > _MOST_NODES:
                return None
            structure += kind, len(node)
            nodes += node[::-1]
        elif (mixed := recall(node)) is not None:
            structure.append(id(mixed.static))
            static.append(mixed.static)
            traced += mixed.traced
        elif is_concrete(node):
            nodes.append(node)  # now its class is known
        else:
            return None
    return Recalled(traced, static, tuple(structure)) if static else None


def remember(module: Any, mixed: Any, places: list[Getter]) -> None:
    """Remembers a module, as long as it lives and not too many others come.

    Args:
        module: The module.
        mixed: The module taken apart: leaves that are traced, and all else.
        places: Where in it lists and dictionaries are.
    """
    # A module that its own function leads to would never end while it is remembered.
    forget_some(_memories)
    _memories[id(module)] = Memory(module, mixed, places)


def forget_some(known: dict[Any, Any]) -> None:
    """Makes room for one more thing in what is known, by the oldest."""
    while len(known) >= _MOST_KNOWN:
        known.pop(next(iter(known)), None)


def places_of_containers(tree: Any) -> list[Getter] | None:
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
    return [place for place, node in nodes if type(node) in (list, dict)]


def _get(tree: Any, place: Getter) -> Any:
    """Returns the node of a tree at a place."""
    for step in place:
        tree = step(tree)
    return tree


def is_seen_through(node: Any) -> bool:
    """Says whether a node is a module, or a list, tuple or dictionary as JAX takes them."""
    return isinstance(node, eqx.Module) or type(node) in (list, dict) or _is_tuple(node)


def _is_tuple(node: Any) -> bool:
    """Says whether a node is a tuple as JAX takes it: a plain or a named one."""
    return type(node) is tuple or (isinstance(node, tuple) and hasattr(node, "_fields"))


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


def _forget(reference: _Reference) -> None:
    memory = _memories.get(reference.key)
    if memory is not None and memory._module is reference:
        del _memories[reference.key]
