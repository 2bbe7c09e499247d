"""Loops over arrays: the states that the body writes are part of the carry."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._errors import ArgumentError, ArgumentTypeError, check_callable
from ...thread import is_pair, returned_no_pair
from .._core import (
    Attempt,
    merge_static,
    parse_count,
    split_static,
)
from . import _progress_loops
from ._carry import carried, check_step, run_body, run_carrying
from ._eager_cache import staged
from ._progress import ProgressBar, as_progress_bar

Options = tuple[tuple[str, Any], ...]
"""Keywords of the loop of JAX or Equinox, which are part of the program's key."""


def run_scan(
    f: Callable[..., Any],
    init: Any,
    xs: Any,
    length: int | None,
    name: str,
    options: Options,
    pbar: ProgressBar | int | None,
) -> tuple[Any, Any]:
    """Runs a loop over arrays; gives the last carry, and the outputs, stacked."""
    check_callable(f, "f", name)
    length = steps_of(xs, parse_count(length, "length", name, least=0), name)
    return staged(_scan, (f,), (name, length, options, as_progress_bar(pbar)), init, xs)


def order_of(reverse: Any, unroll: Any, name: str) -> Options:
    """Reads the options of a loop that isn't checkpointed."""
    if not isinstance(unroll, bool):
        unroll = parse_count(unroll, "unroll", name)
    return ("reverse", bool(reverse)), ("unroll", unroll)


def checkpoints_of(checkpoints: Any, base: Any, name: str) -> Options:
    """Reads the options of a loop that is checkpointed; nothing depends on the base."""
    parse_count(base, "base", name, least=2)
    return (("checkpoints", parse_count(checkpoints, "checkpoints", name)),)


def _scan(functions: tuple[Any, ...], options: tuple[Any, ...], init: Any, xs: Any) -> Any:
    (f,), (name, length, settings, bar) = functions, options
    init, xs = split_static(init, lambda: "init"), split_static(xs, lambda: "xs")
    has_carry = not name.endswith("for_loop")
    is_checkpointed = name.startswith("checkpointed")
    loop: Any = _progress_loops.checkpointed_scan if is_checkpointed else _progress_loops.scan

    def control(attempt: Attempt, before: tuple[Any, ...]) -> tuple[Any, Any]:
        def body(carry: Any, x: Any) -> tuple[Any, Any]:
            values, inner = carry
            x = merge_static(x)
            args, carry = ((x,), (inner,)) if has_carry else (x, ())
            step = run_body(f, attempt, values, args, carry)
            new, y = _pair(step.out, name) if has_carry else (None, step.out)
            check_step(attempt, values, step, name)
            new = carried(inner, new, "the carry", name)
            return (step.values, new), split_static(y, lambda: "the output")

        start = before, init
        (values, carry), ys = loop(body, start, xs, length, bar, parts, **dict(settings))
        return values, (carry, ys)

    def parts(x: Any, carry: Any, y: Any) -> dict[str, Any]:
        x = merge_static(x)
        x = x if has_carry or len(x) != 1 else x[0]
        return {"x": x, "carry": merge_static(carry[1]), "y": merge_static(y)}

    return run_carrying(control, name, f)


def _pair(out: Any, name: str) -> tuple[Any, Any]:
    if is_pair(out):
        return out
    raise ArgumentTypeError(
        f"asked {name} to run a body",
        returned_no_pair(out),
        "return carry, y (with None for y, if there is nothing to stack)",
    )


def steps_of(xs: Any, length: int | None, name: str) -> int:
    """Finds the number of steps, and refuses what has no leading axis of that size."""
    for leaf in jax.tree.leaves(split_static(xs, lambda: "xs")):
        shape = jnp.shape(leaf)
        if not shape:
            raise ArgumentError(
                f"asked {name} to run over {jax.typeof(leaf).str_short()}",
                "that is one number, without an axis to run over",
                "jnp.arange(n), to count",
                "length=n, and no xs",
            )
        length = shape[0] if length is None else length
        if shape[0] != length:
            raise ArgumentError(
                f"asked {name} for {length} steps",
                f"an array to run over is of shape {shape}",
                "arrays of the same leading size, equal to length if that is given",
            )
    if length is None:
        raise ArgumentError(
            f"asked {name} to run",
            "there is nothing to run over, and no length",
            "length=n",
            "arrays to run over",
        )
    return length
