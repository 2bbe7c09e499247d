"""Replacing what a selection selects, and refusing what doesn't fit its place."""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import jax.numpy as jnp

from .._errors import StructureError
from .._tree import Cell, Path, flatten, format, is_array, kinds

if TYPE_CHECKING:
    from ._selection import Entry, Focused, Selection


def read_all(leaves: list[Any], selection: "Selection") -> list[Any]:
    """Returns what each entry of a selection stands for: a unit, or a part of one."""
    units = [leaves[position] for position in selection.positions]
    for position, numbers in selection.parts.items():
        unit = leaves[position]
        atoms = flatten(unit.value)[0] if isinstance(unit, Cell) else [unit]
        for number in numbers:
            entry = selection[number]
            atom = atoms[entry.atom or 0]
            units[number] = atom if entry.index is None else entry.index.read(atom)
    return units


def values_of(leaves: list[Any], selection: "Selection") -> list[Any]:
    """Returns the value of each entry of a selection; that of a cell is what is in it."""
    values = read_all(leaves, selection)
    for number in selection.cells:
        values[number] = values[number].value
    return values


def replace_in(focused: "Focused", values: Sequence[Any], *, free: bool) -> Any:
    """Puts values in the places of what is selected, of another kind only if `free`."""
    leaves, selection = list(focused.leaves), focused.entries
    paths, positions = selection.paths, selection.positions
    places = [positions[number] for number in selection.arrays]
    olds = [leaves[place] for place in places]
    news = [values[number] for number in selection.arrays]
    if not _are_alike(olds, news):
        news = [value.value if isinstance(value, Cell) else value for value in news]
        if not free:
            news = list(map(like, [paths[number] for number in selection.arrays], olds, news))
    for place, new in zip(places, news, strict=True):
        leaves[place] = new
    for number in selection.cells:
        position, value = positions[number], values[number]
        leaves[position] = _replace_cell(leaves[position], paths[number], value, free=free)
    for position, numbers in selection.parts.items():
        pairs = [(selection[number], values[number]) for number in numbers]
        leaves[position] = _replace_parts(leaves[position], pairs, free=free)
    for position, first in selection.repeats.items():
        leaves[position] = leaves[first]
    return focused.treedef.unflatten(leaves)


def _replace_cell(cell: Cell, path: Path, value: Any, *, free: bool) -> Cell:
    if value is cell:
        return cell
    value = value.value if isinstance(value, Cell) else value
    return cell.with_value(value if free else like(path, cell.value, value))


def _replace_parts(unit: Any, pairs: list[tuple["Entry", Any]], *, free: bool) -> Any:
    if not isinstance(unit, Cell):
        ((entry, value),) = pairs
        return _put(unit, entry, value.value if isinstance(value, Cell) else value, free=free)
    leaves, treedef = flatten(unit.value)
    for entry, value in pairs:
        atom = cast(int, entry.atom)
        leaves[atom] = _put(leaves[atom], entry, value, free=free)
    return unit.with_value(treedef.unflatten(leaves))


def _put(old: Any, entry: "Entry", value: Any, *, free: bool) -> Any:
    """Returns what takes the place of an array, or of an entry's part of it."""
    if entry.index is None:
        return value if free else like(entry.path, old, value)
    return entry.index.write(old, like(entry.path, entry.index.read(old), value))


def like(path: Path, old: Any, new: Any) -> Any:
    """Refuses a value that differs in structure, shapes or dtypes; makes a number an array."""
    if new is old or (is_array(old) and _are_alike([old], [new])):
        return new
    olds, old_structure = flatten(old)
    news, new_structure = flatten(new)
    if old_structure != new_structure:
        _refuse_change(path, "structure", old_structure, new_structure)
    for position, (before, after) in enumerate(zip(olds, news, strict=True)):
        if is_array(before) and type(after) in (bool, int, float, complex):
            news[position] = after = _as_array(after, before)
        if (before is None) != (after is None) or (is_array(before) and not is_array(after)):
            _refuse_change(path, "structure", type(before).__name__, type(after).__name__)
        if is_array(before) and before.shape != after.shape:
            _refuse_change(path, "shape", before.shape, after.shape)
        if is_array(before) and before.dtype != after.dtype:
            _refuse_change(path, "dtype", before.dtype, after.dtype)
    return new_structure.unflatten(news)


def _are_alike(olds: list[Any], news: list[Any]) -> bool:
    """Says whether each array takes the place of one of its kind, as is nearly always so."""
    if all(map(operator.is_, olds, news)):
        return True
    return list(map(type, olds)) == list(map(type, news)) and kinds(olds) == kinds(news)


def _as_array(number: Any, like: Any) -> Any:
    # With its dtype named, the array isn't weakly typed.
    dtype = jnp.result_type(number)
    return jnp.asarray(number, like.dtype if like.dtype == dtype else dtype)


def _refuse_change(path: Path, what: str, old: Any, new: Any) -> None:
    raise StructureError(
        f"asked to put a value at '{format(path)}'",
        f"its {what} is {new}, and that of what is there is {old}",
        f"a value of {what} {old}",
        "replace=True of set, update or assign, if the change is meant",
    )
