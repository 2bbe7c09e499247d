"""`grad` and `value_and_grad`: `jax.grad`, by states and parts of trees as well.

What they add to `jax.grad`: the selection of what is differentiated, states written by the
function, and errors that name paths. The gradient is JAX's own.
"""

import functools
from collections.abc import Callable
from typing import Any, Unpack

import jax

from ..._errors import DifferentiationError
from ..._tree import is_numeric
from ._dtypes import field_of
from ._signatures import Argnums, ValueOptions, as_grad, value_first
from ._transform import GradientTransform, transform_as


def scalar_grad(
    fun: Callable[..., Any],
    values: Any,
    *,
    asked_by: str,
    holomorphic: bool | None = None,
    allow_int: bool = False,
) -> tuple[Any, Any]:
    """Is `jax.grad` of a function of checked values, which gives ``(value, aux)``.

    It is put together of `jax.vjp` and the cotangent of a scalar, as JAX's own is. What that
    checks besides has been checked already, with paths, or is checked here.
    """
    value, pullback, aux = jax.vjp(fun, values, has_aux=True)
    check_scalar(value, asked_by, holomorphic)
    return pullback(_one(value))[0], aux


def scalar_grad_as(name: str) -> Callable[..., Any]:
    """Makes the transform of that name that takes the gradient of a scalar."""
    return transform_as(name)(functools.partial(scalar_grad, asked_by=name))


_grad = scalar_grad_as("grad")
_value_and_grad = scalar_grad_as("value_and_grad")


def _one(value: Any) -> Any:
    """Returns the cotangent of a scalar by itself."""
    # By the type of the value: by the value itself, the cotangent would be bound to its devices.
    sharding = jax.typeof(value).sharding
    spec = sharding.spec
    if spec.unreduced or spec.reduced:
        # What is still to be summed over devices has a cotangent that each of them has already.
        spec = jax.P(unreduced=spec.reduced, reduced=spec.unreduced)
        sharding = sharding.update(spec=spec)
    return jax.lax.full_like(value, 1, shape=(), sharding=sharding)


def check_scalar(value: Any, asked_by: str, holomorphic: bool | None = None) -> None:
    """Refuses a loss that isn't one number, and says what may be meant instead.

    A transform that has no option `holomorphic` gives None for it.
    """
    asked = f"asked {asked_by} for the gradient of a loss, which is a scalar"
    aval: Any = jax.typeof(value) if is_numeric(value) else None
    if aval is not None and aval.shape == ():
        dtype, kind = aval.dtype, "complex" if holomorphic else "real"
        if field_of(dtype) == kind:
            return
        is_complex = field_of(dtype) == "complex"
        remedies = ["jnp.real or jnp.abs of it" if is_complex else "a floating-point loss"]
        if holomorphic is False:
            remedies.append(
                f"{asked_by}(..., holomorphic=True), if the function is holomorphic, and complex "
                "all through"
            )
        raise DifferentiationError(
            asked,
            f"it is of dtype {dtype}, where a {kind} floating-point number is meant",
            *remedies,
        )
    if value is None:
        found, remedy = "it returned None", "return the loss; is there a 'return'?"
    elif aval is not None:
        found = f"it returned an array of shape {aval.shape}"
        remedy = "jnp.mean or jnp.sum of it, for one number"
    elif type(value).__name__ == "Quantity":
        found, remedy = f"it returned the quantity {value}", "unit_aware=True"
    elif isinstance(value, tuple) and len(value) == 2:
        found, remedy = "it returned a pair", "has_aux=True, if the pair is (loss, aux)"
    else:
        found, remedy = f"it returned a {type(value).__name__}", "return one number"
    raise DifferentiationError(asked, found, remedy)


def _transformed(
    transform: Callable[..., Any],
    fun: Callable[..., Any],
    grad_states: Any,
    argnums: Any,
    holomorphic: bool = False,
    allow_int: bool = False,
    **options: Any,
) -> GradientTransform:
    params = {"holomorphic": holomorphic, "allow_int": allow_int}
    return GradientTransform(
        fun, transform, grad_states, argnums, transform_params=params, **options
    )


def _value_first(gradient: Any, value: Any, *aux: Any) -> Any:
    return ((value, *aux) if aux else value), gradient


