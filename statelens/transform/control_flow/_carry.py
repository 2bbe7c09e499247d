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
        values, out = control(attempt, tuple(map(current_value, attempt.cells)))
        return out, Writes(attempt.cells, tuple(values))

    return commit(*discover(attempted, name, function))


def check_kept(
    attempt: Attempt, before: Sequence[Any], after: Sequence[Any], asked_by: str
) -> None:
    """Refuses a carried state that changes its shape, dtype or structure."""
    for cell, old, new in zip(attempt.cells, before, after, strict=True):
        if not _can_be_carried(old, new):
            was, becomes = describe_types(old), describe_types(new)
            raise StructureError(
                f"asked {asked_by} to carry {cell!r} from step to step",
                f"it is {was} before a step, and {becomes} after it",
                "assign a value of the same structure, shape and dtype",
                "keep what grows from step to step as an output of the body",
            )


def check_carry(before: Any, after: Any, what: str, asked_by: str) -> None:
    """Refuses a carry that changes its structure, shapes or dtypes."""
    if not _can_be_carried(before, after):
        raise StructureError(
            f"asked {asked_by} to carry {what} from step to step",
            f"after a step {describe_difference(after, before)}",
            "return it with the structure, shapes and dtypes that it came with",
        )


def are_alike(one: Any, other: Any) -> bool:
    """Says whether two trees have the same structure, shapes and dtypes."""
    return _all_leaves(_are_alike, one, other)


def _can_be_carried(before: Any, after: Any) -> bool:
    """Says whether a loop can carry a tree that becomes another one in a step."""
    # A Python number at the start takes the dtype that it has after a step, as in JAX.
    return _all_leaves(lambda a, b: _are_alike(_promoted(a, b), b), before, after)


def _all_leaves(holds: Callable[[Any, Any], bool], one: Any, other: Any) -> bool:
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    leaves = jax.tree.leaves(one), jax.tree.leaves(other)
    return all(holds(jax.typeof(a), jax.typeof(b)) for a, b in zip(*leaves, strict=True))


def _are_alike(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _promoted(before: Any, after: Any) -> Any:
    if not before.weak_type:
        return before
    return before.update(dtype=jnp.result_type(before, after))
