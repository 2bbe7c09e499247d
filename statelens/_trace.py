"""What JAX is tracing now: just enough to keep traced values where they belong."""

from typing import Any

import jax
import jax.core
from jax.extend.core import get_opaque_trace_state

__all__ = ["TOP", "current_trace", "has_tracers"]


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
