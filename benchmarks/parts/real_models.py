"""Models of a size that people train: what statelens adds to a step of them, if anything."""

from collections.abc import Iterator

import optax

from ..adapters import checked
from ..cases import HAND
from ..measure import ratios
from ..models import MODELS, step
from ..programs import operations
from ..report import Row, Settings, rows_of

AGAIN = "jax, once more"

TITLE = "a training step by Adam of models of Equinox layers, to jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    for work, make in MODELS.items():
        cases = step(*make(settings.quick), optax.adam(1e-3))
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
        measured = ratios(calls, HAND, settings=settings.longer())
        yield from rows_of("real_models", work, measured, notes=notes)
