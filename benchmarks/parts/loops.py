"""A long loop of stateful steps, in one call."""

from collections.abc import Iterator

from ..adapters import checked, small_parameters
from ..measure import compare
from ..report import Row, Settings
from .steps_per_call import in_one_call

TITLE = "a scan of 1,000 training steps in one call, to lax.scan"


def rows(settings: Settings) -> Iterator[Row]:
    for size in settings.sizes[:2]:
        calls = checked(in_one_call(small_parameters(size), 1_000))
        yield from compare(
            "loops",
            "scan of 1,000 steps",
            calls,
            "jax.jit of lax.scan",
            settings=settings,
            size=size,
        )
