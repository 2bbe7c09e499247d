"""JAX's and Equinox's loops, with a progress bar or without.

A callback in the body of a loop keeps XLA from compiling the body as one piece, even if it is
hardly ever made. So a loop with a bar is a loop over chunks, which are shown one by one, and the
steps within are what they are without a bar. Loops of Equinox can't be: a chunk of a bounded loop
would be one of unknown length, which has no reverse derivative, and one of a checkpointed loop
would keep as many carries as it has steps. There each step ticks.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from ._progress import ProgressBar

Body = Callable[[Any, Any], tuple[Any, Any]]
Parts = Callable[..., dict[str, Any]]
"""Gives what a description of the bar may be made of: of a step's input, carry and output."""


def scan(
    body: Body,
    init: Any,
    xs: Any,
    length: int,
    bar: ProgressBar | None,
    parts: Parts,
    *,
    reverse: bool,
    unroll: int | bool,
) -> tuple[Any, Any]:
    """Scans as `jax.lax.scan` does."""
    if bar is None or not length:
        return jax.lax.scan(body, init, xs, length, reverse=reverse, unroll=unroll)
    progress = bar.start(length)
    every = min(progress.every or 1, length)
    chunks, left = divmod(length, every)
    last = 0 if reverse else -1

    def chunk(carry: Any, part: Any, size: int) -> tuple[Any, Any]:
        done, inner = carry
        inner, ys = jax.lax.scan(body, inner, part, size, reverse=reverse, unroll=unroll)
        # Without the barrier XLA computes the count of the last, shorter chunk by itself, and
        # shows it before the others.
        done = jax.lax.optimization_barrier(done + size)
        progress.show(done, first=every, **parts(_at(part, last), inner, _at(ys, last)))
        return (done, inner), ys

    # In reverse the shorter chunk, which is run last, lies at the beginning.
    start, end = (left, length) if reverse else (0, length - left)
    whole = jax.tree.map(lambda x: x[start:end].reshape(chunks, every, *x.shape[1:]), xs)
    carry, ys = jax.lax.scan(
        lambda carry, part: chunk(carry, part, every),
        (jnp.zeros((), jnp.int32), init),
        whole,
        chunks,
        reverse=reverse,
    )
    ys = jax.tree.map(lambda y: y.reshape(chunks * every, *y.shape[2:]), ys)
    if left:
        rest = jax.tree.map(lambda x: x[:start] if reverse else x[end:], xs)
        carry, more = chunk(carry, rest, left)
        both = (more, ys) if reverse else (ys, more)
        ys = jax.tree.map(lambda *parts: jnp.concatenate(parts), *both)
    return carry[1], ys


def checkpointed_scan(
    body: Body,
    init: Any,
    xs: Any,
    length: int,
    bar: ProgressBar | None,
    parts: Parts,
    *,
    checkpoints: int | None,
) -> tuple[Any, Any]:
    """Scans as `equinox.internal.scan` does."""
    if not length:
        return jax.lax.scan(body, init, xs, length)
    loop = functools.partial(eqxi.scan, kind="checkpointed", checkpoints=checkpoints)
    if bar is None:
        return loop(body, init, xs, length)
    progress = bar.start(length, replays=True)

    def ticking(carry: Any, x: Any) -> tuple[Any, Any]:
        index, inner = carry
        inner, y = body(inner, x)
        progress.tick(index, **parts(x, inner, y))
        return (index + 1, inner), y

    (_, carry), ys = loop(ticking, (jnp.zeros((), jnp.int32), init), xs, length)
    return carry, ys


def while_loop(
    cond: Callable[[Any], Any],
    body: Callable[[Any], Any],
    init: Any,
    bar: ProgressBar | None,
    parts: Parts,
    **bounds: int,
) -> Any:
    """Loops as `jax.lax.while_loop` does, or within bounds as `equinox.internal.while_loop`."""
    loop: Any = jax.lax.while_loop
    if bounds:
        loop = functools.partial(eqxi.while_loop, kind="bounded", **bounds)
    if bar is None:
        return loop(cond, body, init)
    progress = bar.start(bounds.get("max_steps"))

    def chunk(carry: Any) -> Any:
        until = progress.due(carry[0])
        steps, value = jax.lax.while_loop(
            lambda carry: cond(carry[1]) & (carry[0] < until),
            lambda carry: (carry[0] + 1, body(carry[1])),
            carry,
        )
        progress.show(steps, first=progress.every or 1, **parts(value))
        return steps, value

    def ticking(carry: Any) -> Any:
        index, inner = carry
        inner = body(inner)
        progress.tick(index, **parts(inner))
        return index + 1, inner

    start = jnp.zeros((), jnp.int32), init
    step = ticking if bounds else chunk
    steps, value = loop(lambda carry: cond(carry[1]), step, start)
    progress.done(steps)
    return value


def _at(ys: Any, index: int) -> Any:
    return jax.tree.map(lambda y: y[index], ys)
