"""What is active: the trace that JAX is running, and the frame that reads and writes go to."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import jax
import jax.core
import numpy as np
from jax.extend.core import get_opaque_trace_state

if TYPE_CHECKING:
    from ._frame import Frame


def current_trace() -> Any:
    """Returns what stands for the trace that is running, to be compared with another one."""
    try:
        return get_opaque_trace_state()
    except AssertionError:
        # JAX is evaluating shapes of a primitive, in no trace at all.
        return None


TOP = current_trace()
"""Where nothing is being traced. This module is imported outside of any transform."""


def has_tracers(tree: Any) -> bool:
    """Says whether a leaf of the tree is a traced value."""
    # What a program gives is arrays in a tuple: to look up their classes is all it takes.
    if type(tree) is tuple and concrete_types.issuperset(map(type, tree)):
        return False
    leaves = jax.tree.leaves(tree)
    if concrete_types.issuperset(map(type, leaves)):
        return False
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves if not is_concrete(leaf))


concrete_types: set[type] = {bool, int, float, complex, np.ndarray}
"""The classes of arrays and numbers, never traced ones, that have been met so far."""


def is_concrete(value: Any) -> bool:
    """Says whether a value is an array or a number, and isn't traced."""
    # To look up a class that has been met is faster than to ask about it.
    if type(value) in concrete_types:
        return True
    is_array = isinstance(value, (jax.Array, np.generic))
    if is_array and not isinstance(value, jax.core.Tracer):
        concrete_types.add(type(value))
        return True
    return False


active_frame: ContextVar["Frame | None"] = ContextVar("statelens_frame", default=None)
"""The innermost frame of this thread or async context."""


def this_frame() -> "Frame":
    """Returns the innermost open frame."""
    frame = active_frame.get()
    assert frame is not None
    return frame
