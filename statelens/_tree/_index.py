"""Indices: how a part of an array is read, written and put in text.

They are NumPy's basic indices, and lists of different positions along one axis, such as scattered
rows. No item of an array is chosen twice, so that a part has one gradient and one place.
"""

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .._errors import StructureError
from ._path import Path, format, format_slice


@dataclass(frozen=True)
class Index:
    """A part of an array."""

    # An integer, an ellipsis, the three numbers of a slice, or positions, for each axis: a slice
    # has no hash before Python 3.12.
    items: tuple[Any, ...]

    @classmethod
    def of(cls, index: Any) -> Self:
        """Reads what stands between the brackets of an indexing expression."""
        items = index if isinstance(index, tuple) else (index,)
        items = tuple(map(_read_item, items or (Ellipsis,)))
        lists = sum(isinstance(item, Positions) for item in items)
        # NumPy puts the axis of a list elsewhere where there are integers around.
        if lists > 1 or (lists and any(isinstance(item, int) for item in items)):
            raise StructureError(
                f"asked for a part of an array by the index {index!r}",
                "positions are chosen along one axis, beside slices",
                "a slice for each other axis, as in [[1, 5], 0:1]",
            )
        return cls(items)

    @property
    def key(self) -> tuple[Any, ...]:
        """What stands between the brackets, for NumPy and JAX."""
        return tuple(map(_key_of, self.items))

    def __str__(self) -> str:
        return f"[{', '.join(map(_format_item, self.items))}]"

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the part of an array of some shape."""
        part = np.broadcast_to(np.empty(()), shape)[self.key].shape
        self._refuse_twice(shape)
        return part

    def _refuse_twice(self, shape: tuple[int, ...]) -> None:
        """Refuses positions of which two are the same, one of them counted from the end."""
        for number, item in enumerate(self.items):
            if isinstance(item, Positions):
                axis = number
                if Ellipsis in self.items[:number]:
                    axis = len(shape) - (len(self.items) - number)
                if len({at % shape[axis] for at in item.at}) < len(item.at):
                    raise IndexError(f"the positions {list(item.at)} are not all different")

    def read(self, array: Any) -> Any:
        """Returns the part of an array."""
        if isinstance(array, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(self.shape(array.shape), array.dtype)
        return array[self.key]

    def write(self, array: Any, part: Any) -> Any:
        """Returns the array with another part; nothing else of it changes."""
        if isinstance(array, jax.ShapeDtypeStruct):
            return array
        if isinstance(array, np.ndarray) and not isinstance(part, jax.Array):
            array = array.copy()
            array[self.key] = part
            return array
        return jnp.asarray(array).at[self.key].set(part)

    def fits(self, array: Any) -> bool:
        """Says whether an array has the part."""
        try:
            self.shape(np.shape(array))
        except IndexError:
            return False
        return True

    def check(self, path: Path, array: Any) -> None:
        """Refuses an index that the array at `path` doesn't have."""
        shape = np.shape(array)
        try:
            self.shape(shape)
        except IndexError as error:
            raise StructureError(
                f"asked for the part {self} of '{format(path)}'",
                f"its shape is {shape}: {error}",
                "an index within the shape",
            ) from None


@dataclass(frozen=True)
class Positions:
    """Different positions along one axis."""

    at: tuple[int, ...]


def _key_of(item: Any) -> Any:
    if isinstance(item, Positions):
        return np.asarray(item.at, int)
    return slice(*item) if isinstance(item, tuple) else item


def _read_item(item: Any) -> Any:
    if item is Ellipsis:
        return item
    if isinstance(item, slice):
        return (item.start, item.stop, item.step)
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        return int(item)
    if isinstance(item, (list, np.ndarray, jax.Array)) and not isinstance(item, jax.core.Tracer):
        positions = np.asarray(item)
        if positions.ndim == 1 and (positions.dtype.kind in "iu" or not positions.size):
            return Positions(tuple(positions.astype(int).tolist()))
    raise StructureError(
        f"asked for a part of an array by the index {item!r}",
        "a part is chosen by integers, slices, '...' and a list of positions, "
        f"not by {type(item).__name__}",
        "choose a contiguous part, as in lens('embed.weight')[100:110]",
        "choose rows, as in lens('embed.weight')[[1, 5, 99]], or [np.flatnonzero(mask)] for those "
        "that a mask marks",
    )


def _format_item(item: Any) -> str:
    if item is Ellipsis:
        return "..."
    if isinstance(item, Positions):
        return str(list(item.at))
    return format_slice(*item) if isinstance(item, tuple) else str(item)
