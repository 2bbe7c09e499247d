"""What a call of a compiled function comes down to: gather, run, store.

Once it is known what the calls of a function need, they should cost what the compiled program
costs. So this is written for speed, as closures over all that they use, and does nothing else:
whatever is out of the ordinary goes the long way.
"""

from collections.abc import Callable, Iterable
from typing import Any

from ..._errors import hide_own_frames
from ...state import (
    Holding,
    active_frame,
    concrete_types,
    epoch,
    is_concrete,
    moves,
    moving,
    store_all,
    store_arrays,
)
from .._core import Partitioned, UndeclaredStates, as_partitioned, returned
from ._in_a_row import in_a_row
from ._layout import arguments
from ._pool import close_pools
from ._program import RUN_ERRORS, Program, are_traced, split_result
from ._takers import ArgumentTakers


def dispatch(
    program: Program,
    static: frozenset[int | str],
    otherwise: Callable[..., Any],
    start_again: Callable[..., Any],
    install: Callable[[Callable[..., Any]], None],
) -> None:
    """Installs the function to call, as long as a program is all that its calls need.

    Args:
        program: The program; it is plain.
        static: Positions and names of arguments of which nothing is traced.
        otherwise: What to call where the program is not good, or a frame is open.
        start_again: What to call with the prepared arguments, where the program is no longer
            good; and with what has come of it too, where a trace for other arguments has met
            states that the program doesn't take.
        install: Takes the function of the arguments, as the user gives them, that is called
            from now on. It is another one while the program runs in a row.
    """
    call_staged, pool, cells = program.call_staged, program.pool, program.taken
    outs, reads, get_frame = program.outs, program.reads, active_frame.get
    gather = arrays_of if program.takes_arrays else inputs_of
    store = store_arrays if program.gives_arrays else store_all
    is_alike = program.gives_arrays or len(program.signatures) == 1
    # Where some are static or donated, it has to be looked which.
    donated = program.host.donated_args
    simple = concrete_types if not static and not donated else frozenset[type]()
    takers = ArgumentTakers(static, donated)
    opened: object = None

    def failed(error: Any, args: Any) -> Any:
        args, kwargs = arguments(args)
        if isinstance(error, UndeclaredStates):
            return start_again(args, kwargs, error)
        program.reraise(error, args, kwargs)

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal opened
        try:
            is_good = program.good_at is epoch.now and get_frame() is None
            if not is_good or not reads.contents_hold():
                return otherwise(*args, **kwargs)
            are_concrete = not kwargs and bool(simple)
            for arg in args:
                if type(arg) not in concrete_types and not is_concrete(arg):
                    are_concrete = False
                    break
            if not are_concrete:
                args = takers.take(args, kwargs)
            # Another thread may move values, and this function may be called in it.
            now = moves.now
            is_up_to_date = opened is now
            taken = gather(cells) if is_up_to_date else ()
            if not is_up_to_date or moves.now is not now:
                with moving:
                    close_pools(cells)
                    opened = moves.now
                    taken = gather(cells)
                    is_good = program.good_at is epoch.now
                if not is_good:
                    return start_again(*arguments(args), None)
            try:
                result = call_staged(*(taken + args))
            except RUN_ERRORS as error:
                return failed(error, args)
            if program.good_at is not epoch.now:  # it has just been traced for other arguments
                return program.finish(result)
            out, written, values = split_result(result, outs)
            if values and are_traced(values, are_concrete):
                return program.finish(result)
            # Before anything is stored: nodes of other libraries may refuse to be made.
            if type(out) is Partitioned:
                out = returned(out)
            if values:
                store(written, values)
            if is_alike and pool.is_due() and pool.open(written, result):
                begin_row()
            return out
        except Exception as error:
            hide_own_frames(error)
            raise

    def begin_row() -> None:
        install(in_a_row(program, simple, store, takers, failed, end_row))

    def end_row(*args: Any, **kwargs: Any) -> Any:
        if not pool.is_open:
            install(call)
        return call(*args, **kwargs)

    if pool.is_open:
        pool.good_at = program.good_at
        begin_row()
    else:
        install(call)


def arrays_of(cells: Iterable[Holding]) -> tuple[Any, ...]:
    """Gathers the values of states that hold arrays."""
    return tuple([cell._value for cell in cells])


def inputs_of(cells: Iterable[Holding]) -> tuple[Any, ...]:
    """Gathers the values of states as a program takes them."""
    values = arrays_of(cells)
    return tuple(
        value if type(value) is Partitioned else as_partitioned(value, lambda cell=cell: repr(cell))
        for cell, value in zip(cells, values, strict=True)
    )
