"""The states behind attributes that are arrays alone, such as those of an Equinox layer."""

from typing import Any

import equinox as eqx

from .._errors import StateTypeError
from .._tree import Cell, is_array, is_numeric
from ..state import State
from . import _attribute_tree as tree
from ._attribute_tree import is_mutable
from ._graph import contains_mutables


class HiddenCell(State[Any]):
    """The state behind an attribute that holds arrays, such as an Equinox layer."""

    def _description(self) -> str:
        return f"the attribute {self.name!r}"

    __repr__ = _description


def is_hidden(value: Any) -> bool:
    """Says whether a value is arrays alone, so that a hidden state holds it."""
    has_arrays = any(map(is_array, tree.leaves(value, is_mutable)))
    return has_arrays and not contains_mutables(value)


def refuse_dropping(module: Any, name: str, before: Any, value: Any) -> None:
    """Refuses to set an attribute of states to values for them, by which the states would go."""
    if contains_mutables(value) or not _are_values_of(before, value):
        return
    kind = type(before).__name__ if isinstance(before, Cell) else "container of states"
    raise StateTypeError(
        f"asked to set the attribute {name!r} of a {type(module).__name__} to "
        f"{eqx.tree_pformat(value)}",
        f"it is a {kind}, which would be dropped: nothing would train or save it any more",
        f"for a new value: model.{name}.value = ..., or model.assign({{{name!r}: ...}})",
        f"for another state: model.{name} = {kind if isinstance(before, Cell) else 'State'}(...)",
        f"for an array that is no state: del model.{name}, before it is set",
    )


def _are_values_of(before: Any, value: Any) -> bool:
    if isinstance(before, Cell) and is_numeric(value):
        return True
    cells, structure, _ = tree.flatten(before, is_mutable)
    if not any(isinstance(cell, Cell) for cell in cells):
        return False
    values = [cell.look() if isinstance(cell, Cell) else cell for cell in cells]
    news, new_structure, _ = tree.flatten(value, is_mutable)
    is_same = tree.flatten(structure.unflatten(values), is_mutable).treedef == new_structure
    return is_same and any(map(is_numeric, news))
