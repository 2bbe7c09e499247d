"""Differences: what changed between two trees, by path and by how much."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .._errors import user_facing
from .._tree import Path, flatten_as_jax, is_array, is_key, leaves_with_path


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
    # Numbers are compared, so all states are read, and not just looked at.
    flatten_as_jax((before, after))
    ours, theirs = dict(leaves_with_path(before)), dict(leaves_with_path(after))
    changes = {path: _compare(ours.get(path), theirs.get(path)) for path in ours | theirs}
    return {path: change for path, change in changes.items() if change is not None}


def _compare(before: Any, after: Any) -> Change | None:
    if not (is_array(before) and is_array(after)):
        is_other = is_array(before) or is_array(after) or before != after
        return Change(before, after, None) if is_other else None
    if before.shape != after.shape or before.dtype != after.dtype:
        return Change(before, after, None)
    ours, theirs = _numbers(before), _numbers(after)
    if ours.tobytes() == theirs.tobytes():
        return None
    return Change(before, after, None if is_key(before) else _distance(ours, theirs))


def _numbers(array: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(array) if is_key(array) else array)


def _distance(before: np.ndarray, after: np.ndarray) -> float:
    # Equal infinities are no distance apart, nor are NaNs, which equal nothing.
    same = (before == after) | ((before != before) & (after != after))
    # Python's numbers have no bounds, and hold those of every dtype exactly.
    kind = complex if np.iscomplexobj(before) else int if before.dtype.kind in "iub" else float
    pairs = zip(before[~same].tolist(), after[~same].tolist(), strict=True)
    return float(max((abs(kind(b) - kind(a)) for a, b in pairs), default=0.0))


def _shown(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if is_array(leaf) else repr(leaf)
