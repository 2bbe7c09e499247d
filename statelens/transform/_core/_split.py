"""Splitting a tree into its dynamic leaves and its static half.

Arrays are dynamic. Python numbers are too, as `jax.jit` has it, be they passed as such or in lists,
quantities or states; but in a module, Equinox's or ours, they are configuration, and static, as
`equinox.filter_jit` has it. What this comes to is found once for each structure with leaves of
such classes.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any
from weakref import ref

import equinox as eqx
import jax
import jax.tree_util as jtu

from ..._errors import ArgumentTypeError
from ..._lru_cache import LruCache
from ..._tree import (
    Cell,
    Identity,
    MutableNode,
    TreeDef,
    a_leaf,
    flatten_as_jax,
    format,
    from_jax,
    is_array,
    is_numeric,
    put_weakly,
    weakly,
)
from ...state import concrete_types
from ._module_cache import Getter, at, get, places_of_containers, put
from ._static import DYNAMIC, MOST_NESTED, Constant, Partitioned, Static, is_plain_tuple, remade

MODULES = (eqx.Module, MutableNode)
"""Nodes in which numbers are configuration."""


def split_static(tree: Any, name: Callable[[], str]) -> Any:
    """Splits a tree; one whose leaves are all dynamic comes back as it is.

    Args:
        tree: Any pytree.
        name: Gives what to call the tree in messages.

    Returns:
        The tree itself, or a `Partitioned` one. `merge_static` undoes it.

    Raises:
        ArgumentTypeError: A static leaf can't be compared and hashed.
    """
    found = as_partitioned(tree, name)
    if not isinstance(found, Partitioned) or len(found.dynamic) == len(found.static.leaves):
        return tree
    return found


def as_partitioned(tree: Any, name: Callable[[], str]) -> Any:
    """Splits a tree as `split_static` does, so that JAX need not flatten it once more.

    An array or number comes back as it is, any other tree as a `Partitioned` one.
    """
    found = get(tree)
    if found is not None:
        return found
    if is_numeric(tree) or isinstance(tree, Partitioned):
        return tree
    leaves, treedef = flatten_as_jax(tree, name=name)
    split = _split_of(tree, treedef, tuple(map(type, leaves)))
    found = split.apply(tree, leaves, treedef, name)
    if split.containers is not None:
        put(tree, found, [at(tree, place) for place in split.containers])
    return found


def split_items(tree: Any, name: Callable[[], str], nested: int = MOST_NESTED) -> Any:
    """Splits the items of nested tuples one by one, and any other tree as `split_static` does.

    So the modules in an optimiser's memory, which is a tuple, are found in the cache one by one.
    A module always comes as a `Partitioned` tree.
    """
    if type(tree) in concrete_types:
        return tree
    if nested and is_plain_tuple(type(tree)):
        return remade(tree, [split_items(item, name, nested - 1) for item in tree])
    return (as_partitioned if isinstance(tree, eqx.Module) else split_static)(tree, name)


def all_static(value: Any, name: Callable[[], str]) -> Partitioned:
    """Makes all of a value part of the program."""
    _check_hashable(value, None, None, name)
    return Partitioned([], Static([Constant(value)], jax.tree.structure(0)))


def constants(args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Lists the static leaves of arguments that were split."""
    return [
        leaf.value
        for arg in (*args, *kwargs.values())
        for part in jax.tree.leaves(arg, is_leaf=_is_partitioned)
        if isinstance(part, Partitioned)
        for leaf in part.static.leaves
        if leaf is not DYNAMIC
    ]


def _is_partitioned(node: Any) -> bool:
    return isinstance(node, Partitioned)


