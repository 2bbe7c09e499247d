"""Loops in chunks, for what is to be done every so many steps.

A callback in the body of a loop keeps XLA from compiling the body as one piece, even if it is
hardly ever made. So a loop with a progress bar is a loop over chunks, the callback is made after
each of them, and the steps within are what they are without a bar.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def scan_in_chunks(
    body: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    length: int,
    every: int,
    after: Callable[[Any, Any, Any, Any], None],
    *,
    reverse: bool,
    unroll: int | bool,
) -> tuple[Any, Any]:
    """Scans as `jax.lax.scan` does.

    Args:
        body: The body.
        init: The first carry.
        xs: What is scanned over.
        length: The number of steps.
        every: How many steps make a chunk; the last one may be shorter.
        after: Called, where it is traced, after each chunk: with the number of steps done, and
            the last step's input, carry and output.
        reverse: Whether to run from the last step to the first.
        unroll: As for `jax.lax.scan`.

    Returns:
        The last carry and all outputs.
    """
    chunks, left = divmod(length, every)
    last = 0 if reverse else -1

    def chunk(carry: Any, part: Any, size: int) -> tuple[Any, Any]:
        done, inner = carry
        inner, ys = jax.lax.scan(body, inner, part, size, reverse=reverse, unroll=unroll)
        done = done + size
        after(done, _at(part, last), inner, _at(ys, last))
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


def while_in_chunks(
    cond: Callable[[Any], Any],
    body: Callable[[Any], Any],
    init: Any,
    due: Callable[[Any], Any],
    after: Callable[[Any, Any], None],
) -> tuple[Any, Any]:
    """Loops as `jax.lax.while_loop` does.

    Args:
        cond: Whether to go on.
        body: The body.
        init: The first value.
        due: Gives the number of steps after which a chunk ends, for that at its beginning.
        after: Called, where it is traced, after each chunk: with the number of steps done, and
            the value.

    Returns:
        The last value, and the number of steps.
    """

    def chunk(carry: Any) -> Any:
        steps, _ = carry
        until = due(steps)
        carry = jax.lax.while_loop(
            lambda carry: cond(carry[1]) & (carry[0] < until),
            lambda carry: (carry[0] + 1, body(carry[1])),
            carry,
        )
        after(*carry)
        return carry

    steps, value = jax.lax.while_loop(
        lambda carry: cond(carry[1]), chunk, (jnp.zeros((), jnp.int32), init)
    )
    return value, steps


def _at(ys: Any, index: int) -> Any:
    return jax.tree.map(lambda y: y[index], ys)
