"""What memory a compiled step takes that may reuse that of model and optimizer."""

from collections.abc import Iterator
from typing import Any

import optax

from ..cases import HAND, Case
from ..models import MODELS, step
from ..rows import Row
from ..settings import Settings

TITLE = "peak memory of a training step with donation, to jax.jit with donation by hand"


def rows(settings: Settings) -> Iterator[Row]:
    for work, make in MODELS.items():
        model = make(settings.quick)
        cases = step(*model, optax.adam(1e-3), donate=True)
        cases["jax, not donated"] = step(*model, optax.adam(1e-3))[HAND]
        peaks = {name: peak(case) for name, case in cases.items()}
        for name, found in peaks.items():
            note = f"{found:,} bytes"
            yield Row("memory", work, name, None, found / peaks[HAND], note=note)


def peak(case: Case) -> int:
    """Gives the bytes that a call needs: what goes in, what comes out, and what is between."""
    found: Any = case.function.lower(*case.args).compile().memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )
