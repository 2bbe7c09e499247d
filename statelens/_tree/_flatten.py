"""Units: what a tree is made of, as a lens sees it.

A *unit* is a `Cell` (a `State`, whole, whatever pytree its value is) or an array outside
any cell. Everything else in a tree (functions, numbers, text, `None`) is no unit and stays
where it is. The *atoms* of a unit are the leaves inside it, so that a lens can go on inside
a cell's value; an array is its own only atom.

All trees are flattened here with `None` as a leaf, so that a tree and its two halves have
the same positions.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._errors import StructureError, explain
from ._path import Path, format, from_jax, step
from ._pattern import format_slice
from ._protocols import MISSING, Cell, CellProbe, LensLeaf, MutableNode, is_probed

TreeDef: TypeAlias = Any
"""A `jax.tree_util.PyTreeDef`, which type checkers take for a variable."""


@jtu.register_pytree_node_class
@dataclass(frozen=True)
class Remainder(LensLeaf):
    """Stands in the rest for an array of which a part lies in the focus.

    Attributes:
        array: The whole array.
        index: Which part lies in the focus.
    """

    array: Any
    index: "Index"

    def tree_flatten(self) -> tuple[tuple[Any], "Index"]:
        is_probed()
        return (self.array,), self.index

    @classmethod
    def tree_unflatten(cls, index: "Index", children: tuple[Any]) -> Self:
        return cls(children[0], index)


@jtu.register_pytree_node_class
@dataclass(frozen=True)
class Repeat(LensLeaf):
    """Stands in the rest where a cell of the focus is reached once more.

    Attributes:
        position: Where the cell itself lies among the leaves.
    """

    position: int

    def tree_flatten(self) -> tuple[tuple[()], int]:
        is_probed()
        return (), self.position

    @classmethod
    def tree_unflatten(cls, position: int, children: tuple[()]) -> Self:
        return cls(position)


class Site(NamedTuple):
    """A unit and where it lies.

    Attributes:
        paths: The unit's path, and after it the others by which a shared cell is reached.
        positions: Where it lies among the leaves, once for each time it occurs.
        unit: The cell or array.
    """

    paths: tuple[Path, ...]
    positions: tuple[int, ...]
    unit: Any


_is_none = functools.partial(operator.is_, None)


def _is_stop(node: Any) -> bool:
    return node is None or isinstance(node, LensLeaf)


_LEAF = jtu.tree_structure(0)


def flatten(tree: Any) -> tuple[list[Any], TreeDef]:
    """Flattens a tree down to cells, other leaves and `None`."""
    if is_array(tree):
        return [tree], _LEAF
    # To ask an Equinox module for its class costs two Python calls.
    if not issubclass(type(tree), (LensLeaf, MutableNode)):
        # Most trees have nothing to stop at, and JAX goes through them without asking Python.
        flat = _flatten_plainly(tree, _is_none)
        if flat is not None:
            return flat
    return jax.tree.flatten(tree, is_leaf=_is_stop)


def _flatten_plainly(
    tree: Any, is_leaf: Callable[[Any], Any] | None = None
) -> tuple[list[Any], TreeDef] | None:
    """Flattens a tree without stops; gives None for any other.

    (An error from within would end it sooner, but JAX loses count of its recursion by that.)
    """
    watch = CellProbe()
    try:
        flat = jtu.tree_flatten(tree, is_leaf)
    except Exception:
        # A node that flattens cells by itself may choke on what they give to a watch.
        if not watch.met:
            raise
        return None
    finally:
        watch.end()
    return None if watch.met else flat


def flatten_as(treedef: TreeDef, tree: Any) -> list[Any] | None:
    """Flattens a tree that should have a structure, at half the cost; None if it has another."""
    try:
        leaves = treedef.flatten_up_to(tree)
    except Exception:  # JAX writes out what doesn't fit, and anything may come of that
        return None
    return leaves if _are_leaves(leaves) else None


def _are_leaves(nodes: Sequence[Any]) -> bool:
    """Says whether none is a tree with something below; one of each class tells."""
    one_of_each = dict(zip(map(type, nodes), nodes, strict=True))
    return all(_is_stop(node) or jtu.all_leaves([node]) for node in one_of_each.values())


def flatten_with_path(
    tree: Any,
) -> tuple[list[tuple[Path, tuple[Path, ...]]], list[Any], TreeDef]:
    """Flattens a tree as `flatten` does, with each leaf's path and its other paths."""
    entries, treedef = jtu.tree_flatten_with_path(tree, is_leaf=_is_stop)
    return [from_jax(keys) for keys, _ in entries], [leaf for _, leaf in entries], treedef


_ARRAY_TYPES = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)
_MOST_TYPES = 1024
_are_arrays: dict[type, bool] = {}


def is_array(leaf: Any) -> bool:
    """Says whether a leaf is an array: of JAX, of NumPy, traced, or a shape and dtype."""
    known = _are_arrays.get(type(leaf))
    if known is not None:
        return known
    found = isinstance(leaf, _ARRAY_TYPES)
    # What is traced may be an array or not; for all others the type says it.
    if not isinstance(leaf, jax.core.Tracer):
        if len(_are_arrays) >= _MOST_TYPES:
            _are_arrays.clear()
        _are_arrays[type(leaf)] = found
    return found


def is_numeric(leaf: Any) -> bool:
    """Says whether a leaf is an array or a number of Python."""
    return is_array(leaf) or isinstance(leaf, (bool, int, float, complex))


def a_leaf(leaf: Any) -> str:
    """Says what something is, for a message."""
    return "an array" if is_array(leaf) else f"a {type(leaf).__name__}"


