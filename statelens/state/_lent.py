"""What a state lends where its value might be changed in place: a copy, to be looked at again."""

from typing import Any

import jax
import numpy as np


class Lent:
    """A copy of a value, for code that may change it in place.

    Args:
        value: The value.

    Attributes:
        copy: The copy; of its leaves, arrays of NumPy are copied too.
    """

    def __init__(self, value: Any):
        self._leaves, self._treedef = jax.tree.flatten(value)
        self.copy: Any = self._treedef.unflatten(
            [leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in self._leaves]
        )

    def has_changed(self) -> bool:
        """Says whether the copy is no longer what the value was."""
        leaves, treedef = jax.tree.flatten(self.copy)
        return treedef != self._treedef or any(map(_differs, self._leaves, leaves))


def _differs(before: Any, after: Any) -> bool:
    if not (isinstance(before, np.ndarray) and isinstance(after, np.ndarray)):
        return before is not after
    return before.dtype != after.dtype or before.tobytes() != after.tobytes()
