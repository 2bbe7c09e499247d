"""Finding out by running: states that a transform has to know of before it runs a function.

A loop has to carry the states that its body writes, a compiled function has to take the
states that it touches. Where that isn't known, the transform makes a guess, runs the
function, and on finding the guess wrong ends the run and starts again with what it found.
Nothing is lost by that: what the function wrote stayed in its frame.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NoReturn, TypeVar

from ..._errors import SelectionError, explain
from ...state import State, active_frame, is_alive
from ._reachable import code_of, owners_of

T = TypeVar("T")

_MOST_ATTEMPTS = 20


class UndeclaredStates(BaseException):
    """Ends a run of a function that met states which its transform didn't know of.

    It isn't an `Exception`, so that no ``except Exception`` of the function's catches it.

    Attributes:
        owner: Whom it is meant for.
        cells: The states that the next run should know of.
    """

    def __init__(self, owner: Any, cells: Iterable[State]):
        super().__init__("a run with other states follows")
        self.owner = owner
        self.cells = tuple(cells)


class Attempt:
    """One run of a function, with the states that are believed to matter.

    The belief may be wrong: values of these states are looked up without touching them. What
    counts as touched is what the run is found to touch.

    Attributes:
        cells: These states.
        found: Those that the function was found to touch.
    """

    def __init__(self, cells: tuple[State, ...], is_guess: bool):
        self.cells = cells
        self.found: dict[State, None] = {}
        self._is_guess = is_guess

    def restart(self, cells: Iterable[State]) -> NoReturn:
        """Ends this run; the next one will be with other states."""
        raise UndeclaredStates(self, cells)

    def require_exactly(self, cells: Iterable[State]) -> None:
        """Ends this run unless just these states were declared.

        Too many are put up with after the first run, so that runs come to an end.
        """
        found = self.cover(cells)
        if self._is_guess and len(found) < len(self.cells):
            self.restart(found)

    def cover(self, cells: Iterable[State]) -> dict[State, None]:
        """Ends this run unless these states were declared, beside others."""
        found = dict.fromkeys(cells)
        missing = [cell for cell in found if cell not in self.cells]
        if missing:
            self.restart(found if self._is_guess else (*self.cells, *missing))
        self.found |= found
        return found


_MOST_HINTS = 4096
_hints: OrderedDict[Hashable, tuple[weakref.ref[State], ...]] = OrderedDict()


def discover(run: Callable[[Attempt], T], name: str, function: Callable[..., Any]) -> T:
    """Runs something with one guess after another, until the guess is right.

    Args:
        run: What to run; it calls `require`, `cover` or `restart` on the attempt.
        name: The transform that runs it.
        function: What is run: the first guess is what was right last, for a function of the
            same code over the same objects.

    Returns:
        What came of the run with the right guess.
    """
    key = name, code_of(function), tuple(map(id, owners_of(function)))
    hinted = (ref() for ref in _hints.get(key, ()))
    cells = tuple(cell for cell in hinted if cell is not None and is_alive(cell))
    for number in range(_MOST_ATTEMPTS):
        attempt = Attempt(cells, is_guess=number == 0)
        try:
            result = run(attempt)
        except UndeclaredStates as undeclared:
            if undeclared.owner is not attempt:
                raise
            cells = undeclared.cells
        else:
            _hints[key] = tuple(map(weakref.ref, attempt.found))
            _hints.move_to_end(key)
            while len(_hints) > _MOST_HINTS:
                _hints.popitem(last=False)
            frame = active_frame.get()
            for cell in attempt.found if frame is not None else ():
                frame.touch(cell)  # type: ignore[union-attr]
            return result
    raise SelectionError(
        explain(
            f"asked {name} for the states that its function writes",
            f"they were others each time that it was run, {_MOST_ATTEMPTS} times",
            "make states before the call, not anew in each",
        )
    )
