"""What loops and branches share: running a body with the states that it writes as values."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..._errors import StructureError, explain
from ...state import State, Writes, capture
from ._discovery import Attempt
from ._run import staged, staged_value, states_in
from ._static import merge_static
from ._tree_difference import describe_difference


class Step(NamedTuple):
    """What came of one run of a body.

    Attributes:
        out: What it returned, as the caller meets it.
        written: The states that it wrote.
        values: The values of the states that are carried.
    """

    out: Any
    written: tuple[State, ...]
    values: tuple[Any, ...]


def states_before(attempt: Attempt) -> tuple[Any, ...]:
    """Looks up the values that the states have before the loop."""
    return tuple(map(staged_value, attempt.cells))


def run(
    fun: Callable[..., Any],
    attempt: Attempt,
    values: Sequence[Any],
    args: tuple[Any, ...],
    carry: tuple[Any, ...] = (),
) -> Step:
    """Runs a body.

    Args:
        fun: The body.
        attempt: Knows the states that are carried.
        values: Their values.
        args: Arguments; the states in them are held still.
        carry: Arguments before these, that come back as output. States in them may be
            written: what the body returns of them has the new values.

    Returns:
        What came of it.
    """
    before = tuple(map(merge_static, values))
    captured = capture(
        # Made inside of the frame, states in the carry are the body's own.
        lambda: fun(*map(_rebuilt, carry), *args),
        (),
        {},
        values=dict(zip(attempt.cells, before, strict=True)),
        frozen=states_in(args, {}),
    )
    writes = captured.writes
    written = dict(zip(writes.cells, writes.values, strict=True))
    after = [written.get(cell, value) for cell, value in zip(attempt.cells, before, strict=True)]
    staged_values = tuple(map(staged, after, attempt.cells))
    return Step(captured.out, writes.cells, staged_values)


def commit(attempt: Attempt, values: Sequence[Any]) -> None:
    """Gives the carried states the values that they have after the loop."""
    Writes(attempt.cells, tuple(map(merge_static, values))).commit()


def check_kept(
    attempt: Attempt, before: Sequence[Any], after: Sequence[Any], asked_by: str
) -> None:
    """Refuses a carried state that changes its shape, dtype or structure.

    Raises:
        StructureError: One does; the message names it.
    """
    for cell, old, new in zip(attempt.cells, before, after, strict=True):
        if not _can_be_carried(old, new):
            raise StructureError(
                explain(
                    f"asked {asked_by} to carry {cell!r} from step to step",
                    f"it is {kinds(old)} before a step, and {kinds(new)} after it",
                    "assign a value of the same structure, shape and dtype",
                    "keep what grows from step to step as an output of the body",
                )
            )


def kinds(tree: Any) -> str:
    """Describes the arrays in a tree, as in ``float32[3]``."""
    found = ", ".join(jax.typeof(leaf).str_short() for leaf in jax.tree.leaves(tree))
    return found or "nothing"


def check_carry(before: Any, after: Any, what: str, asked_by: str) -> None:
    """Refuses a carry that changes its structure, shapes or dtypes.

    Raises:
        StructureError: It does.
    """
    if not _can_be_carried(before, after):
        raise StructureError(
            explain(
                f"asked {asked_by} to carry {what} from step to step",
                f"after a step {describe_difference(after, before)}",
                "return it with the structure, shapes and dtypes that it came with",
            )
        )


def are_alike(one: Any, other: Any) -> bool:
    """Says whether two trees have the same structure, shapes and dtypes."""
    return _all_leaves(_are_alike, one, other)


def _can_be_carried(before: Any, after: Any) -> bool:
    """Says whether a loop can carry a tree that becomes another one in a step.

    A Python number at the start takes the dtype that it has after a step, as with `jax.lax.scan`.
    """
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


def _rebuilt(tree: Any) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    return merge_static(treedef.unflatten(leaves))
