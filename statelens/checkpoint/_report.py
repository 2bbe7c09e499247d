"""What fits and what doesn't between a file and a tree, all of it at once."""

import re
from typing import NamedTuple

from .._errors import CheckpointError
from .._tree import Path, closest, format
from ._rules import UnusedRule


class Mismatch(NamedTuple):
    """A leaf whose array in the file is of another kind, or is ambiguous or incomplete.

    Attributes:
        path: Where the leaf is.
        what: What differs: ``"shape"``, ``"dtype"`` or ``"structure"``.
        found: What is in the file.
        expected: What is in the tree.
    """

    path: Path
    what: str
    found: str
    expected: str

    def __str__(self) -> str:
        there = f"{self.found}, and {self.expected} in the tree"
        return f"'{format(self.path)}': the {self.what} in the file is {there}"


class Report(NamedTuple):
    """What `load` found.

    Attributes:
        loaded: Paths whose leaves fit, and have got their values from the file.
        missing: Paths for which the file has nothing.
        unexpected: Names in the file for which there is no path.
        mismatched: Leaves whose arrays in the file differ from what is in the tree.
        unused: Rules that hold for no name in the file.
        renamed: Unexpected names, each with the path that a rule gives it, which isn't there.
    """

    loaded: tuple[Path, ...]
    missing: tuple[Path, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    unused: tuple[UnusedRule, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether each leaf has its value, each array of the file its place, each rule a use."""
        return not (self.missing or self.unexpected or self.mismatched or self.unused)

    def __str__(self) -> str:
        return "\n".join(self._lines(None)) or f"all {len(self.loaded)} arrays fit"

    def _lines(self, most: int | None) -> list[str]:
        lines = [f"mismatched: {mismatch}" for mismatch in self.mismatched[:most]]
        lines += [f"missing in the file: '{format(path)}'" for path in self.missing[:most]]
        unexpected = self.unexpected[:most]
        # To compare all with all takes long.
        missing = self.missing if len(unexpected) * len(self.missing) <= _MOST_COMPARED else ()
        renamed = dict(self.renamed)
        for name in unexpected:
            path = renamed.get(name)
            near = closest(name if path is None else path, missing)
            given = "" if path is None else f", for which a rule gives '{path}': there is none"
            like = f" (like '{near[0]}'?)" if near else ""
            lines.append(f"unexpected in the file: {name!r}{given}{like}")
        lines += [f"unused rule: {unused}" for unused in self.unused[:most]]
        return lines


_MOST_SHOWN = 10
_MOST_COMPARED = 10_000


def _casts(report: Report) -> tuple[str, ...]:
    """Says how to cast, if arrays differ by dtype."""
    for mismatch in report.mismatched:
        sides = [re.fullmatch(r"(\w+)\[.*\]", x) for x in (mismatch.found, mismatch.expected)]
        if mismatch.what == "dtype" and sides[0] and sides[1]:
            load = f"load=lambda x: x.astype({sides[1][1]!r})"
            return (f'rename=Rule("**", "**", {load}), which casts; a name in place of "**"',)
    return ()


def refuse(file: str, report: Report) -> CheckpointError:
    """Makes the error that a file doesn't fit a tree, which lists what doesn't."""
    kinds = {
        "missing": report.missing,
        "unexpected": report.unexpected,
        "mismatched": report.mismatched,
        "unused": report.unused,
    }
    counts = ", ".join(f"{len(found)} {kind}" for kind, found in kinds.items() if found)
    lines = report._lines(_MOST_SHOWN)
    more = sum(len(found[_MOST_SHOWN:]) for found in kinds.values())
    error = CheckpointError(
        f"asked to load {file} into a tree that it doesn't fit: {counts}",
        "\n".join(lines + [f"and {more} more, in error.report"] * bool(more)),
        "rename={'name in the file': 'path in the tree'}, where names differ; None for a path "
        "leaves a name out",
        *_casts(report),
        "lens=..., for a part of the tree; lens=sl.arrays, for arrays without Python's numbers",
        "strict=False, which loads what fits, and gives the report beside the tree",
    )
    error.report = report
    return error
