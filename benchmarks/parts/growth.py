"""Ways to the same end that grow differently, over the size of model, batch or output."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

import statelens as sl

from ..calls import Call, checked
from ..compare import compare
from ..rows import Row
from ..settings import Settings

TITLE = "how the cost of derivatives grows, to the way that grows the least by hand"

T = sl.transform


def rows(settings: Settings) -> Iterator[Row]:
    for work, calls_at, sizes in WORKS:
        for size in sizes[:2] if settings.quick else sizes:
            calls = checked(calls_at(size))
            by_hand = next(iter(calls))
            yield from compare("growth", work, calls, by_hand, settings=settings, size=size)


def curvature(size: int) -> dict[str, Call]:
    """The Hessian times a vector, over the number of parameters."""
    width = round(size**0.5)
    params, x = parameters(width), batch(8, width)
    product = T.hvp(loss, sl.inexact)

    def by_hand(params: Any, x: Any) -> Any:
        return jax.jvp(lambda p: jax.grad(loss)(p, x), (params,), (params,))[1]

    def in_full(params: Any, x: Any) -> Any:
        vector, unravel = ravel_pytree(params)
        blocks = T.hessian(lambda flat, x: loss(unravel(flat), x), ...)(vector, x)
        return unravel(blocks @ vector)

    return {
        "jax, hvp": jitted(jax.jit, by_hand, params, x),
        "statelens, hvp": jitted(sl.jit, lambda params, x: product(params, params, x), params, x),
        "statelens, hessian @ vector": jitted(sl.jit, in_full, params, x),
    }


def examples(size: int) -> dict[str, Call]:
    """A gradient for each example, over the number of examples."""
    params, x = parameters(16), batch(size, 16)
    one = sl.jit(sl.grad(loss, sl.inexact))
    together = jax.jit(lambda found: jax.tree.map(lambda *each: jnp.stack(each), *found))
    each = list(x)

    def looped() -> Any:
        return together([one(params, example) for example in each])

    return {
        "jax, vmap of grad": jitted(jax.jit, jax.vmap(jax.grad(loss), (None, 0)), params, x),
        "statelens, per_example_grad": jitted(
            sl.jit, T.per_example_grad(loss, sl.inexact), params, x
        ),
        "statelens, a loop over grad": looped,
    }


def outputs(size: int) -> dict[str, Call]:
    """A Jacobian by rows, over the number of rows."""
    params, x = parameters(16), batch(size // 16, 16)

    def jacobian(chunk_size: int | None) -> Call:
        rows = T.jacrev(forward, sl.inexact, chunk_size=chunk_size)
        return jitted(sl.jit, rows, params, x)

    return {
        "jax, jacrev": jitted(jax.jit, jax.jacrev(forward), params, x),
        "statelens, jacrev": jacobian(None),
        "statelens, jacrev of 64 rows at once": jacobian(64),
        "statelens, jacrev of 8 rows at once": jacobian(8),
    }


def jitted(jit: Any, function: Callable[..., Any], *args: Any) -> Call:
    compiled = jit(function)
    return lambda: compiled(*args)


def parameters(width: int) -> Any:
    weight = jnp.linspace(-1.0, 1.0, width * width).reshape(width, width)
    return {"bias": jnp.zeros(width), "weight": weight}


def batch(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def forward(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["weight"] + params["bias"])


def loss(params: Any, x: jax.Array) -> jax.Array:
    return jnp.mean(forward(params, x) ** 2)


WORKS = (
    ("Hessian times vector, by parameters", curvature, (20, 72, 272, 1_056)),
    ("gradients of examples, by examples", examples, (4, 16, 64, 256)),
    ("Jacobian, by outputs", outputs, (16, 64, 256, 1_024)),
)
