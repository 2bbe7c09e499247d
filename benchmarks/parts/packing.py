"""An experiment: parameters that live in one buffer between calls, unpacked in the program.

A call takes and gives one array where it took and gave N, so that there is less to dispatch; but
the program has N slices and a concatenation more. Does that beat donation, which costs nothing?
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..adapters import BASELINE, Call, Problem, checked, jax_flat, small_parameters, threaded
from ..measure import ratios
from ..report import Row, Settings, rows_of

TITLE = "calls with N small parameters in one buffer, to jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    for work, calls_of in (("training step", steps), ("evaluation", evaluations)):
        for size in settings.sizes:
            calls = calls_of(small_parameters(size))
            notes = {name: f"first call {first_call(call):.2f} s" for name, call in calls.items()}
            measured = ratios(checked(calls), BASELINE, settings=settings)
            yield from rows_of("packing", work, measured, size, notes)


def first_call(call: Call) -> float:
    """Gives the time of a first call, which is that of compilation."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def steps(problem: Problem) -> dict[str, Call]:
    buffer, unpack = packed(problem)
    loss_of, x, y = jax_flat.loss_function(problem), problem.x, problem.y

    def by_leaf(buffer: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(unpack(buffer), x, y)
        return loss, buffer - problem.rate * ravel_pytree(gradients)[0]

    def by_buffer(buffer: Any, x: Any, y: Any) -> Any:
        loss, gradient = jax.value_and_grad(lambda b: loss_of(unpack(b), x, y))(buffer)
        return loss, buffer - problem.rate * gradient

    def started(step: Callable[..., Any], **options: Any) -> Call:
        return threaded(jax.jit(step, **options), jnp.copy(buffer), x, y)

    return {
        **jax_flat.steps(problem),
        f"{BASELINE}, donated": jax_flat.steps(problem, donate=True)[BASELINE],
        "one buffer": started(by_leaf),
        "one buffer, donated": started(by_leaf, donate_argnums=0),
        "one buffer, differentiated whole": started(by_buffer),
    }


def evaluations(problem: Problem) -> dict[str, Call]:
    buffer, unpack = packed(problem)
    predict = jax_flat.predictor(problem)
    of_buffer = jax.jit(lambda buffer, x: predict(unpack(buffer), x))
    return {
        **jax_flat.evaluations(problem),
        "one buffer": lambda: of_buffer(buffer, problem.x),
    }


def packed(problem: Problem) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """Gives the parameters as one buffer, and what makes a list of them again."""
    return ravel_pytree(jax_flat.parameters(problem))
