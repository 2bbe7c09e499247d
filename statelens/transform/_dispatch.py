"""What a call of a compiled function comes down to: gather, run, store.

Once it is known what the calls of a function need, they should cost what the compiled program
costs. So this is written for speed, as closures over all that they use, and does nothing else:
whatever is out of the ordinary goes the long way.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from .._active import active_frame
from .._errors import hide_own_frames
from .._held import Holding, moves, moving, store_all, store_arrays
from .._reads import epoch
from .._trace import concrete_types, has_tracers, is_concrete
from ._discover import Undeclared
from ._mixed import Mixed, apart, returned
from ._pool import close_pools
from ._program import Program, split_result
from ._pure import prepared
from ._runtime import PROGRAM_ERRORS


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
    staged, pool, cells = program.staged, program.pool, program.taken
    outs, reads, get_frame = program.outs, program.reads, active_frame.get
    gather = arrays_of if program.takes_arrays else inputs_of
    store = store_arrays if program.gives_arrays else store_all
    is_alike = program.gives_arrays or len(program.signatures) == 1
    lists, lists_before = reads.lists, reads.lists_before
    containers, kinds, is_simple = reads.containers, reads.kinds, not static
    opened = -1
    usual: type | None = None  # most arguments' class: sooner compared than looked up

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal opened, usual
        try:
            if program.good_at != epoch.now or get_frame() is not None or not reads.contents_hold():
                return otherwise(*args, **kwargs)
            are_concrete = not kwargs and not static
            for arg in args:
                if type(arg) not in concrete_types and not is_concrete(arg):
                    are_concrete = False
                    break
            if not are_concrete:
                args, kwargs = prepared(args, kwargs, static, apart)
            # Another thread may move values, and this function may be called in it.
            now = moves.now
            is_up_to_date = opened == now
            taken = gather(cells) if is_up_to_date else ()
            if not is_up_to_date or moves.now != now:
                with moving:
                    close_pools(cells)
                    opened = moves.now
                    taken = gather(cells)
                    is_good = program.good_at == epoch.now
                if not is_good:
                    return start_again(args, kwargs, None)
            try:
                result = staged(*(taken + args), **kwargs)
            except Undeclared as undeclared:
                return start_again(args, kwargs, undeclared)
            except PROGRAM_ERRORS as error:
                program.reraise(error, args, kwargs)
            if program.good_at != epoch.now:  # it has just been traced for other arguments
                return program.finish(result)
            out, written, values = split_result(result, outs)
            if values and are_traced(values, are_concrete):
                return program.finish(result)
            # Before anything is stored: nodes of other libraries may refuse to be made.
            if type(out) is Mixed:
                out = returned(out)
            if values:
                store(written, values)
            if is_alike and pool.is_due() and pool.open(written):
                usual = type(args[0]) if are_concrete and args else None
                install(call_in_a_row)
            return out
        except Exception as error:
            hide_own_frames(error)
            raise

    def call_in_a_row(
        a: Any = _NOTHING, b: Any = _NOTHING, c: Any = _NOTHING, /, *more: Any, **kwargs: Any
    ) -> Any:
        try:
            # Before the pool is seen to be open, since another thread may close it. If one has
            # opened it in between, there is nothing in them.
            taken = pool.values
            if (
                pool.good_at != epoch.now
                or (cells and not taken)
                or get_frame() is not None
                or lists != lists_before
                or ((containers or kinds) and not reads.contents_hold())
            ):
                if not pool.is_open:
                    install(call)
                return call(*_given(a, b, c, *more), **kwargs)
            if (
                c is _NOTHING
                and (type(a) is usual or type(a) in concrete_types)
                and (b is _NOTHING or type(b) is usual or type(b) in concrete_types)
                and is_simple
                and not kwargs
            ):
                # One by one: to take and to pass `*args, **kwargs` takes 0.5 of the 0.9 µs
                # that all of this took besides running the program.
                are_concrete, args = True, (a,) if b is _NOTHING else (a, b)
            else:
                are_concrete = False
                args, kwargs = prepared(_given(a, b, c, *more), kwargs, static, apart)
            try:
                result = staged(*(taken + args), **kwargs) if kwargs else staged(*(taken + args))
            except Undeclared as undeclared:
                return start_again(args, kwargs, undeclared)
            except PROGRAM_ERRORS as error:
                program.reraise(error, args, kwargs)
            if type(result) is not tuple:  # an array alone: no write to commit, whatever was traced
                return result
            if pool.good_at != epoch.now:
                return program.finish(result)
            out, values = result[0], result[1]
            if values:
                is_usual = are_concrete and type(values[0]) in concrete_types
                if not is_usual and are_traced(values, are_concrete):
                    return program.finish(result)
            if type(out) is Mixed:
                out = returned(out)
            if values:
                written = outs[len(result) - 2]
                layout, left = pool.layout, None
                if layout is not None and layout.written is written:
                    if layout.arrange is None:
                        left = values
                    else:
                        arranged = layout.arrange(values + taken)
                        # Another thread may have written one of those that aren't written here.
                        left = arranged if pool.values is taken else None
                if left is not None:
                    pool.values = left
                if left is None or pool.layout is not layout:
                    with moving:
                        pool.close()
                        store(written, values)
            return out
        except Exception as error:
            hide_own_frames(error)
            raise

    if pool.is_open:
        pool.good_at = program.good_at
    install(call_in_a_row if pool.is_open else call)


_NOTHING: Any = object()


def _given(a: Any, b: Any, c: Any, *more: Any) -> tuple[Any, ...]:
    """Returns the arguments that were given."""
    if c is not _NOTHING:
        return a, b, c, *more
    if b is not _NOTHING:
        return a, b
    return () if a is _NOTHING else (a,)


def are_traced(values: Any, are_concrete: bool) -> bool:
    """Says whether what a program has written is traced, by a plain transform that is running.

    Args:
        values: What it has written, at least one value.
        are_concrete: Whether no argument was traced; then all of it is, or nothing.
    """
    if not are_concrete:
        return has_tracers(values)
    for value in values:
        if type(value) in concrete_types:
            return False
        leaves = value.traced if type(value) is Mixed else jax.tree.leaves(value)
        if leaves:
            return has_tracers(leaves[:1])
    return False


def arrays_of(cells: Iterable[Holding]) -> tuple[Any, ...]:
    """Gathers the values of states that hold arrays."""
    return tuple([cell._value for cell in cells])


def inputs_of(cells: Iterable[Holding]) -> tuple[Any, ...]:
    """Gathers the values of states as a program takes them."""
    values = arrays_of(cells)
    return tuple(
        value if type(value) is Mixed else apart(value, lambda cell=cell: repr(cell))
        for cell, value in zip(cells, values, strict=True)
    )
