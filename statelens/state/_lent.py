"""What a state lends where its value might be changed in place: a copy, to be looked at again.

A frame looks at it when its writes are taken out. Plain JAX has no such moment: what a trace of
it was lent is looked at when the thread that ran the trace comes back to the state.
"""

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import jax
import numpy as np

from .._tree import flatten_as_jax
from ._context import TOP, current_trace
from ._refusals import refuse_change_in_place

if TYPE_CHECKING:
    from ._state import State


class Lent:
    """A copy of a value, for code that may change it in place.

    Args:
        value: The value.
        name: Says what to call it.

    Attributes:
        copy: The copy; of its leaves, arrays of NumPy are copied too.
    """

    def __init__(self, value: Any, name: Callable[[], str]):
        leaves, self._treedef = flatten_as_jax(value, name=name)
        # The value itself may be changed in place, too, by code that is no trace.
        self._leaves = list(map(_copied, leaves))
        self.copy: Any = self._treedef.unflatten(map(_copied, leaves))

    def has_changed(self) -> bool:
        """Says whether the copy is no longer what the value was."""
        return not self.equals(self.copy)

    def equals(self, value: Any) -> bool:
        """Says whether a value is what the one was that the copy was made of."""
        try:
            leaves, treedef = jax.tree.flatten(value)
        except ValueError:  # a key that was added doesn't sort
            return False
        return treedef == self._treedef and all(map(_are_same, self._leaves, leaves))


def _copied(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _are_same(before: Any, after: Any) -> bool:
    if not (isinstance(before, np.ndarray) and isinstance(after, np.ndarray)):
        return before is after
    return before.dtype == after.dtype and before.tobytes() == after.tobytes()


class Lendings(dict[int, tuple["ref[State[Any]]", Lent]]):
    """Copies that plain JAX was lent, by the id of the state; they must come back as they were."""

    # Not in the cells: to put a copy there might undo what another thread has just assigned.

    def lend(self, cell: "State[Any]", value: Any) -> Any:
        """Returns a copy of a state's value, the same one as long as the value is the same."""
        # Traced, or of a class that hasn't been met.
        if isinstance(value, jax.Array):
            return value
        self.check(cell, is_over=False)
        found = self.get(id(cell))
        if found is None or not found[1].equals(value):
            lent = Lent(value, cell._description)
            found = self[id(cell)] = ref(cell, partial(self.pop, id(cell))), lent
        return found[1].copy

    def check(self, cell: "State[Any] | None", is_over: bool) -> None:
        """Refuses to go on with a state of which the copy was changed; forgets it at the end."""
        found = self.get(id(cell))
        if cell is None or found is None:
            return
        has_changed = found[1].has_changed()
        if is_over or has_changed:
            del self[id(cell)]
        if has_changed:
            refuse_change_in_place(cell)

    def check_all(self) -> None:
        """Refuses to go on if any copy was changed."""
        for cell, _ in list(self.values()):
            self.check(cell(), is_over=True)


class _ThisThread(threading.local):
    """What plain traces of this thread were lent where no frame is open."""

    def __init__(self) -> None:
        self.lendings = Lendings()

    def check(self, cells: "Iterable[State[Any]]") -> None:
        """Refuses to go on with states of which a trace that is none of ours has changed a copy."""
        is_over = current_trace() == TOP
        for cell in cells:
            self.lendings.check(cell, is_over)


# To be asked for `lendings` first: there are none, as a rule.
this_thread = _ThisThread()
