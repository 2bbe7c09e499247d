"""What the lens layers know of states: that one is a unit, with a value inside."""

import abc
from collections.abc import Callable, Hashable
from typing import Any, Self


class Cell(abc.ABC):
    """A box around a pytree of arrays that lenses treat as one unit.

    `statelens.State` is the only kind; the lens knows no more of it than this.

    Attributes:
        value: The pytree inside.
        name: What to call the cell in messages, or None.
        tag: The cell's tags.
    """

    value: Any
    name: str | None
    tag: frozenset[str]

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


class Holder(abc.ABC):
    """A mutable node whose attributes are cells, though some read as plain values."""

    @abc.abstractmethod
    def _cell_of(self, name: Any) -> Cell | None:
        """Returns the hidden cell behind an attribute, or None where there is none."""

    @abc.abstractmethod
    def _snapshot(self) -> Callable[[], None]:
        """Returns what takes back all changes of attributes from now on."""

    @abc.abstractmethod
    def _read_attribute(self, name: str | None) -> Any:
        """Returns what an attribute is: the cell behind it, if there is one.

        None gives the names of all attributes. Nothing takes note of this.
        """

    @abc.abstractmethod
    def _hidden_cells(self) -> dict[tuple[Hashable, ...], Cell]:
        """Returns all hidden cells of the node and those below it, by path."""
