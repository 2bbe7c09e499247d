"""What a state lends where its value might be changed in place: a copy, to be looked at again."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._tree import flatten_as_jax


class Lent:
    """A copy of a value, for code that may change it in place.

    Args:
        value: The value.
        name: Says what to call it.

    Attributes:
        copy: The copy; of its leaves, arrays of NumPy are copied too.
    """

    def __init__(self, value: Any, name: Callable[[], str]):
        self._leaves, self._treedef = flatten_as_jax(value, name=name)
        self.copy: Any = self._treedef.unflatten(
            [leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in self._leaves]
        )

    def has_changed(self) -> bool:
        """Says whether the copy is no longer what the value was."""
        try:
            leaves, treedef = jax.tree.flatten(self.copy)
        except ValueError:  # a key that was added doesn't sort
            return True
        return treedef != self._treedef or any(map(_differs, self._leaves, leaves))


def _differs(before: Any, after: Any) -> bool:
    if not (isinstance(before, np.ndarray) and isinstance(after, np.ndarray)):
        return before is not after
    return before.dtype != after.dtype or before.tobytes() != after.tobytes()
