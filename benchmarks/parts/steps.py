"""A jitted training step over small parameters, plain and with their memory donated."""

from collections.abc import Iterator

from ..adapters import BASELINE, asked, checked, not_installed, remade, small_parameters
from ..measure import compare
from ..report import Row, Settings, missing

TITLE = "a jitted training step over N small parameters, to jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    for work, donate in (("training step", False), ("training step, donated", True)):
        for size in settings.sizes:
            problem = small_parameters(size)
            yield from compare(
                "steps",
                work,
                checked(asked("steps", problem, donate=donate)),
                BASELINE,
                settings=settings,
                size=size,
                remade=remade("steps", problem, donate=donate),
            )
    yield from missing("steps", not_installed())
