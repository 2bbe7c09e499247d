"""Axes: the places of arrays for `vmap`, and the checks of them."""

from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu

from ..._errors import ArgumentError
from .._core import wrong_type
from ._prefix import Grouping, PlaceKind


def is_axis(place: Any) -> bool:
    """Says whether something is an axis: an integer, or None for what isn't mapped."""
    return place is None or (isinstance(place, int) and not isinstance(place, bool))


AXES = PlaceKind(
    is_axis,
    shared=None,
    default=0,
    option="axes",
    one="an integer or None",
    several="axes",
    of_lens="the axes of states that a lens selects",
    is_shared="which all lanes share",
    everywhere="in all lanes",
    for_state="vmap with in_states={state: 0} and out_states={state: 0}, for a state that has a "
    "value for each lane",
    for_output="an axis for that output",
    for_all="one value from all lanes, as by jax.lax.pmean over an axis_name",
)


def read_axes(in_axes: Any, out_axes: Any, asked_by: str) -> tuple[Any, Any]:
    """Reads the axes of arguments, one for all or a tuple of them, and those of the output."""
    if not is_axis(in_axes) and not isinstance(in_axes, (list, tuple)):
        each = "an integer, None, or one of these (or a tree of them) for each argument"
        raise wrong_type(asked_by, "in_axes", in_axes, each)
    if not is_axis(out_axes) and jtu.all_leaves([out_axes]):
        tree = "an integer or None, or a tree of them that the output begins with"
        raise wrong_type(asked_by, "out_axes", out_axes, tree)
    return tuple(in_axes) if isinstance(in_axes, list) else in_axes, out_axes


def size_along(leaves: list[tuple[str, Any, Any]], axis_size: int | None, asked_by: str) -> int:
    """Finds the size of the axes of labelled arrays; refuses axes that aren't there or differ."""
    sizes: dict[int, str] = {} if axis_size is None else {axis_size: f"axis_size={axis_size}"}
    for label, leaf, axis in leaves:
        shape = jnp.shape(leaf)
        if axis is None:
            continue
        if not -len(shape) <= axis < len(shape):
            raise ArgumentError(
                f"asked {asked_by} to map {label} over axis {axis}",
                f"there is an array of shape {shape} in it",
                "an axis that it has; None for what all lanes share",
            )
        sizes.setdefault(shape[axis], label)
    if len(sizes) != 1:
        found = ", ".join(f"{label}: {size}" for size, label in sizes.items())
        raise ArgumentError(
            f"asked {asked_by} to map over an axis",
            f"its size isn't one number: {found}" if found else "nothing says its size",
            "arrays of the same size along the axes that are mapped" if found else "axis_size=n",
        )
    return next(iter(sizes))


def check_out_axes(groups: dict[Any, list[Any]], grouping: Grouping, asked_by: str) -> None:
    """Refuses an axis that an array will not have once the lanes are stacked."""
    for axis, leaves in groups.items():
        for leaf, label in zip(leaves, grouping.labels_of(axis), strict=True):
            ndim = jnp.ndim(leaf)
            if axis is not None and not -ndim - 1 <= axis <= ndim:
                raise ArgumentError(
                    f"asked {asked_by} for out_axes with the axis {axis}",
                    f"{label} has the shape {jnp.shape(leaf)} in each lane",
                    f"an axis from {-ndim - 1} to {ndim}",
                )
