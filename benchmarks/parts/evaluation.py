"""A jitted evaluation, which writes nothing."""

from collections.abc import Iterator

from ..adapters import BASELINE, asked, checked, not_installed, remade, small_parameters
from ..measure import compare
from ..report import Row, Settings, missing

TITLE = "a jitted evaluation over N small parameters, to jax.jit over a flat list"


def rows(settings: Settings) -> Iterator[Row]:
    for size in settings.sizes:
        problem = small_parameters(size)
        yield from compare(
            "evaluation",
            "evaluation",
            checked(asked("evaluations", problem)),
            BASELINE,
            settings=settings,
            size=size,
            remade=remade("evaluations", problem),
        )
    yield from missing("evaluation", not_installed())
