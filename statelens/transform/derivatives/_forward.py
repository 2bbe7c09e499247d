"""`fwd_grad`: an estimate of the gradient by forward differentiation only."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from ..._errors import StateLensError
from ..._tree import is_array
from ...random import DEFAULT, as_key
from .._core import parse_count, run_and_commit, wrong_type
from ._differentiable_call import DifferentiableCall
from ._dtypes import field_of
from ._grad import check_scalar
from ._signatures import Argnums, DerivativeOptions, derivative
from ._transform import GradientTransform, transform_as


@derivative
def fwd_grad(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    tangent_size: int | None = None,
    drct_der_clip: float | None = None,
    key: Any = None,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives an unbiased estimate of the gradient by forward differentiation only.

    That is the derivative in the direction of a random normal tangent, times that tangent
    (Baydin et al., "Gradients without Backpropagation", 2022).

    Args:
        fun: A function that returns a scalar.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        tangent_size: Over how many tangents to average; None for one.
        drct_der_clip: The largest size of a directional derivative; a larger one is clipped,
            and the estimate no longer unbiased. None for no such limit.
        key: An integer or a key for the tangents, the same in each call; None for one from
            `random.DEFAULT`, another one in each call.
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

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
    params = {
        "tangent_size": parse_count(tangent_size, "tangent_size", "fwd_grad"),
        "limit": _read_limit(drct_der_clip),
        "key": _read_key(key),
    }
    return _ForwardTransform(
        fun, _fwd_grad, grad_states, argnums, transform_params=params, **options
    )


class _ForwardTransform(GradientTransform):
    """A gradient transform that draws the key of its tangents, unless one is given."""

    def _differentiated(self, call: DifferentiableCall, params: Mapping[str, Any]) -> Any:
        differentiated = super()._differentiated
        if params["key"] is not None:
            return differentiated(call, params)

        def drawn() -> Any:
            return differentiated(call, {**params, "key": DEFAULT.split_key()})

        # In a frame, so that the key of `DEFAULT` is written as any state is: upon success.
        return run_and_commit(drawn, ())


@transform_as("fwd_grad")
def _fwd_grad(
    fun: Callable[..., Any], values: Any, tangent_size: int | None, limit: Any, key: jax.Array
) -> tuple[Any, Any]:
    def along(tangent_key: jax.Array) -> tuple[Any, Any]:
        leaves, treedef = jax.tree.flatten(values)
        keys = jax.random.split(tangent_key, len(leaves))
        tangents = list(map(_normal, keys, leaves))
        tangent = treedef.unflatten(tangents)
        value, slope, aux = jax.jvp(fun, (values,), (tangent,), has_aux=True)
        check_scalar(value, "fwd_grad")
        if limit is not None:
            slope = jnp.clip(slope, -limit, limit)
        # The conjugate, since the gradient by complex numbers is JAX's.
        return jax.tree.map(lambda t: slope * jnp.conj(t), tangent), aux

    if tangent_size is None:
        return along(key)
    gradients, aux = jax.vmap(along, out_axes=(0, None))(jax.random.split(key, tangent_size))
    return jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients), aux


def _normal(key: jax.Array, leaf: Any) -> jax.Array:
    """Draws a tangent; of a complex one both parts are of variance 1, by JAX's normal of 1/2."""
    dtype = jnp.result_type(leaf)
    scale = 2**0.5 if field_of(dtype) == "complex" else 1
    return scale * jax.random.normal(key, jnp.shape(leaf), dtype)


def _read_limit(limit: Any) -> Any:
    if limit is None or is_array(limit) or isinstance(limit, (int, float)):
        return limit
    raise wrong_type("fwd_grad", "drct_der_clip", limit, "a number, such as drct_der_clip=10.0")


def _read_key(key: Any) -> Any:
    try:
        return None if key is None else as_key(key)
    except StateLensError as error:
        shape = getattr(key, "shape", None)
        raise type(error)(
            f"asked fwd_grad for key={key!r}",
            f"that is a {type(key).__name__}" + (f" of shape {shape}" if shape else ""),
            "an integer, or one key, as in key=jax.random.key(0)",
        ) from None
