"""An attribute of a module that has nothing to do with a compiled function is set between calls."""

from collections.abc import Iterator

import statelens as sl

from ..adapters import facade
from ..calls import Call, checked
from ..compare import compare
from ..problems import small_parameters
from ..rows import Row
from ..settings import Settings

TITLE = "a call over N small parameters after `counter.step += 1`, to the same without"

UNDISTURBED = "statelens, undisturbed"


def rows(settings: Settings) -> Iterator[Row]:
    for work, calls_of in (("training step", facade.steps), ("evaluation", facade.evaluations)):
        for size in settings.sizes:
            problem = small_parameters(size)
            calls = {
                UNDISTURBED: calls_of(problem)[facade.NAME],
                facade.NAME: _disturbed(calls_of(problem)[facade.NAME]),
            }
            yield from compare(
                "attribute", work, checked(calls), UNDISTURBED, settings=settings, size=size
            )


class Counter(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.step = 0


def _disturbed(call: Call) -> Call:
    counter = Counter()

    def disturbed() -> object:
        counter.step += 1
        return call()

    return disturbed
