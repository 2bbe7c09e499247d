"""`hvp` and `gauss_newton_vp`: curvature times a vector, never the matrix.

The products take and give vectors in the very form of the gradient, so that they are linear
operators over what a lens selects: `lineax.FunctionLinearOperator` takes them as they are.
"""

from collections.abc import Callable
from typing import Any

import jax

from ..._errors import ArgumentTypeError, explain, user_facing
from .._core import check_callable
from ._grad import check_scalar, scalar_grad
from ._transform import GradientTransform, make

_MISSING: Any = object()


class _ProductTransform(GradientTransform):
    """A gradient transform whose first argument is a vector in the form of the gradient."""

    @user_facing
    def __call__(self, vector: Any = _MISSING, /, *args: Any, **kwargs: Any) -> Any:
        if vector is _MISSING:
            raise ArgumentTypeError(
                explain(
                    f"asked {self._name} for a product with a vector",
                    "the call has no argument",
                    "the vector first, then the arguments of the function",
                )
            )
        return self._differentiated(
            args, kwargs, lambda plan: {"vector": plan.read(vector, "a vector")}
        )


@user_facing
def hvp(
    fun: Callable[..., Any] | None = None,
    grad_states: Any = None,
    argnums: int | tuple[int, ...] | None = None,
    *,
    has_aux: bool = False,
    return_value: bool = False,
    check_states: bool = True,
    holomorphic: bool = False,
    debug_nan: bool = False,
) -> Any:
    """Gives the product of the Hessian and a vector, forward over reverse.

    Args:
        fun: A function that returns a scalar.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        has_aux: As for `grad`.
        return_value: As for `grad`.
        check_states: As for `grad`.
        holomorphic: As for `jax.grad`.
        debug_nan: As for `grad`.

    Returns:
        A function ``(vector, *args)``, which gives what `grad` gives, with the product for the
        gradient. The vector has the form of the gradient.

    Raises:
        StructureError: The vector hasn't the form of the gradient.
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.array([1.0, 2.0]))
        >>> loss = lambda x: jnp.sum((w.value * x) ** 2)
        >>> sl.transform.hvp(loss, w)(jnp.array([1.0, 0.0]), 3.0)
        Array([18.,  0.], dtype=float32)
    """
    return make(
        fun,
        _ProductTransform,
        transform=_hvp,
        grad_states=grad_states,
        argnums=argnums,
        has_aux=has_aux,
        return_value=return_value,
        check_states=check_states,
        debug_nan=debug_nan,
        transform_params={"holomorphic": holomorphic},
    )


@user_facing
def gauss_newton_vp(
    fun: Callable[..., Any] | None = None,
    grad_states: Any = None,
    argnums: int | tuple[int, ...] | None = None,
    *,
    loss: Callable[[Any], Any] | None = None,
    has_aux: bool = False,
    return_value: bool = False,
    check_states: bool = True,
    debug_nan: bool = False,
) -> Any:
    """Gives the product of the Gauss-Newton matrix and a vector.

    The matrix is ``J' H J``, with ``J`` the Jacobian of `fun` and ``H`` the Hessian of `loss` at
    the outputs. It is positive semi-definite where `loss` is convex.

    Args:
        fun: The function inside of the loss: predictions, or residuals.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        loss: The loss, a scalar function of the outputs. None for half the sum of squares, of
            which ``H`` is the identity.
        has_aux: As for `grad`.
        return_value: Whether to return what `fun` returns as well.
        check_states: As for `grad`.
        debug_nan: As for `grad`.

    Returns:
        A function ``(vector, *args)``, as `hvp` gives one.

    Raises:
        StructureError: The vector hasn't the form of the gradient.
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones(2))
        >>> x = jnp.array([[1.0, 0.0], [1.0, 2.0]])
        >>> sl.transform.gauss_newton_vp(lambda: x @ w.value, w)(jnp.array([1.0, 0.0]))
        Array([2., 2.], dtype=float32)
    """
    if loss is not None:
        check_callable(loss, "loss", "gauss_newton_vp")
    return make(
        fun,
        _ProductTransform,
        transform=_gauss_newton_vp,
        grad_states=grad_states,
        argnums=argnums,
        has_aux=has_aux,
        return_value=return_value,
        check_states=check_states,
        debug_nan=debug_nan,
        transform_params={"loss": loss},
    )


def _hvp(
    fun: Callable[..., Any], argnums: int, has_aux: bool, vector: Any, holomorphic: bool
) -> Callable[..., Any]:
    gradient = scalar_grad(fun, has_aux=True, holomorphic=holomorphic)

    def product(values: Any) -> tuple[Any, Any]:
        _, along, aux = jax.jvp(gradient, (values,), (vector,), has_aux=True)
        return along, aux

    return product


_hvp.__name__ = "hvp"


def _gauss_newton_vp(
    fun: Callable[..., Any],
    argnums: int,
    has_aux: bool,
    vector: Any,
    loss: Callable[[Any], Any] | None,
) -> Callable[..., Any]:
    def product(values: Any) -> tuple[Any, Any]:
        out, pushforward, aux = jax.linearize(fun, values, has_aux=True)
        change = pushforward(vector)
        if loss is not None:
            check_scalar(jax.eval_shape(loss, out))
            change = jax.jvp(jax.grad(loss), (out,), (change,))[1]
        pullback = jax.linear_transpose(pushforward, values)
        return pullback(change)[0], aux

    return product


_gauss_newton_vp.__name__ = "gauss_newton_vp"
