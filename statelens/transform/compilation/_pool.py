"""Pools: where the values of states are between the calls of a program that runs in a row.

A training step is called again and again, and takes what it gave the last time. After a few
calls of one program, with nobody else at its states, their values are left in what the program
gives and takes again, and each cell holds a reference to its place there. Who reads a state finds
its value by that. Before anyone writes a state, or runs another program that takes it, all values
go back to their cells.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...state import Deferred, Holding, epoch, held_value, is_concrete, moves, moving

_CALLS_IN_A_ROW = 8


class Arrangement(NamedTuple):
    """How to leave what a program has written beside what it hasn't.

    Attributes:
        result_length: How many items a result has that writes just these states.
        arrange: Gives what the program takes next, from what it has written and what it was
            given.
    """

    result_length: int
    arrange: Callable[[tuple[Any, ...]], tuple[Any, ...]]


class Pool:
    """The values of the states that a program takes, while it runs in a row.

    Attributes:
        cells: The states, and what stands for several.
        good_at: In what epoch the program was seen to be good, if the pool is open.
        values: The values of the states; None, if it isn't open.
        is_open: Whether the values are here, and not in their cells.
        result_length: How many items a result of the program has that writes all states in the
            order in which they are taken, so that the values can be left here as they come (see
            `Program.staged`); 0, if the pool isn't open, or the program writes others.
        arrangement: How to leave the values of those that it writes; None likewise.
    """

    __slots__ = (
        "__weakref__",
        "_calls",
        "arrangement",
        "cells",
        "good_at",
        "is_open",
        "result_length",
        "values",
    )

    def __init__(self, cells: Sequence[Holding]):
        self.cells = cells
        self.good_at: object = None
        self.values: tuple[Any, ...] | None = None
        self.result_length = 0
        self.arrangement: Arrangement | None = None
        self.is_open = False
        self._calls = 0

    def is_due(self) -> bool:
        """Says whether the program has now run often enough in a row; to be asked at each call."""
        self._calls += 1
        return self._calls > _CALLS_IN_A_ROW

    def open(self, written: Sequence[Holding], result: Any) -> bool:
        """Takes the values of all states over from their cells, if that can be done.

        Args:
            written: The states that the program has written.
            result: What it has given.

        Returns:
            Whether it could be done.
        """
        self._calls = 0
        with moving:
            values = tuple([cell._value for cell in self.cells])
            if not all(map(_can_be_taken, values)):
                return False
            where = {cell: place for place, cell in enumerate(written)}
            if not where.keys() <= set(self.cells):
                return False  # what was in a block came out by itself
            places = [where.get(cell, len(where) + n) for n, cell in enumerate(self.cells)]
            is_all = self.cells == written or len(places) == 1
            self.values = values
            # First: who gathers values in another thread, and meets what isn't one, must know.
            moves.advance()
            for place, cell in enumerate(self.cells):
                cell._value = Pooled(self, place)
            if is_all and written:
                self.result_length = len(result)
            elif written:
                self.arrangement = Arrangement(len(result), operator.itemgetter(*places))
            # Last: what is interrupted before has opened nothing.
            self.good_at, self.is_open = epoch.now, True
        return True

    def close(self) -> None:
        """Gives the values back to their cells."""
        with moving:
            # In this order: a call in another thread, which is just about to leave its values
            # here, sees that it has to store them, which it can when they are all back. One
            # that didn't see it has left them before they are read.
            self.result_length, self.arrangement, self.good_at = 0, None, None
            self.is_open = False
            values = self.values or ()
            for number, cell in enumerate(self.cells):
                value = cell._value
                if type(value) is Pooled and value.pool is self:
                    cell._value = values[number]
            self.values = None


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
        values = self.pool.values
        return values is not None and is_concrete(values[self._number])

    def found_in(self, cell: Holding) -> Any:
        """Returns the value; it stays in the pool, if it needn't be put together."""
        values = self.pool.values
        if values is None:  # another thread has just closed the pool
            return held_value(cell)
        value = values[self._number]
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
