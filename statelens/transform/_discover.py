"""Finding out by running: states that a transform has to know of before it runs a function.

A loop has to carry the states that its body writes, a compiled function has to take the
states that it touches. Where that isn't known, the transform makes a guess, runs the
function, and on finding the guess wrong ends the run and starts again with what it found.
Nothing is lost by that: what the function wrote stayed in its frame.
"""

import weakref
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any, TypeVar

from .._errors import SelectionError, explain
from ..state import State

T = TypeVar("T")

_MOST_ATTEMPTS = 20


class Undeclared(BaseException):
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

    Attributes:
        cells: These states.
        is_first: Whether no run has been ended yet.
    """

    def __init__(self, cells: tuple[State, ...], is_first: bool):
        self.cells = cells
        self.is_first = is_first

    def restart(self, cells: Iterable[State]) -> None:
        """Ends this run; the next one will be with other states."""
        raise Undeclared(self, cells)

    def require(self, cells: Iterable[State]) -> None:
        """Ends this run unless just these states were declared.

        Too many are put up with after the first run, so that runs come to an end.
        """
        found = dict.fromkeys(cells)
        missing = [cell for cell in found if cell not in self.cells]
        if missing:
            self.restart((*self.cells, *missing) if not self.is_first else found)
        if self.is_first and len(found) < len(self.cells):
            self.restart(found)


_hints: weakref.WeakKeyDictionary[CodeType, dict[str, tuple[weakref.ref[State], ...]]]
_hints = weakref.WeakKeyDictionary()


def settle(run: Callable[[Attempt], T], name: str, code: CodeType | None) -> T:
    """Runs something with one guess after another, until the guess is right.

    Args:
        run: What to run; it calls `require` or `restart` on the attempt.
        name: The transform that runs it.
        code: What is run, by its code: the first guess is what was right for it last.

    Returns:
        What came of the run with the right guess.
    """
    hints = _hints.setdefault(code, {}) if code is not None else {}
    cells = tuple(cell for ref in hints.get(name, ()) if (cell := ref()) is not None)
    for number in range(_MOST_ATTEMPTS):
        attempt = Attempt(cells, number == 0)
        try:
            result = run(attempt)
        except Undeclared as undeclared:
            if undeclared.owner is not attempt:
                raise
            cells = undeclared.cells
        else:
            hints[name] = tuple(map(weakref.ref, cells))
            return result
    raise SelectionError(
        explain(
            f"asked {name} for the states that its function writes",
            f"they were others each time that it was run, {_MOST_ATTEMPTS} times",
            "make states before the call, not anew in each",
        )
    )
