"""What a call of a compiled function comes down to: gather, run, store.

Once a program is all that the calls of a function need, they should cost what the compiled
program costs. So this does nothing else: whatever is out of the ordinary goes the long way.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from ..._errors import hide_own_frames
from ...state import (
    State,
    active_frame,
    concrete_types,
    has_tracers,
    record_reads,
    this_thread,
)
from .._core import PROGRAM_ERRORS, Arguments, UndeclaredStates, merge_output
from ._arguments import Donated, Inputs, input_of, lay_out

if TYPE_CHECKING:
    from ._program import Program

_RUN_ERRORS = (UndeclaredStates, *PROGRAM_ERRORS)


class Dispatch:
    """Calls of one program, as long as it is good.

    Args:
        program: The program; it is plain, and has just been run.
        long_way: What to call with the arguments where the program is stale, or a frame is open.
        on_undeclared: What to call with split arguments, and the states that a trace for them has
            met, where the program doesn't take all of these.
    """

    def __init__(
        self,
        program: "Program",
        long_way: Callable[..., Any],
        on_undeclared: Callable[[Arguments, tuple[State, ...]], Any],
    ):
        self._program = program
        self._cells = program.taken
        self._donated = len(program.donated)
        self._staged = program.staged
        self._reads = program.reads
        self._takes_arrays = program.host.takes_arrays
        self._long_way = long_way
        self._on_undeclared = on_undeclared

    def call(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        try:
            reads = self._reads
            if (
                reads.stamp is not reads.checked
                or active_frame.get() is not None
                or not reads.containers_unchanged()
            ):
                return self._long_way(*args, **kwargs)
            if this_thread.lendings:
                this_thread.check(self._cells)
            values = tuple([cell._value for cell in self._cells])
            if (
                self._takes_arrays
                and not kwargs
                and concrete_types.issuperset(map(type, values + args))
            ):
                inputs: tuple[Any, ...] = (), values, args, kwargs
                if count := self._donated:
                    inputs = Donated(values[:count], [], {}), values[count:], args, kwargs
            else:
                inputs = self._inputs(args, kwargs)
            try:
                result = self._program.call(inputs) if self._donated else self._staged(*inputs)
            except _RUN_ERRORS as error:
                return self._failed(error, inputs)
            # A trace for other arguments may have read other attributes, or brought checks.
            if reads.stamp is not reads.checked:
                self._program.look_for_callbacks(inputs)
                return self._program.finish(jax.block_until_ready(result))
            out, values = result[0], result[1]
            if has_tracers(values):  # of a plain transform that is running
                return self._program.finish(result)
            # Before anything is stored: nodes of other libraries may refuse to be made.
            if type(out) not in concrete_types:
                record_reads(self._cells)
                out = merge_output(self._program.output(result))
            if values and not self._donated:  # where it donates, that is done
                self._program.keep(result)
            return out
        except Exception as error:
            hide_own_frames(error)
            raise

    def _inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        program = self._program
        donated, kept = (
            tuple([input_of(cell._value, cell) for cell in cells])
            for cells in (program.donated, program.kept)
        )
        args, kwargs = program.host.split(args, kwargs)
        return lay_out(donated, kept, args, kwargs, program.host.donated_args)

    def _failed(self, error: Exception | UndeclaredStates, inputs: tuple[Any, ...]) -> Any:
        args, kwargs = Inputs(*inputs).arguments(self._program.host.donated_args)
        if isinstance(error, UndeclaredStates):
            if error.owner is not self._program.host:
                raise error
            return self._on_undeclared((args, kwargs), error.cells)
        self._program.reraise(error, args, kwargs)
