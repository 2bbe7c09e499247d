"""Value and gradient without compilation, where all that a library does is seen."""

from collections.abc import Iterator

from ..adapters import asked, checked, not_installed, perceptron
from ..measure import compare
from ..report import Row, Settings, missing

TITLE = "eager value and gradient, to jax.value_and_grad"

PROBLEMS = {"regressor": perceptron(1, 1), "10-layer MLP": perceptron(*[8] * 11)}


def rows(settings: Settings) -> Iterator[Row]:
    for work, problem in PROBLEMS.items():
        calls = checked(asked("gradients", problem))
        yield from compare("eager", work, calls, "jax.value_and_grad", settings=settings)
    yield from missing("eager", not_installed())
