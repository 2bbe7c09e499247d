"""What a call of a compiled function comes down to: gather, run, store.

Once it is known what the calls of a function need, they should cost what the compiled program
costs. So this is written for speed, as one closure over all that it uses, and does nothing else:
whatever is out of the ordinary goes the long way.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from .._errors import hide_own_frames
from .._reads import epoch
from .._trace import concrete_types, has_tracers, is_concrete
from ..state import State, active_frame, store_all, store_arrays
from ._discover import Undeclared
from ._mixed import Mixed, apart, mixed
from ._program import Program
from ._pure import prepared
from ._runtime import PROGRAM_ERRORS


def dispatch(
    program: Program,
    static: frozenset[int | str],
    otherwise: Callable[..., Any],
    start_again: Callable[..., Any],
) -> Callable[..., Any]:
    """Returns the function to call, as long as a program is all that its calls need.

    Args:
        program: The program; it is plain.
        static: Positions and names of arguments of which nothing is traced.
        otherwise: What to call where the program is not good, or a frame is open.
        start_again: What to call, with the prepared arguments too, where a trace for other
            arguments has met states that the program doesn't take.

    Returns:
        A function of the arguments as the user gives them.
    """
    staged, kept, donated = program.staged, program.kept, program.donated
    outs, reads, get_frame = program.outs, program.reads, active_frame.get
    gather = arrays_of if program.takes_arrays else inputs_of
    store = store_arrays if program.gives_arrays else store_all

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            if (
                program.good_at != epoch.now
                or get_frame() is not None
                or ((reads.containers or reads.kinds) and not reads.contents_hold())
            ):
                return otherwise(*args, **kwargs)
            are_concrete = not kwargs and not static
            for arg in args:
                if type(arg) not in concrete_types and not is_concrete(arg):
                    are_concrete = False
                    break
            if not are_concrete:
                args, kwargs = prepared(args, kwargs, static, apart)
            try:
                if donated:
                    result = staged((gather(donated), None), gather(kept), *args, **kwargs)
                else:
                    result = staged(gather(kept), *args, **kwargs)
            except Undeclared as undeclared:
                return start_again(args, kwargs, undeclared)
            except PROGRAM_ERRORS as error:
                program.reraise(error, args, kwargs)
            if program.good_at != epoch.now:  # it has just been traced for other arguments
                return program.finish(result)
            out, values = result[0], result[1]
            if values:
                if are_traced(values, are_concrete):
                    return program.finish(result)
                store(outs[len(result) - 2], values)
            return out.tree if type(out) is Mixed else out
        except Exception as error:
            hide_own_frames(error)
            raise

    return call


def are_traced(values: Any, are_concrete: bool) -> bool:
    """Says whether what a program has written is traced, by a plain transform that is running.

    Args:
        values: What it has written, at least one value.
        are_concrete: Whether no argument was traced; then all of it is, or nothing.
    """
    if not are_concrete:
        return has_tracers(values)
    value = values[0]
    if type(value) in concrete_types:
        return False
    leaves = value.traced if type(value) is Mixed else jax.tree.leaves(value)
    return has_tracers(leaves[:1])


def arrays_of(cells: Iterable[State]) -> list[Any]:
    """Gathers the values of states that hold arrays."""
    return [cell._value for cell in cells]


def inputs_of(cells: Iterable[State]) -> list[Any]:
    """Gathers the values of states as a program takes them."""
    values = arrays_of(cells)
    return [
        value if type(value) is Mixed else mixed(value, lambda cell=cell: repr(cell))
        for cell, value in zip(cells, values, strict=True)
    ]
