"""The states behind attributes that are arrays alone, such as those of an Equinox layer."""

from typing import Any

import jax

from .._tree import is_array
from ..state import State
from ._graph import contains_mutables, is_mutable


class HiddenCell(State[Any]):
    """The state behind an attribute that holds arrays, such as an Equinox layer."""

    def __repr__(self) -> str:
        return f"the attribute {self.name!r}"


def is_hidden(value: Any) -> bool:
    """Says whether a value is arrays alone, so that a hidden state holds it."""
    has_arrays = any(map(is_array, jax.tree.leaves(value, is_leaf=is_mutable)))
    return has_arrays and not contains_mutables(value)
