"""`vector_grad`: the gradient of a sum of outputs, of any shape."""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from ._dtypes import refuse_without_numbers
from ._signatures import Argnums, UnitOptions, derivative
from ._transform import GradientTransform, transform_as


@derivative
def vector_grad(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    **options: Unpack[UnitOptions],
) -> Callable[..., Any]:
    """Gives the gradient of the sum of all outputs: each output's cotangent is one.

    Args:
        fun: A function that returns arrays of any shape, or a pytree of them.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        **options: As for `grad`: has_aux, return_value, check_states, unit_aware, debug_nan.

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
    return GradientTransform(fun, _vector_grad, grad_states, argnums, **options)


@transform_as("vector_grad")
def _vector_grad(fun: Callable[..., Any], values: Any) -> tuple[Any, Any]:
    out, pullback, aux = jax.vjp(fun, values, has_aux=True)
    refuse_without_numbers(out, "vector_grad")
    return pullback(jax.tree.map(_one, out))[0], aux


def _one(leaf: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return jnp.ones_like(leaf)
    return np.zeros(jnp.shape(leaf), jax.dtypes.float0)
