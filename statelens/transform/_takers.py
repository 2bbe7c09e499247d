"""Arguments of calls that are alike, taken apart by one function that is written for them.

A program can't begin before its arguments are taken apart, with caches that its last run has
emptied: then each function that Python calls costs microseconds. In a loop the arguments are alike
each time: arrays, modules that the last call has returned, and nested tuples with such modules in
them, such as the memory of an optimiser. So one function is written for all of them, and calls none
but `recall`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx

from .._trace import concrete_types, has_tracers, is_concrete
from ._mixed import Mixed, apart
from ._pure import each_prepared, name_of, prepared
from ._recall import is_seen_tuple, is_tuple, recall
from ._source import Source, tuple_of

Taker = Callable[[tuple[Any, ...]], tuple[Any, ...] | None]
"""Takes arguments apart; gives None for arguments that it isn't written for."""

_MOST_TAKERS = 4
_MOST_WRITTEN = 32
_MOST_NODES = 64


class ArgumentTakers:
    """What takes the arguments of a function apart, as far as they have been met.

    Args:
        static: Positions and names of arguments of which nothing is traced.

    Attributes:
        positional: What takes positional arguments apart.
    """

    __slots__ = ("_by_names", "_static", "positional")

    def __init__(self, static: frozenset[int | str]):
        self.positional = _Takers(static, None)
        self._by_names: dict[tuple[str, ...], _Takers] = {}
        self._static = static

    def take(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Takes arguments apart, as `prepared` does."""
        return self.positional.take(args), self.named(kwargs)

    def named(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Takes keyword arguments apart."""
        if not kwargs:
            return kwargs
        names = tuple(kwargs)
        takers = self._by_names.get(names)
        if takers is None:
            if self._static or len(self._by_names) >= _MOST_TAKERS:
                return prepared((), kwargs, self._static, apart)[1]
            takers = self._by_names[names] = _Takers(self._static, names)
        return dict(zip(names, takers.take(tuple(kwargs.values())), strict=True))


class _Takers:
    """What takes arguments apart that have the same labels.

    Args:
        static: Positions and names of arguments of which nothing is traced.
        names: Their names; None for positional ones.

    Attributes:
        last: What was used last.
    """

    __slots__ = ("_known", "_left", "_names", "_static", "last")

    def __init__(self, static: frozenset[int | str], names: tuple[str, ...] | None):
        self.last: Taker = _take_none
        self._known: list[Taker] = []
        self._names = names
        self._static = static
        self._left = 0 if static else _MOST_WRITTEN

    def take(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Takes arguments apart."""
        found = self.last(args)
        if found is not None:
            return found
        for taker in self._known:
            found = taker(args)
            if found is not None:
                self.last = taker
                return found
        labels = range(len(args)) if self._names is None else self._names
        found = each_prepared(args, labels, self._static, apart)
        if self._left and _are_good(args):
            self._left -= 1
            taker = _taker(args, found, labels)
            self.last, self._known = taker, [taker, *self._known[: _MOST_TAKERS - 1]]
        return found


def _take_none(args: tuple[Any, ...]) -> None:
    """Takes nothing."""


def _are_good(args: tuple[Any, ...]) -> bool:
    """Says whether to write a function for arguments: they aren't many, nor of a trace.

    A module in a tuple must be remembered; else one is written that can't recall it.
    """
    if len(args) > _MOST_NODES or has_tracers(args):
        return False
    nodes = [node for arg in args if is_tuple(type(arg)) for node in _nodes_in(arg) or ()]
    return all(recall(node) is not None for node in nodes if isinstance(node, eqx.Module))


def _taker(args: tuple[Any, ...], taken: tuple[Any, ...], labels: Sequence[int | str]) -> Taker:
    """Writes the function for arguments like these.

    Args:
        args: The arguments.
        taken: What they become.
        labels: Their positions, or names.

    Returns:
        The function.
    """
    source = _TakerSource()
    names = source.items("args", args)
    parts = [
        source.argument(name, arg, found, name_of(label))
        for name, arg, found, label in zip(names, args, taken, labels, strict=True)
    ]
    return source.function("args", tuple_of(parts))


class _TakerSource(Source):
    """What a function is written of that takes arguments apart."""

    def __init__(self):
        super().__init__(
            "taker", Mixed=Mixed, apart=apart, concrete_types=concrete_types, recall=recall
        )

    def argument(self, name: str, arg: Any, taken: Any, label: Callable[[], str]) -> str:
        """Writes what an argument becomes.

        Args:
            name: What the function calls it.
            arg: The argument.
            taken: What it becomes.
            label: Gives what to call it in messages.

        Returns:
            An expression.
        """
        if is_concrete(arg):
            return self._array(name, arg)
        if is_tuple(type(arg)) and _nodes_in(arg) is not None:
            return f"Mixed([{', '.join(self._parts(name, arg))}], {self.name_for(taken.static)})"
        known = self._recalled(name)
        return f"apart({name}, {self.name_for(label)}) if {known} is None else {known}"

    def items(self, name: str, node: tuple[Any, ...]) -> list[str]:
        """Writes how to unpack a tuple, and gives names of the items."""
        self._require(f"len({name}) == {len(node)}")
        items = [f"{name}_{number}" for number in range(len(node))]
        self.unpack(name, items)
        return items

    def _parts(self, name: str, node: Any) -> list[str]:
        """Writes what the traced leaves of a node in a tuple are."""
        if is_concrete(node):
            return [self._array(name, node)]
        if node is None:
            self._require(f"{name} is None")
            return []
        if isinstance(node, eqx.Module):
            found = recall(node)
            known, static = self._recalled(name), self.name_for(found and found.static)
            self._require(f"{known} is not None and {known}.static is {static}")
            return [f"*{known}.traced"]
        self._require(f"type({name}) is {self.name_for(type(node))}")
        items = zip(self.items(name, node), node, strict=True)
        return [part for item in items for part in self._parts(*item)]

    def _recalled(self, name: str) -> str:
        self.add(f"{name}_known = recall({name})")
        return f"{name}_known"

    def _array(self, name: str, arg: Any) -> str:
        # The class that it had is sooner compared than looked up among others.
        is_alike = f"type({name}) is {self.name_for(type(arg))}"
        self._require(f"{is_alike} or type({name}) in concrete_types")
        return name

    def _require(self, condition: str) -> None:
        self.add(f"if not ({condition}): return None")


def _nodes_in(tree: tuple[Any, ...]) -> list[Any] | None:
    """Lists what is in nested tuples; None, if that is more than arrays, modules and None."""
    nodes: list[Any] = [tree]
    for node in nodes:
        if is_seen_tuple(node):
            nodes += node
        elif not (node is None or is_concrete(node) or isinstance(node, eqx.Module)):
            return None
        if len(nodes) > _MOST_NODES:
            return None
    return nodes
