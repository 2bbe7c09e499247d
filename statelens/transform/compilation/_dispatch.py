"""What a call of a compiled function comes down to: gather, run, store.

Once a program is all that the calls of a function need, they should cost what the compiled
program costs. So this does nothing else: whatever is out of the ordinary goes the long way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ..._errors import hide_own_frames
from ...state import State, Writes, active_frame, are_concrete, concrete_types, has_tracers
from .._core import (
    PROGRAM_ERRORS,
    Arguments,
    UndeclaredStates,
    merge_output,
    split_arguments,
    split_items,
)
from ._arguments import lay_out
from ._program import Program, input_of

_RUN_ERRORS = (UndeclaredStates, *PROGRAM_ERRORS)


class Dispatch:
    """Calls of one program, as long as it is good.

    Args:
        program: The program; it is plain.
        static: Positions and names of arguments of which nothing is traced.
        long_way: What to call with the arguments where the program is stale, or a frame is open.
        settle: What to call with split arguments where a trace for other arguments has met
            states that the program doesn't take.
    """

    def __init__(
        self,
        program: Program,
        static: frozenset[int | str],
        long_way: Callable[..., Any],
        settle: Callable[[Arguments, UndeclaredStates], Any],
    ):
        self._program = program
        self._static = static
        self._long_way = long_way
        self._settle = settle
        self._reads = program.reads
        self._traces = program.traces
        self._staged = program.staged
        self._donated_args = program.host.donated_args
        self._is_simple = not static and not self._donated_args

    def is_stale(self) -> bool:
        """Says whether what the program has taken over may have changed, or a frame is open."""
        return (
            not self._reads.is_current
            or self._program.traces != self._traces
            or active_frame.get() is not None
            or not self._reads.containers_unchanged()
        )

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        try:
            if self.is_stale():
                return self._long_way(*args, **kwargs)
            program = self._program
            donated, kept = _gather(program.donated), _gather(program.kept)
            if self._is_simple and not kwargs and are_concrete(args):
                inputs: Any = donated, _NONE_DONATED, kept, args, kwargs
            else:
                args, kwargs = split_arguments(args, kwargs, self._static, split_items)
                inputs = lay_out(donated, kept, args, kwargs, self._donated_args)
            try:
                result = self._staged(*inputs)
            except _RUN_ERRORS as error:
                return self._failed(error, args, kwargs)
            if program.traces != self._traces:
                return self._finish_trace(result)
            out, writes = program.split_result(result)
            if not _are_untraced(writes.values):
                return program.finish(result)
            # Before anything is stored: nodes of other libraries may refuse to be made.
            if type(out) not in concrete_types:
                out = merge_output(out)
            _store(writes)
            return out
        except Exception as error:
            hide_own_frames(error)
            raise

    def _finish_trace(self, result: Any) -> Any:
        """Finishes a call that was traced for other arguments, which may have brought checks."""
        if self._program.can_raise:
            result = jax.block_until_ready(result)
        return self._program.finish(result)

    def _failed(self, error: Exception | UndeclaredStates, args: Any, kwargs: Any) -> Any:
        if isinstance(error, UndeclaredStates):
            return self._settle((args, kwargs), error)
        self._program.reraise(error, args, kwargs)


_NONE_DONATED: tuple[list[Any], dict[str, Any]] = ([], {})


def _gather(cells: Sequence[State]) -> tuple[Any, ...]:
    """Gathers the values of states as a program takes them."""
    values = tuple([cell._value for cell in cells])
    if are_concrete(values):
        return values
    return tuple([input_of(value, cell) for value, cell in zip(values, cells, strict=True)])


def _are_untraced(values: Sequence[Any]) -> bool:
    """Says whether nothing in what was written is traced, by a plain transform that is running."""
    return are_concrete(values) or not has_tracers(values)


def _store(writes: Writes) -> None:
    for cell, value in zip(writes.cells, writes.values, strict=True):
        cell._value = value
