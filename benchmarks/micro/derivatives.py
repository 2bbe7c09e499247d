"""Derivatives by state beyond the gradient, jitted and eagerly."""

from collections.abc import Iterator

from ..adapters import adapters
from ..calls import Call, checked
from ..compare import compare
from ..problems import perceptron
from ..rows import Row
from ..settings import Settings

TITLE = "derivatives of an MLP by its 148 parameters, to those written by hand"


def rows(settings: Settings) -> Iterator[Row]:
    for how, compiled in (("jitted", True), ("eager", False)):
        for name, calls in _by_name(compiled, settings).items():
            work = f"{name}, {how}"
            yield from compare("derivatives", work, checked(calls), "jax", settings=settings)


def _by_name(compiled: bool, settings: Settings) -> dict[str, dict[str, Call]]:
    """Asks all libraries; what they give is by the derivative, then by the library."""
    problem = perceptron(4, 8, 8, 4)
    found: dict[str, dict[str, Call]] = {}
    for adapter in adapters(settings):
        if hasattr(adapter, "derivatives"):
            for name, calls in adapter.derivatives(problem, compiled).items():
                found.setdefault(name, {}).update(calls)
    return found
