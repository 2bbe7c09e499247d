"""A long loop of stateful steps, in one call."""

from collections.abc import Iterator

from ..adapters import Call, checked, small_parameters
from ..adapters import statelens_facade as facade
from ..measure import compare
from ..report import Row, Settings
from .steps_per_call import in_one_call

BY_HAND = "jax.jit of lax.scan"

TITLE = "a scan of 1,000 training steps in one call, to lax.scan"


def rows(settings: Settings) -> Iterator[Row]:
    for size in settings.sizes[:2]:
        yield from compare(
            "loops",
            "scan of 1,000 steps",
            next(_made(size)),
            BY_HAND,
            settings=settings,
            size=size,
            remade=(
                {name: calls[name] for name in (BY_HAND, facade.NAME)} for calls in _made(size)
            ),
        )


def _made(size: int) -> Iterator[dict[str, Call]]:
    while True:
        yield checked(in_one_call(small_parameters(size), 1_000))
