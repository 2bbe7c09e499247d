"""What loops and branches share: running a body with the states that it writes as values."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._errors import StructureError
from ...state import State, Writes
from .._core import (
    Attempt,
    commit,
    current_value,
    describe_difference,
    describe_types,
    discover,
    run,
    split_static,
    split_value,
)


class Step(NamedTuple):
    """What a body returned, which states it wrote, and the values of those that are carried."""

    out: Any
    written: tuple[State, ...]
    values: tuple[Any, ...]


def run_body(
    fun: Callable[..., Any],
    attempt: Attempt,
    values: Sequence[Any],
    args: tuple[Any, ...],
    carry: tuple[Any, ...] = (),
) -> Step:
    """Runs a body against values of the states that the attempt carries; see `run`."""
    carried = dict(zip(attempt.cells, values, strict=True))
    captured = run(fun, args, values=carried, carry=carry)
    attempt.touched.update(dict.fromkeys(captured.closed_over))
    writes = captured.writes
    after = carried | {
        cell: split_value(value, cell)
        for cell, value in zip(writes.cells, writes.values, strict=True)
    }
    return Step(captured.out, writes.cells, tuple(after[cell] for cell in attempt.cells))


def run_carrying(
    control: Callable[[Attempt, tuple[Any, ...]], tuple[Any, Any]],
    name: str,
    function: Callable[..., Any],
) -> Any:
    """Runs control flow on the values of the states that it writes; commits those it gives."""

    def attempted(attempt: Attempt) -> tuple[Any, Writes]:
        before = tuple(map(current_value, attempt.cells))
        values, out = attempt.staged(lambda: control(attempt, before))
        return out, Writes(attempt.cells, tuple(values))

    return commit(*discover(attempted, name, function))


def check_step(attempt: Attempt, before: Sequence[Any], step: Step, asked_by: str) -> None:
    """Refuses a state that a loop's body leaves with another shape, dtype or structure."""
    attempt.require_exactly(step.written)
    for cell, old, new in zip(attempt.cells, before, step.values, strict=True):
        if not are_alike(old, new, is_start=True):
            was, becomes = describe_types(old), describe_types(new)
            raise StructureError(
                f"asked {asked_by} to carry {cell!r} from step to step",
                f"it is {was} before a step, and {becomes} after it",
                "assign a value of the same structure, shape and dtype",
                "keep what grows from step to step as an output of the body",
            )


def carried(before: Any, after: Any, what: str, asked_by: str) -> Any:
    """Splits a carry; refuses one that changes its structure, shapes or dtypes."""
    after = split_static(after, lambda: what)
    if not are_alike(before, after, is_start=True):
        raise StructureError(
            f"asked {asked_by} to carry {what} from step to step",
            f"after a step {describe_difference(after, before)}",
            "return it with the structure, shapes and dtypes that it came with",
        )
    return after


def are_alike(one: Any, other: Any, *, is_start: bool = False) -> bool:
    """Says whether two trees have the same structure, shapes and dtypes."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = jax.typeof(a), jax.typeof(b)
        # A Python number at a loop's start takes the dtype that it has after a step, as in JAX.
        dtype = jnp.result_type(a, b) if is_start and a.weak_type else a.dtype
        if (a.shape, dtype) != (b.shape, b.dtype):
            return False
    return True
