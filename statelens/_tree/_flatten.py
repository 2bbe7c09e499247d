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
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._errors import StructureError
from ._path import Path, format, from_jax
from ._protocols import Cell, CellProbe, LensLeaf, MutableNode
from ._sorting import flatten_as_jax, refuse_unsortable

TreeDef: TypeAlias = Any
"""A `jax.tree_util.PyTreeDef`, which type checkers take for a variable."""


class Site(NamedTuple):
    """A unit, all its paths, and its positions among the leaves: a shared cell has several."""

    paths: tuple[Path, ...]
    positions: tuple[int, ...]
    unit: Any


_is_none = functools.partial(operator.is_, None)
_LEAF = jtu.tree_structure(0)


def flatten(tree: Any, name: Callable[[], str] | None = None) -> tuple[list[Any], TreeDef]:
    """Flattens a tree, which errors call by a name, down to cells, other leaves and `None`."""
    if is_array(tree):
        return [tree], _LEAF
    # To ask an Equinox module for its class costs two Python calls.
    if not issubclass(type(tree), (LensLeaf, MutableNode)):
        # Most trees have nothing to stop at, and JAX goes through them without asking Python.
        flat = _flatten_plainly(tree, _is_none, name)
        if flat is not None:
            return flat
    return flatten_as_jax(tree, _is_leaf, name)


def _is_leaf(node: Any) -> bool:
    return node is None or isinstance(node, LensLeaf)


def _flatten_plainly(
    tree: Any,
    is_leaf: Callable[[Any], Any] | None = None,
    name: Callable[[], str] | None = None,
) -> tuple[list[Any], TreeDef] | None:
    """Flattens a tree without cells and mutable nodes; gives None for any other."""
    # (An error from within would end it early, but makes JAX lose count of its recursion.)
    probe = CellProbe()
    try:
        flat = probe.run(jtu.tree_flatten, tree, is_leaf)
    except Exception:
        # A node that flattens cells by itself may choke on what they give to a probe.
        if not probe.met:
            refuse_unsortable(tree, name)
            raise
        return None
    return None if probe.met else flat


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
    return all(_is_leaf(node) or jtu.all_leaves([node]) for node in one_of_each.values())


def flatten_with_path(
    tree: Any, name: Callable[[], str] | None = None
) -> tuple[list[Path], list[Any], TreeDef]:
    """Flattens a tree as `flatten` does, with the first path of each leaf."""
    paths, leaves, treedef = _flatten_with_paths(tree, name)
    return [first for first, *_ in paths], leaves, treedef


def _flatten_with_paths(
    tree: Any, name: Callable[[], str] | None = None
) -> tuple[list[tuple[Path, ...]], list[Any], TreeDef]:
    """Flattens a tree as `flatten` does, with all paths of each leaf."""
    entries, treedef = _flatten_with_keys(tree, name)
    paths = [from_jax(keys) for keys, _ in entries]
    _refuse_same_path([first for first, *_ in paths], entries)
    return paths, [leaf for _, leaf in entries], treedef


def _flatten_with_keys(
    tree: Any, name: Callable[[], str] | None = None
) -> tuple[list[tuple[Any, Any]], TreeDef]:
    try:
        return jtu.tree_flatten_with_path(tree, is_leaf=_is_leaf)
    except ValueError:
        refuse_unsortable(tree, name)
        raise


def _refuse_same_path(paths: Sequence[Path], entries: Sequence[Any]) -> None:
    """Refuses two entries of a tree that mean the same path, as those by 'a' and ('a',) do."""
    if len(set(paths)) == len(paths):
        return
    first: dict[Path, Any] = {}
    for path, (keys, _) in zip(paths, entries, strict=True):
        earlier = first.setdefault(path, keys)
        if earlier is not keys and any(map(_is_path, (*earlier, *keys))):
            raise StructureError(
                f"asked for the path '{format(path)}'",
                f"the tree has two entries there, {jtu.keystr(earlier)} and {jtu.keystr(keys)}, "
                "since a tuple key is a path",
                "one of them",
            )