_aval = operator.attrgetter("aval")
_shape = operator.attrgetter("shape")
_dtype = operator.attrgetter("dtype")


def kinds(leaves: list[Any]) -> list[Any]:
    """Lists what stands for the shapes and dtypes of all leaves that are arrays."""
    try:
        # JAX has one object for all that are equal, so that comparing costs next to nothing.
        return list(map(_aval, leaves))
    except AttributeError:
        if set(map(type, leaves)) == {np.ndarray}:
            return [*map(_shape, leaves), *map(_dtype, leaves)]
        return [
            getattr(x, "aval", None) or (getattr(x, "shape", None), getattr(x, "dtype", None))
            for x in leaves
        ]


def sites(paths: list[tuple[Path, tuple[Path, ...]]], leaves: list[Any]) -> list[Site]:
    """Lists the units among flattened leaves, a shared cell once, in order."""
    found: dict[int, Site] = {}
    for position, ((path, others), leaf) in enumerate(zip(paths, leaves, strict=True)):
        if isinstance(leaf, Cell):
            first = found.get(id(leaf))
            if first is not None:
                found[id(leaf)] = Site(
                    (*first.paths, path, *others), (*first.positions, position), leaf
                )
                continue
            found[id(leaf)] = Site((path, *others), (position,), leaf)
        elif is_array(leaf):
            found[~position] = Site((path, *others), (position,), leaf)
    return list(found.values())


def atoms(unit: Any) -> list[tuple[Path, Any]]:
    """Lists the leaves inside a unit with their paths inside it."""
    if not isinstance(unit, Cell):
        return [((), unit)]
    paths, leaves, _ = flatten_with_path(unit.look())
    return [(path, leaf) for (path, _), leaf in zip(paths, leaves, strict=True) if leaf is not None]


def leaves_with_path(tree: Any) -> list[tuple[Path, Any]]:
    """Lists all leaves of a tree, those inside cells too, with their paths."""
    paths, leaves, _ = flatten_with_path(tree)
    return [
        (path + inner, leaf)
        for (path, _), unit in zip(paths, leaves, strict=True)
        if unit is not None
        for inner, leaf in atoms(unit)
    ]


def ancestors(tree: Any, path: Path) -> list[Any]:
    """Lists the nodes from the root to `path`, as far as keys lead there."""
    nodes = [tree]
    for key in path:
        nodes.append(step(nodes[-1], key))
        if nodes[-1] is MISSING:
            break
    return nodes


def map_cells(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Replaces each cell of a tree, a shared one by the same replacement everywhere."""
    leaves, treedef = flatten(tree)
    replaced: dict[int, Any] = {}
    for position, leaf in enumerate(leaves):
        if isinstance(leaf, Cell):
            if id(leaf) not in replaced:
                replaced[id(leaf)] = function(leaf)
            leaves[position] = replaced[id(leaf)]
    return treedef.unflatten(leaves)


def has_owners(tree: Any) -> bool:
    """Says whether there are cells or mutable nodes in a tree."""
    return not is_array(tree) and _flatten_plainly(tree) is None


def cells(tree: Any) -> dict[Any, Path]:
    """Lists the cells in a tree with their first paths."""
    if not has_owners(tree):
        return {}
    paths, leaves, _ = flatten_with_path(tree)
    units = sites(paths, leaves)
    return {site.unit: site.paths[0] for site in units if isinstance(site.unit, Cell)}


def hidden_cells(tree: Any) -> dict[Any, Path]:
    """Lists the cells behind attributes of mutable nodes in a tree with their paths."""

    def is_holder(node: Any) -> bool:
        return isinstance(node, MutableNode)

    if not has_owners(tree):
        return {}
    return {
        cell: from_jax(keys)[0] + below
        for keys, node in jtu.tree_flatten_with_path(tree, is_leaf=is_holder)[0]
        if is_holder(node)
        for below, cell in node._hidden_cells().items()
    }


@dataclass(frozen=True)
class Index:
    """A NumPy basic index: a part of an array.

    Attributes:
        items: An integer, the three numbers of a slice, or an ellipsis, for each axis.
    """

    items: tuple[Any, ...]

    @classmethod
    def of(cls, index: Any) -> Self:
        """Reads what stands between the brackets of an indexing expression."""
        items = index if isinstance(index, tuple) else (index,)
        return cls(tuple(map(cls._item, items)))

    @staticmethod
    def _item(item: Any) -> Any:
        if item is Ellipsis:
            return item
        if isinstance(item, slice):
            return (item.start, item.stop, item.step)
        if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            return int(item)
        raise StructureError(
            explain(
                f"asked for a part of an array by the index {item!r}",
                f"a part is chosen by integers, slices and '...', not by {type(item).__name__}",
                "choose a contiguous part, as in lens('embed.weight')[100:110]",
            )
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """What stands between the brackets, for NumPy and JAX."""
        return tuple(slice(*item) if isinstance(item, tuple) else item for item in self.items)

    def __str__(self) -> str:
        return f"[{', '.join(map(self._written, self.items)) or '...'}]"

    @staticmethod
    def _written(item: Any) -> str:
        if item is Ellipsis:
            return "..."
        return format_slice(*item) if isinstance(item, tuple) else str(item)

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
        shape = np.shape(array) if not is_array(array) else array.shape
        try:
            self.shape(shape)
        except IndexError as error:
            raise StructureError(
                explain(
                    f"asked for the part {self} of '{format(path)}'",
                    f"its shape is {shape}: {error}",
                    "an index within the shape",
                )
            ) from None
