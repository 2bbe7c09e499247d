"""A jitted training step over an Equinox model, through a lens that isn't bound."""

from collections.abc import Iterator

import equinox as eqx
import jax

import statelens as sl

from ..adapters import equinox_, functional
from ..calls import Call, checked, threaded
from ..compare import compare
from ..problems import perceptron, small_parameters
from ..rows import Row
from ..settings import Settings

TITLE = "a jitted training step over an Equinox model, to eqx.filter_jit"


def rows(settings: Settings) -> Iterator[Row]:
    for ending, donate in (("", False), (", donated", True)):
        for size in settings.sizes:
            problem = small_parameters(size)
            equinox = {equinox_.NAME: equinox_.filtered_step(problem, donate)}
            calls = checked(equinox | functional.steps(problem, donate))
            yield from compare(
                "functional",
                f"training step{ending}",
                calls,
                equinox_.NAME,
                settings=settings,
                size=size,
            )
    yield from compare(
        "functional",
        "training step of eqx.nn.MLP",
        checked(_perceptrons()),
        equinox_.NAME,
        settings=settings,
        size=10,
    )


def _perceptrons() -> dict[str, Call]:
    """Steps of a model of Equinox's own, with functions and sizes in it besides ten arrays."""
    problem = perceptron(4, 4)
    model, batch = eqx.nn.MLP(4, 4, 4, 4, key=jax.random.key(0)), (problem.x[0], problem.y[0])
    filtered = eqx.filter_jit(equinox_.step_function(problem))
    return {
        equinox_.NAME: threaded(filtered, model, *batch),
        functional.NAME: threaded(sl.jit(functional.step_function(problem)), model, *batch),
    }
