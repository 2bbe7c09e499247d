"""Trees of arrays and of other things, as JAX's staged functions take them.

A staged function takes arrays. What else is in an argument (a function, a text, the numbers
that an Equinox module keeps) is part of the program, and a program is chosen by it. Numbers
that are passed as they are, or in lists, tuples, dictionaries and states, are traced, as
`jax.jit` does.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import jax
import jax.tree_util as jtu

from .._cell import Cell
from .._errors import ArgumentTypeError, explain
from .._units import TreeDef, is_array
from ..path import format, from_jax

_NUMBERS = (bool, int, float, complex)
_CONTAINERS = (list, tuple, dict, type(None))


@jtu.register_pytree_node_class
class Mixed:
    """A tree of which only some leaves are traced.

    Attributes:
        traced: The leaves that are traced.
        static: For each leaf what it is if it isn't traced, else `_TRACED`.
        treedef: The tree's structure.
    """

    def __init__(self, traced: list[Any], static: tuple[Any, ...], treedef: TreeDef):
        self.traced = traced
        self.static = static
        self.treedef = treedef

    def tree_flatten(self) -> tuple[list[Any], tuple[tuple[Any, ...], TreeDef]]:
        return self.traced, (self.static, self.treedef)

    @classmethod
    def tree_unflatten(cls, aux: tuple[tuple[Any, ...], TreeDef], traced: Any) -> Self:
        return cls(list(traced), *aux)

    def with_traced(self, leaves: list[Any]) -> "Mixed":
        """Returns a tree of the same structure for one thing for each leaf."""
        return Mixed(
            [leaf for leaf, s in zip(leaves, self.static, strict=True) if s is _TRACED],
            self.static,
            self.treedef,
        )

    @property
    def tree(self) -> Any:
        """The tree as it was."""
        traced = iter(self.traced)
        leaves = [next(traced) if leaf is _TRACED else leaf.value for leaf in self.static]
        return self.treedef.unflatten(leaves)


class _Traced:
    def __repr__(self) -> str:
        return "<traced>"


_TRACED = _Traced()


class Constant:
    """A leaf that is part of the program; 1, 1.0 and True are three different ones."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)


def mixed(tree: Any, name: Callable[[], str]) -> Any:
    """Sets apart what isn't traced; a tree of which all is traced comes back as it is.

    Args:
        tree: Any pytree.
        name: Gives what to call the tree in messages.

    Returns:
        The tree itself, or a `Mixed` one. `unmixed` undoes it.

    Raises:
        ArgumentTypeError: A leaf that isn't traced can't be compared and hashed.
    """
    if isinstance(tree, (jax.Array, *_NUMBERS)):
        return tree
    leaves, treedef = jax.tree.flatten(tree)
    if all(map(is_array, leaves)):
        return tree
    is_traced = _are_traced(tree)
    if all(is_traced):
        return tree
    for position, leaf in enumerate(leaves):
        if not is_traced[position]:
            _check_hashable(leaf, tree, position, name)
    static = tuple(
        _TRACED if traced else Constant(leaf)
        for leaf, traced in zip(leaves, is_traced, strict=True)
    )
    return Mixed([leaf for leaf, t in zip(leaves, is_traced, strict=True) if t], static, treedef)


def constant(value: Any, name: Callable[[], str]) -> Mixed:
    """Makes all of a value part of the program."""
    _check_hashable(value, None, None, name)
    return Mixed([], (Constant(value),), jax.tree.structure(0))


def packed(tree: Any) -> Mixed:
    """Takes a tree apart where its values are still good: what holds states ends with a trace."""
    leaves, treedef = jax.tree.flatten(tree)
    is_traced = [is_array(leaf) or isinstance(leaf, _NUMBERS) for leaf in leaves]
    static = tuple(
        _TRACED if traced else Constant(leaf)
        for leaf, traced in zip(leaves, is_traced, strict=True)
    )
    return Mixed([leaf for leaf, t in zip(leaves, is_traced, strict=True) if t], static, treedef)


def unmixed(tree: Any) -> Any:
    """Gives back the tree that `mixed` was given."""
    return tree.tree if isinstance(tree, Mixed) else tree


def constants(args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Lists what `mixed` has set apart in arguments."""
    return [
        leaf.value
        for arg in (*args, *kwargs.values())
        if isinstance(arg, Mixed)
        for leaf in arg.static
        if leaf is not _TRACED
    ]


def _are_traced(tree: Any) -> list[bool]:
    """Says of each leaf whether it is traced."""
    found: list[bool] = []
    for top in jax.tree.leaves(tree, is_leaf=lambda node: not isinstance(node, _CONTAINERS)):
        if isinstance(top, Cell):
            found += [is_array(leaf) or isinstance(leaf, _NUMBERS) for leaf in jax.tree.leaves(top)]
        elif jtu.all_leaves([top]):
            found.append(is_array(top) or isinstance(top, _NUMBERS))
        else:
            for leaf in jax.tree.leaves(top, is_leaf=lambda node: isinstance(node, Cell)):
                found += _are_traced(leaf) if isinstance(leaf, Cell) else [is_array(leaf)]
    return found


def _check_hashable(leaf: Any, tree: Any, position: int | None, name: Callable[[], str]) -> None:
    try:
        hash(leaf)
    except TypeError:
        where = name()
        if position is not None:
            keys, _ = jtu.tree_flatten_with_path(tree)[0][position]
            where += f" at '{format(from_jax(keys)[0])}'" if keys else ""
        raise ArgumentTypeError(
            explain(
                f"asked to make {where} part of the program, since it isn't an array",
                f"it is a {type(leaf).__name__}, which can't be hashed",
                "an array, which is traced",
                "something hashable, such as a tuple in place of a list",
            )
        ) from None
