"""What JAX is tracing now: just enough to keep traced values where they belong."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.core
import numpy as np
from jax.extend.core import get_opaque_trace_state

__all__ = ["TOP", "are_concrete", "concrete_types", "current_trace", "has_tracers", "is_concrete"]


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
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


concrete_types: set[type] = {bool, int, float, complex, np.ndarray}
"""Classes of arrays and numbers that are never traced, as far as they have been met."""


def is_concrete(value: Any) -> bool:
    """Says whether a value is an array or a number, and isn't traced."""
    # A class that has been met is looked up faster than it is asked about.
    if type(value) in concrete_types:
        return True
    is_array = isinstance(value, (jax.Array, np.generic))
    if is_array and not isinstance(value, jax.core.Tracer):
        concrete_types.add(type(value))
        return True
    return False


def are_concrete(values: Iterable[Any]) -> bool:
    """Says whether all values are arrays and numbers, and none is traced."""
    return concrete_types.issuperset(map(type, values)) or all(map(is_concrete, values))
