"""Several training steps in one call, by a scan over their batches."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import statelens as sl

from ..adapters import BASELINE, Call, Problem, checked, jax_flat, small_parameters, threaded
from ..adapters import statelens_facade as facade
from ..adapters import statelens_functional as functional
from ..measure import compare
from ..report import Row, Settings

TITLE = "k steps in one call at N = 100, to k calls of jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    problem = small_parameters(100)
    for count in (8, 32):
        calls = {BASELINE: _one_by_one(problem, count), **in_one_call(problem, count)}
        yield from compare(
            "steps_per_call",
            f"{count} steps in one call",
            checked(calls),
            BASELINE,
            settings=settings,
            size=100,
        )


def _one_by_one(problem: Problem, count: int) -> Call:
    step = jax_flat.steps(problem)[BASELINE]

    def call() -> Any:
        for _ in range(count):
            loss = jax.block_until_ready(step())
        return loss

    return call


def in_one_call(problem: Problem, count: int) -> dict[str, Call]:
    """Calls of so many steps each; they give the last loss."""
    xs, ys = (jnp.stack([each] * count) for each in (problem.x, problem.y))
    by_hand, threading = jax_flat.step_function(problem), functional.step_function(problem)
    stateful = facade.step_function(facade.Model(problem), problem)

    @jax.jit
    def scanned(params: Any, xs: Any, ys: Any) -> Any:
        def body(params: Any, batch: Any) -> Any:
            return by_hand(params, *batch)[::-1]

        params, losses = jax.lax.scan(body, params, (xs, ys))
        return losses[-1], params

    @sl.jit
    def scanned_model(model: Any, xs: Any, ys: Any) -> Any:
        def body(model: Any, batch: Any) -> Any:
            return threading(model, *batch)[::-1]

        model, losses = sl.transform.scan(body, model, (xs, ys))
        return losses[-1], model

    @sl.jit
    def looped(xs: Any, ys: Any) -> Any:
        return sl.transform.for_loop(stateful, xs, ys)[-1]

    return {
        "jax.jit of lax.scan": threaded(scanned, jax_flat.parameters(problem), xs, ys),
        facade.NAME: lambda: looped(xs, ys),
        functional.NAME: threaded(scanned_model, functional.Model(problem), xs, ys),
    }