def _is_path(key: Any) -> bool:
    return isinstance(key, jtu.DictKey) and isinstance(key.key, tuple)


_ARRAY_TYPES = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


def is_array(leaf: Any) -> bool:
    """Says whether a leaf is an array: of JAX, of NumPy, traced, or a shape and dtype."""
    return isinstance(leaf, _ARRAY_TYPES)


def a_leaf(leaf: Any) -> str:
    """Says what something is, for a message: arrays have many classes."""
    return "an array" if is_array(leaf) else f"a {type(leaf).__name__}"


def is_inexact(leaf: Any) -> bool:
    """Says whether a leaf is an array of floating-point or complex numbers."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def is_numeric(leaf: Any) -> bool:
    """Says whether a leaf is an array or a number of Python."""
    return is_array(leaf) or isinstance(leaf, (bool, int, float, complex))


_aval = operator.attrgetter("aval")


def kinds(leaves: list[Any]) -> list[Any]:
    """Lists what stands for the shapes and dtypes of all leaves that are arrays."""
    try:
        # JAX has one object for all that are equal, so that comparing costs next to nothing.
        return list(map(_aval, leaves))
    except AttributeError:
        return [
            getattr(x, "aval", None) or (getattr(x, "shape", None), getattr(x, "dtype", None))
            for x in leaves
        ]


def is_key(leaf: Any) -> bool:
    """Says whether a leaf is an array of typed random keys."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_number(leaf: Any) -> bool:
    """Says whether a leaf is a number of Python."""
    return isinstance(leaf, (int, float, complex)) and not isinstance(leaf, (bool, np.generic))


def sites(tree: Any, takes: Callable[[Path, Any], bool] = lambda path, leaf: False) -> list[Site]:
    """Lists the units of a tree, a shared cell once, in order, and what is taken for one."""
    found: dict[int, Site] = {}
    paths_of_all, leaves, _ = _flatten_with_paths(tree)
    for position, (paths, leaf) in enumerate(zip(paths_of_all, leaves, strict=True)):
        is_cell = isinstance(leaf, Cell)
        if is_cell or is_array(leaf) or takes(paths[0], leaf):
            # Arrays are never taken for shared: each has a key of its own.
            key = id(leaf) if is_cell else ~position
            earlier = found.get(key, Site((), (), leaf))
            found[key] = Site(earlier.paths + paths, (*earlier.positions, position), leaf)
    return list(found.values())


def atoms(unit: Any) -> list[tuple[Path, Any]]:
    """Lists the leaves inside a unit with their paths inside it."""
    if not isinstance(unit, Cell):
        return [((), unit)]
    paths, leaves, _ = flatten_with_path(unit.look(), unit._description)
    return [(path, leaf) for path, leaf in zip(paths, leaves, strict=True) if leaf is not None]


def leaves_with_path(tree: Any) -> list[tuple[Path, Any]]:
    """Lists all leaves of a tree, those inside cells too, with their paths."""
    paths, leaves, _ = flatten_with_path(tree)
    return [
        (path + inner, leaf)
        for path, unit in zip(paths, leaves, strict=True)
        if unit is not None
        for inner, leaf in atoms(unit)
    ]


def map_cells(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Replaces each cell of a tree, a shared one by the same replacement everywhere."""
    leaves, treedef = flatten(tree)
    met = dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, Cell))
    replaced = {cell: function(cell) for cell in met}
    return treedef.unflatten(replaced[x] if isinstance(x, Cell) else x for x in leaves)


def has_owners(tree: Any) -> bool:
    """Says whether there are cells or mutable nodes in a tree."""
    return not is_array(tree) and _flatten_plainly(tree) is None


def cells(tree: Any) -> dict[Any, Path]:
    """Lists the cells in a tree with their first paths."""
    if not has_owners(tree):
        return {}
    return {site.unit: site.paths[0] for site in sites(tree) if isinstance(site.unit, Cell)}


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
