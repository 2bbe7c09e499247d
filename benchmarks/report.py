"""Rows as tables: in the terminal, and on a page."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from .rows import Row

COLUMNS = ("work", "library", "size", "ratio", "±", "target", "holds", "time", "note")
TEXT = ("work", "library", "note")


def table(title: str, rows: Iterable[Row]) -> Table:
    """Draws rows for the terminal, with a line between works."""
    drawn = Table(title=title, title_justify="left")
    for column in COLUMNS:
        drawn.add_column(column, justify="left" if column in TEXT else "right")
    before = None
    for row in rows:
        if before not in (None, (row.work, row.size)):
            drawn.add_section()
        before = row.work, row.size
        style = {None: "", True: "green", False: "red"}[row.holds]
        drawn.add_row(*map(escape, _cells(row)), style=style)
    return drawn


def page(machine: Mapping[str, Any], rows: Iterable[Row]) -> str:
    """Writes rows as a page of Markdown, with what is known of the machine."""
    cells = [[row.part, *_cells(row)] for row in rows]
    return "\n".join(
        ["# Ratios to the baseline\n", described(machine), "", *markdown(("part", *COLUMNS), cells)]
    )


def markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Writes the lines of a table."""
    columns = list(columns)
    for cells in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(cells)} |"


def described(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items()) + "."


def number(ratio: float) -> str:
    """Writes a ratio with three digits after the point, or three in all where it is large."""
    return f"{ratio:.3f}" if ratio < 9.9995 else f"{ratio:.3g}"


def limit(row: Row) -> str:
    return "" if row.target is None else f"≤ {row.target:.3g}"


def verdict(row: Row) -> str:
    return {None: "", True: "yes", False: "no"}[row.holds]


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _cells(row: Row) -> list[str]:
    """Writes a row's cells, in the order of `COLUMNS`."""
    return [
        row.work,
        row.library,
        "" if row.size is None else f"{row.size:,}",
        number(row.ratio),
        number(row.error * row.ratio) if row.error else "",
        limit(row),
        verdict(row),
        duration(row.seconds),
        row.note,
    ]
