"""The frame that is active: where reads and writes of states go while a transform runs.

Here is what states and modules need to know of frames; what frames are is said in `_frames`.
"""

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakValueDictionary

from ._dependencies import Reads
from ._trace import TOP, current_trace


class FrameLike(Protocol):
    """What a state needs of the frame that reads and writes go to; see `_frames`."""

    reads: Reads | None

    @property
    def nodes(self) -> WeakValueDictionary[int, Any]:
        """Mutable nodes that were made while the frame was open, by id."""
        ...

    def read(self, cell: Any) -> Any:
        """Returns the cell's value in this frame, for the function that runs in it."""

    def peek(self, cell: Any) -> Any:
        """Returns the cell's value in this frame, without touching the cell."""

    def look(self, cell: Any) -> Any:
        """Returns the cell's value, of which structure, shapes and dtypes are looked at."""

    def check(self, cell: Any) -> None:
        """Refuses a write that would be lost, or that would leak a traced value."""

    def write(self, cell: Any, value: Any) -> None:
        """Sets the cell's value in this frame."""

    def adopt(self, cell: Any, value: Any) -> None:
        """Takes a cell that was made while the frame was open."""

    def touch(self, cell: Any) -> None:
        """Notes that the function that runs in the frame has read a cell."""

    def expect_errors(self, checks: Iterable[Any] = ()) -> None:
        """Notes that the function has checks that may fail when it runs."""

    def may_grow(self, node: Any) -> bool:
        """Says whether states may be added to a node that is older than the frame."""
        ...


active_frame: ContextVar[FrameLike | None] = ContextVar("statelens_frame", default=None)
"""The innermost frame of this thread or async context."""

# Mutable nodes that were made while a plain JAX transform was tracing. By id, since a node
# may define equality.
_made_while_tracing: WeakValueDictionary[int, Any] = WeakValueDictionary()


def own(node: Any) -> None:
    """Notes that a mutable node was made in the frame or trace that is active now."""
    frame = active_frame.get()
    if frame is not None:
        frame.nodes[id(node)] = node
    elif current_trace() != TOP:
        _made_while_tracing[id(node)] = node


def owned(node: Any) -> bool:
    """Says whether a mutable node is as young as what runs now, and may change freely."""
    frame = active_frame.get()
    if frame is not None:
        return id(node) in frame.nodes or frame.may_grow(node)
    return current_trace() == TOP or id(node) in _made_while_tracing
