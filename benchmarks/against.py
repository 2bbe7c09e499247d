"""Two runs in one table: `python -m benchmarks.against BEFORE.json AFTER.json`.

Only rows of statelens; those that only one of the two has are shown with a gap.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from .report import described, duration, limit, markdown, number, verdict
from .rows import Row, load

COLUMNS = ("part", "work", "library", "size", "before", "after", "target", "holds", "time before")


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.against", description=__doc__)
    parser.add_argument("before", type=Path, help="the rows.json of one run")
    parser.add_argument("after", type=Path, help="and of the other")
    asked = parser.parse_args()
    (machine_before, before), (machine_after, after) = load(asked.before), load(asked.after)
    print("# Before and after\n")
    print(f"Before: {described(machine_before)}\n\nAfter: {described(machine_after)}\n")
    print("Ratios to the baseline of the same run, ± their standard errors.\n")
    print("\n".join(markdown((*COLUMNS, "time after"), _compared(before, after))))


def _compared(before: Iterable[Row], after: Iterable[Row]) -> Iterator[list[str]]:
    """Gives the cells of each work, in the order of the newer run."""
    old, new = _of_statelens(before), _of_statelens(after)
    for place in {**new, **old}:
        mine, theirs = new.get(place), old.get(place)
        part, work, library, size = place
        yield [
            part,
            work,
            library,
            "" if size is None else f"{size:,}",
            _ratio(theirs),
            _ratio(mine),
            limit(new.get(place) or old[place]),
            "" if mine is None else verdict(mine),
            "" if theirs is None else duration(theirs.seconds),
            "" if mine is None else duration(mine.seconds),
        ]


def _of_statelens(rows: Iterable[Row]) -> dict[tuple, Row]:
    return {
        (row.part, row.work, row.library, row.size): row
        for row in rows
        if row.library.startswith("statelens")
    }


def _ratio(row: Row | None) -> str:
    if row is None:
        return ""
    return number(row.ratio) + (f" ± {number(row.error * row.ratio)}" if row.error else "")


if __name__ == "__main__":
    main()
