"""Replacing what a selection selects, and refusing what doesn't fit its place."""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import jax
import jax.core
import jax.dtypes
import jax.numpy as jnp
import numpy as np

from .._errors import StructureError
from .._tree import Cell, Path, flatten, format, is_array, is_inexact, is_number, is_numeric, kinds

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
    olds, old_structure = flatten(old, lambda: f"what is at '{format(path)}'")
    news, new_structure = flatten(new, lambda: f"the value for '{format(path)}'")
    if old_structure != new_structure:
        _refuse_change(path, "structure", old_structure, new_structure)
    for position, (before, after) in enumerate(zip(olds, news, strict=True)):
        if is_array(before) and type(after) in (bool, int, float, complex):
            news[position] = after = _as_array(after, before)
        if is_number(before):
            _check_number(path, before, after)
        if (before is None) != (after is None) or (is_array(before) and not is_array(after)):
            _refuse_change(path, "structure", *map(_class_of, (before, after)))
        if is_array(before) and before.shape != after.shape:
            _refuse_change(path, "shape", before.shape, after.shape)
        if is_array(before) and before.dtype != after.dtype:
            _refuse_change(path, "dtype", before.dtype, after.dtype)
    return new_structure.unflatten(news)


def added(path: Path, value: Any, step: Any) -> Any:
    """Returns a value with an update added, of the value's dtypes."""
    if jax.tree.structure(value) != jax.tree.structure(step):
        there = "no update" if step is None else "an update of another structure"
        _refuse_step(
            path, f"there is {there} for it", "a lens that selects just what was optimised"
        )
    return jax.tree.map(lambda old, new: _added_leaf(path, old, new), value, step)


def _added_leaf(path: Path, value: Any, step: Any) -> Any:
    if not (is_array(value) and is_array(step)):
        return jnp.add(value, step)
    if value.shape != step.shape:
        found = f"it has shape {value.shape}, and its update {step.shape}"
        _refuse_step(path, found, "an update of the same shape")
    total = jnp.add(value, step)
    # A wider float is rounded, as Optax does it; an integer or a real number is something else.
    are_floats = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (value, step))
    if total.dtype != value.dtype and not are_floats:
        found = f"it has dtype {value.dtype}, and its update {step.dtype}"
        _refuse_step(path, found, f"an update of dtype {value.dtype}")
    return total.astype(value.dtype)


def _refuse_step(path: Path, found: str, remedy: str) -> NoReturn:
    raise StructureError(f"asked to apply updates to '{format(path)}'", found, remedy)


def cast_floats(array: Any, dtype: Any) -> Any:
    """Casts a floating-point array, or what stands for one."""
    to_real = not jnp.issubdtype(dtype, jnp.complexfloating)
    if not is_inexact(array) or (to_real and jnp.issubdtype(array.dtype, jnp.complexfloating)):
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, dtype, sharding=array.sharding)
    return array.astype(dtype)


def placed_as(old: Any, new: Any) -> Any:
    """Returns a value that shares no memory with NumPy, on the devices of what it replaces."""
    olds, old_structure = flatten(old)
    news, structure = flatten(new)
    olds = olds if old_structure == structure else [None] * len(news)
    return structure.unflatten(map(_placed_as, olds, news))


def _placed_as(old: Any, new: Any) -> Any:
    if new is old or not isinstance(new, (np.ndarray, jax.Array)):
        return new
    # JAX, too, may keep what it is given.
    new = new.copy() if isinstance(new, np.ndarray) else new
    traced = isinstance(old, jax.core.Tracer) or isinstance(new, jax.core.Tracer)
    if traced or not isinstance(old, jax.Array) or old.shape != new.shape:
        return new
    if isinstance(new, jax.Array) and new.sharding.is_equivalent_to(old.sharding, old.ndim):
        return new
    if jax.dtypes.canonicalize_dtype(new.dtype) != new.dtype:
        return new  # JAX would cast it
    # What isn't committed to its devices stays so.
    is_free = isinstance(new, np.ndarray) and not old.committed
    return jnp.asarray(new) if is_free else jax.device_put(new, old.sharding)


def _check_number(path: Path, before: Any, after: Any) -> None:
    """Refuses what isn't a number of the same kind: of Python, or an array of no dimensions."""
    if is_array(after) and after.shape != ():
        _refuse_change(path, "shape", (), after.shape)
    kind = next(kind for kind in _KINDS if isinstance(before, kind))
    if not is_numeric(after) or not jnp.issubdtype(jnp.result_type(after), _KINDS[kind]):
        after = after.dtype if is_array(after) else type(after).__name__
        _refuse_change(path, "kind", kind.__name__, after)


_KINDS = {int: jnp.integer, float: jnp.floating, complex: jnp.complexfloating}


def _are_alike(olds: list[Any], news: list[Any]) -> bool:
    """Says whether each array takes the place of one of its kind, as is nearly always so."""
    if all(map(operator.is_, olds, news)):
        return True
    return list(map(type, olds)) == list(map(type, news)) and kinds(olds) == kinds(news)


def _as_array(number: Any, like: Any) -> Any:
    # With its dtype named, the array isn't weakly typed.
    dtype = jnp.result_type(number)
    return jnp.asarray(number, like.dtype if like.dtype == dtype else dtype)


def _class_of(leaf: Any) -> str:
    return "array" if is_array(leaf) else type(leaf).__name__


def _refuse_change(path: Path, what: str, old: Any, new: Any) -> None:
    raise StructureError(
        f"asked to put a value at '{format(path)}'",
        f"its {what} is {new}, and that of what is there is {old}",
        f"a value of {what} {old}",
        "replace=True of set, update or assign, if the change is meant",
    )
