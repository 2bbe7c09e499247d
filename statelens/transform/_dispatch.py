"""What a call of a compiled function comes down to: gather, run, store.

Once it is known what the calls of a function need, they should cost what the compiled program
costs. So this is written for speed, as one closure over all that it uses, and does nothing else:
whatever is out of the ordinary goes the long way.
"""

from collections.abc import Callable
from typing import Any

import jax

from .._errors import hide_own_frames
from .._reads import epoch
from .._trace import concrete_types, has_tracers, is_concrete
from ..state import State, active_frame, store_all
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
            values = [
                value if type(value := cell._value) in concrete_types else as_input(cell)
                for cell in kept
            ]
            try:
                if donated:
                    given = list(map(as_input, donated)), None
                    result = staged(given, values, *args, **kwargs)
                else:
                    result = staged(values, *args, **kwargs)
            except Undeclared as undeclared:
                return start_again(args, kwargs, undeclared)
            except PROGRAM_ERRORS as error:
                program.reraise(error, args, kwargs)
            if not program.is_plain:  # it has just been traced for other arguments
                return program.finish(result)
            out, values = result[0], result[1]
            if values:
                if are_traced(values, are_concrete):
                    return program.finish(result)
                store_all(outs[len(result) - 2], values)
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


def as_input(cell: State) -> Any:
    """Returns a state's value as a program takes it, where no frame is open."""
    value = cell._value
    if type(value) in concrete_types or type(value) is Mixed:
        return value
    return mixed(value, lambda: repr(cell))
