"""Positions in a list, kept so that what lies there is moved all at once.

A lens mostly picks the same leaves of each layer, which lie at regular distances. Such
positions are a few slices, to be read and assigned in C.
"""

from collections.abc import Iterator, Sequence
from typing import Any

_FEWEST_IN_SLICE = 4


class Positions:
    """Positions in a list, in the order in which they are read and written.

    Args:
        each: The positions.
    """

    def __init__(self, each: Sequence[int]):
        slices = list(_slices(each))
        # Short slices take longer than their items one by one.
        few = max(1, len(each) // _FEWEST_IN_SLICE)
        self._slices = slices if len(slices) <= few else None
        self._each = each

    def read(self, items: Sequence[Any]) -> list[Any]:
        """Returns the items at the positions."""
        if self._slices is None:
            return list(map(items.__getitem__, self._each))
        found: list[Any] = []
        for there, _ in self._slices:
            found += items[there]
        return found

    def write(self, items: list[Any], values: Sequence[Any]) -> None:
        """Puts values, one for each position, in the places of the items there."""
        if self._slices is None:
            for position, value in zip(self._each, values, strict=True):
                items[position] = value
        else:
            for there, here in self._slices:
                items[there] = values[here]


def _slices(positions: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Gives slices of equal distances, each with its own place among the positions."""
    start = 0
    while start < len(positions):
        first, step, stop = positions[start], 1, start + 1
        if stop < len(positions) and positions[stop] > first:
            step = positions[stop] - first
            while stop < len(positions) and positions[stop] == first + (stop - start) * step:
                stop += 1
        yield slice(first, first + (stop - start - 1) * step + 1, step), slice(start, stop)
        start = stop
