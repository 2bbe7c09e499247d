"""Arguments of calls that are alike, taken apart by one function that is written for them.

A program can't begin before its arguments are taken apart, with caches that its last run has
emptied: then each function that Python calls costs microseconds. In a loop the arguments are alike
each time: arrays, modules that the last call has returned, and nested tuples with such modules in
them, such as the memory of an optimiser. So one function is written for all of them, and calls none
but `recall`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx

from ...state import concrete_types, has_tracers, is_concrete
from .._core import (
    Partitioned,
    Source,
    as_partitioned,
    get,
    is_seen_tuple,
    is_tuple,
    name_of,
    prepared,
    tuple_of,
)
from ._layout import Layout, Prepared, laid_out

Taker = Callable[[tuple[Any, ...]], tuple[Any, ...] | None]
"""Takes arguments apart; gives None for arguments that it isn't written for."""

_MOST_TAKERS = 4
_MOST_WRITTEN = 32
_MOST_NODES = 64


class ArgumentTakers:
    """What takes the arguments of a function apart, as far as they have been met.

    Args:
        static: Positions and names of arguments of which nothing is traced.
        donated: Positions and names of those that are donated.

    Attributes:
        positional: What takes arguments apart of which none is given by keyword.
    """

    __slots__ = ("_by_names", "_donated", "_static", "positional")

    def __init__(self, static: frozenset[int | str], donated: frozenset[int | str]):
        self.positional = Takers(static, donated, ())
        self._by_names: dict[tuple[str, ...], Takers] = {}
        self._static = static
        self._donated = donated

    def take(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Takes arguments apart; gives them as `laid_out` does."""
        if not kwargs:
            return self.positional.take(args)
        names = tuple(kwargs)
        takers = self._by_names.get(names)
        if takers is None:
            if len(self._by_names) >= _MOST_TAKERS:
                return laid_out(
                    *prepared(args, kwargs, self._static, as_partitioned), self._donated
                )
            takers = self._by_names[names] = Takers(self._static, self._donated, names)
        return takers.take((*args, *kwargs.values()))


class Takers:
    """What takes arguments apart of which the last ones are given by certain keywords.

    Args:
        static: Positions and names of arguments of which nothing is traced.
        donated: Positions and names of those that are donated.
        names: The keywords.

    Attributes:
        last: What was used last.
    """

    __slots__ = ("_donated", "_known", "_left", "_names", "_static", "last")

    def __init__(
        self, static: frozenset[int | str], donated: frozenset[int | str], names: tuple[str, ...]
    ):
        self.last: Taker = _take_none
        self._known: list[Taker] = []
        self._static, self._donated, self._names = static, donated, names
        self._left = 0 if static else _MOST_WRITTEN

    def take(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Takes arguments apart: positional ones, and then those by keyword."""
        for taker in self._known:
            found = taker(values)
            if found is not None:
                self.last = taker
                return found
        count = len(values) - len(self._names)
        kwargs = dict(zip(self._names, values[count:], strict=True))
        parts = prepared(values[:count], kwargs, self._static, as_partitioned)
        inputs = laid_out(*parts, self._donated)
        if self._left and _are_good(values):
            self._left -= 1
            taker = self._written(values, parts, inputs)
            self.last, self._known = taker, [taker, *self._known[: _MOST_TAKERS - 1]]
        return inputs

    def _written(self, values: tuple[Any, ...], parts: Prepared, inputs: tuple[Any, ...]) -> Taker:
        """Writes the function for arguments like these.

        Args:
            values: The arguments.
            parts: What is set apart of them.
            inputs: That, laid out.
        """
        source = _TakerSource()
        args, kwargs = parts
        labels = (*range(len(args)), *self._names)
        expressions = source.items("values", values)
        every = zip(labels, expressions, values, (*args, *kwargs.values()), strict=True)
        written = {label: source.argument(label, *each) for label, *each in every}
        layout = inputs[-1] if inputs else None
        if type(layout) is not Layout:
            return source.function("values", tuple_of(expressions))
        return source.function("values", source.inputs(layout, written))


def _take_none(args: tuple[Any, ...]) -> None:
    """Takes nothing."""


def _are_good(args: tuple[Any, ...]) -> bool:
    """Says whether to write a function for arguments: they aren't many, nor of a trace.

    A module in a tuple must be remembered; else one is written that can't recall it.
    """
    if len(args) > _MOST_NODES or has_tracers(args):
        return False
    nodes = [node for arg in args if is_tuple(type(arg)) for node in _nodes_in(arg) or ()]
    return all(get(node) is not None for node in nodes if isinstance(node, eqx.Module))


class _Written(NamedTuple):
    """How an argument is taken apart.

    Attributes:
        leaves: Expressions of its leaves; some may begin with a star.
        static: An expression of its static half.
        is_known: Whether that is what it was when the function was written.
    """

    leaves: list[str]
    static: str = "None"
    is_known: bool = True


class _TakerSource(Source):
    """What a function is written of that takes arguments apart."""

    def __init__(self):
        super().__init__(
            "taker",
            Layout=Layout,
            Partitioned=Partitioned,
            as_partitioned=as_partitioned,
            concrete_types=concrete_types,
            get=get,
        )

    def argument(self, label: int | str, name: str, arg: Any, part: Any) -> _Written:
        """Writes how an argument is taken apart.

        Args:
            label: Its position or name.
            name: What the function calls it.
            arg: The argument.
            part: What is set apart of it.
        """
        if is_concrete(arg):
            return _Written([self._array(name, arg)])
        if type(part) is not Partitioned:
            self._require(f"type({name}) is {self.name_for(type(arg))}")
            return _Written([name])
        if is_tuple(type(arg)) and _nodes_in(arg) is not None:
            return _Written(self._parts(name, arg), self.name_for(part.static))
        known = self._recalled(name)
        self.add(f"if {known} is None: {known} = apart({name}, {self.name_for(name_of(label))})")
        self._require(f"type({known}) is Mixed")
        return _Written([f"*{known}.dynamic"], f"{known}.static", is_known=False)

    def inputs(self, layout: Layout, written: dict[int | str, _Written]) -> str:
        """Writes what a staged function is called with.

        Args:
            layout: How the arguments were laid out for which the function is written.
            written: How each of them is taken apart, by position or name.
        """
        parts = [written[label] for label in layout.labels]
        checks = [
            f"{part.static} is {self.name_for(static)}"
            for part, static in zip(parts, layout.statics, strict=True)
            if not part.is_known
        ]
        found = self.name_for(layout)
        if checks:
            names, donated = self.name_for(layout.names), self.name_for(layout.donated)
            statics = tuple_of(part.static for part in parts)
            found += f" if {' and '.join(checks)} else Layout({statics}, {names}, {donated})"
        items = [
            f"[{', '.join(item)}]" if isinstance(item, list) else item
            for item in layout.in_order([part.leaves for part in parts])
        ]
        return tuple_of([*items, found])

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
            found = get(node)
            known, static = self._recalled(name), self.name_for(found and found.static)
            self._require(f"{known} is not None and {known}.static is {static}")
            return [f"*{known}.dynamic"]
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
