"""What a first call costs in Python: tracing and lowering, in functions never seen before."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from ..adapters import BASELINE, Call, Problem, asked, checked, not_installed, perceptron
from ..measure import compare
from ..report import Row, Settings, missing

TITLE = "trace and lower a training step of an MLP of so many layers, to jax.jit by hand"


def rows(settings: Settings) -> Iterator[Row]:
    for layers in (20,) if settings.quick else (20, 300):
        problem = perceptron(*[8] * (layers + 1))
        makers = asked("first_calls", problem)
        checked({name: _losses(make) for name, make in makers.items()}, repeats=1)
        lowerings = {name: _lowering(make) for name, make in makers.items()}
        yield from compare(
            "first_call", "trace and lower", lowerings, BASELINE, settings=settings, size=layers
        )
    yield from _runs_of_the_body(perceptron(*[8] * 21))
    yield from missing("first_call", not_installed())


def _losses(make: Call) -> Call:
    return lambda: make().run()


def _lowering(make: Call) -> Call:
    def call() -> None:
        make().lower()

    return call


def _runs_of_the_body(problem: Problem) -> Iterator[Row]:
    """Counts how often a call runs the user's function; by then it should be compiled."""
    counted = _Counted(problem.loss)
    for name, make in asked("first_calls", problem._replace(loss=counted)).items():
        fresh = make()
        first, second = counted.during(fresh.run), counted.during(fresh.run)
        note = f"and {second} on the second call"
        yield Row("first_call", "runs of the body", name, 20, first, note=note)


@dataclasses.dataclass
class _Counted:
    """A function that counts its calls."""

    function: Callable[..., Any]
    calls: int = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.function(*args)

    def during(self, call: Call) -> int:
        before = self.calls
        call()
        return self.calls - before
