"""What the lens layers know of states: that one is a unit, with a value inside."""

import abc
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, ClassVar, Self, TypeVar

T = TypeVar("T")

MISSING: Any = object()
"""Stands for an attribute or a child that isn't there."""


class LensLeaf:
    """A node at which lenses stop, though JAX goes on below it: a cell, or a marker."""


class Cell(LensLeaf):
    """All that lenses know of a `State`: a box around a pytree of arrays that is one unit."""

    # (No metaclass: with one, `isinstance` would take three times as long, for each leaf.)

    value: Any
    name: str | None
    tag: frozenset[str]

    # Whether a lens of the class (not of one derived from it) takes in the arrays of layers.
    stands_for_layers: ClassVar[bool] = False

    @abc.abstractmethod
    def look(self) -> Any:
        """Returns the value to look at its structure, shapes and dtypes, without touching it."""
        # It must not be changed in place, nor be handed to anyone who might.

    @abc.abstractmethod
    def with_value(self, value: Any) -> Self:
        """Returns a new cell that differs in its value only."""

    @staticmethod
    @abc.abstractmethod
    def read_all(cells: Sequence[Any]) -> list[Any]:
        """Returns the values of several cells."""

    @staticmethod
    @abc.abstractmethod
    def write_all(cells: Sequence[Any], values: Sequence[Any]) -> None:
        """Assigns the values of several cells, or of none of them if one is refused."""

    @property
    @abc.abstractmethod
    def _original(self) -> "Cell":
        """The cell that this one stands for: itself, or one that it was made in place of."""

    @abc.abstractmethod
    def _description(self) -> str:
        """Says what to call the cell where its value may be gone."""

    @property
    @abc.abstractmethod
    def _readers(self) -> Any:
        """The traces that depend on the metadata."""

    @property
    @abc.abstractmethod
    def metadata(self) -> Hashable:
        """All but the value, as JAX keeps it in a tree structure."""


class MutableNode:
    """All that lenses know of an `nn.Module`: its attributes are cells, hidden or not."""

    @abc.abstractmethod
    def _cell_of(self, name: Any) -> Cell | None:
        """Returns the hidden cell behind an attribute, or None where there is none."""

    @abc.abstractmethod
    def _attributes(self) -> dict[str, Any]:
        """Returns the attributes as they read, in the order in which they are visited."""

    @property
    @abc.abstractmethod
    def _readers(self) -> Any:
        """The traces that have read attributes of the node."""

    @abc.abstractmethod
    def _snapshot(self) -> Callable[[], None]:
        """Returns a function that undoes all changes of attributes from now on."""

    @abc.abstractmethod
    def _read_attribute(self, name: str | None) -> Any:
        """Returns an attribute, or the cell behind it, unrecorded; for None all names."""

    @abc.abstractmethod
    def _keep(self, kept: Any, find: Callable[[], Any]) -> Any:
        """Returns `kept`, or if that is None or out of date, an object with what `find` gives."""
        # What is found may not depend on values and labels of cells. It is in `.found`.

    @abc.abstractmethod
    def _hidden_cells(self) -> dict[tuple[Hashable, ...], Cell]:
        """Returns all hidden cells of the node and those below it, by path."""


_looking: ContextVar[bool] = ContextVar("statelens_looking", default=False)


def looking(fun: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Calls a function while flattening a mutable node looks at hidden cells, and touches none."""
    # In a context of its own, which C leaves: no interrupt leaves the flag behind.
    return copy_context().run(_looking_at, fun, *args, **kwargs)


def _looking_at(fun: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    _looking.set(True)
    return fun(*args, **kwargs)


def open_hidden(cell: Cell) -> Any:
    """Returns the value of a hidden cell, for the flattening of its node."""
    return cell.look() if _looking.get() else cell.value


class CellProbe:
    """Notices in `met` whether a flattening passes through a leaf of lenses or a mutable node."""

    __slots__ = ("met",)

    def __init__(self) -> None:
        self.met = False

    def run(self, flatten: Callable[..., T], *args: Any) -> T:
        """Flattens under the probe."""
        # In a context of its own, which C leaves: no interrupt leaves the probe behind.
        return copy_context().run(self._run, flatten, *args)

    def _run(self, flatten: Callable[..., T], *args: Any) -> T:
        _probe.set(self)
        return flatten(*args)


_probe: ContextVar[CellProbe | None] = ContextVar("statelens_probe", default=None)


def is_probed() -> bool:
    """Reports a node to the open probe; if there is one, what the node flattens to is unused."""
    probe = _probe.get()
    if probe is None:
        return False
    probe.met = True
    return True
