"""Running a function purely: the one way in which transforms run it.

A JAX transform is given pytrees of arrays. `split_arguments` makes them of what a caller has
passed, `run` merges them again and runs the function in a frame of its own, and what it returned
and wrote is split to be an output of the transform. `commit` gives the writes to the enclosing
frame, or to the cells, when the transform has succeeded.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from ..._tree import Path, cells, hidden_cells
from ...state import (
    ENDED,
    Captured,
    Frame,
    Reads,
    State,
    Writes,
    capture,
    concrete_types,
    peek,
    record_reads,
    refuse_ended,
)
from ._split import all_static, split_static
from ._static import merge_static

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments, and those by keyword."""


def split_arguments(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    static: frozenset[int | str] = frozenset(),
    split: Callable[..., Any] = split_static,
) -> Arguments:
    """Splits arguments; those at `static` positions and names are part of the program whole."""
    if not static and not kwargs:
        positional = [
            arg if type(arg) in concrete_types else split(arg, name_of(number))
            for number, arg in enumerate(args)
        ]
        return tuple(positional), {}

    def one(label: int | str, arg: Any) -> Any:
        return (all_static if label in static else split)(arg, name_of(label))

    positional = [one(number, arg) for number, arg in enumerate(args)]
    return tuple(positional), {name: one(name, arg) for name, arg in kwargs.items()}


@functools.lru_cache(maxsize=1024)
def name_of(label: int | str) -> Callable[[], str]:
    """Returns a function that names an argument in messages."""
    return lambda: f"argument {label!r}"


def merge_arguments(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """Returns arguments as the caller has passed them."""
    return tuple(map(merge_static, args)), {name: merge_static(a) for name, a in kwargs.items()}


def states_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[State, Path]:
    """Lists the states in arguments, each with its path in its argument."""
    found: dict[State, Path] = {}
    for arg in (*args, *kwargs.values()):
        found |= cells(arg) | hidden_cells(arg)
    return found


def run(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] = {},
    *,
    values: Mapping[State, Any] = {},
    carry: tuple[Any, ...] = (),
    frozen: Mapping[State, Path] | None = None,
    on_touch: Callable[[State], None] | None = None,
    undo: list[Callable[[], None]] | None = None,
    reads: Reads | None = None,
) -> Captured:
    """Runs a function in a frame of its own, and commits nothing.

    Args:
        fun: The function.
        args: Its arguments; they may be split ones.
        kwargs: Its keyword arguments likewise.
        values: The values of states to run it against, which may be split ones.
        carry: Arguments before the others that come back as output. States in them may be
            written: what the function returns of them has the new values.
        frozen: States that must not be written; None for those in arguments.
        on_touch: As for `Frame`.
        undo: As for `Frame`.
        reads: As for `Frame`.

    Returns:
        What it returned, what it wrote and what it touched.
    """
    args, kwargs = merge_arguments(args, kwargs)

    def with_carry(*args: Any) -> Any:
        # Made inside of the frame, states in the carry are the function's own.
        return fun(*map(_rebuilt, carry), *args)

    overlaid = {cell: merge_static(value) for cell, value in values.items()}
    frozen = states_in(args, kwargs) if frozen is None else frozen
    frame = Frame(overlaid, frozen, on_touch, undo, reads)
    return capture(with_carry if carry else fun, args, kwargs, frame)


def _rebuilt(tree: Any) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    return merge_static(treedef.unflatten(leaves))


def pure(fun: Callable[..., Any], touched: dict[State, None]) -> Callable[..., tuple[Any, Writes]]:
    """Makes a function of split arguments give what it wrote as a second output.

    States that it reads are closed over, so the pure function is good for one call only. They
    are added to `touched`, for `commit`.
    """

    def pure_fun(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Writes]:
        captured = run(fun, args, kwargs)
        touched.update(dict.fromkeys(captured.closed_over))
        return split_static(captured.out, lambda: "the output"), split_writes(captured.writes)

    return pure_fun


def split_value(value: Any, cell: State, split: Callable[..., Any] = split_static) -> Any:
    """Splits a state's value."""
    return value if isinstance(value, jax.Array) else split(value, lambda: repr(cell))


def current_value(cell: State) -> Any:
    """Looks up a state's value, without touching the state, and splits it."""
    value = peek(cell)
    if value is ENDED:
        refuse_ended(cell)
    return split_value(value, cell)


def split_writes(writes: Writes, split: Callable[..., Any] = split_static) -> Writes:
    """Splits the values that were written."""
    pairs = zip(writes.values, writes.cells, strict=True)
    return Writes(writes.cells, tuple(split_value(value, cell, split) for value, cell in pairs))


def commit(out: Any, writes: Writes, touched: Iterable[State] = ()) -> Any:
    """Commits what was written, and returns what the function returned.

    To be called in the trace of the call, where the states that the function has closed over
    may be constants.
    """
    record_reads(touched)
    Writes(writes.cells, tuple(map(merge_static, writes.values))).commit()
    return merge_static(out)


def run_and_commit(
    fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] = {}
) -> Any:
    """Runs a function that no JAX transform stages."""
    captured = run(fun, args, kwargs)
    return commit(captured.out, captured.writes, captured.closed_over)
