"""A jitted training step over small parameters, plain and with their memory donated."""

from collections.abc import Iterator

from ..adapters import BASELINE, asked, checked, not_installed, small_parameters
from ..measure import compare
from ..report import Row, Settings, missing

TITLE = "a jitted training step over N small parameters, to jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    for work, donate in (("training step", False), ("training step, donated", True)):
        for size in settings.sizes:
            calls = checked(asked("steps", small_parameters(size), donate=donate))
            yield from compare("steps", work, calls, BASELINE, settings=settings, size=size)
    yield from missing("steps", not_installed())
