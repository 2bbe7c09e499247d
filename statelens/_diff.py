"""Differences: what changed between two trees, by path and by how much."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ._errors import user_facing
from ._units import is_array, leaves_with_path
from .path import Path


@dataclass(frozen=True)
class Change:
    """What changed at one path.

    Attributes:
        before: The leaf before, or None where there was none.
        after: The leaf after, or None where there is none.
        by: The largest absolute difference of two arrays of one shape, else None.
    """

    before: Any
    after: Any
    by: float | None

    def __repr__(self) -> str:
        if self.before is None:
            return f"added {_shown(self.after)}"
        if self.after is None:
            return f"removed {_shown(self.before)}"
        if self.by is None:
            return f"{_shown(self.before)} became {_shown(self.after)}"
        return f"changed by {self.by:.3g}"


@user_facing
def diff(before: Any, after: Any) -> dict[Path, Change]:
    """Says by path what changed between two trees, and by how much.

    Args:
        before: Any pytree, states included.
        after: The tree to compare it with.

    Returns:
        A change for each path where they differ, bit by bit; empty for equal trees.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> sl.diff({"b": jnp.zeros(2), "w": jnp.ones(1)}, {"b": jnp.ones(2), "w": jnp.ones(1)})
        {('b',): changed by 1}
    """
    ours, theirs = dict(leaves_with_path(before)), dict(leaves_with_path(after))
    changes = {}
    for path in dict.fromkeys([*ours, *theirs]):
        change = _compare(ours.get(path), theirs.get(path))
        if change is not None:
            changes[path] = change
    return changes


def _compare(before: Any, after: Any) -> Change | None:
    if before is after:
        return None
    if is_array(before) and is_array(after) and before.shape == after.shape:
        if before.dtype != after.dtype:
            return Change(before, after, None)
        if jnp.issubdtype(before.dtype, jnp.number) or before.dtype == bool:
            if jnp.array_equal(
                before, after, equal_nan=bool(jnp.issubdtype(before.dtype, jnp.inexact))
            ):
                return None
            wide = jnp.promote_types(before.dtype, jnp.float32)
            by = jnp.max(jnp.abs(jnp.asarray(after, wide) - jnp.asarray(before, wide)))
            return Change(before, after, float(by))
        return None if bool(jnp.all(before == after)) else Change(before, after, None)
    if is_array(before) or is_array(after) or before != after:
        return Change(before, after, None)
    return None


def _shown(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if is_array(leaf) else repr(leaf)
