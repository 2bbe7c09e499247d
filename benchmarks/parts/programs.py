"""What programs come of the same work, by hand and by statelens: operations, flops, bytes."""

from collections.abc import Iterator

from ..cases import HAND
from ..pairs import WORKS
from ..programs import Program, difference, program
from ..rows import Row
from ..settings import Settings

TITLE = "StableHLO operations of the same work, to those by hand"


def rows(settings: Settings) -> Iterator[Row]:
    for work, cases in WORKS.items():
        programs = {name: program(case.function, *case.args) for name, case in cases().items()}
        by_hand = programs[HAND]
        for name, found in programs.items():
            # Above one as soon as there is an operation that the one by hand has not.
            together = found.operations | by_hand.operations
            ratio = together.total() / by_hand.operations.total()
            is_same = not difference(found, by_hand)
            yield Row("programs", work, name, None, ratio, note=_described(found, is_same))


def _described(program: Program, is_same: bool) -> str:
    costs = (
        f"{program.counts.total()} operations, {program.flops:,.0f} flops, "
        f"{program.bytes:,.0f} bytes"
    )
    return costs if is_same else f"{costs}: another program"
