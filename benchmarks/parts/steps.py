"""A jitted training step over small parameters, plain and with their memory donated."""

from collections.abc import Iterator

from ..adapters import BASELINE, asked, checked, not_installed, small_parameters
from ..measure import ratios
from ..report import Row, Settings, missing, rows_of

TITLE = "a jitted training step over N small parameters, to jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    for work, donate in (("training step", False), ("training step, donated", True)):
        for size in settings.sizes:
            calls = checked(asked("steps", small_parameters(size), donate=donate))
            yield from rows_of("steps", work, ratios(calls, BASELINE, settings=settings), size)
    yield from missing("steps", not_installed())
