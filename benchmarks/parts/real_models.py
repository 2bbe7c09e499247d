"""Models of a size that people train: what statelens adds to a step of them, if anything."""

from collections.abc import Iterator

import optax

from ..calls import checked
from ..cases import HAND
from ..compare import compare
from ..models import MODELS, step
from ..programs import operations
from ..rows import Row
from ..settings import Settings

AGAIN = "jax, once more"

TITLE = "a training step by Adam of models of Equinox layers, to jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    quickly_compiled = "MLP", "256-step GRU"
    for work in quickly_compiled if settings.quick else MODELS:
        cases = step(*MODELS[work](False), optax.adam(1e-3))
        programs = {
            name: operations(case.function.lower(*case.args)) for name, case in cases.items()
        }
        notes = {
            name: "the same program" if found == programs[HAND] else "another program"
            for name, found in programs.items()
            if name != HAND
        }
        calls = checked({name: case.stepper() for name, case in cases.items()})
        # With arrays of its own: if it shared them, they would lie in caches for one of the two.
        calls[AGAIN] = cases[HAND].stepper()
        yield from compare("real_models", work, calls, HAND, settings=settings, notes=notes)
