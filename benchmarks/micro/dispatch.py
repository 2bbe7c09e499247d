"""A jitted training step, plain and with its parameters' memory donated; a jitted evaluation."""

from collections.abc import Iterator

from ..adapters import BASELINE, asked, remade
from ..calls import checked
from ..compare import compare
from ..problems import small_parameters
from ..rows import Row
from ..settings import Settings

TITLE = "a jitted call over N small parameters, to jax.jit over a flat list"

WORKS = (
    ("training step", "steps", {"donate": False}),
    ("training step, donated", "steps", {"donate": True}),
    ("evaluation", "evaluations", {}),
)


def rows(settings: Settings) -> Iterator[Row]:
    for work, asked_for, options in WORKS:
        for size in settings.sizes:
            problem = small_parameters(size)
            yield from compare(
                "dispatch",
                work,
                checked(asked(asked_for, problem, settings=settings, **options)),
                BASELINE,
                settings=settings,
                size=size,
                remade=remade(asked_for, problem, **options),
            )
