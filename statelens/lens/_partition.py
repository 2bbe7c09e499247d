"""Halves: taking a tree apart along a selection, and putting it together.

`partition` leaves `None` in the holes, so that both halves can go into Optax, Equinox and
any JAX transform. Where a hole alone would lose something, the rest holds a marker: a
`Remainder` for an array of which a part was taken, a `Repeat` where a taken cell occurs
again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import jax
import jax.tree_util as jtu

from .._errors import SelectionError, StructureError, user_facing
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
)
from ._messages import difference
from ._selection import Entry, Focused, Selection

T = TypeVar("T")


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


def label(
    leaves: list[Any], treedef: TreeDef, labels: Iterable[tuple[Entry, Any]], other: Any
) -> Any:
    """Returns the tree with a label for each leaf, and in a cell for each atom."""
    by_place = {
        (position, entry.atom): own for entry, own in labels for position in entry.positions
    }

    def label_of(position: int, leaf: Any) -> Any:
        every = by_place.get((position, None), other)
        if not isinstance(leaf, Cell):
            return None if leaf is None else every
        atoms, inside = flatten(leaf.look(), leaf._description)
        return leaf.with_value(
            inside.unflatten(
                None if x is None else by_place.get((position, atom), every)
                for atom, x in enumerate(atoms)
            )
        )

    return treedef.unflatten(map(label_of, range(len(leaves)), leaves))


def mark(focused: Focused, what: str) -> Any:
    """Returns the tree with True for each leaf in the focus and False for all others."""
    leaves, treedef, entries = focused
    for entry in entries:
        if entry.index is not None:
            raise SelectionError(
                f"asked for a mask of {what}",
                f"only the part {entry.index} of '{format(entry.path)}' is selected",
                "partition, get or update, which know of parts",
            )
    return label(leaves, treedef, ((entry, True) for entry in entries), False)


@user_facing
def combine(*halves: T) -> T:
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
        raise StructureError("asked to combine halves", "none were given", "combine(focus, rest)")
    return _combine(halves, ())


def _combine(halves: tuple[Any, ...], prefix: Path) -> Any:
    merged, treedef = flatten(halves[0])
    columns = [merged]
    for half in halves[1:]:
        column = flatten_as(treedef, half)
        if column is None:
            raise StructureError(
                "asked to combine halves of a tree",
                difference(halves[0], half, prefix),
                "halves of one and the same tree",
            )
        columns.append(column)
        merged = [
            a if b is None else b if a is None else _CLASH
            for a, b in zip(merged, column, strict=True)
        ]
    for position, path in _paths_of_clashes(halves[0], merged, prefix):
        merged[position] = _merge([column[position] for column in columns], path)
    for position, leaf in enumerate(merged):
        if isinstance(leaf, Repeat) and merged[leaf.position] is not None:
            merged[position] = merged[leaf.position]
    return treedef.unflatten(merged)


_CLASH = object()


def _paths_of_clashes(tree: Any, merged: list[Any], prefix: Path) -> list[tuple[int, Path]]:
    clashes = [position for position, leaf in enumerate(merged) if leaf is _CLASH]
    # To write down all paths costs as much as all else together.
    paths = flatten_with_path(tree)[0] if clashes else []
    return [(position, prefix + paths[position]) for position in clashes]


def _merge(column: list[Any], path: Path) -> Any:
    present = [leaf for leaf in column if leaf is not None]
    remainders = [leaf for leaf in present if isinstance(leaf, Remainder)]
    parts = [leaf for leaf in present if not isinstance(leaf, Remainder)]
    if len(remainders) == len(parts) == 1 and not isinstance(parts[0], (Cell, Repeat)):
        return _filled(remainders[0], parts[0], path)
    first = present[0]
    if isinstance(first, Repeat) and all(leaf == first for leaf in present):
        return first
    if isinstance(first, Cell) and all(
        isinstance(leaf, Cell) and leaf.metadata == first.metadata for leaf in present
    ):
        return first.with_value(_combine(tuple(cell.value for cell in present), path))
    raise StructureError(
        "asked to combine halves of a tree",
        f"{len(present)} of them have a leaf at '{format(path)}'",
        "combine the focus and the rest that one partition gave",
    )


def _filled(remainder: Remainder, part: Any, path: Path) -> Any:
    array, index = remainder.array, remainder.index
    if is_array(array) and is_array(part):
        shape, dtype = index.shape(array.shape), array.dtype
        if isinstance(part, jax.Array):
            dtype = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
        if (shape, dtype) != (part.shape, part.dtype):
            raise StructureError(
                f"asked to put a part in '{format(path)}'",
                f"it is {part.dtype}{list(part.shape)}, and its place {index} is "
                f"{dtype}{list(shape)}",
                "a part of that shape and dtype",
            )
    return index.write(array, part)
