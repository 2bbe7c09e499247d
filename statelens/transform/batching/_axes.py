"""Axes, and other places of arrays, said by a tree that the whole tree begins with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from ..._errors import ArgumentError, ArgumentTypeError, explain
from ..._tree import Path, format, from_jax
from .._core import Partitioned, children_of, described, merge_static, split_static


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


class Kind(NamedTuple):
    """What kind of places is meant.

    Attributes:
        is_place: Says whether something is one.
        one: What one is, for messages.
        several: What several are called.
    """

    is_place: Callable[[Any], bool]
    one: str
    several: str

    def among(self, places: Any) -> list[Any]:
        """Lists the different places in a tree of them."""
        leaves = jax.tree.leaves(places, is_leaf=lambda n: n is None or self.is_place(n))
        return list(dict.fromkeys(filter(self.is_place, leaves)))


AXES = Kind(is_axis, "an integer or None", "axes")


def spread(
    places: Any, tree: Any, kind: Kind, option: str, what: str, asked_by: str
) -> tuple[Any, list[Any]]:
    """Gives the place of each array in a tree.

    Args:
        places: A place, or a tree of them that `tree` begins with: one stands for all below it,
            and where `tree` has something static there may be anything.
        tree: Any pytree, as the caller sees it.
        kind: The kind of places.
        option: What `places` was given as.
        what: What `tree` is.
        asked_by: The transform, for messages.

    Returns:
        The tree with what isn't traced set apart, and the places in the order of its leaves.

    Raises:
        ArgumentTypeError: Where `tree` has an array, `places` has something else than a place.
        ArgumentError: `tree` doesn't begin with `places`; the message says where they part.
    """
    operand = split_static(tree, lambda: what)
    positions = list(range(jax.tree.structure(tree).num_leaves))
    traced = (
        operand.with_dynamic(positions).dynamic if isinstance(operand, Partitioned) else positions
    )
    is_traced = set(traced).__contains__
    found: list[Any] = []

    def descend(place: Any, here: Any, path: Path) -> None:
        count = jax.tree.structure(here).num_leaves
        below = range(len(found), len(found) + count)
        (form, children), (own_form, own_children) = children_of(place), children_of(here)
        is_one = kind.is_place(place) or jtu.treedef_is_leaf(form)
        if is_one and (kind.is_place(place) or not any(map(is_traced, below))):
            found.extend([place] * count)
            return
        if is_one:
            raise ArgumentTypeError(
                explain(
                    f"asked {asked_by} for {option}={places!r} of {what}",
                    f"{place!r} is a {type(place).__name__}",
                    f"{kind.one}, or a tree of them",
                )
            )
        if form != own_form:
            where = f"at '{format(path)}' " if path else ""
            theirs, ours = described(place), described(here)
            if theirs == ours:
                ours += " with other static parts"
            raise ArgumentError(
                explain(
                    f"asked {asked_by} for {option}={places!r} of {what}",
                    f"{where}the {kind.several} are {theirs}, and {what} has {ours}",
                    f"a tree that {what} begins with, where one stands for all below it",
                )
            )
        for (keys, own), (_, child) in zip(children, own_children, strict=True):
            descend(own, child, path + from_jax(keys)[0])

    descend(places, tree, ())
    return operand, [found[position] for position in traced]


def group(
    tree: Any, places: Any, kind: Kind, option: str, what: str, asked_by: str
) -> tuple[dict[Any, list[Any]], "Grouping"]:
    """Groups the arrays in a tree by the place that they get.

    A function under a JAX transform has no other way to say the places of what only it knows.

    Args:
        tree: Any pytree, as the function gives it.
        places: As for `spread`.
        kind: The kind of places.
        option: What `places` was given as.
        what: What `tree` is.
        asked_by: The transform, for messages.

    Returns:
        The arrays by place; and how to put the tree together outside of the transform.

    Raises:
        StateLensError: As for `spread`.
    """
    operand, each = spread(places, tree, kind, option, what, asked_by)
    labels = [_label(keys, what) for keys, _ in jtu.tree_flatten_with_path(tree)[0]]
    if isinstance(operand, Partitioned):
        labels = list(operand.with_dynamic(labels).dynamic)
    leaves, treedef = jax.tree.flatten(operand)
    groups: dict[Any, list[Any]] = {place: [] for place in kind.among(places)}
    for leaf, place in zip(leaves, each, strict=True):
        groups[place].append(leaf)
    return groups, Grouping(treedef, each, labels)


def check_axes(
    groups: dict[Any, list[Any]], grouping: "Grouping", option: str, asked_by: str
) -> None:
    """Refuses an axis that an array will not have once the lanes are stacked.

    Raises:
        ArgumentError: There is one; the message names the array.
    """
    for axis, leaves in groups.items():
        for leaf, label in zip(leaves, grouping.labels_of(axis), strict=True):
            ndim = jnp.ndim(leaf)
            if axis is None or -ndim - 1 <= axis <= ndim:
                continue
            raise ArgumentError(
                explain(
                    f"asked {asked_by} for {option} with the axis {axis}",
                    f"{label} has the shape {jnp.shape(leaf)} in each lane",
                    f"an axis from {-ndim - 1} to {ndim}",
                )
            )


class Grouping(NamedTuple):
    """How to put a tree together whose arrays were grouped by place.

    Attributes:
        treedef: Its structure, with what isn't traced set apart.
        places: The place of each array.
        labels: What each is called.
    """

    treedef: Any
    places: list[Any]
    labels: list[str]

    def labels_of(self, place: Any) -> list[str]:
        """Lists what the arrays that get a place are called."""
        return [one for one, own in zip(self.labels, self.places, strict=True) if own == place]

    def join(self, groups: dict[Any, list[Any]]) -> Any:
        """Gives the tree, as the caller sees it.

        Args:
            groups: The arrays by place.
        """
        left = {place: iter(group) for place, group in groups.items()}
        return merge_static(self.treedef.unflatten([next(left[place]) for place in self.places]))


def _label(keys: Any, what: str) -> str:
    return f"{what} at '{format(from_jax(keys)[0])}'" if keys else what