@as_grad
def grad(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    has_aux: bool = False,
    return_value: bool = False,
    check_states: bool = True,
    holomorphic: bool = False,
    allow_int: bool = False,
    unit_aware: bool = False,
    debug_nan: bool = False,
) -> GradientTransform:
    """Gives the gradient of a scalar function by states, by part of a tree, by arguments.

    Without `grad_states` it is `jax.grad`. With `grad_states` the gradient is taken by the
    states that are given, or by what a lens selects in the first argument; with `argnums` as
    well, by both. Whatever states the function writes have their new values after the call;
    if anything fails, all states are as they were. The function runs once for each call.

    Args:
        fun: The function to differentiate; it returns a scalar, or ``(scalar, aux)``. Left
            out, `grad` gives a decorator.
        grad_states: States (a bound lens, one state, a mapping or list of states): the
            gradient comes in the same form. Or a lens on the first positional argument, in
            any form that `lens` takes: the gradient is that argument's tree, with None
            outside the focus.
        argnums: The positional arguments to differentiate by, counted from 0.
        has_aux: Whether `fun` returns ``(loss, aux)``.
        return_value: Whether to return the loss as well.
        check_states: Whether a state that the function never touches is an error; else its
            gradient is zero.
        holomorphic: Whether the function is holomorphic: complex, of complex numbers. Without
            it the loss is real, and may be so of complex numbers too: the gradient by
            ``z = x + iy`` is then ``dL/dx - i dL/dy``, as JAX has it. That is the conjugate of the
            direction of steepest ascent, so that a step of descent is
            ``z - rate * gradient.conj()``.
        allow_int: Whether to allow integers, whose gradient has dtype `float0`.
        unit_aware: Whether values carry physical units, as quantities of `saiunit` (or of
            `brainunit`): gradients then have the unit of the loss divided by that of the value.
            The package is an extra: ``pip install 'statelens[units]'``.
        debug_nan: Whether to refuse a gradient that isn't finite, with an error that names its
            path, and the primitive and the line of code that made the first such number. It
            slows the function down.

    Returns:
        A function of the arguments of `fun`. It gives ``g``, ``(g, aux)``, ``(g, loss)`` or
        ``(g, loss, aux)``; the gradient part ``g`` is the states' gradients, or those of the
        arguments, or the pair of both.

    Raises:
        ArgumentError: `argnums` is out of range, or 0 beside an unbound lens.
        StateTypeError: Something given as a state is none.
        PathError: A pattern matches nothing.
        DifferentiationError: The loss is no scalar, or a state has no derivative.
        UntouchedStateError: The function never touched a state.
        NonFiniteError: With `debug_nan`, a gradient isn't finite.
        MissingPackageError: With `unit_aware`, there is no package for units.
        FrozenTreeError: The function wrote a state of a tree argument; see `thread`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> weight = sl.ParamState(jnp.ones(()))
        >>> loss = lambda x: (weight.value * x) ** 2
        >>> sl.grad(loss, grad_states=weight, return_value=True)(2.0)
        (Array(8., dtype=float32), Array(4., dtype=float32))
    """
    return _transformed(
        _grad,
        fun,
        grad_states,
        argnums,
        has_aux=has_aux,
        return_value=return_value,
        check_states=check_states,
        holomorphic=holomorphic,
        allow_int=allow_int,
        unit_aware=unit_aware,
        debug_nan=debug_nan,
    )


@value_first
def value_and_grad(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    **options: Unpack[ValueOptions],
) -> Callable[..., Any]:
    """Gives value and gradient in the order of `jax.value_and_grad`.

    Args:
        fun: As for `grad`.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        **options: As for `grad`: has_aux, check_states, holomorphic, allow_int, unit_aware,
            debug_nan.

    Returns:
        A function that gives ``(loss, g)``, or ``((loss, aux), g)``, with the gradient part
        ``g`` as `grad` gives it.

    Raises:
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> weight = sl.ParamState(jnp.ones(()))
        >>> sl.value_and_grad(lambda x: weight.value * x, grad_states=weight)(2.0)
        (Array(2., dtype=float32), Array(2., dtype=float32))
    """
    return _transformed(
        _value_and_grad,
        fun,
        grad_states,
        argnums,
        return_value=True,
        arrange=_value_first,
        **options,
    )
