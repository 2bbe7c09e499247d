"""Pools: where the values of states are between the calls of a program that runs in a row.

A training step is called again and again, and takes what it gave the last time. After a few
calls of one program, with nobody else at its states, their values are left in the lists that the
program takes, and each cell holds a reference to its place there. Who reads a state finds its
value by that. Before anyone writes a state, or runs another program that takes it, all values go
back to their cells.
"""

from collections.abc import Sequence
from typing import Any

from .._held import Deferred, Holding, held_value, moves, moving
from .._reads import epoch
from .._trace import is_concrete

_CALLS_IN_A_ROW = 8


class Pool:
    """The values of the states that a program takes, while it runs in a row.

    Attributes:
        cells: The states, and what stands for several; those that are donated first.
        good_at: At what count of the epoch the program was seen to be good, if the pool is open.
        donated: The values of the states that are donated, if it is open.
        kept: Those of the other ones.
        written: The states that the program writes, as its results come in that order; None, if
            the pool isn't open.
        writes_all_kept: Whether they are all states, and none are donated.
        writes_all_donated: Whether they are those that are donated.
    """

    __slots__ = (
        "__weakref__",
        "_calls",
        "_count",
        "_places",
        "cells",
        "donated",
        "good_at",
        "kept",
        "writes_all_donated",
        "writes_all_kept",
        "written",
    )

    def __init__(self, donated: Sequence[Holding], kept: Sequence[Holding]):
        self.cells = (*donated, *kept)
        self.good_at = -1
        self.written: Sequence[Holding] | None = None
        self.donated: list[Any] = []
        self.kept: list[Any] = []
        self.writes_all_kept = self.writes_all_donated = False
        self._count = len(donated)
        self._calls = 0
        self._places: list[int] = []

    @property
    def is_open(self) -> bool:
        """Whether the values are here, and not in their cells."""
        return self.written is not None

    def is_due(self) -> bool:
        """Says whether the program has now run often enough in a row; to be asked at each call."""
        self._calls += 1
        return self._calls > _CALLS_IN_A_ROW

    def open(self, written: Sequence[Holding]) -> bool:
        """Takes the values of all states over from their cells, if that can be done.

        Args:
            written: The states that the program has written.

        Returns:
            Whether it could be done.
        """
        self._calls = 0
        with moving:
            values = [cell._value for cell in self.cells]
            if not all(map(_can_be_taken, values)):
                return False
            where = {cell: place for place, cell in enumerate(written)}
            self.donated, self.kept = values[: self._count], values[self._count :]
            self._places = [where.get(cell, len(where) + n) for n, cell in enumerate(self.cells)]
            self.writes_all_donated = self.cells[: self._count] == written
            self.writes_all_kept = not self._count and self.cells == written
            # First: who gathers values in another thread, and meets what isn't one, must know.
            moves.advance()
            for place, cell in enumerate(self.cells):
                cell._value = Pooled(self, place)
            self.written, self.good_at = written, epoch.now
        return True

    def put(self, values: Sequence[Any]) -> None:
        """Takes what the program has written for what it will be given."""
        everything = [*values, *self.donated, *self.kept]
        taken = [everything[place] for place in self._places]
        self.donated, self.kept = taken[: self._count], taken[self._count :]

    def close(self) -> None:
        """Gives the values back to their cells."""
        with moving:
            # In this order: a call in another thread, which is just about to leave its values
            # here, sees that it has to store them, which it can when they are all back.
            self.written, self.good_at = None, -1
            for number, cell in enumerate(self.cells):
                value = cell._value
                if type(value) is Pooled and value.pool is self:
                    cell._value = self.value(number)
            self.donated, self.kept = [], []

    def value(self, number: int) -> Any:
        """Returns the value of a state, as the program takes it."""
        count = self._count
        return self.donated[number] if number < count else self.kept[number - count]


class Pooled(Deferred):
    """Stands for the value of a state, which is in a pool.

    Attributes:
        pool: The pool.
    """

    __slots__ = ("_number", "pool")

    is_elsewhere = True

    def __init__(self, pool: Pool, number: int):
        self.pool = pool
        self._number = number

    @property
    def holds_array(self) -> bool:
        """Whether the value is an array or a number, and not a tree of them."""
        return is_concrete(self.pool.value(self._number))

    def found_in(self, cell: Holding) -> Any:
        """Returns the value; it stays in the pool, if it needn't be put together."""
        try:
            value = self.pool.value(self._number)
        except IndexError:  # another thread has just closed the pool
            return held_value(cell)
        if not isinstance(value, Deferred):
            return value
        self.pool.close()
        return value.found_in(cell)

    def make_room(self, cell: Holding) -> None:
        """Gives all values of the pool back to their cells."""
        self.pool.close()


def _can_be_taken(value: Any) -> bool:
    """Says whether a value may lie in a pool."""
    if isinstance(value, Deferred):
        return not value.is_elsewhere  # another thread has just taken it somewhere
    return is_concrete(value)  # any other tree may be changed where it is


def close_pools(cells: Sequence[Holding]) -> None:
    """Sees to it that the values of states are in their cells."""
    for cell in cells:
        value = cell._value
        if isinstance(value, Deferred):
            value.make_room(cell)
