"""`jacrev`, `jacfwd`, `jacobian`: JAX's Jacobians, by states and parts of trees as well.

What they add: blocks by output and by state, of the shape of the output followed by that of
the state; states written by the function; and evaluation in chunks, so that not all
cotangents (or tangents) of a large Jacobian are there at once.
"""

from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..._errors import DifferentiationError
from .._core import parse_count
from ._dtypes import field_of, refuse_without_numbers
from ._signatures import Argnums, UnitOptions, derivative
from ._transform import GradientTransform, transform_as


@derivative
def jacrev(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    holomorphic: bool = False,
    allow_int: bool = False,
    chunk_size: int | None = None,
    **options: Unpack[UnitOptions],
) -> Callable[..., Any]:
    """Gives the Jacobian, row by row: one pullback for each output, all at once or in chunks.

    Args:
        fun: A function that returns arrays of any shape, or a pytree of them.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        holomorphic: Whether the function is holomorphic, with complex outputs; as for `grad`.
        allow_int: As for `jax.jacrev`.
        chunk_size: How many rows to compute at once; None for all.
        **options: As for `grad`: has_aux, return_value, check_states, unit_aware, debug_nan.

    Returns:
        A function that gives what `grad` gives, with a Jacobian for the gradient: the tree of
        the outputs, and in the place of each output the form of a gradient, with blocks of
        shape ``output shape + state shape``.

    Raises:
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> scale = sl.ParamState(jnp.ones(2))
        >>> def fun(x):
        ...     return {"a": scale.value * x, "b": jnp.sum(scale.value)}
        >>> blocks = sl.transform.jacrev(fun, {"scale": scale})(3.0)
        >>> blocks["a"]["scale"].shape, blocks["b"]["scale"].shape
        ((2, 2), (2,))
    """
    params = {
        "holomorphic": holomorphic,
        "allow_int": allow_int,
        "chunk_size": parse_count(chunk_size, "chunk_size", "jacrev"),
    }
    return GradientTransform(fun, _jacrev, grad_states, argnums, transform_params=params, **options)


@derivative
def jacfwd(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    holomorphic: bool = False,
    chunk_size: int | None = None,
    **options: Unpack[UnitOptions],
) -> Callable[..., Any]:
    """Gives the Jacobian, column by column: one pushforward for each number put in.

    Args:
        fun: As for `jacrev`.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        holomorphic: As for `jax.jacfwd`, which without it takes real numbers only; `jacrev`
            takes complex ones.
        chunk_size: How many columns to compute at once; None for all.
        **options: As for `grad`: has_aux, return_value, check_states, unit_aware, debug_nan.

    Returns:
        A function that gives what `jacrev` gives.

    Raises:
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> angle = sl.ParamState(jnp.zeros(()))
        >>> turn = lambda: jnp.stack([jnp.cos(angle.value), jnp.sin(angle.value)])
        >>> sl.transform.jacfwd(turn, angle)()
        Array([-0.,  1.], dtype=float32)
    """
    params = {
        "holomorphic": holomorphic,
        "chunk_size": parse_count(chunk_size, "chunk_size", "jacfwd"),
    }
    return GradientTransform(fun, _jacfwd, grad_states, argnums, transform_params=params, **options)


jacobian = jacrev
"""The Jacobian by pullbacks, as `jax.jacobian` is."""


@transform_as("jacrev")
def _jacrev(
    fun: Callable[..., Any],
    values: Any,
    holomorphic: bool,
    allow_int: bool,
    chunk_size: int | None,
) -> tuple[Any, Any]:
    checked = checked_output(fun, "jacrev", complex_too=holomorphic)
    whole = jax.jacrev(checked, has_aux=True, holomorphic=holomorphic, allow_int=allow_int)
    if chunk_size is None:
        return whole(values)
    out, pullback, aux = jax.vjp(checked, values, has_aux=True)
    flat, unravel = ravel_pytree(out)
    if not flat.size or any(jnp.size(leaf) == 0 for leaf in jax.tree.leaves(values)):
        return whole(values)

    def row(number: Any) -> Any:
        return pullback(unravel(unit_vector(number, flat)))[0]

    rows = jax.lax.map(row, jnp.arange(flat.size), batch_size=chunk_size)
    blocks = jax.tree.map(lambda stacked: _split_axis(stacked, out), rows)
    return jax.tree.transpose(jax.tree.structure(values), jax.tree.structure(out), blocks), aux


@transform_as("jacfwd", real_only=True)
def _jacfwd(
    fun: Callable[..., Any], values: Any, holomorphic: bool, chunk_size: int | None
) -> tuple[Any, Any]:
    # Complex outputs of real numbers are no matter for what is pushed forward.
    checked = checked_output(fun, "jacfwd", complex_too=True)
    whole = jax.jacfwd(checked, has_aux=True, holomorphic=holomorphic)
    if chunk_size is None:
        return whole(values)
    flat, unravel = ravel_pytree(values)
    if not flat.size:
        return whole(values)
    _, pushforward, aux = jax.linearize(checked, values, has_aux=True)

    def column(number: Any) -> Any:
        return pushforward(unravel(unit_vector(number, flat)))

    columns = jax.lax.map(column, jnp.arange(flat.size), batch_size=chunk_size)

    def blocks(stacked: Any) -> Any:
        # The axes of the output come first.
        own = range(1 - stacked.ndim, 0)
        split = _split_axis(stacked, values)
        return jax.tree.map(lambda block: jnp.moveaxis(block, own, range(len(own))), split)

    return jax.tree.map(blocks, columns), aux


def checked_output(
    fun: Callable[..., Any], asked_by: str, *, complex_too: bool
) -> Callable[..., Any]:
    """Makes a function refuse to return what has no derivative."""

    def checked(values: Any) -> tuple[Any, Any]:
        value, aux = fun(values)
        for leaf in jax.tree.leaves(value):
            dtype = jnp.result_type(leaf)
            field = field_of(dtype)
            if field == "real" or (field == "complex" and complex_too):
                continue
            raise DifferentiationError(
                f"asked {asked_by} for the derivative of a function's output",
                f"there is a number of dtype {dtype} in it",
                "holomorphic=True, if the function is holomorphic"
                if field == "complex"
                else "floating-point outputs",
                "has_aux=True, and such numbers in the second part of a pair",
            )
        refuse_without_numbers(value, asked_by)
        return value, aux

    return checked


def _split_axis(stacked: Any, tree: Any) -> Any:
    """Splits the first axis of an array, along which the numbers of a tree lie in a row."""
    leaves, treedef = jax.tree.flatten(tree)
    parts = jnp.split(stacked, np.cumsum([jnp.size(leaf) for leaf in leaves])[:-1])
    shapes = [jnp.shape(leaf) + stacked.shape[1:] for leaf in leaves]
    return treedef.unflatten(map(jnp.reshape, parts, shapes))


def unit_vector(number: Any, flat: Any) -> Any:
    """Returns an array like `flat` of zeros, but for a one."""
    return (jnp.arange(flat.size) == number).astype(flat.dtype)
