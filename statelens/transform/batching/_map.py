"""`map`: one by one, or in chunks that are batched."""

import builtins
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ..._errors import check_callable, user_facing
from .._core import merge_static, parse_count, split_static
from ..control_flow import for_loop, steps_of
from ._vmap import vmap

Y = TypeVar("Y")


@user_facing
def map(f: Callable[..., Y], *xs: Any, batch_size: int | None = None) -> Y:
    """Runs ``f(*x)`` over the leading axis of all `xs`, one by one or in chunks.

    Args:
        f: The function; it may read and write states: one after another, if it is run one by
            one, else as in `vmap`, by which each chunk is run.
        *xs: What it is run over.
        batch_size: The size of a chunk, as for `jax.lax.map`; None for one by one.

    Returns:
        All outputs, stacked.

    Raises:
        StateLensError: As for `for_loop`, and for `vmap`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> sl.transform.map(lambda x: x ** 2, jnp.arange(5), batch_size=2)
        Array([ 0,  1,  4,  9, 16], dtype=int32)
    """
    check_callable(f, "f", "map")
    size = parse_count(batch_size, "batch_size", "map")
    if size is None:
        return for_loop(f, *xs)
    total = steps_of(xs, None, "map")
    chunks, left = divmod(total, size)
    whole = chunks * size
    batched = vmap(f)
    results = []
    if chunks:
        stacked = _on_arrays(lambda x: x[:whole].reshape(chunks, size, *x.shape[1:]), xs)
        out = for_loop(batched, *stacked)
        results.append(_on_arrays(lambda y: y.reshape(whole, *y.shape[2:]), out))
    if left or not chunks:
        results.append(batched(*_on_arrays(lambda x: x[whole:], xs)))
    return _on_arrays(lambda *ys: jnp.concatenate(ys), *results)


def _on_arrays(fun: Callable[..., Any], *trees: Any) -> Any:
    """Maps a function over the arrays in trees; what is static is the first one's."""
    operands = [split_static(tree, lambda: "xs") for tree in trees]
    leaves = zip(*builtins.map(jax.tree.leaves, operands), strict=True)
    return merge_static(
        jax.tree.unflatten(jax.tree.structure(operands[0]), [fun(*x) for x in leaves])
    )
