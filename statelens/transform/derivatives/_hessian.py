"""`hessian` and `hessian_diag`: second derivatives, by states and parts of trees as well.

What they add to `jax.hessian`: blocks by pairs of paths, over states and arguments together;
and the diagonal alone, in memory that grows with the number of parameters only.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..._errors import user_facing
from .._core import parse_count
from ._grad import scalar_grad
from ._jacobian import checked_output
from ._transform import make


@user_facing
def hessian(
    fun: Callable[..., Any] | None = None,
    grad_states: Any = None,
    argnums: int | tuple[int, ...] | None = None,
    *,
    has_aux: bool = False,
    return_value: bool = False,
    check_states: bool = True,
    holomorphic: bool = False,
    unit_aware: bool = False,
    debug_nan: bool = False,
) -> Any:
    """Gives the Hessian, as blocks: in the form of a gradient, each part in that form again.

    Args:
        fun: A function that returns a scalar (or arrays, for a Hessian of each number).
        grad_states: As for `grad`.
        argnums: As for `grad`.
        has_aux: As for `grad`.
        return_value: As for `grad`.
        check_states: As for `grad`.
        holomorphic: As for `jax.hessian`.
        unit_aware: As for `grad`.
        debug_nan: As for `grad`.

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
    return make(
        fun,
        transform=_hessian,
        order=2,
        grad_states=grad_states,
        argnums=argnums,
        has_aux=has_aux,
        return_value=return_value,
        check_states=check_states,
        unit_aware=unit_aware,
        debug_nan=debug_nan,
        transform_params={"holomorphic": holomorphic},
    )


@user_facing
def hessian_diag(
    fun: Callable[..., Any] | None = None,
    grad_states: Any = None,
    argnums: int | tuple[int, ...] | None = None,
    *,
    has_aux: bool = False,
    return_value: bool = False,
    check_states: bool = True,
    chunk_size: int | None = 64,
    debug_nan: bool = False,
) -> Any:
    """Gives the diagonal of the Hessian, in the form of the gradient, and exactly.

    It takes as many Hessian-vector products as there are numbers, so many at once.

    Args:
        fun: A function that returns a scalar.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        has_aux: As for `grad`.
        return_value: As for `grad`.
        check_states: As for `grad`.
        chunk_size: How many products to compute at once; None for all.
        debug_nan: As for `grad`.

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
    return make(
        fun,
        transform=_hessian_diag,
        grad_states=grad_states,
        argnums=argnums,
        has_aux=has_aux,
        return_value=return_value,
        check_states=check_states,
        debug_nan=debug_nan,
        transform_params={"chunk_size": parse_count(chunk_size, "chunk_size", "hessian_diag")},
    )


def _hessian(fun: Callable[..., Any], **params: Any) -> Callable[..., Any]:
    return jax.hessian(checked_output(fun, "hessian"), **params)


_hessian.__name__ = "hessian"


def _hessian_diag(
    fun: Callable[..., Any], argnums: int, has_aux: bool, chunk_size: int | None
) -> Callable[..., Any]:
    def diagonal(values: Any) -> tuple[Any, Any]:
        flat, unravel = ravel_pytree(values)
        _, product, aux = jax.linearize(scalar_grad(fun, has_aux=True), values, has_aux=True)

        if not flat.size:
            return values, aux

        def entry(number: Any) -> Any:
            unit_vector = (jnp.arange(flat.size) == number).astype(flat.dtype)
            return ravel_pytree(product(unravel(unit_vector)))[0][number]

        numbers = jnp.arange(flat.size)
        size = flat.size if chunk_size is None else chunk_size
        return unravel(jax.lax.map(entry, numbers, batch_size=max(size, 1))), aux

    return diagonal


_hessian_diag.__name__ = "hessian_diag"
