"""How long candidates take, side by side.

Machines are noisy, and noise comes in bursts. So candidates take turns in short rounds, each
is compared with the baseline's time in the same round, and the median of these ratios counts.
"""

import contextlib
import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from .settings import Settings

Candidate = Callable[[], Any]

_SLOW = 0.1
"""What several calls may last, in seconds, however long a round is meant to be."""


class Ratio(NamedTuple):
    """A candidate's time over the baseline's.

    Attributes:
        ratio: The median of the rounds' ratios.
        low: Their lower quartile.
        high: Their upper quartile.
        seconds: The median time of a call.
        error: By how much the ratio may be wrong: the standard error of a median, as a
            fraction of it, if rounds were independent and noise were normal.
    """

    ratio: float
    low: float
    high: float
    seconds: float
    error: float


def ratios(
    candidates: Mapping[str, Candidate], baseline: str, *, settings: Settings
) -> dict[str, Ratio]:
    """Times candidates in turn, and compares each with the baseline.

    Args:
        candidates: What to call, by name. What a call gives is waited for.
        baseline: The name of the one that the others are compared with.
        settings: How many rounds there are, and how long each.

    Returns:
        What was measured, by name, in the order of the candidates.
    """
    rounds: list[dict[str, float]] = []
    for each in _rounds(candidates, settings):
        rounds.append(each)
        if len(rounds) % settings.rounds == 0:
            found = _compared(rounds, candidates, baseline).values()
            if all(ratio.error <= settings.precision for ratio in found):
                break
    return _compared(rounds, candidates, baseline)


def _compared(
    rounds: list[dict[str, float]], candidates: Iterable[str], baseline: str
) -> dict[str, Ratio]:
    """Compares the times of each candidate with the baseline's in the same round."""
    return {name: _ratio([(each[name], each[baseline]) for each in rounds]) for name in candidates}


def _rounds(candidates: Mapping[str, Candidate], settings: Settings) -> Iterator[dict[str, float]]:
    """Gives the time of a call of each candidate, round by round."""
    calls = {name: _calls(call, settings.seconds) for name, call in candidates.items()}
    order, shuffle = list(candidates), random.Random(0).shuffle
    start = time.perf_counter()
    with _no_collection() as collect:
        for number in itertools.count():
            if number >= 3 and time.perf_counter() - start > settings.budget:
                return
            collect()
            shuffle(order)
            yield {name: _warm_time(candidates[name], calls[name]) for name in order}


def _calls(call: Candidate, seconds: float) -> int:
    """Warms a candidate up, and says how many calls of it last so long; some, if they aren't slow.

    A single call would be timed with the memory that another candidate has just used.
    """
    for _ in range(3):
        took = _time(call, 1)
    return max(1, round(seconds / took), min(4, round(_SLOW / took)))


def _warm_time(call: Candidate, calls: int) -> float:
    """Gives the time of one call, once caches no longer hold what another candidate has used.

    Two calls see to that: what a step gives lies where that of the step before the last one lay.
    One does where a call lasts so long that it is timed alone.
    """
    _time(call, min(2, calls))
    return _time(call, calls)


def _time(call: Candidate, calls: int) -> float:
    """Gives the time of one call, from several in a row."""
    wait = jax.block_until_ready
    start = time.perf_counter()
    for _ in range(calls):
        wait(call())
    return (time.perf_counter() - start) / calls


@contextlib.contextmanager
def _no_collection() -> Iterator[Callable[[], Any]]:
    """Turns garbage collection off, and gives a function that collects what is new."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.enable()
        gc.unfreeze()


def _ratio(times: list[tuple[float, float]]) -> Ratio:
    relative = [mine / theirs for mine, theirs in times]
    low, middle, high = statistics.quantiles(relative, n=4, method="inclusive")
    # That of a normal distribution's median is 1.253 of the mean's; half of it lies within 1.349.
    error = 1.253 * (high - low) / 1.349 / math.sqrt(len(times)) / middle
    return Ratio(middle, low, high, statistics.median(mine for mine, _ in times), error)
