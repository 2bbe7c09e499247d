"""Many stateful steps in one call, by a loop over their batches."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

import statelens as sl

from ..adapters import BASELINE, facade, functional, jax_flat
from ..calls import Call, checked, threaded
from ..compare import compare
from ..problems import Problem, small_parameters
from ..rows import Row
from ..settings import Settings

TITLE = "steps over N small parameters in one call, to as many calls, and to lax.scan"

BY_HAND = "jax.jit of lax.scan"


def rows(settings: Settings) -> Iterator[Row]:
    yield from _to_single_calls(settings)
    for size in settings.sizes[:2]:
        problem = small_parameters(size)
        yield from compare(
            "loops",
            "scan of 1,000 steps",
            checked(_in_one_call(problem, 1_000)),
            BY_HAND,
            settings=settings,
            size=size,
            remade=_remade(problem),
        )


def _to_single_calls(settings: Settings) -> Iterator[Row]:
    problem = small_parameters(100)
    calls = {BASELINE: _one_by_one(problem, 32), **_in_one_call(problem, 32)}
    work = "32 steps in one call"
    yield from compare("loops", work, checked(calls), BASELINE, settings=settings, size=100)


def _one_by_one(problem: Problem, count: int) -> Call:
    step = jax_flat.steps(problem)[BASELINE]

    def call() -> Any:
        for _ in range(count):
            loss = jax.block_until_ready(step())
        return loss

    return call


def _remade(problem: Problem) -> Iterator[dict[str, Call]]:
    """Makes what is judged again, and what it is compared with."""
    while True:
        calls = _in_one_call(problem, 1_000)
        yield checked({name: calls[name] for name in (BY_HAND, facade.NAME)})


def _in_one_call(problem: Problem, count: int) -> dict[str, Call]:
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
        BY_HAND: threaded(scanned, jax_flat.parameters(problem), xs, ys),
        facade.NAME: lambda: looped(xs, ys),
        functional.NAME: threaded(scanned_model, functional.Model(problem), xs, ys),
    }
