"""Which mutable nodes were made where code runs now: those may change, others only outside."""

from typing import Any
from weakref import ref

from .._tree import put_weakly
from ._context import TOP, active_frame, current_trace

# Mutable nodes that were made while a plain JAX transform was tracing. By id, since a node
# may define equality.
_made_while_tracing: dict[int, ref[Any]] = {}


def own(node: Any) -> None:
    """Notes that a mutable node was made in the frame or trace that is active now."""
    frame = active_frame.get()
    if frame is not None:
        put_weakly(frame.nodes, id(node), node)
    elif current_trace() != TOP:
        put_weakly(_made_while_tracing, id(node), node)


def owned(node: Any) -> bool:
    """Says whether a node was made in the frame or trace that is running, and so may change."""
    frame = active_frame.get()
    if frame is not None:
        return id(node) in frame.nodes or frame.may_grow(node)
    return current_trace() == TOP or id(node) in _made_while_tracing
