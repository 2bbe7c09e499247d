"""Steps beside another thread, which reads the parameters or runs a program of its own."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

import statelens as sl

from ..adapters import BASELINE, facade, functional, jax_flat
from ..calls import Call, checked
from ..compare import compare
from ..problems import Problem, small_parameters
from ..rows import Row
from ..settings import Settings

TITLE = "200 steps over N small parameters beside another thread, to jax.jit over a flat list there"

STEPS = 200
PAUSE = 0.001
"""Between two reads, in seconds: one that never rests would hold the interpreter all the time."""


def rows(settings: Settings) -> Iterator[Row]:
    for size in settings.sizes[:2]:
        problem = small_parameters(size)
        for work, calls in (
            ("beside a thread that reads", _beside_readers(problem)),
            ("beside a thread that steps", _beside_steps(problem)),
        ):
            yield from compare(
                "second_thread", work, checked(calls), BASELINE, settings=settings, size=size
            )


def _beside_readers(problem: Problem) -> dict[str, Call]:
    step, params = jax.jit(jax_flat.step_function(problem)), jax_flat.parameters(problem)

    def by_hand() -> Any:
        nonlocal params
        loss, params = step(params, problem.x, problem.y)
        return loss

    model = facade.Model(problem)
    states = list(model.states(sl.ParamState).values())
    by_states = sl.jit(facade.step_function(model, problem))
    return {
        BASELINE: _beside(lambda: list(params), by_hand, pause=PAUSE),
        facade.NAME: _beside(
            lambda: [state.value for state in states],
            lambda: by_states(problem.x, problem.y),
            pause=PAUSE,
        ),
    }


def _beside_steps(problem: Problem) -> dict[str, Call]:
    makers = jax_flat.steps, facade.steps, functional.steps
    pairs = [(make(problem), make(problem)) for make in makers]
    return {
        name: _beside(lambda other=other: jax.block_until_ready(other()), call)
        for others, calls in pairs
        for (name, call), other in zip(calls.items(), others.values(), strict=True)
    }


def _beside(work: Callable[[], Any], step: Call, pause: float = 0) -> Call:
    """Makes a call of several steps, while another thread works again and again."""

    def call() -> Any:
        done = threading.Event()

        def other() -> None:
            while not done.wait(pause):
                work()

        thread = threading.Thread(target=other)
        thread.start()
        try:
            for _ in range(STEPS):
                loss = jax.block_until_ready(step())
        finally:
            done.set()
            thread.join()
        return loss

    return call
