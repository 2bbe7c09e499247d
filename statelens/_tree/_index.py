"""NumPy basic indices: how a part of an array is read, written and put in text."""

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import StructureError
from ._path import Path, format, format_slice


@dataclass(frozen=True)
class Index:
    """A NumPy basic index: a part of an array."""

    # An integer, an ellipsis, or the three numbers of a slice, for each axis: a slice has no
    # hash before Python 3.12.
    items: tuple[Any, ...]

    @classmethod
    def of(cls, index: Any) -> Self:
        """Reads what stands between the brackets of an indexing expression."""
        return cls(tuple(map(_read_item, index if isinstance(index, tuple) else (index,))))

    @property
    def key(self) -> tuple[Any, ...]:
        """What stands between the brackets, for NumPy and JAX."""
        return tuple(slice(*item) if isinstance(item, tuple) else item for item in self.items)

    def __str__(self) -> str:
        return f"[{', '.join(map(_format_item, self.items)) or '...'}]"

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the part of an array of some shape."""
        return np.broadcast_to(np.empty(()), shape)[self.key].shape

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


def _read_item(item: Any) -> Any:
    if item is Ellipsis:
        return item
    if isinstance(item, slice):
        return (item.start, item.stop, item.step)
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        return int(item)
    raise StructureError(
        f"asked for a part of an array by the index {item!r}",
        f"a part is chosen by integers, slices and '...', not by {type(item).__name__}",
        "choose a contiguous part, as in lens('embed.weight')[100:110]",
    )


def _format_item(item: Any) -> str:
    if item is Ellipsis:
        return "..."
    return format_slice(*item) if isinstance(item, tuple) else str(item)
