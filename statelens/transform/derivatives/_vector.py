"""`vector_grad` and `fwd_grad`: gradients that are not of one scalar, or not by pullback.

What they add to `jax.vjp` and `jax.jvp`: the selection of what is differentiated, and states
written by the function.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._errors import ArgumentError, ArgumentTypeError, StateLensError, explain, user_facing
from ..._tree import is_array
from ...random import DEFAULT, as_key
from .._core import parse_count
from ._grad import check_scalar
from ._transform import make


@user_facing
def vector_grad(
    fun: Callable[..., Any] | None = None,
    grad_states: Any = None,
    argnums: int | tuple[int, ...] | None = None,
    *,
    has_aux: bool = False,
    return_value: bool = False,
    check_states: bool = True,
    unit_aware: bool = False,
    debug_nan: bool = False,
) -> Any:
    """Gives the gradient of the sum of all outputs: each output's cotangent is one.

    Args:
        fun: A function that returns arrays of any shape, or a pytree of them.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        has_aux: As for `grad`.
        return_value: As for `grad`.
        check_states: As for `grad`.
        unit_aware: As for `grad`.
        debug_nan: As for `grad`.

    Returns:
        A function that gives what `grad` gives.

    Raises:
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> rate = sl.ParamState(jnp.ones(3))
        >>> sl.transform.vector_grad(lambda t: jnp.exp(rate.value * t), rate)(0.0)
        Array([0., 0., 0.], dtype=float32)
    """
    return make(
        fun,
        transform=_vector_grad,
        grad_states=grad_states,
        argnums=argnums,
        has_aux=has_aux,
        return_value=return_value,
        check_states=check_states,
        unit_aware=unit_aware,
        debug_nan=debug_nan,
    )


@user_facing
def fwd_grad(
    fun: Callable[..., Any] | None = None,
    grad_states: Any = None,
    argnums: int | tuple[int, ...] | None = None,
    *,
    has_aux: bool = False,
    return_value: bool = False,
    check_states: bool = True,
    tangent_size: int | None = None,
    drct_der_clip: float | None = None,
    key: Any = None,
    debug_nan: bool = False,
) -> Any:
    """Gives an unbiased estimate of the gradient by forward differentiation only.

    That is the derivative in the direction of a random normal tangent, times that tangent
    (Baydin et al., "Gradients without Backpropagation", 2022).

    Args:
        fun: A function that returns a scalar.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        has_aux: As for `grad`.
        return_value: As for `grad`.
        check_states: As for `grad`.
        tangent_size: Over how many tangents to average; None for one.
        drct_der_clip: The largest size of a directional derivative; a larger one is clipped,
            and the estimate no longer unbiased. None for no such limit.
        key: An integer or a key for the tangents, the same in each call; None for one from
            `random.DEFAULT`, another one in each call.
        debug_nan: As for `grad`.

    Returns:
        A function that gives what `grad` gives, estimated.

    Raises:
        ArgumentTypeError: `key` is no key, `tangent_size` no integer.
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> loss = lambda x: jnp.sum(x ** 2)
        >>> sl.transform.fwd_grad(loss, tangent_size=10_000, key=0)(jnp.array([1.0, 2.0])).round()
        Array([2., 4.], dtype=float32)
    """
    return make(
        fun,
        transform=_fwd_grad,
        grad_states=grad_states,
        argnums=argnums,
        has_aux=has_aux,
        return_value=return_value,
        check_states=check_states,
        debug_nan=debug_nan,
        transform_params={
            "tangent_size": parse_count(tangent_size, "tangent_size", "fwd_grad"),
            "limit": _read_limit(drct_der_clip),
            "key": _read_key(key),
        },
    )


def _vector_grad(fun: Callable[..., Any], argnums: int, has_aux: bool) -> Callable[..., Any]:
    def gradient(values: Any) -> tuple[Any, Any]:
        out, pullback, aux = jax.vjp(fun, values, has_aux=True)
        return pullback(jax.tree.map(_one, out))[0], aux

    return gradient


_vector_grad.__name__ = "vector_grad"


def _one(leaf: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return jnp.ones_like(leaf)
    return np.zeros(jnp.shape(leaf), jax.dtypes.float0)


def _fwd_grad(
    fun: Callable[..., Any],
    argnums: int,
    has_aux: bool,
    tangent_size: int | None,
    limit: Any,
    key: Any,
) -> Callable[..., Any]:
    def gradient(values: Any) -> tuple[Any, Any]:
        before = DEFAULT.value if key is None else None
        try:
            return estimate(values, DEFAULT.split_key() if key is None else key)
        except BaseException:
            if before is not None:
                DEFAULT.value = before
            raise

    def estimate(values: Any, first: Any) -> tuple[Any, Any]:
        def along(tangent_key: Any) -> tuple[Any, Any]:
            leaves, treedef = jax.tree.flatten(values)
            keys = jax.random.split(tangent_key, len(leaves))
            tangents = [
                jax.random.normal(k, jnp.shape(leaf), jnp.result_type(leaf))
                for k, leaf in zip(keys, leaves, strict=True)
            ]
            tangent = treedef.unflatten(tangents)
            _, slope, aux = jax.jvp(fun, (values,), (tangent,), has_aux=True)
            check_scalar(slope)
            if limit is not None:
                slope = jnp.clip(slope, -limit, limit)
            return jax.tree.map(lambda t: slope * t, tangent), aux

        if tangent_size is None:
            return along(first)
        gradients, aux = jax.vmap(along, out_axes=(0, None))(jax.random.split(first, tangent_size))
        return jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients), aux

    return gradient


_fwd_grad.__name__ = "fwd_grad"


def _read_limit(limit: Any) -> Any:
    if limit is None or is_array(limit) or isinstance(limit, (int, float)):
        return limit
    raise ArgumentTypeError(
        explain(
            f"asked fwd_grad for drct_der_clip={limit!r}",
            f"that is a {type(limit).__name__}",
            "a number, such as drct_der_clip=10.0",
        )
    )


def _read_key(key: Any) -> Any:
    try:
        return None if key is None else as_key(key)
    except StateLensError as error:
        kind = ArgumentTypeError if isinstance(error, TypeError) else ArgumentError
        shape = getattr(key, "shape", None)
        raise kind(
            explain(
                f"asked fwd_grad for key={key!r}",
                f"that is a {type(key).__name__}" + (f" of shape {shape}" if shape else ""),
                "an integer, or one key, as in key=jax.random.key(0)",
            )
        ) from None
