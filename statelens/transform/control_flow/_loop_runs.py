"""How loops run: the states that a body writes are part of the carry, whatever the loop.

The loops themselves are those of `jax.lax`, and of Equinox where JAX has none with a reverse
derivative in bounded memory.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from ..._errors import ArgumentError, ArgumentTypeError, SelectionError, explain
from ...thread import is_pair, returned_no_pair
from .._core import (
    Attempt,
    check_callable,
    current_value,
    discover,
    merge_static,
    parse_count,
    split_static,
)
from ._carry import check_carry, check_kept, commit_carry, run_body
from ._chunks import scan_in_chunks, while_in_chunks
from ._eager_cache import staged
from ._progress import as_progress_bar


def run_scan(
    f: Any, init: Any, xs: Any, length: Any, name: str, options: tuple[Any, ...], pbar: Any
) -> tuple[Any, Any]:
    """Runs a loop over arrays.

    Args:
        f: The body.
        init: The first carry.
        xs: The arrays.
        length: The number of steps, or None.
        name: Which of the loops it is.
        options: What else `jax.lax.scan`, or `equinox.internal.scan`, is to be given.
        pbar: A progress bar, as the user gives it.

    Returns:
        The last carry, and the outputs, stacked.
    """
    check_callable(f, "f", name)
    length = steps_of(xs, parse_count(length, "length", name, least=0), name)
    options = (name, length, options, as_progress_bar(pbar))
    return staged(_scan, (f,), options, init, xs)


def _scan(functions: tuple[Any, ...], options: tuple[Any, ...], init: Any, xs: Any) -> Any:
    (f,), (name, length, settings, bar) = functions, options
    init, xs = split_static(init, lambda: "init"), split_static(xs, lambda: "xs")
    is_loop = name.endswith("for_loop")

    def attempted(attempt: Attempt) -> tuple[Any, Any, Any]:
        is_checkpointed = name.startswith("checkpointed")
        again = is_checkpointed and length > 0
        progress = None if bar is None else bar.start(length, replays=again)

        def body(carry: Any, x: Any) -> tuple[Any, Any]:
            values, inner = carry
            x_tree = merge_static(x)
            if is_loop:
                out, written, after = run_body(f, attempt, values, x_tree)
                new, y = None, out
            else:
                out, written, after = run_body(f, attempt, values, (x_tree,), (inner,))
                new, y = _pair(out, name)
            attempt.require_exactly(written)
            check_kept(attempt, values, after, name)
            carried = split_static(new, lambda: "the carry")
            check_carry(inner, carried, "the carry", name)
            return (after, carried), split_static(y, lambda: "the output")

        def ticking(carry: Any, x: Any) -> tuple[Any, Any]:
            index, inner = carry
            inner, y = body(inner, x)
            progress.tick(index, **parts(x, inner, y))  # type: ignore[union-attr]
            return (index + 1, inner), y

        def parts(x: Any, carry: Any, y: Any) -> dict[str, Any]:
            x = merge_static(x)
            x = x[0] if is_loop and len(x) == 1 else x
            return {"x": x, "carry": merge_static(carry[1]), "y": merge_static(y)}

        def mark(done: Any, x: Any, carry: Any, y: Any) -> None:
            progress.mark(done, is_first=done == first, **parts(x, carry, y))  # type: ignore

        first = 0 if progress is None else min(progress.every or 1, length)
        start = (tuple(map(current_value, attempt.cells)), init)
        if again:
            kind: Any = {"kind": "checkpointed", **dict(settings)}
            if progress is None:
                (values, carry), ys = eqxi.scan(body, start, xs, length, **kind)
            else:
                zero = jnp.zeros((), jnp.int32)
                (_, (values, carry)), ys = eqxi.scan(ticking, (zero, start), xs, length, **kind)
        else:
            how: Any = {} if is_checkpointed else dict(settings)
            if progress is None or not length:
                (values, carry), ys = jax.lax.scan(body, start, xs, length, **how)
            else:
                (values, carry), ys = scan_in_chunks(body, start, xs, length, first, mark, **how)
        return attempt, values, (merge_static(carry), merge_static(ys))

    attempt, values, result = discover(attempted, name, f)
    commit_carry(attempt, values)
    return result


def run_while(
    cond_fun: Any, body_fun: Any, init: Any, name: str, bounds: tuple[Any, Any], pbar: Any
) -> Any:
    """Runs a loop that goes on for as long as a condition holds.

    Args:
        cond_fun: The condition.
        body_fun: The body.
        init: The first value.
        name: Which of the loops it is.
        bounds: The most steps and the base of their checkpoints, where the loop is bounded.
        pbar: A progress bar, as the user gives it.

    Returns:
        The last value.
    """
    check_callable(cond_fun, "cond_fun", name)
    check_callable(body_fun, "body_fun", name)
    options = (name, bounds, as_progress_bar(pbar))
    return staged(_while, (cond_fun, body_fun), options, init)


def _while(functions: tuple[Any, ...], options: tuple[Any, ...], init: Any) -> Any:
    (cond_fun, body_fun), (name, (max_steps, base), bar) = functions, options
    init = split_static(init, lambda: "init_val")

    def attempted(attempt: Attempt) -> tuple[Any, Any, Any]:
        progress = None if bar is None else bar.start(max_steps)

        def cond(carry: Any) -> Any:
            values, inner = carry
            go_on, written, _ = run_body(cond_fun, attempt, values, (), (inner,))
            if written:
                raise SelectionError(
                    explain(
                        f"asked {name} whether to go on",
                        f"cond_fun wrote {written[0]!r}, and is run once more than the body",
                        "write the state in body_fun",
                    )
                )
            return _boolean(go_on, name)

        def body(carry: Any) -> Any:
            values, inner = carry
            new, written, after = run_body(body_fun, attempt, values, (), (inner,))
            attempt.require_exactly(written)
            check_kept(attempt, values, after, name)
            value = split_static(new, lambda: "the value")
            check_carry(inner, value, "the value", name)
            return after, value

        def ticking(carry: Any) -> Any:
            index, inner = carry
            inner = body(inner)
            progress.tick(index, carry=merge_static(inner[1]))  # type: ignore[union-attr]
            return index + 1, inner

        def mark(done: Any, carry: Any) -> None:
            is_first = done <= progress.due(0)  # type: ignore[union-attr]
            progress.mark(done, is_first=is_first, carry=merge_static(carry[1]))  # type: ignore

        start = (tuple(map(current_value, attempt.cells)), init)
        zero = jnp.zeros((), jnp.int32)
        if name == "bounded_while_loop":
            kind: Any = {"kind": "bounded", "max_steps": max_steps, "base": base}
            if progress is None:
                end = eqxi.while_loop(cond, body, start, **kind)
            else:
                going = functools.partial(_second, cond)
                steps, end = eqxi.while_loop(going, ticking, (zero, start), **kind)
                progress.done(steps)
        elif progress is None:
            end = jax.lax.while_loop(cond, body, start)
        else:
            end, steps = while_in_chunks(cond, body, start, progress.due, mark)
            progress.done(steps)
        return attempt, end[0], merge_static(end[1])

    attempt, values, result = discover(attempted, name, body_fun)
    commit_carry(attempt, values)
    return result


def order_of(reverse: Any, unroll: Any, name: str) -> tuple[tuple[str, Any], ...]:
    """Checks the options of a loop that is no `checkpointed` one, as keywords of `jax.lax.scan`."""
    if not isinstance(unroll, bool):
        unroll = parse_count(unroll, "unroll", name)
    return ("reverse", bool(reverse)), ("unroll", unroll)


def _second(cond: Callable[[Any], Any], carry: tuple[Any, Any]) -> Any:
    return cond(carry[1])


def _pair(out: Any, name: str) -> tuple[Any, Any]:
    if is_pair(out):
        return out
    raise ArgumentTypeError(
        explain(
            f"asked {name} to run a body",
            returned_no_pair(out),
            "return carry, y (with None for y, if there is nothing to stack)",
        )
    )


def _boolean(value: Any, name: str) -> Any:
    is_leaf: Any = value is not None and jax.tree_util.all_leaves([value])
    if is_leaf and jax.typeof(value).shape == () and jax.typeof(value).dtype == jnp.bool_:
        return value
    found = jax.typeof(value).str_short() if is_leaf else f"a {type(value).__name__}"
    raise ArgumentTypeError(
        explain(
            f"asked {name} whether to go on",
            f"cond_fun returned {found}, not one boolean",
            "a comparison, such as x > 0; jnp.all or jnp.any of several",
        )
    )


def steps_of(xs: Any, length: int | None, name: str) -> int:
    """Finds the number of steps, and refuses what has no leading axis of that size."""
    for leaf in jax.tree.leaves(split_static(xs, lambda: "xs")):
        shape = jnp.shape(leaf)
        if not shape:
            raise ArgumentError(
                explain(
                    f"asked {name} to run over {jax.typeof(leaf).str_short()}",
                    "that is one number, without an axis to run over",
                    "jnp.arange(n), to count",
                    "length=n, and no xs",
                )
            )
        length = shape[0] if length is None else length
        if shape[0] != length:
            raise ArgumentError(
                explain(
                    f"asked {name} for {length} steps",
                    f"an array to run over is of shape {shape}",
                    "arrays of the same leading size, equal to length if that is given",
                )
            )
    if length is None:
        raise ArgumentError(
            explain(
                f"asked {name} to run",
                "there is nothing to run over, and no length",
                "length=n",
                "arrays to run over",
            )
        )
    return length
