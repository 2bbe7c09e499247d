"""A comparison of candidates at one work; what has a target is measured until it is known."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping

from .measure import Candidate, Ratio, ratios
from .rows import Row, rows_of
from .settings import Settings
from .targets import target_of


def compare(
    part: str,
    work: str,
    candidates: Mapping[str, Candidate],
    baseline: str,
    *,
    settings: Settings,
    size: int | None = None,
    remade: Iterator[Mapping[str, Candidate]] | None = None,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Times candidates; those that have a target for longer, beside the baseline alone.

    Of two candidates that are the same program, one may be faster by 4%, for as long as they live,
    because of where their many arrays lie. What is made again has others.

    Args:
        part: The part's name.
        work: What the candidates do.
        candidates: What to call, by the library's name.
        baseline: The name of the one that the others are compared with.
        settings: How long to measure.
        size: How much of the work there is, where that is varied.
        remade: Gives those that have a target, and the baseline, made again.
        notes: What else there is to say of each.

    Returns:
        Rows, in the order of the candidates.
    """
    judged = {name for name in candidates if target_of(part, work, name, size) is not None}
    others = {name: candidates[name] for name in candidates if name not in judged}
    measured = ratios(others, baseline, settings=settings) if len(others) > 1 else {}
    longer = settings.longer()
    if remade is not None:
        each = dataclasses.replace(longer, budget=longer.budget / settings.makes)
        makes = itertools.islice(remade, settings.makes)
        measured |= _averaged([ratios(calls, baseline, settings=each) for calls in makes])
    elif judged:
        apart = {name: candidates[name] for name in candidates if name in {baseline, *judged}}
        measured |= ratios(apart, baseline, settings=longer)
    return rows_of(part, work, {name: measured[name] for name in candidates}, size, notes)


def _averaged(makes: list[dict[str, Ratio]]) -> dict[str, Ratio]:
    """Averages what was measured of candidates that were made several times."""
    averaged = {}
    for name in makes[0]:
        found = [measured[name] for measured in makes]
        ratio, low, high, seconds, _ = map(statistics.mean, zip(*found, strict=True))
        error = statistics.stdev(each.ratio for each in found) / math.sqrt(len(found)) / ratio
        averaged[name] = Ratio(ratio, low, high, seconds, error)
    return averaged
