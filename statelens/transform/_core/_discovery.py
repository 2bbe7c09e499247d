"""Finding out by running: states that a transform has to know of before it runs a function.

A loop has to carry the states that its body writes, a compiled function has to take the
states that it touches. Where that isn't known, the transform makes a guess, runs the
function, and on finding the guess wrong ends the run and starts again with what it found.
Nothing is lost by that: what the function wrote stayed in its frame.

JAX keeps for ever what a trace has closed over if an exception ends it. So where a transform makes
traces, a run with a wrong guess goes on to its end, in a trace that is dropped.
"""

import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import jax
import jax.extend.core

from ..._errors import SelectionError
from ..._lru_cache import LruCache
from ...state import State, active_frame, is_alive, record_reads, run_in_own_trace
from ._reachable import code_of, owners_of

T = TypeVar("T")

_MOST_ATTEMPTS = 20


class UndeclaredStates(BaseException):
    """Ends a run of a function that met states which its transform didn't know of."""

    # No `Exception`, so that no ``except Exception`` of the function's catches it. The owner is
    # what `retry` was given, the states are those that the next run should know of.
    def __init__(self, owner: Any, cells: Iterable[State]):
        super().__init__("a run with other states follows")
        self.owner = owner
        self.cells: tuple[State, ...] = tuple(cells)


def retry(
    run: Callable[[tuple[State, ...] | None], T],
    owner: object,
    asked: str,
    done: str,
    cells: tuple[State, ...] | None = None,
) -> T:
    """Runs something until it meets no states that it wasn't given; None stands for a guess."""
    for _ in range(_MOST_ATTEMPTS):
        try:
            return run(cells)
        except UndeclaredStates as undeclared:
            if undeclared.owner is not owner:
                raise
            cells = undeclared.cells
    raise SelectionError(
        asked,
        f"they were others each time that it was {done}, {_MOST_ATTEMPTS} times",
        "make states before the call, not new ones in each",
    )


class Attempt:
    """One run of a function, with the states that are believed to matter."""

    def __init__(self, owner: object, cells: tuple[State, ...], is_guess: bool):
        # The belief may be wrong: values of these states are looked up without touching them.
        # What counts as touched is what the run is found to touch.
        self.cells = cells
        self.found: dict[State, None] = {}
        # What the run has closed over, whether it matters to the transform or not.
        self.touched: dict[State, None] = {}
        # Whether it has succeeded. What runs later can't end it any more.
        self.is_over = False
        self._owner = owner
        self._is_guess = is_guess
        self._undeclared: tuple[State, ...] | None = None
        self._is_staged = False

    def staged(self, run: Callable[[], T]) -> T:
        """Runs something that makes traces, in one of its own: they all come to their end."""
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return run()
        self._is_staged = True
        try:
            jaxpr, out = jax.make_jaxpr(lambda: run_in_own_trace(run), return_shape=True)()
        except Exception:
            # With the right states it may not fail.
            self._raise_undeclared()
            raise
        finally:
            self._is_staged = False
        self._raise_undeclared()
        leaves = jax.extend.core.jaxpr_as_fun(jaxpr)()
        return jax.tree.structure(out).unflatten(leaves)

    def require_exactly(self, cells: Iterable[State]) -> None:
        """Ends this run unless just these states were declared."""
        # Too many are put up with after the first run, so that runs come to an end.
        found = self.cover(cells)
        if self._is_guess and len(found) < len(self.cells):
            self._restart(found)

    def cover(self, cells: Iterable[State]) -> dict[State, None]:
        """Ends this run unless these states were declared, beside others."""
        found = dict.fromkeys(cells)
        missing = [cell for cell in found if cell not in self.cells]
        if missing:
            self._restart(found if self._is_guess else (*self.cells, *missing))
        self.found |= found
        return found

    def _restart(self, cells: Iterable[State]) -> None:
        self._undeclared = tuple(cells)
        if not self._is_staged:
            self._raise_undeclared()

    def _raise_undeclared(self) -> None:
        if self._undeclared is not None:
            raise UndeclaredStates(self._owner, self._undeclared)


# What was right last, by transform and function: the states are kept by others.
_hints: LruCache[Hashable, tuple[weakref.ref[State], ...]] = LruCache(4096)


def discover(run: Callable[[Attempt], T], name: str, function: Callable[..., Any]) -> T:
    """Runs one attempt after another, until the states that it was given are the right ones."""
    # The first guess is what was right last, for a function of the same code and objects.
    key = name, code_of(function), tuple(map(id, owners_of(function)))
    owner = object()

    def attempted(cells: tuple[State, ...] | None) -> tuple[Attempt, T]:
        known = _hinted(key) if cells is None else cells
        attempt = Attempt(owner, known, is_guess=cells is None)
        result = run(attempt)
        attempt.is_over = True
        return attempt, result

    asked = f"asked {name} for the states that its function writes"
    attempt, result = retry(attempted, owner, asked, "run")
    _hints.put(key, tuple(map(weakref.ref, attempt.found)))
    record_reads(attempt.touched)
    frame = active_frame.get()
    # Those that weren't met too, whose values have been looked up: they are in what was traced.
    for cell in attempt.cells if frame is not None else ():
        frame.touch(cell)  # type: ignore[union-attr]
    return result


def _hinted(key: Hashable) -> tuple[State, ...]:
    cells = (ref() for ref in _hints.get(key) or ())
    return tuple(cell for cell in cells if cell is not None and is_alive(cell))
