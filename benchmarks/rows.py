"""What was measured: one row for each library at each work."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .measure import Ratio
from .targets import target_of


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one library at one work.

    Attributes:
        part: The part's name.
        work: What was done.
        library: Who did it.
        size: How much of it there was, where that is varied.
        ratio: The median of the ratios to the baseline.
        low: Their lower quartile.
        high: Their upper quartile.
        seconds: The median time of a call.
        error: The standard error of the ratio, as a fraction of it.
        note: What else there is to say.
    """

    part: str
    work: str
    library: str
    size: int | None
    ratio: float
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    error: float | None = None
    note: str = ""

    @property
    def target(self) -> float | None:
        return target_of(self.part, self.work, self.library, self.size)

    @property
    def holds(self) -> bool | None:
        return None if self.target is None else self.ratio <= self.target


def rows_of(
    part: str,
    work: str,
    measured: Mapping[str, Ratio],
    size: int | None = None,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Gives the rows of one comparison, in the order of its candidates."""
    for library, ratio in measured.items():
        note = (notes or {}).get(library, "")
        yield Row(part, work, library, size, *ratio, note)


def save(file: Path, machine: Mapping[str, Any], rows: Iterable[Row]) -> None:
    content = {"machine": dict(machine), "rows": [dataclasses.asdict(row) for row in rows]}
    file.write_text(json.dumps(content, indent=1) + "\n")


def load(file: Path) -> tuple[dict[str, Any], list[Row]]:
    content = json.loads(file.read_text())
    return content["machine"], [Row(**row) for row in content["rows"]]
