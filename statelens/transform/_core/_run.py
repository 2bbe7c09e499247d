"""A function as a JAX transform of it runs it: arguments set apart, writes as an output."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ..._tree import Path, cells, hidden_cells
from ...state import ENDED, State, Writes, capture, concrete_types, peek, refuse_ended
from ._static import constant, merge_static, split_static


def prepared(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    static: frozenset[int | str] = frozenset(),
    take: Callable[..., Any] = split_static,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Sets apart what of arguments isn't traced.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        static: Positions and names of arguments of which nothing is traced.
        take: What to do with the others.

    Returns:
        The arguments, as pytrees of arrays.
    """
    if not static and not kwargs:
        positional = [
            arg if type(arg) in concrete_types else take(arg, name_of(number))
            for number, arg in enumerate(args)
        ]
        return tuple(positional), {}

    def one(label: int | str, arg: Any) -> Any:
        part = constant if label in static else take
        return part(arg, name_of(label))

    positional = [one(number, arg) for number, arg in enumerate(args)]
    return tuple(positional), {name: one(name, arg) for name, arg in kwargs.items()}


@functools.cache
def name_of(label: int | str) -> Callable[[], str]:
    """Gives what gives the name of an argument, to be used in messages."""
    return lambda: f"argument {label!r}"


def states_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[State, Path]:
    """Lists the states in arguments, each with its path in its argument."""
    found: dict[State, Path] = {}
    for arg in (*args, *kwargs.values()):
        found |= cells(arg) | hidden_cells(arg)
    return found


def pure(fun: Callable[..., Any]) -> Callable[..., tuple[Any, Writes]]:
    """Makes a function give what it wrote as a second output; arguments are `prepared` ones.

    States that it reads are closed over, so the pure function is good for one call only.
    """

    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Writes]:
        args = tuple(map(merge_static, args))
        kwargs = {name: merge_static(arg) for name, arg in kwargs.items()}
        captured = capture(fun, args, kwargs, frozen=states_in(args, kwargs))
        return split_static(captured.out, lambda: "the output"), staged_writes(captured.writes)

    return run


def staged(value: Any, cell: State, take: Callable[..., Any] = split_static) -> Any:
    """Returns a state's value as a staged function takes it, or gives it."""
    return value if isinstance(value, jax.Array) else take(value, lambda: repr(cell))


def staged_value(cell: State, take: Callable[..., Any] = split_static) -> Any:
    """Looks up a state's value, as a staged function takes it."""
    value = peek(cell)
    if value is ENDED:
        refuse_ended(cell)
    return staged(value, cell, take)


def staged_writes(writes: Writes, take: Callable[..., Any] = split_static) -> Writes:
    """Returns writes whose values are pytrees of arrays."""
    values = zip(writes.values, writes.cells, strict=True)
    return Writes(writes.cells, tuple(staged(value, cell, take) for value, cell in values))


def finished(out: Any, writes: Writes) -> Any:
    """Commits what was written, and gives what was returned."""
    Writes(writes.cells, tuple(map(merge_static, writes.values))).commit()
    return merge_static(out)
