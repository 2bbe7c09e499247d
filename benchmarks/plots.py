"""Rows as three pictures: real models, calls over N small parameters, growth."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .rows import Row

PICTURES = {
    "real_models": ("real_models", "training"),
    "dispatch": ("dispatch",),
    "growth": ("growth",),
}
"""What each picture shows: parts, with a panel for each work."""

COLUMNS = 3
HUES = ("blue", "orange", "green", "red", "purple", "brown", "pink", "gray", "olive", "cyan")
COLORS = [*(f"tab:{hue}" for hue in HUES), "black", "gold", "navy", "salmon"]


def draw(folder: Path, rows: Iterable[Row]) -> None:
    rows = list(rows)
    for name, parts in PICTURES.items():
        works: dict[str, list[Row]] = {}
        for row in rows:
            if row.part in parts:
                works.setdefault(row.work, []).append(row)
        if works:
            _draw(folder / f"{name}.png", works)


def _draw(file: Path, works: dict[str, list[Row]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(len(works), COLUMNS)
    lines = -(-len(works) // columns)
    size = (5.5 * columns, 4.5 * lines)
    figure, panels = pyplot.subplots(
        lines, columns, figsize=size, squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(works) :]:
        panel.set_axis_off()
    for panel, (work, of_work) in zip(panels.flat, works.items(), strict=False):
        grows = len({row.size for row in of_work}) > 1
        (_lines if grows else _bars)(panel, of_work)
        panel.set_title(work)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _lines(panel: Any, rows: Sequence[Row]) -> None:
    panel.set_prop_cycle(color=COLORS)
    by_library: dict[str, list[Row]] = {}
    for row in rows:
        by_library.setdefault(row.library, []).append(row)
    for library, own in by_library.items():
        points = [(row.size, row.ratio) for row in sorted(own, key=lambda row: row.size or 0)]
        panel.plot(
            *zip(*points, strict=True),
            marker="o",
            label=library,
            linewidth=3 if library.startswith("statelens") else 1,
        )
    panel.set(xscale="log", yscale="log", xlabel="size", ylabel="ratio to the baseline")
    panel.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))


def _bars(panel: Any, rows: Sequence[Row]) -> None:
    names = [row.library for row in rows]
    colors = ["C0" if name.startswith("statelens") else "C7" for name in names]
    panel.barh(names, [row.ratio for row in rows], color=colors)
    panel.axvline(1, color="black", linewidth=1)
    panel.invert_yaxis()
    panel.set(xlabel="ratio to the baseline")
