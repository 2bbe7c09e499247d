"""States that a trace of plain JAX reads: it takes their values for constants.

`jax.jit`, `jax.lax.scan` and their like trace a function, and may use the trace again. What the
function reads of a state is no input of the trace. An untraced value would go stale in it, which
is a warning; a traced one ties the trace to the call that it was made in, which is remembered for
the error that follows if JAX takes up the trace in another call.
"""

import sys
import warnings
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .._errors import HIDDEN, StaleStateWarning
from ._refusals import described

if TYPE_CHECKING:
    from ._state import State

_traced_reads: "WeakKeyDictionary[State[Any], str]" = WeakKeyDictionary()


def note_read(cell: "State[Any]", value: Any) -> None:
    """Warns of a value that is read in a plain trace, or remembers where, if it is traced."""
    # A tree of labels or booleans in the shape of a model isn't read for its values.
    leaves = [leaf for leaf in jax.tree.leaves(value) if isinstance(leaf, (jax.Array, np.ndarray))]
    if cell.is_at_home or not leaves or not _is_staged():
        return
    reader = _users_frame()
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        code = reader.f_code
        _traced_reads[cell] = f"{code.co_name!r} ({code.co_filename}:{reader.f_lineno})"
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


def explain_untouched(cell: "State[Any]") -> str:
    """Says in an error about a state that a function hasn't touched what may be behind that."""
    place = _traced_reads.get(cell)
    if place is None:
        return "the function never read or wrote it"
    return (
        f"the function didn't run what reads it: {place} was traced in another call, by plain JAX, "
        f"which takes up its trace again here. {_REMEDY}"
    )


def explain_reuse(error: Exception) -> None:
    """Adds to an error about a tracer that has ended what may have kept it."""
    for cell, place in _traced_reads.items():
        error.add_note(
            f"{described(cell)} was read by {place}, which plain JAX has traced in another call of "
            f"a transform of statelens. If it takes up that trace again here: {_REMEDY}"
        )


_REMEDY = (
    "use the transform of the same name that knows of states, such as statelens.transform.scan, "
    "or pass the value to the function as an argument"
)


def _is_staged() -> bool:
    """Says whether what is computed now becomes part of a jaxpr."""
    return isinstance(jnp.asarray(0), jax.core.Tracer)


def _users_frame() -> FrameType:
    """Returns the innermost frame that is neither ours nor JAX's."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(HIDDEN) and frame.f_back is not None:
        frame = frame.f_back
    return frame
