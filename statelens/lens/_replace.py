"""What the operations of a lens do to single values."""

from typing import Any

import jax
import jax.numpy as jnp

from .._errors import StructureError, explain
from .._tree import Cell, flatten, format, is_array, leaves_with_path
from ._selection import Entry, Selection
from ._selectors import is_inexact


def held_still(array: Any) -> Any:
    """Returns an array through which no gradient flows."""
    # No gradient flows through an array of NumPy, and JAX would cast it.
    return jax.lax.stop_gradient(array) if isinstance(array, jax.Array) else array


def cast_floats(array: Any, dtype: Any) -> Any:
    """Returns an array cast, if it holds floating-point numbers."""
    to_real = not jnp.issubdtype(dtype, jnp.complexfloating)
    if not is_inexact(array) or (jnp.issubdtype(array.dtype, jnp.complexfloating) and to_real):
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, dtype, sharding=array.sharding)
    return array.astype(dtype)


def added(unit: Any, entry: Entry, steps: list[Any]) -> Any:
    """Returns the value of a unit, or of a part of one, with its update added."""
    step = steps[entry.positions[0]]
    if entry.atom is not None and isinstance(step, Cell):
        step = flatten(step.value)[0][entry.atom]
    value = unit.value if isinstance(unit, Cell) else unit
    step = step.value if isinstance(step, Cell) else step
    if is_array(value) and is_array(step):
        if value.shape != step.shape:
            raise StructureError(
                explain(
                    f"asked to apply updates to '{format(entry.path)}'",
                    f"it has shape {value.shape}, and its update {step.shape}",
                    "an update of the same shape",
                )
            )
        return jnp.add(value, step)
    if jax.tree.structure(value) != jax.tree.structure(step):
        there = "no update" if step is None else "an update of another structure"
        raise StructureError(
            explain(
                f"asked to apply updates to '{format(entry.path)}'",
                f"there is {there} for it",
                "a lens that selects just what was optimised",
            )
        )
    return jax.tree.map(jnp.add, value, step)


def refuse_others(tree: Any, selection: Selection, steps: list[Any]) -> None:
    """Refuses updates of what isn't selected, since they would be lost.

    Args:
        tree: The tree that is updated.
        selection: What of it is.
        steps: The updates, one for each leaf of the tree; None where there is none.

    Raises:
        StructureError: There is one for a leaf that isn't selected.
    """
    selected = {position for entry in selection for position in entry.positions}
    for position, step in enumerate(steps):
        if position not in selected and (is_array(step) or isinstance(step, Cell)):
            path, _ = leaves_with_path(tree)[position]
            raise StructureError(
                explain(
                    f"asked to apply updates to what a lens selects, and not to '{format(path)}'",
                    "there is an update for that",
                    "a lens that selects just what was optimised",
                    "lens.partition(updates)[0], to leave it as it is",
                )
            )


def masked(leaves: list[Any], entries: Selection) -> list[Any]:
    """Returns for each leaf whether it is selected; in a cell, for each leaf of its value."""
    selected: dict[int, set[int | None]] = {}
    for entry in entries:
        for position in entry.positions:
            selected.setdefault(position, set()).add(entry.atom)
    masked = []
    for position, leaf in enumerate(leaves):
        chosen = selected.get(position, set())
        if isinstance(leaf, Cell):
            atoms, treedef = flatten(leaf.look())
            inside = [
                None if atom is None else None in chosen or i in chosen
                for i, atom in enumerate(atoms)
            ]
            leaf = leaf.with_value(treedef.unflatten(inside))
        elif leaf is not None:
            leaf = None in chosen
        masked.append(leaf)
    return masked
