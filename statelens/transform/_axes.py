"""Axes: which axis of each array is mapped, said by a tree that the whole tree begins with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from .._errors import ArgumentError, ArgumentTypeError, explain
from .._units import is_array
from ..path import Path, format, from_jax
from ._mixed import Mixed, mixed, unmixed


def is_axis(place: Any) -> bool:
    """Says whether something is an axis: an integer, or None for what isn't mapped."""
    return place is None or (isinstance(place, int) and not isinstance(place, bool))


def read_in_axes(in_axes: Any, asked_by: str) -> Any:
    """Reads the axes of arguments: one for all, or a tuple with one (or a tree) for each.

    Raises:
        ArgumentTypeError: It is neither.
    """
    if is_axis(in_axes):
        return in_axes
    if isinstance(in_axes, (list, tuple)):
        return tuple(in_axes)
    raise ArgumentTypeError(
        explain(
            f"asked {asked_by} for in_axes={in_axes!r}",
            f"that is a {type(in_axes).__name__}",
            "an integer, None, or one of these (or a tree of them) for each argument",
        )
    )


def read_out_axes(out_axes: Any, asked_by: str) -> Any:
    """Reads the axes of the output: one for all of it, or a tree of them.

    Raises:
        ArgumentTypeError: It is neither. What is in a tree is looked at beside the output.
    """
    if is_axis(out_axes) or not jtu.all_leaves([out_axes]):
        return out_axes
    raise ArgumentTypeError(
        explain(
            f"asked {asked_by} for out_axes={out_axes!r}",
            f"that is a {type(out_axes).__name__}",
            "an integer or None, or a tree of them that the output begins with",
        )
    )


def axes_in(axes: Any) -> list[Any]:
    """Lists the different axes in a tree of them."""
    leaves = jax.tree.leaves(axes, is_leaf=lambda node: node is None)
    return list(dict.fromkeys(filter(is_axis, leaves)))


def spread(axes: Any, tree: Any, option: str, what: str, asked_by: str) -> tuple[Any, list[Any]]:
    """Gives the axis of each array in a tree.

    Args:
        axes: An axis, or a tree of axes that `tree` begins with: one stands for all below it,
            and where `tree` has something static there may be anything.
        tree: Any pytree, as the caller sees it.
        option: What `axes` was given as.
        what: What `tree` is.
        asked_by: The transform, for messages.

    Returns:
        The tree with what isn't traced set apart, and the axes in the order of its leaves.

    Raises:
        ArgumentTypeError: Where `tree` has an array, `axes` has something else than an axis.
        ArgumentError: `tree` doesn't begin with `axes`; the message says where they part.
    """
    operand = mixed(tree, lambda: what)
    positions = list(range(jax.tree.structure(tree).num_leaves))
    traced = operand.with_traced(positions).traced if isinstance(operand, Mixed) else positions
    is_traced = set(traced).__contains__
    found: list[Any] = []

    def descend(axes_here: Any, here: Any, path: Path) -> None:
        count = jax.tree.structure(here).num_leaves
        below = range(len(found), len(found) + count)
        (form, children), (own_form, own_children) = _children(axes_here), _children(here)
        is_one = is_axis(axes_here) or jtu.treedef_is_leaf(form)
        if is_one and (is_axis(axes_here) or not any(map(is_traced, below))):
            found.extend([axes_here] * count)
            return
        if is_one:
            raise ArgumentTypeError(
                explain(
                    f"asked {asked_by} for {option}={axes!r} of {what}",
                    f"{axes_here!r} is a {type(axes_here).__name__}",
                    "an integer or None, or a tree of them",
                )
            )
        if form != own_form:
            where = f"at '{format(path)}' " if path else ""
            theirs, ours = _described(axes_here), _described(here)
            if theirs == ours:
                ours += " with other static parts"
            raise ArgumentError(
                explain(
                    f"asked {asked_by} for {option}={axes!r} of {what}",
                    f"{where}the axes are {theirs}, and {what} has {ours}",
                    f"a tree that {what} begins with, where one axis stands for all below it",
                )
            )
        for (keys, axis), (_, child) in zip(children, own_children, strict=True):
            descend(axis, child, path + from_jax(keys)[0])

    descend(axes, tree, ())
    return operand, [found[position] for position in traced]


def group_by_axis(
    tree: Any, axes: Any, option: str, what: str, asked_by: str
) -> tuple[dict[Any, list[Any]], "Grouping"]:
    """Groups the arrays in a tree by the axis that they get.

    A mapped function has no other way to say the axes of what only it knows.

    Args:
        tree: Any pytree, as one lane has it.
        axes: An axis, or a tree of axes that `tree` begins with.
        option: What `axes` was given as.
        what: What `tree` is.
        asked_by: The transform, for messages.

    Returns:
        The arrays by axis; and how to put the tree together once they are stacked.

    Raises:
        ArgumentTypeError: There is something else than axes in `axes`.
        ArgumentError: `tree` doesn't begin with it, or an array has no place for its axis.
    """
    operand, each = spread(axes, tree, option, what, asked_by)
    labels = [_label(keys, what) for keys, _ in jtu.tree_flatten_with_path(tree)[0]]
    if isinstance(operand, Mixed):
        labels = operand.with_traced(labels).traced
    leaves, treedef = jax.tree.flatten(operand)
    groups: dict[Any, list[Any]] = {axis: [] for axis in axes_in(axes)}
    for leaf, axis, label in zip(leaves, each, labels, strict=True):
        ndim = jnp.ndim(leaf)
        if axis is not None and not -ndim - 1 <= axis <= ndim:
            raise ArgumentError(
                explain(
                    f"asked {asked_by} for {option} with the axis {axis}",
                    f"{label} has the shape {jnp.shape(leaf)} in each lane",
                    f"an axis from {-ndim - 1} to {ndim}",
                )
            )
        groups[axis].append(leaf)
    return groups, Grouping(treedef, each, labels)


class Grouping(NamedTuple):
    """How to put a tree together whose arrays were grouped by axis.

    Attributes:
        treedef: Its structure, with what isn't traced set apart.
        axes: The axis of each array.
        labels: What each is called.
    """

    treedef: Any
    axes: list[Any]
    labels: list[str]

    def labels_of(self, axis: Any) -> list[str]:
        """Lists what the arrays that get an axis are called."""
        return [one for one, own in zip(self.labels, self.axes, strict=True) if own == axis]

    def join(self, groups: dict[Any, list[Any]]) -> Any:
        """Gives the tree, as the caller sees it.

        Args:
            groups: The arrays by axis, stacked.
        """
        left = {axis: iter(group) for axis, group in groups.items()}
        return unmixed(self.treedef.unflatten([next(left[axis]) for axis in self.axes]))


def _label(keys: Any, what: str) -> str:
    return f"{what} at '{format(from_jax(keys)[0])}'" if keys else what


def _children(node: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    below, form = jtu.tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)
    return form, below


def _described(node: Any) -> str:
    form, below = _children(node)
    if jtu.treedef_is_leaf(form):
        return jax.typeof(node).str_short() if is_array(node) else f"a {type(node).__name__}"
    keys = ", ".join(format(from_jax(keys)[0]) for keys, _ in below)
    return f"a {type(node).__name__} of {keys}" if keys else f"an empty {type(node).__name__}"
