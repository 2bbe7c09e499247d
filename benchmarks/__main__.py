"""The command line: `python -m benchmarks [part ...]`, and options that `--help` lists."""

import argparse
import dataclasses
import datetime
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.live import Live

from . import micro, parts, plots
from .adapters import not_installed
from .machine import describe
from .report import described, limit, number, page, table
from .rows import Row, save
from .settings import QUICK, Settings
from .targets import ANY, TARGETS

DESCRIPTION = "Measures statelens beside hand-written JAX and other libraries, on the same work."

console = Console(width=None if sys.stdout.isatty() else 120)


def main() -> None:
    found = {
        name: importlib.import_module(f"{folder.__name__}.{name}")
        for folder in (parts, micro)
        for name in folder.PARTS
    }
    asked = arguments(found)
    if asked.list:
        for name, module in found.items():
            console.print(f"[bold]{name:16}[/] {module.TITLE}")
        return
    machine = describe()
    console.print(described(machine))
    if absent := not_installed():
        console.print(f"Not installed: {', '.join(absent)} (pip install -e '.[benchmarks]')")
    asked.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in asked.parts or found:
        for row in shown(name, found[name], settings(asked)):
            rows.append(row)
            save(asked.output / "rows.json", machine, rows)
    (asked.output / "README.md").write_text(page(machine, rows) + "\n")
    plots.draw(asked.output, rows)
    summarize(rows)
    console.print(f"Table, rows and plots are in {asked.output}")


def arguments(parts: Mapping[str, ModuleType]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=DESCRIPTION)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="a rough look")
    parser.add_argument("--no-peers", action="store_true", help="only JAX and statelens")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for each comparison")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="of small parameters")
    parser.add_argument("--makes", type=int, metavar="N", help="how often to make again")
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write to")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(parts):
        parser.error(
            f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(parts)}"
        )
    if asked.makes is not None and asked.makes < 2:
        parser.error("--makes takes 2 or more: what makes differ by is shown")
    if asked.output is None:
        today = f"{datetime.date.today()}{'-quick' if asked.quick else ''}"
        asked.output = Path("build") / "benchmarks" / today
    return asked


def settings(asked: argparse.Namespace) -> Settings:
    given = {
        "budget": asked.budget,
        "sizes": asked.sizes and tuple(asked.sizes),
        "makes": asked.makes,
        "peers": not asked.no_peers,
    }
    options = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(QUICK if asked.quick else Settings(), **options)


def shown(name: str, module: ModuleType, settings: Settings) -> Iterator[Row]:
    """Measures a part, and shows its rows as they come."""
    title = f"{name}: {module.TITLE}"
    rows: list[Row] = []
    with Live(table(title, rows), console=console, auto_refresh=False) as live:
        for row in module.rows(settings):
            rows.append(row)
            live.update(table(title, rows), refresh=True)
            yield row
    console.print()


def summarize(rows: Sequence[Row]) -> None:
    """Says which targets hold."""
    judged = [row for row in rows if row.holds is not None]
    missed = [row for row in judged if not row.holds]
    console.print(f"\n{len(judged) - len(missed)} of {len(judged)} targets hold.")
    for row in missed:
        size = "" if row.size is None else f" at {row.size:,}"
        console.print(
            f"[red]missed[/] {row.part}, {row.work}{size}, {row.library}: "
            f"{number(row.ratio)}, not {limit(row)}"
        )
    reached = {(row.part, work, row.library) for row in judged for work in (row.work, ANY)}
    for target in TARGETS:
        if target[0] in {row.part for row in rows} and target not in reached:
            console.print(f"[yellow]not measured[/] {', '.join(target)}")


if __name__ == "__main__":
    main()
