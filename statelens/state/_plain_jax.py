"""States that a trace of plain JAX reads: it takes their values for constants.

`jax.jit`, `jax.lax.scan` and their like trace a function, and may use the trace again. What the
function reads of a state is no input of the trace. An untraced value would go stale in it, which
is a warning; a traced one ties the trace to the call that it was made in, which is remembered for
the error that follows if JAX takes up the trace in another call.
"""

import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

import jax
import jax.core
import numpy as np
from jax.extend.core import set_current_trace, take_current_trace

from .._errors import StaleStateWarning, is_users
from .._tree import flatten_as_jax, is_numeric
from ._context import current_trace

if TYPE_CHECKING:
    from ._state import State

T = TypeVar("T")

# What has read a traced value of a state in a plain trace, and where.
_traced_reads: "dict[int, tuple[ref[State[Any]], str]]" = {}


_own_trace: ContextVar[Any] = ContextVar("statelens_own_trace", default=None)


def run_in_own_trace(run: Callable[[], T]) -> T:
    """Runs what a transform of ours does in a trace that it has just begun, in no frame."""
    # In a context of its own, which C leaves: no interrupt leaves the trace behind.
    return copy_context().run(_run_in_own_trace, run)


def _run_in_own_trace(run: Callable[[], T]) -> T:
    _own_trace.set(current_trace())
    return run()


def record_read(cell: "State[Any]", value: Any, own_trace: Any) -> None:
    """Warns of a value that is read in a plain trace, or remembers where, if it is traced.

    Args:
        cell: The state.
        value: What is read.
        own_trace: The trace in which our own transform runs the function, or `TOP`.
    """
    # A tree of labels or booleans in the shape of a model isn't read for its values.
    leaves = flatten_as_jax(value, name=cell._description)[0]
    leaves = [leaf for leaf in leaves if is_numeric(leaf) and not _is_label(leaf)]
    if cell.is_at_home or not leaves or not _is_staged_in(own_trace):
        return
    reader = _users_frame()
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        code = reader.f_code
        place = f"{code.co_name!r} ({code.co_filename}:{reader.f_lineno})"
        on_end = partial(_traced_reads.pop, id(cell))
        _traced_reads[id(cell)] = ref(cell, on_end), place
        return
    warning = StaleStateWarning(
        f"asked for the value of {cell!r} while plain JAX traces a function",
        "the value is a constant of the trace, which JAX may use again when the state has "
        "another value",
        "the transform of the same name that knows of states, such as statelens.jit or "
        "statelens.transform.scan",
        "pass the value to the function as an argument",
        "statelens.functionalize(fun, states), a pure function that any JAX transform takes",
    )
    warnings.warn_explicit(
        warning,
        StaleStateWarning,
        reader.f_code.co_filename,
        reader.f_lineno,
        reader.f_globals.get("__name__"),
        reader.f_globals.setdefault("__warningregistry__", {}),
    )


def _is_label(leaf: Any) -> bool:
    return isinstance(leaf, (bool, np.bool_, jax.ShapeDtypeStruct))


def explain_untouched(cell: "State[Any]") -> str:
    """Says in an error about a state that a function hasn't touched what may be behind that."""
    untouched = "the function never read or wrote it"
    found = _traced_reads.get(id(cell))
    if found is None:
        return untouched
    return (
        f"{untouched}. It was read by {found[1]}, which plain JAX has traced in another call of a "
        f"transform of statelens. If it takes up that trace again here: {_REMEDY}"
    )


def explain_reuse(error: Exception) -> None:
    """Adds to an error about a tracer that has ended what may have kept it."""
    for cell_of, place in list(_traced_reads.values())[-_MOST_NOTES:]:
        cell = cell_of()
        if cell is None:
            continue
        name = f"the state {cell.name!r}" if cell.name else f"a {type(cell).__name__}"
        error.add_note(
            f"{name} was read by {place}, which plain JAX has traced in another call of a "
            f"transform of statelens. If it takes up that trace again here: {_REMEDY}"
        )


_MOST_NOTES = 3

_REMEDY = (
    "use the transform of the same name that knows of states, such as statelens.transform.scan, "
    "or pass the value to the function as an argument"
)


def _is_staged_in(own_trace: Any) -> bool:
    """Says whether plain JAX makes a jaxpr inside of a trace of our own.

    It doesn't in a mere `jax.grad` or `jax.vmap`, which run the function each time.
    """
    if current_trace() is None:
        return False
    with take_current_trace() as trace:
        pass
    while trace is not None:
        with set_current_trace(trace):
            here = current_trace()
        if here in (own_trace, _own_trace.get()):
            return False
        if type(trace).__name__ == "DynamicJaxprTrace":
            return True
        trace = getattr(trace, "parent_trace", None)
    return False


def _users_frame() -> FrameType:
    """Returns the innermost frame that is not of a library that carries the function."""
    frame = sys._getframe(1)
    while not is_users(frame) and frame.f_back is not None:
        frame = frame.f_back
    return frame
