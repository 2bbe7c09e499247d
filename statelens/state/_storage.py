"""What lies in a cell itself, past all frames: its value, or what stands for it."""

from collections.abc import Sequence
from threading import RLock
from typing import Any, Protocol

from ._dependencies import Epoch
from ._trace import concrete_types

moving = RLock()
"""Is held while values go to where a program keeps them, or back, and while one is stored.

So a thread that only reads, by a program or by itself, never puts an old value over a new one.
"""

moves = Epoch()
"""The time in which no values have gone from cells to where a program keeps them."""


class Holding(Protocol):
    """What holds a value for programs: a state, or what stands for several of them.

    Attributes:
        holds_array: Whether the value is an array or a number, and not a tree of them.
        is_of_a_trace: Whether it was made in a trace, and may hold what is traced there.
    """

    _value: Any

    @property
    def holds_array(self) -> bool: ...

    @property
    def is_of_a_trace(self) -> bool: ...

    def store(self, value: Any) -> None:
        """Puts a value in it, past all frames."""


def store_all(cells: Sequence[Holding], values: Sequence[Any]) -> None:
    """Puts values in cells themselves, past all frames; for programs to call."""
    with moving:
        for cell, value in zip(cells, values, strict=True):
            cell.store(value)


def store_arrays(cells: Sequence[Holding], values: Sequence[Any]) -> None:
    """Does what `store_all` does, sooner, where arrays take the place of arrays."""
    with moving:
        for cell, value in zip(cells, values, strict=True):
            # What was there a moment ago may be elsewhere now, taken by another thread.
            if type(cell._value) in concrete_types:
                cell._value = value
            else:
                cell.store(value)


class _Ended:
    """Takes the place of a value that ended with the transform in which it was made."""


ENDED = _Ended()


class Deferred:
    """What lies in a cell in place of its value, until someone looks at it.

    Attributes:
        tree: The value.
        holds_array: Whether it is an array or a number, and not a tree of them.
        is_elsewhere: Whether a program keeps it, maybe together with others.
    """

    __slots__ = ()

    tree: Any
    holds_array = is_elsewhere = False

    def found_in(self, cell: Holding) -> Any:
        """Returns the value, which from now on lies in the cell itself."""
        value = self.tree
        with moving:
            if cell._value is self:
                cell._value = value
        return value

    def make_room(self, cell: Holding) -> None:
        """Is told that something else will be put in the cell, or that what lies in it is taken.

        A value that is elsewhere comes back, and so do those that lie there with it.
        """


def held_value(cell: Holding) -> Any:
    """Returns the value in a cell itself, past all frames."""
    value = cell._value
    return value.found_in(cell) if isinstance(value, Deferred) else value
