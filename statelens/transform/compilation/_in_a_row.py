"""Calls in a row: what a call of a compiled function comes down to while its pool is open.

While a program runs in a row, a call need only ask whether all is as it was, and run it. It asks
with caches that the program has emptied, so that what counts is how much of memory it touches
before the program begins; what comes after runs beside the program.
"""

from collections.abc import Callable, Set
from typing import Any

from ..._errors import hide_own_frames
from ...state import active_frame, epoch, living_frames, moving
from .._core import Partitioned, returned
from ._program import RUN_ERRORS, Program, are_traced
from ._takers import ArgumentTakers


class _Nothing:
    """Stands for an argument that isn't given."""


_NOTHING: Any = _Nothing()


def in_a_row(
    program: Program,
    simple: Set[type],
    store: Callable[..., None],
    takers: ArgumentTakers,
    failed: Callable[..., Any],
    otherwise: Callable[..., Any],
) -> Callable[..., Any]:
    """Makes the function to call while a program runs in a row.

    Args:
        program: The program; its pool is open.
        simple: Classes of arguments that the program takes as they are.
        store: Puts values in states.
        takers: What takes arguments apart.
        failed: Says what came of an error while the program ran, of `RUN_ERRORS`.
        otherwise: What to call where the program is not good, its pool is closed, or a frame is
            open.

    Returns:
        A function of the arguments as the user gives them.
    """
    call_staged, pool = program.call_staged, program.pool
    outs, finish = program.outs, program.finish
    positional = takers.positional
    get_frame, reads = active_frame.get, program.reads
    # One of these, of which most that comes and goes is: it is sooner compared than looked up.
    usual = next((kind for kind in map(type, pool.values or ()) if kind in simple), None)
    # A trace may add to them; then the program is looked at again, and this is made anew.
    lists, lists_before = reads.lists, reads.lists_before
    # What is in the only one is compared itself, and not as an item of another list.
    if len(lists) == 1:
        lists, lists_before = lists[0], lists_before[0]
    contents_hold = reads.contents_hold if reads.containers or reads.kinds else None

    def call_in_a_row(
        a: Any = _NOTHING, b: Any = _NOTHING, c: Any = _NOTHING, /, *more: Any, **kwargs: Any
    ) -> Any:
        try:
            # Before the pool is seen to be open, since another thread may close it.
            taken = pool.values
            if (
                pool.good_at is not epoch.now
                or taken is None
                or (living_frames and get_frame() is not None)
                or (lists != lists_before if contents_hold is None else not contents_hold())
            ):
                return otherwise(*_given(a, b, c, *more), **kwargs)
            are_concrete = True
            # One by one: to take and to pass `*args, **kwargs` takes 0.5 of the 0.9 µs that all
            # of this took besides running the program.
            if b is _NOTHING and (type(a) is usual or type(a) in simple) and not kwargs:
                args = (a,)
            elif (
                c is _NOTHING
                and (type(a) is usual or type(a) in simple)
                and (type(b) is usual or type(b) in simple)
                and not kwargs
            ):
                args = a, b
            elif a is _NOTHING and simple and not kwargs:
                args = ()
            else:
                args = (a, b, c, *more) if c is not _NOTHING else _given(a, b, c)
                found = None if kwargs else positional.last(args)
                args = takers.take(args, kwargs) if found is None else found
                are_concrete = False
            try:
                result = call_staged(*(taken + args))
            except RUN_ERRORS as error:
                return failed(error, args)
            if type(result) is not tuple:  # an array alone: no write to commit, whatever was traced
                return result
            if pool.good_at is not epoch.now:
                return finish(result)
            out, values = result[0], result[1]
            if not values:
                return returned(out) if type(out) is Partitioned else out
            is_concrete = are_concrete and type(values[0]) is usual
            if not is_concrete and are_traced(values, are_concrete):
                return finish(result)
            # Before anything is left: nodes of other libraries may refuse to be made.
            if type(out) is Partitioned:
                out = returned(out)
            if len(result) == pool.result_length:
                pool.values = values
                # Another thread may have closed the pool.
                if pool.result_length:
                    return out
            leave(result, taken)
            return out
        except Exception as error:
            hide_own_frames(error)
            raise

    def leave(result: Any, taken: tuple[Any, ...]) -> None:
        written, values, arrangement = outs[len(result) - 2], result[1], pool.arrangement
        if arrangement is not None and arrangement.result_length == len(result):
            arranged = arrangement.arrange(values + taken)
            # Another thread may have written one of those that aren't written here.
            if pool.values is taken:
                pool.values = arranged
                if pool.arrangement is arrangement:
                    return
        with moving:
            pool.close()
            store(written, values)

    return call_in_a_row


def _given(a: Any, b: Any, c: Any, *more: Any) -> tuple[Any, ...]:
    """Returns the arguments that were given."""
    if c is not _NOTHING:
        return a, b, c, *more
    if b is not _NOTHING:
        return a, b
    return () if a is _NOTHING else (a,)
