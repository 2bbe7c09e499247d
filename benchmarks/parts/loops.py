"""A long loop of stateful steps, in one call."""

from collections.abc import Iterator

from ..adapters import Call, Problem, checked, small_parameters
from ..adapters import statelens_facade as facade
from ..measure import compare
from ..report import Row, Settings
from .steps_per_call import in_one_call

BY_HAND = "jax.jit of lax.scan"

TITLE = "a scan of 1,000 training steps in one call, to lax.scan"


def rows(settings: Settings) -> Iterator[Row]:
    for size in settings.sizes[:2]:
        problem = small_parameters(size)
        yield from compare(
            "loops",
            "scan of 1,000 steps",
            checked(in_one_call(problem, 1_000)),
            BY_HAND,
            settings=settings,
            size=size,
            remade=_remade(problem),
        )


def _remade(problem: Problem) -> Iterator[dict[str, Call]]:
    """Makes what is judged anew, and what it is compared with."""
    while True:
        calls = in_one_call(problem, 1_000)
        yield checked({name: calls[name] for name in (BY_HAND, facade.NAME)})
