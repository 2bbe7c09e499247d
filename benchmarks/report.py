"""What a benchmark gives: settings in, rows out; as a table and as JSON."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from .targets import target_of

if TYPE_CHECKING:
    from .measure import Ratio


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
        quick: Whether a rough look is enough.
        sizes: The numbers of small parameters to measure at.
        rounds: How many rounds a comparison has; as many again, where they don't tell enough.
        seconds: How long a candidate is run in a round; a few times, where that isn't slow.
        precision: To what fraction of itself each ratio must be known.
        budget: After how many seconds a comparison begins no other round; it has three at least.
            What is judged has four times as many.
        makes: How often candidates are made anew, where that is possible; at least twice.
    """

    quick: bool = False
    sizes: tuple[int, ...] = (10, 100, 1_000)
    rounds: int = 81
    seconds: float = 0.005
    precision: float = math.inf
    budget: float = 30.0
    makes: int = 16

    def longer(self) -> "Settings":
        """Gives settings for what is judged: a target may be less than what medians differ by."""
        if self.quick:
            return self
        return dataclasses.replace(self, precision=0.002, budget=4 * self.budget)


QUICK = Settings(quick=True, sizes=(10, 100), rounds=5, seconds=0.002, budget=2.0, makes=2)


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one library at one work.

    Attributes:
        part: The part's name.
        work: What was done.
        library: Who did it.
        size: How much of it there was, where that is varied.
        ratio: The median of the ratios to the baseline; None where there is nothing to tell.
        low: Their lower quartile.
        high: Their upper quartile.
        seconds: The median time of a call.
        error: The standard error of the ratio, as a fraction of it.
        note: What else there is to say.
    """

    part: str
    work: str
    library: str
    size: int | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float | None = None
    error: float | None = None
    note: str = ""

    @property
    def target(self) -> float | None:
        return target_of(self.part, self.work, self.library)

    @property
    def holds(self) -> bool | None:
        if self.target is None or self.ratio is None:
            return None
        return self.ratio <= self.target

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "target": self.target, "holds": self.holds}


def rows_of(
    part: str,
    work: str,
    measured: Mapping[str, "Ratio"],
    size: int | None = None,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Gives the rows of one comparison, in the order of its candidates."""
    for library, ratio in measured.items():
        note = (notes or {}).get(library, "")
        yield Row(part, work, library, size, *ratio, note)


def missing(part: str, libraries: Iterable[str]) -> Iterator[Row]:
    """Gives the rows of libraries that aren't there."""
    for library in libraries:
        yield Row(part, "", library, note="not installed: pip install -e '.[benchmarks]'")


def table(title: str, rows: Iterable[Row]) -> Table:
    """Draws rows as a table."""
    drawn = Table(title=title, title_justify="left")
    for column in ("work", "library"):
        drawn.add_column(column)
    for column in ("size", "ratio", "±", "quartiles", "target", "holds", "time"):
        drawn.add_column(column, justify="right")
    drawn.add_column("note")
    before = None
    for row in rows:
        if before not in (None, (row.work, row.size)):
            drawn.add_section()
        before = row.work, row.size
        quartiles = None
        if row.low is not None and row.high is not None:
            quartiles = f"{number(row.low)} to {number(row.high)}"
        drawn.add_row(
            row.work,
            row.library,
            _or_blank(row.size, "{:,}"),
            "" if row.ratio is None else number(row.ratio),
            _error(row),
            quartiles,
            _or_blank(row.target, "≤ {:.3g}"),
            {None: "", True: "[green]yes", False: "[red]no"}[row.holds],
            "" if row.seconds is None else _duration(row.seconds),
            escape(row.note),
        )
    return drawn


def number(ratio: float) -> str:
    """Writes a ratio with three digits after the point, or three in all where it is large."""
    return f"{ratio:.3f}" if ratio < 9.9995 else f"{ratio:.3g}"


def _error(row: Row) -> str:
    """Writes by how much a ratio may be wrong; nothing for the baseline, which is exact."""
    return number(row.error * row.ratio) if row.error and row.ratio else ""


def _or_blank(value: Any, style: str) -> str:
    return "" if value is None else style.format(value)


def _duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def write(folder: Path, machine: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Writes rows as JSON, and as a page; with what is known of the machine."""
    rows = list(rows)
    content = {"machine": dict(machine), "rows": [row.as_dict() for row in rows]}
    (folder / "rows.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "README.md").write_text("\n".join(_page(machine, rows)) + "\n")


def _page(machine: Mapping[str, Any], rows: Iterable[Row]) -> Iterator[str]:
    yield "# Ratios to the baseline\n"
    yield ", ".join(f"{name} {value}" for name, value in machine.items()) + ".\n"
    yield "| part | work | library | size | ratio | ± | quartiles | target | holds | time |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        if row.ratio is not None:
            quartiles = "" if None in (row.low, row.high) else f"{row.low:.3g} to {row.high:.3g}"
            target = _or_blank(row.target, "≤ {:.3g}")
            holds = {None: "", True: "yes", False: "**no**"}[row.holds]
            size = _or_blank(row.size, "{:,}")
            ratio = number(row.ratio), _error(row), quartiles
            time = "" if row.seconds is None else _duration(row.seconds)
            cells = row.part, row.work, row.library, size, *ratio, target, holds, time
            yield f"| {' | '.join(cells)} |"
