"""Value and gradient without compilation, where all that a library does is seen."""

from collections.abc import Iterator

from ..adapters import asked
from ..calls import checked
from ..compare import compare
from ..problems import perceptron
from ..rows import Row
from ..settings import Settings

TITLE = "eager value and gradient, to jax.value_and_grad"

PROBLEMS = {"regressor": perceptron(1, 1), "10-layer MLP": perceptron(*[8] * 11)}


def rows(settings: Settings) -> Iterator[Row]:
    for work, problem in PROBLEMS.items():
        calls = checked(asked("gradients", problem, settings=settings))
        yield from compare("eager", work, calls, "jax.value_and_grad", settings=settings)
