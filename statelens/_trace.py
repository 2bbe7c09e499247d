"""What JAX is tracing now: just enough to keep traced values where they belong."""

from typing import Any

import jax
import jax.core
from jax.extend.core import get_opaque_trace_state as current_trace

__all__ = ["TOP", "current_trace", "has_tracers"]

TOP = current_trace()
"""Where nothing is being traced. This module is imported outside of any transform."""


def has_tracers(tree: Any) -> bool:
    """Says whether a leaf of the tree is a traced value."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))
