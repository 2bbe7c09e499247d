"""Derivatives by state beyond the gradient, jitted and eagerly."""

from collections.abc import Iterator

from ..adapters import asked_by_name, checked, not_installed, perceptron
from ..measure import compare
from ..report import Row, Settings, missing

TITLE = "derivatives of an MLP by its 148 parameters, to those written by hand"


def rows(settings: Settings) -> Iterator[Row]:
    problem = perceptron(4, 8, 8, 4)
    for how, compiled in (("jitted", True), ("eager", False)):
        for name, calls in asked_by_name("derivatives", problem, compiled).items():
            work = f"{name}, {how}"
            yield from compare("derivatives", work, checked(calls), "jax", settings=settings)
    yield from missing("derivatives", not_installed())
