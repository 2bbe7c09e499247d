"""Halves: taking a tree apart along a selection, putting it together, replacing parts.

`partition` leaves `None` in the holes, so that both halves can go into Optax, Equinox and
any JAX transform. Where a hole alone would lose something, the rest holds a marker: a
`Remainder` for an array of which a part was taken, a `Repeat` where a taken cell occurs
again.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self, cast

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._errors import StructureError, explain, user_facing
from .._tree import (
    Cell,
    Index,
    LensLeaf,
    Path,
    TreeDef,
    flatten,
    flatten_as,
    flatten_with_path,
    format,
    is_array,
    is_probed,
    kinds,
)
from ._selection import Entry, Selection


@jtu.register_pytree_node_class
@dataclass(frozen=True)
class Remainder(LensLeaf):
    """Stands in the rest for an array of which a part lies in the focus."""

    array: Any
    index: Index

    def tree_flatten(self) -> tuple[tuple[Any], Index]:
        is_probed()
        return (self.array,), self.index

    @classmethod
    def tree_unflatten(cls, index: Index, children: tuple[Any]) -> Self:
        return cls(children[0], index)


@jtu.register_pytree_node_class
@dataclass(frozen=True)
class Repeat(LensLeaf):
    """Stands in the rest where the cell at another position among the leaves occurs again."""

    position: int

    def tree_flatten(self) -> tuple[tuple[()], int]:
        is_probed()
        return (), self.position

    @classmethod
    def tree_unflatten(cls, position: int, children: tuple[()]) -> Self:
        return cls(position)


def read(leaves: list[Any], entry: Entry) -> Any:
    """Returns what an entry of a selection stands for: a unit, or a part of one."""
    unit = leaves[entry.positions[0]]
    if entry.atom is not None:
        unit = flatten(unit.value)[0][entry.atom]
    return unit if entry.index is None else entry.index.read(unit)


def read_all(leaves: list[Any], selection: Selection) -> list[Any]:
    """Returns what each entry of a selection stands for."""
    units = [leaves[position] for position in selection.positions]
    for numbers in selection.parts.values():
        for number in numbers:
            units[number] = read(leaves, selection[number])
    return units


def values_of(leaves: list[Any], selection: Selection) -> list[Any]:
    """Returns the value of each entry of a selection; that of a cell is what is in it."""
    values = read_all(leaves, selection)
    for number in selection.cells:
        values[number] = values[number].value
    return values


def split(leaves: list[Any], treedef: TreeDef, selection: Selection) -> tuple[Any, Any]:
    """Splits a flattened tree in the focus and the rest."""
    focus: list[Any] = [None] * len(leaves)
    rest = list(leaves)
    for position in selection.positions:
        focus[position], rest[position] = leaves[position], None
    for position, numbers in selection.parts.items():
        parts = [selection[number] for number in numbers]
        focus[position], rest[position] = _split_unit(leaves[position], parts)
    for position, first in selection.repeats.items():
        rest[position] = Repeat(first)
    return treedef.unflatten(focus), treedef.unflatten(rest)


def _split_unit(unit: Any, parts: list[Entry]) -> tuple[Any, Any]:
    if not isinstance(unit, Cell):
        index = cast(Index, parts[0].index)
        return index.read(unit), Remainder(unit, index)
    leaves, treedef = flatten(unit.value)
    whole = [part._replace(positions=(cast(int, part.atom),), atom=None) for part in parts]
    inside, outside = split(leaves, treedef, Selection(whole))
    return unit.with_value(inside), unit.with_value(outside)


@user_facing
def combine(*halves: Any) -> Any:
    """Puts halves of a tree together; the inverse of `Lens.partition`.

    Args:
        *halves: Trees of one structure in which at most one has a leaf at each place, as
            `Lens.partition` gives them.

    Returns:
        The tree with the leaves of all halves.

    Raises:
        StructureError: The halves differ in structure, or two have the same leaf; the
            message names the path.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> focus, rest = sl.lens("w").partition({"b": jnp.zeros(2), "w": jnp.ones(2)})
        >>> sl.combine(focus, rest)
        {'b': Array([0., 0.], dtype=float32), 'w': Array([1., 1.], dtype=float32)}
    """
    if not halves:
        raise StructureError(
            explain("asked to combine halves", "none were given", "combine(focus, rest)")
        )
    return _combine(halves, ())


def _combine(halves: tuple[Any, ...], prefix: Path) -> Any:
    merged, treedef = flatten(halves[0])
    columns = [merged]
    for half in halves[1:]:
        column = flatten_as(treedef, half)
        if column is None:
            _refuse_structure(halves[0], half, prefix)
        columns.append(column)
        merged = [
            a if b is None else b if a is None else _CLASH
            for a, b in zip(merged, column, strict=True)
        ]
    for position, leaf in enumerate(merged):
        if leaf is _CLASH:
            column = [column[position] for column in columns]
            merged[position] = _merge(column, halves[0], position, prefix)
    for position, leaf in enumerate(merged):
        if isinstance(leaf, Repeat) and merged[leaf.position] is not None:
            merged[position] = merged[leaf.position]
    return treedef.unflatten(merged)


_CLASH = object()


def _merge(column: list[Any], tree: Any, position: int, prefix: Path) -> Any:
    present = [leaf for leaf in column if leaf is not None]
    remainders = [leaf for leaf in present if isinstance(leaf, Remainder)]
    parts = [leaf for leaf in present if not isinstance(leaf, Remainder)]
    if len(remainders) == len(parts) == 1 and not isinstance(parts[0], (Cell, Repeat)):
        return _filled(remainders[0], parts[0], tree, position, prefix)
    if isinstance(parts[0], Repeat) and all(leaf == parts[0] for leaf in present):
        return parts[0]
    path = prefix + _path_at(tree, position)
    if all(isinstance(leaf, Cell) and leaf.metadata == present[0].metadata for leaf in present):
        return present[0].with_value(_combine(tuple(cell.value for cell in present), path))
    raise StructureError(
        explain(
            "asked to combine halves of a tree",
            f"{len(present)} of them have a leaf at '{format(path)}'",
            "combine the focus and the rest that one partition gave",
        )
    )


def _filled(remainder: Remainder, part: Any, tree: Any, position: int, prefix: Path) -> Any:
    array, index = remainder.array, remainder.index
    if is_array(array) and is_array(part):
        shape, dtype = index.shape(array.shape), array.dtype
        if isinstance(part, jax.Array):
            dtype = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
        if (shape, dtype) != (part.shape, part.dtype):
            raise StructureError(
                explain(
                    f"asked to put a part in '{format(prefix + _path_at(tree, position))}'",
                    f"it is {part.dtype}{list(part.shape)}, and its place {index} is "
                    f"{dtype}{list(shape)}",
                    "a part of that shape and dtype",
                )
            )
    return index.write(array, part)


def _path_at(tree: Any, position: int) -> Path:
    return flatten_with_path(tree)[0][position][0]


def _refuse_structure(first: Any, second: Any, prefix: Path) -> NoReturn:
    found = difference(first, second, prefix)
    raise StructureError(
        explain("asked to combine halves of a tree", found, "halves of one and the same tree")
    )


def difference(first: Any, second: Any, prefix: Path = ()) -> str:
    """Says where two trees of different structures differ, for a message."""
    ours, theirs = (
        [path for (path, _), _ in zip(*flatten_with_path(tree)[:2], strict=True)]
        for tree in (first, second)
    )
    differing = [path for path in [*ours, *theirs] if (path in ours) != (path in theirs)]
    if differing:
        return f"they differ at '{format(prefix + differing[0])}', which only one of them has"
    return f"they differ in their nodes: {type(first).__name__}, {type(second).__name__}"


def replace(
    leaves: list[Any],
    treedef: TreeDef,
    selection: Selection,
    values: Sequence[Any],
    *,
    free: bool,
) -> Any:
    """Puts values in the places of a selection's entries.

    Args:
        leaves: The tree's leaves.
        treedef: Its structure.
        selection: Which places.
        values: What to put there, one for each entry.
        free: Whether a value may differ from the old one in structure, shape or dtype.

    Returns:
        The new tree; what isn't replaced is the same object.
    """
    leaves = list(leaves)
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
    return treedef.unflatten(leaves)


def _replace_cell(cell: Cell, path: Path, value: Any, *, free: bool) -> Cell:
    if value is cell:
        return cell
    value = value.value if isinstance(value, Cell) else value
    return cell.with_value(value if free else like(path, cell.value, value))


def _replace_parts(unit: Any, pairs: list[tuple[Entry, Any]], *, free: bool) -> Any:
    if not isinstance(unit, Cell):
        ((entry, value),) = pairs
        return put(unit, entry, value.value if isinstance(value, Cell) else value, free=free)
    leaves, treedef = flatten(unit.value)
    for entry, value in pairs:
        atom = cast(int, entry.atom)
        leaves[atom] = put(leaves[atom], entry, value, free=free)
    return unit.with_value(treedef.unflatten(leaves))


def put(old: Any, entry: Entry, value: Any, *, free: bool) -> Any:
    """Returns what takes the place of an array, or of an entry's part of it."""
    if entry.index is None:
        return value if free else like(entry.path, old, value)
    return entry.index.write(old, like(entry.path, entry.index.read(old), value))


def like(path: Path, old: Any, new: Any) -> Any:
    """Checks that a value has the structure, shapes and dtypes of what it replaces.

    Args:
        path: Where it is to go, for the message.
        old: What is there.
        new: What is to go there.

    Returns:
        The new value; a Python number that takes an array's place becomes an array.

    Raises:
        StructureError: It differs; nothing is cast in passing.
    """
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
        explain(
            f"asked to put a value at '{format(path)}'",
            f"its {what} is {new}, and that of what is there is {old}",
            f"a value of {what} {old}",
            "replace=True of set, update or assign, if the change is meant",
        )
    )


def numel(leaf: Any) -> int:
    """Returns the number of scalars in an array, or 0 for what is none."""
    return int(np.prod(leaf.shape)) if is_array(leaf) else 0
