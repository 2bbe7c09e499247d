"""What a first call costs in Python: tracing and lowering, in functions never seen before."""

from collections.abc import Callable, Iterator
from typing import Any

from ..adapters import BASELINE, asked
from ..calls import FirstCall, checked
from ..compare import compare
from ..problems import Problem, perceptron
from ..rows import Row
from ..settings import Settings

TITLE = "trace and lower a training step of an MLP of so many layers, to jax.jit by hand"


def rows(settings: Settings) -> Iterator[Row]:
    for layers in (20,) if settings.quick else (20, 300):
        problem = perceptron(*[8] * (layers + 1))
        firsts = asked("first_calls", problem, settings=settings)
        if layers == 20:
            checked({name: first.run for name, first in firsts.items()}, repeats=1)
            yield from _runs_of_the_body(problem, settings)
        yield from compare(
            "first_call",
            "trace and lower",
            {name: first.lower for name, first in firsts.items()},
            BASELINE,
            settings=settings,
            size=layers,
        )


def _runs_of_the_body(problem: Problem, settings: Settings) -> Iterator[Row]:
    """Counts how often a call runs the user's function; by then it should be compiled."""
    count = 0

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        return problem.loss(*args)

    def during(call: Callable[..., Any], first: FirstCall) -> int:
        before = count
        call(*first.args)
        return count - before

    firsts = asked("first_calls", problem._replace(loss=counted), settings=settings)
    for name, first in firsts.items():
        step = first.make()
        runs, then = during(step, first), during(step, first)
        note = f"and {then} on the second call"
        yield Row("first_call", "runs of the body", name, 20, runs, note=note)
