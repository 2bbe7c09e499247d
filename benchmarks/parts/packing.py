"""Values that live in one buffer per dtype between calls, unpacked in the program: `pack_states`.

A call takes and gives one array where it took and gave N, so that there is less to dispatch; but
the program has N slices and a concatenation more, to be compiled and run. Does that beat
donation, which costs nothing? And does the option of `statelens.jit` cost what it costs by hand?
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import statelens as sl

from .. import models
from ..adapters import BASELINE, Call, checked, jax_flat, small_parameters, threaded
from ..cases import HAND
from ..measure import ratios
from ..report import Row, Settings, rows_of

TITLE = "a call with its values in one buffer per dtype, to jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    for size in settings.sizes:
        yield from _measured("training step", steps(size), size, settings)
    for size in settings.sizes:
        yield from _measured("evaluation", evaluations(size), size, settings)
    for name, make in models.MODELS.items():
        yield from _measured(name, steps_of_model(make(settings.quick)), None, settings)


def _measured(
    work: str, calls: dict[str, Call], size: int | None, settings: Settings
) -> Iterator[Row]:
    notes = {name: f"first call {first_call(call):.2f} s" for name, call in calls.items()}
    measured = ratios(checked(calls), BASELINE, settings=settings)
    yield from rows_of("packing", work, measured, size, notes)


def first_call(call: Call) -> float:
    """Gives the time of a first call, which is that of compilation."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def steps(size: int) -> dict[str, Call]:
    problem = small_parameters(size)
    leaves = jax_flat.parameters(problem)
    return in_each_way(jax_flat.step_function(problem), leaves, problem.x, problem.y)


def of_states(step: Callable[..., Any], leaves: list[Any], *batch: Any) -> dict[str, Call]:
    """Gives calls of the same step over states, by the options of `statelens.jit`."""
    options = {
        "statelens": {},
        "statelens, donated": {"donate_states": True},
        "statelens, packed": {"pack_states": True},
        "statelens, packed, donated": {"pack_states": True, "donate_states": True},
    }

    def started(**options: Any) -> Call:
        states = [sl.State(jnp.copy(leaf)) for leaf in leaves]

        @sl.jit(**options)
        def advance(*batch: Any) -> Any:
            loss, values = step([state.value for state in states], *batch)
            for state, value in zip(states, values, strict=True):
                state.value = value
            return loss

        return lambda: advance(*batch)

    return {name: started(**given) for name, given in options.items()}


def steps_of_model(model: models.Model) -> dict[str, Call]:
    case = models.step(*model, optax.adam(1e-3))[HAND]
    return in_each_way(case.function, *case.args)


def in_each_way(step: Callable[..., Any], leaves: list[Any], *batch: Any) -> dict[str, Call]:
    """Gives calls of ``step(leaves, *batch) -> (loss, leaves)``."""
    buffers, unpack = packed(leaves)

    def of_buffers(buffers: Any, *batch: Any) -> Any:
        loss, leaves = step(unpack(buffers), *batch)
        return loss, packed(leaves)[0]

    def started(function: Any, values: Any, **options: Any) -> Call:
        return threaded(jax.jit(function, **options), jax.tree.map(jnp.copy, values), *batch)

    return {
        BASELINE: started(step, leaves),
        f"{BASELINE}, donated": started(step, leaves, donate_argnums=0),
        "one buffer": started(of_buffers, buffers),
        "one buffer, donated": started(of_buffers, buffers, donate_argnums=0),
        **of_states(step, leaves, *batch),
    }


def evaluations(size: int) -> dict[str, Call]:
    problem = small_parameters(size)
    predict = jax_flat.predictor(problem)
    buffers, unpack = packed(jax_flat.parameters(problem))
    of_buffers = jax.jit(lambda buffers, x: predict(unpack(buffers), x))
    return {
        **jax_flat.evaluations(problem),
        "one buffer": lambda: of_buffers(buffers, problem.x),
    }


def packed(leaves: list[Any]) -> tuple[list[jax.Array], Callable[[list[jax.Array]], list[Any]]]:
    """Gives arrays as one buffer for each dtype, and what makes the list of them again."""
    groups: dict[Any, list[int]] = {}
    for place, leaf in enumerate(leaves):
        groups.setdefault(jnp.result_type(leaf), []).append(place)
    places = [place for group in groups.values() for place in group]
    pairs = [ravel_pytree([leaves[place] for place in group]) for group in groups.values()]

    def unpack(buffers: list[jax.Array]) -> list[Any]:
        parts = [
            part for (_, of), buffer in zip(pairs, buffers, strict=True) for part in of(buffer)
        ]
        return [part for _, part in sorted(zip(places, parts, strict=True), key=lambda p: p[0])]

    return [buffer for buffer, _ in pairs], unpack
