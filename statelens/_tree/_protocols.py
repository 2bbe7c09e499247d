"""What the lens layers know of states: that one is a unit, with a value inside."""

import abc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

MISSING: Any = object()
"""Stands for an attribute or a child that isn't there."""


class LensLeaf:
    """A node at which lenses stop, though JAX goes on below it: a cell, or a marker."""


class Cell(LensLeaf):
    """A box around a pytree of arrays that lenses treat as one unit.

    `statelens.State` is the only kind; the lens knows no more of it than this. (It has no
    metaclass, with which `isinstance` would take three times as long, for each leaf.)

    Attributes:
        value: The pytree inside.
        name: What to call the cell in messages, or None.
        tag: The cell's tags.
    """

    value: Any
    name: str | None
    tag: frozenset[str]

    @abc.abstractmethod
    def look(self) -> Any:
        """Returns the value for a look at its structure, shapes and dtypes.

        A function that does no more than that hasn't touched the cell. The value must not
        be changed in place, nor be handed to anyone who might.
        """

    @abc.abstractmethod
    def with_value(self, value: Any) -> Self:
        """Returns a new cell that differs in its value only."""

    @abc.abstractmethod
    def check_write(self, value: Any) -> None:
        """Refuses a value that assigning would refuse, without assigning it."""

    @property
    @abc.abstractmethod
    def metadata(self) -> Hashable:
        """All but the value, as JAX keeps it in a tree structure."""


class MutableNode:
    """A mutable node whose attributes are cells, though some read as plain values.

    `statelens.nn.Module` is the only kind. (It has no metaclass for the reason that a cell has.)
    """

    @abc.abstractmethod
    def _cell_of(self, name: Any) -> Cell | None:
        """Returns the hidden cell behind an attribute, or None where there is none."""

    @property
    @abc.abstractmethod
    def _readers(self) -> Any:
        """The traces that have read attributes of the node."""

    @abc.abstractmethod
    def _snapshot(self) -> Callable[[], None]:
        """Returns what takes back all changes of attributes from now on."""

    @abc.abstractmethod
    def _read_attribute(self, name: str | None) -> Any:
        """Returns what an attribute is: the cell behind it, if there is one.

        None gives the names of all attributes. Nothing takes note of this.
        """

    @abc.abstractmethod
    def _keep(self, kept: Any, look: Callable[[], Any]) -> Any:
        """Returns what was kept of an earlier look, if it still holds, or else of a new one.

        Args:
            kept: What this gave before, or None.
            look: Looks at the node, and at no values and labels of cells.

        Returns:
            An object with what was found in its attribute `found`.
        """

    @abc.abstractmethod
    def _hidden_cells(self) -> dict[tuple[Hashable, ...], Cell]:
        """Returns all hidden cells of the node and those below it, by path."""


_looking: ContextVar[bool] = ContextVar("statelens_looking", default=False)


@contextmanager
def looking() -> Iterator[None]:
    """While it is open, flattening a mutable node looks at hidden cells, and touches none."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


def open_hidden(cell: Cell) -> Any:
    """Returns the value of a hidden cell, for the flattening of its node."""
    return cell.look() if _looking.get() else cell.value


class CellProbe:
    """A watch for stops, on a flattening that would pass through them.

    Attributes:
        met: Whether there was one. What was flattened is of no use then.
    """

    __slots__ = ("_token", "met")

    def __init__(self) -> None:
        self.met = False
        self._token = _watch.set(self)

    def end(self) -> None:
        """Ends the watch."""
        _watch.reset(self._token)


_watch: ContextVar[CellProbe | None] = ContextVar("statelens_watch", default=None)


def is_probed() -> bool:
    """Tells a watch of a stop; says whether there is one, so that nothing is to be done."""
    watch = _watch.get()
    if watch is None:
        return False
    watch.met = True
    return True
