"""Curvature: Hessians, their diagonal, and their products with vectors.

What they add to `jax.hessian`: blocks by pairs of paths, over states and arguments together;
the diagonal alone, in memory that grows with the number of parameters only; and products that
take and give vectors in the very form of the gradient, so that they are linear operators over
what a lens selects: `lineax.FunctionLinearOperator` takes them as they are.
"""

import functools
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..._errors import ArgumentTypeError, check_callable, user_facing
from .._core import parse_count
from ._dtypes import refuse_without_numbers
from ._grad import scalar_grad
from ._jacobian import checked_output, unit_vector
from ._signatures import Argnums, DerivativeOptions, UnitOptions, derivative, product
from ._transform import GradientTransform, transform_as


@derivative
def hessian(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    holomorphic: bool = False,
    **options: Unpack[UnitOptions],
) -> Callable[..., Any]:
    """Gives the Hessian, as blocks: in the form of a gradient, each part in that form again.

    Args:
        fun: A function that returns a scalar (or arrays, for a Hessian of each number).
        grad_states: As for `grad`.
        argnums: As for `grad`.
        holomorphic: Whether the function is holomorphic. Without it numbers are real, as for
            `jax.hessian`; `hvp` takes complex ones.
        **options: As for `grad`: has_aux, return_value, check_states, unit_aware, debug_nan.

    Returns:
        A function that gives what `grad` gives, with the Hessian for the gradient. With states
        by path it is ``{path: {path: block}}``; with states and arguments the parts are nested as
        in `jax.hessian` by several arguments: ``blocks[0][path][1]`` is that of a state and
        the argument.

    Raises:
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> a, b = sl.ParamState(jnp.array(2.0)), sl.ParamState(jnp.array(3.0))
        >>> blocks = sl.transform.hessian(lambda: a.value ** 2 * b.value, {"a": a, "b": b})()
        >>> float(blocks["a"]["a"]), float(blocks["a"]["b"]), float(blocks["b"]["b"])
        (6.0, 4.0, 0.0)
    """
    params = {"holomorphic": holomorphic}
    return GradientTransform(
        fun, _hessian, grad_states, argnums, transform_params=params, order=2, **options
    )


@derivative
def hessian_diag(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    holomorphic: bool = False,
    chunk_size: int | None = 64,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives the diagonal of the Hessian, in the form of the gradient, and exactly.

    It takes as many Hessian-vector products as there are numbers, so many at once.

    Args:
        fun: A function that returns a scalar.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        holomorphic: As for `hessian`.
        chunk_size: How many products to compute at once; None for all.
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

    Returns:
        A function that gives what `grad` gives, with second derivatives for the gradient.

    Raises:
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.array([1.0, 2.0]))
        >>> sl.transform.hessian_diag(lambda: jnp.sum(w.value ** 3), w)()
        Array([ 6., 12.], dtype=float32)
    """
    params = {
        "holomorphic": holomorphic,
        "chunk_size": parse_count(chunk_size, "chunk_size", "hessian_diag"),
    }
    return GradientTransform(
        fun, _hessian_diag, grad_states, argnums, transform_params=params, **options
    )


@transform_as("hessian", real_only=True)
def _hessian(fun: Callable[..., Any], values: Any, holomorphic: bool) -> tuple[Any, Any]:
    checked = checked_output(fun, "hessian", complex_too=holomorphic)
    return jax.hessian(checked, has_aux=True, holomorphic=holomorphic)(values)


@transform_as("hessian_diag", real_only=True)
def _hessian_diag(
    fun: Callable[..., Any], values: Any, holomorphic: bool, chunk_size: int | None
) -> tuple[Any, Any]:
    flat, unravel = ravel_pytree(values)
    gradient = functools.partial(scalar_grad, fun, asked_by="hessian_diag", holomorphic=holomorphic)
    _, product, aux = jax.linearize(gradient, values, has_aux=True)
    if not flat.size:
        return values, aux

    def entry(number: Any) -> Any:
        return ravel_pytree(product(unravel(unit_vector(number, flat))))[0][number]

    entries = jax.lax.map(entry, jnp.arange(flat.size), batch_size=chunk_size or flat.size)
    return unravel(entries), aux


class _ProductTransform(GradientTransform):
    """A gradient transform whose first argument is a vector in the form of the gradient."""

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if not args:
            raise ArgumentTypeError(
                f"asked {self.name} for a product with a vector",
                "the call has no argument",
                "the vector first, then the arguments of the function",
            )
        call = self._prepared(args[1:], kwargs)
        vector = call.from_user_form(args[0], "a vector")
        return self._differentiated(call, {**self._params, "vector": vector})


@product
def hvp(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    holomorphic: bool = False,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives the product of the Hessian and a vector, forward over reverse.

    Args:
        fun: A function that returns a scalar.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        holomorphic: As for `grad`.
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

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
    params = {"holomorphic": holomorphic}
    return _ProductTransform(fun, _hvp, grad_states, argnums, transform_params=params, **options)


@product
def gauss_newton_vp(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    loss: Callable[[Any], Any] | None = None,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives the product of the Gauss-Newton matrix and a vector.

    The matrix is ``J' H J``, with ``J`` the Jacobian of `fun` and ``H`` the Hessian of `loss` at
    the outputs. It is positive semi-definite where `loss` is convex.

    Args:
        fun: The function inside of the loss: predictions, or residuals.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        loss: The loss, a scalar function of the outputs. None for half the sum of squares, of
            which ``H`` is the identity.
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

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
    params = {"loss": loss}
    return _ProductTransform(
        fun, _gauss_newton_vp, grad_states, argnums, transform_params=params, **options
    )


@transform_as("hvp")
def _hvp(fun: Callable[..., Any], values: Any, vector: Any, holomorphic: bool) -> tuple[Any, Any]:
    gradient = functools.partial(scalar_grad, fun, asked_by="hvp", holomorphic=holomorphic)
    return jax.jvp(gradient, (values,), (vector,), has_aux=True)[1:]


@transform_as("gauss_newton_vp")
def _gauss_newton_vp(
    fun: Callable[..., Any], values: Any, vector: Any, loss: Callable[[Any], Any] | None
) -> tuple[Any, Any]:
    out, pushforward, aux = jax.linearize(fun, values, has_aux=True)
    refuse_without_numbers(out, "gauss_newton_vp")
    change = pushforward(vector)
    if loss is None:
        # What the Hessian of half the sum of squared sizes gives, where outputs are complex.
        change = jax.tree.map(jnp.conj, change)
    else:
        gradient = functools.partial(
            scalar_grad, lambda out: (loss(out), None), asked_by="gauss_newton_vp"
        )
        change = jax.jvp(gradient, (out,), (change,), has_aux=True)[1]
    pullback = jax.linear_transpose(pushforward, values)
    return pullback(change)[0], aux
