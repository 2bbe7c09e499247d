"""What may lie in a cell in place of a value."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._state import State


class _Ended:
    """Takes the place of a value that ended with the transform in which it was made."""


ENDED = _Ended()


class LazyValue:
    """Takes the place of a value that is put together when someone looks at it."""

    __slots__ = ()

    def load(self) -> Any:
        """Returns the value, the same object each time."""


class Alias(LazyValue):
    """Lies in a cell that was made in a frame, and stands there for another cell.

    Args:
        cell: The other cell. What is read and written by either is the same, until the frame ends.
    """

    __slots__ = ("cell",)

    def __init__(self, cell: "State[Any]"):
        self.cell = cell

    def load(self) -> Any:
        """Returns what there is past all frames, which is nothing."""
        return ENDED
