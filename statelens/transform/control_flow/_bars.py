"""Open tqdm bars, on the host: what a running program calls back to.

JAX gives a callback no memory of its own, so that a bar is known by its position: the first steps
of a run open one, any later ones move the bar that has come nearest. Two runs of one program at
the same time thus move two bars.
"""

import dataclasses
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(eq=False)
class _Open:
    run: int | None
    tqdm: Any
    opened: int
    moved: int
    steps: int


class Bars:
    """The open bars of one loop."""

    def __init__(
        self,
        open_tqdm: Callable[..., Any],
        total: int | None,
        describe: Callable[[dict[str, Any]], str | None],
    ):
        self._open_tqdm = open_tqdm
        self._total = total
        self._describe = describe
        self._lock = threading.Lock()
        self._open: list[_Open] = []
        self._begun = self._now = 0
        self._waiting: set[int] = set()
        # A bar of a run that an error ended must not be left for Python to tear down at its
        # exit: that crashes within tqdm.
        weakref.finalize(self, _close_all, self._open)

    def begin(self) -> Any:
        """Gives a run of a loop a number of its own, to tell its steps from replays of them."""
        with self._lock:
            self._begun += 1
            self._waiting.add(self._begun)
            return np.int32(self._begun)

    def move(self, first: int, texts: dict[str, Any], place: Any, values: dict[str, Any]) -> None:
        """Shows how many steps are done; a run shows its first steps by that number of them."""
        steps, run = _read_place(place)
        with self._lock:
            self._now += 1
            if steps <= first and (run is None or run in self._waiting):
                one = self._new(run, steps, self._text(texts, values))
            elif (one := self._nearest(run, steps - 1)) is not None:
                one.tqdm.set_description(self._text(texts, values), refresh=False)
                one.tqdm.update(steps - one.steps)
                one.steps, one.moved = steps, self._now
            if one is not None and steps == self._total:
                self._finish(one)

    def close(self, place: Any) -> None:
        """Closes the bar of a loop that may have ended early."""
        steps, run = _read_place(place)
        with self._lock:
            one = None if steps == self._total else self._nearest(run, steps)
            if one is not None:
                one.tqdm.update(steps - one.steps)
                self._finish(one)

    def _text(self, texts: dict[str, Any], values: dict[str, Any]) -> str | None:
        arrays = {k: np.asarray(v) for k, v in values.items() if v is not None}
        return self._describe(
            texts | {k: v.item() if v.ndim == 0 else v for k, v in arrays.items()}
        )

    def _new(self, run: int | None, steps: int, desc: str | None) -> _Open:
        if run is not None:
            self._waiting.remove(run)
        # The bar is opened by the end of the first steps, so that these aren't timed.
        tqdm = self._open_tqdm(total=self._total, desc=desc, initial=steps)
        one = _Open(run, tqdm, opened=self._now, moved=self._now, steps=steps)
        self._open.append(one)
        return one

    def _nearest(self, run: int | None, most: int) -> _Open | None:
        found = [one for one in self._open if one.run == run and one.steps <= most]
        return max(reversed(found), key=lambda one: one.steps, default=None)

    def _finish(self, one: _Open) -> None:
        # Bars that stood still since this one was opened are of runs that an error ended.
        for each in [one, *(other for other in self._open if other.moved < one.opened)]:
            each.tqdm.close()
            self._open.remove(each)


def _close_all(bars: list[_Open]) -> None:
    for one in bars:
        one.tqdm.close()


def _read_place(place: Any) -> tuple[int, int | None]:
    steps, *run = np.asarray(place).reshape(-1).tolist()
    return steps, run[0] if run else None