class _Split:
    """How trees of one structure, with leaves of the same classes, are split."""

    def __init__(
        self, treedef: TreeDef, is_dynamic: list[bool], containers: tuple[Getter, ...] | None = None
    ):
        # Where lists and dictionaries are, if the trees are modules to be cached.
        self.containers = containers
        # Another structure may equal this one.
        self.identity = Identity(treedef)
        self._holes = [position for position, dynamic in enumerate(is_dynamic) if dynamic]
        self._rest = [position for position, dynamic in enumerate(is_dynamic) if not dynamic]
        # By the ids of the static leaves, which a half that is alive keeps.
        self._seen: dict[tuple[int, ...], ref[Static]] = {}
        # Where nothing in it is the user's, the half is kept.
        is_kept = not self._rest and weakly(treedef) is treedef
        self._whole = Static([DYNAMIC] * len(is_dynamic), treedef) if is_kept else None

    def apply(
        self, tree: Any, leaves: list[Any], treedef: TreeDef, name: Callable[[], str]
    ) -> Partitioned:
        if self._whole is not None:
            return Partitioned(leaves, self._whole)
        # The same objects are the same constants again.
        rest = [leaves[position] for position in self._rest]
        ids = tuple(map(id, rest))
        seen = self._seen.get(ids)
        static = None if seen is None else seen()
        if static is None:
            for position in self._rest:
                _check_hashable(leaves[position], tree, position, name)
            half: list[Any] = list(map(Constant, leaves))
            for hole in self._holes:
                half[hole] = DYNAMIC
            static = Static(half, treedef)
            put_weakly(self._seen, ids, static)
        return Partitioned([leaves[position] for position in self._holes], static)


# By structure, a weak one, and by the classes of leaves or whether they are dynamic: a few for
# each key, since structures that are equal need not be the same.
_splits: LruCache[Hashable, list[_Split]] = LruCache(256)
_MOST_ALIKE = 8


def _split_of(tree: Any, treedef: TreeDef, classes: tuple[type, ...]) -> _Split:
    try:
        split = _find((treedef, classes), treedef)
    except TypeError:
        # Something static in a node can't be hashed; JAX says so, where it matters.
        return _Split(treedef, _are_dynamic(tree))
    if split is None:
        # A trace gives what the next call takes: tracers here, arrays there. Both have the same
        # static half then, and JAX, which compares them at each call, sees that at once.
        is_dynamic = _are_dynamic(tree)
        like = treedef, tuple(is_dynamic)
        split = _find(like, treedef)
        if split is None:
            split = _Split(treedef, is_dynamic, places_of_containers(tree))
        _add(like, split)
        _add((treedef, classes), split)
    return split


def _find(key: Hashable, treedef: TreeDef) -> _Split | None:
    for split in _splits.get(key) or ():
        if split.identity.is_that_of(treedef):
            return split
    return None


def _add(key: Hashable, split: _Split) -> None:
    others = [other for other in _splits.get(key) or () if other is not split]
    _splits.put(weakly(key), [split, *others[: _MOST_ALIKE - 1]])


def _are_dynamic(tree: Any) -> list[bool]:
    """Says of each leaf whether it is dynamic."""
    found: list[bool] = []
    for top in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, (Cell, *MODULES))):
        if isinstance(top, MODULES):
            for leaf in jax.tree.leaves(top, is_leaf=lambda node: isinstance(node, Cell)):
                found += _are_dynamic(leaf) if isinstance(leaf, Cell) else [is_array(leaf)]
        else:
            found += map(is_numeric, jax.tree.leaves(top))
    return found


def _check_hashable(leaf: Any, tree: Any, position: int | None, name: Callable[[], str]) -> None:
    try:
        hash(leaf)
    except TypeError:
        where = name()
        why, remedy = "isn't an array", "an array, which is traced"
        if position is None:
            why, remedy = "is to be static", "don't make it static; what is in it is traced then"
        if position is not None:
            keys, _ = jtu.tree_flatten_with_path(tree)[0][position]
            where += f" at '{format(from_jax(keys)[0])}'" if keys else ""
        raise ArgumentTypeError(
            f"asked to make {where} part of the program, since it {why}",
            f"it is {a_leaf(leaf)}, which can't be hashed",
            remedy,
            "something hashable, such as a tuple in place of a list",
        ) from None
