"""`vjp`, `jvp` and `linearize`: one evaluation, and the linear map that goes with it.

What they add to JAX's: states among what is differentiated. Cotangents and tangents of states
come and go in the form in which the states were given, or as a tree with None outside of what
a lens selects.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ..._errors import ArgumentError, check_callable, user_facing
from ...lens import Selector
from .._core import commit, read_states, wrong_type
from ._differentiable_call import AuxOutputs, DifferentiableCall, joined, name_leaves
from ._dtypes import Differentiable
from ._non_finite import find_non_finite
from ._signatures import Argnums, as_jvp, as_linearization
from ._targets import read_argnums


class _Unset:
    def __repr__(self) -> str:
        return "0, where there is an argument 0 to differentiate by"


_ARGUMENT_0: Any = _Unset()


@as_linearization
def vjp(
    fun: Callable[..., Any],
    *primals: Any,
    grad_states: Any = None,
    argnums: Argnums = _ARGUMENT_0,
    has_aux: bool = False,
    check_states: bool = True,
    debug_nan: bool = False,
) -> tuple[Any, ...]:
    """Evaluates a function, and gives its pullback: from cotangents of outputs to those of inputs.

    Args:
        fun: The function; it may read and write states. What it writes is stored at once.
        *primals: Its arguments.
        grad_states: States to give cotangents of, or a lens on the first argument, as for
            `grad`.
        argnums: Arguments to give cotangents of. If it is left out, argument 0, unless there
            is none or it is the tree that a lens looks at. None for no arguments.
        has_aux: Whether `fun` returns ``(out, aux)``.
        check_states: Whether a state that the function never touches is an error; else its
            cotangent is zero.
        debug_nan: Whether to refuse cotangents that aren't finite, as for `grad`.

    Returns:
        ``(out, pullback)``, or ``(out, pullback, aux)``. The pullback takes a cotangent of the
        form of the output, and gives the gradient part as `grad` does: state cotangents,
        argument cotangents, or the pair of both.

    Raises:
        ArgumentError: There is nothing to differentiate by.
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.array([2.0, 3.0]))
        >>> out, pullback = sl.transform.vjp(lambda x: w.value * x, 5.0, grad_states=w)
        >>> pullback(jnp.array([1.0, 0.0]))
        (Array([5., 0.], dtype=float32), Array(2., dtype=float32...))
    """
    call = _prepared("vjp", fun, primals, grad_states, argnums, has_aux)
    out, pullback, aux_outputs = jax.vjp(call.pure, call.values, has_aux=True)

    # The search has to see the function itself, not only what it left for the pullback.
    def pull(values: Any, cotangent: Any) -> Any:
        return jax.vjp(call.pure, values, has_aux=True)[1](cotangent)

    @user_facing
    def give(cotangent: Any) -> Any:
        if debug_nan:
            names = functools.partial(call.name_inputs, cotangent=cotangent)
            pull_watched = find_non_finite(pull, call.name_leaves, "vjp", names)
            pulled = pull_watched(call.values, cotangent)
        else:
            pulled = pullback(cotangent)
        return call.to_user_form(pulled[0])

    return _committed(call, check_states, out, give, aux_outputs)


@as_linearization
def linearize(
    fun: Callable[..., Any],
    *primals: Any,
    grad_states: Any = None,
    argnums: Argnums = _ARGUMENT_0,
    has_aux: bool = False,
    check_states: bool = True,
    debug_nan: bool = False,
) -> tuple[Any, ...]:
    """Evaluates a function, and gives its linear approximation there: the tangent map.

    Args:
        fun: As for `vjp`.
        *primals: As for `vjp`.
        grad_states: As for `vjp`, for tangents.
        argnums: As for `vjp`; but without `grad_states`, if it is left out, all arguments, as
            for `jax.linearize`.
        has_aux: As for `vjp`.
        check_states: As for `vjp`, for a tangent that moves nothing.
        debug_nan: As for `vjp`, for tangents.

    Returns:
        ``(out, tangent_map)``, or ``(out, tangent_map, aux)``. The map takes the tangents of
        the states first, in the form of a gradient, then one tangent for each argument that
        is differentiated by; it gives a tangent of the output.

    Raises:
        ArgumentError: There is nothing to differentiate by.
        StructureError: A tangent hasn't the form of what it is a tangent of.
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.array([2.0, 3.0]))
        >>> out, tangent_map = sl.transform.linearize(lambda: w.value ** 2, grad_states=w)
        >>> tangent_map(jnp.array([1.0, 0.0]))
        Array([4., 0.], dtype=float32)
    """
    if argnums is _ARGUMENT_0 and grad_states is None and len(primals) != 1:
        argnums = tuple(range(len(primals))) or None
    call = _prepared("linearize", fun, primals, grad_states, argnums, has_aux)
    out, tangent_map, aux_outputs = jax.linearize(call.pure, call.values, has_aux=True)
    has_states = grad_states is not None
    several = isinstance(call.argnums, tuple)

    @user_facing
    def give(*tangents: Any) -> Any:
        states, args = tangents[:has_states], tangents[has_states:]
        if several:
            args = (args,)
        each = (*states, *args)
        if len(each) != len(call.targets):
            raise ArgumentError(
                f"asked a tangent map for the output's tangent, with {len(tangents)} tangents",
                f"there are {len(call.targets)} to give",
                "the tangents of the states first, then one for each argument",
            )
        tangent = call.from_user_form(joined(each), "a tangent")
        if not debug_nan:
            return tangent_map(tangent)

        def push(values: Any, tangent: Any) -> Any:
            return jax.jvp(call.pure, (values,), (tangent,), has_aux=True)[1]

        names = functools.partial(call.name_inputs, tangent=tangent)
        return find_non_finite(push, name_leaves, "linearize", names)(call.values, tangent)

    return _committed(call, check_states, out, give, aux_outputs)


@as_jvp
def jvp(
    fun: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any] | None = None,
    *,
    grad_states: Any = None,
    state_tangents: Any = None,
    has_aux: bool = False,
    check_states: bool = True,
    debug_nan: bool = False,
) -> tuple[Any, ...]:
    """Evaluates a function and its derivative along tangents of arguments and of states.

    Args:
        fun: As for `vjp`.
        primals: Its arguments.
        tangents: A tangent for each argument, or None for one that stays where it is. None for
            all to stay.
        grad_states: States that move, or a lens on the first argument, as for `grad`.
        state_tangents: Their tangents, in the form of a gradient.
        has_aux: As for `vjp`.
        check_states: As for `vjp`, for a tangent that moves nothing.
        debug_nan: As for `vjp`, for tangents.

    Returns:
        ``(out, tangent)``, or ``(out, tangent, aux)``.

    Raises:
        ArgumentError: Nothing moves; or there are other numbers of primals and of tangents.
        StructureError: A tangent hasn't the form of what it is a tangent of.
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.array(3.0))
        >>> square = lambda x: w.value ** 2 * x
        >>> sl.transform.jvp(square, (2.0,), grad_states=w, state_tangents=jnp.array(1.0))
        (Array(18., dtype=float32...), Array(12., dtype=float32...))
    """
    for option, value in (("primals", primals), ("tangents", tangents)):
        if not isinstance(value, (tuple, list)) and not (option == "tangents" and value is None):
            raise wrong_type("jvp", option, value, f"a tuple, as in {option}=(x,)")
    tangents = (None,) * len(primals) if tangents is None else tangents
    if len(tangents) != len(primals):
        raise ArgumentError(
            f"asked jvp for {len(primals)} primals",
            f"there are {len(tangents)} tangents",
            "a tangent for each primal; None for one that stays where it is",
        )
    if (grad_states is None) != (state_tangents is None):
        raise ArgumentError(
            "asked jvp for tangents of states",
            "one of grad_states and state_tangents is missing",
            "both, in the same form",
        )
    moving = tuple(number for number, tangent in enumerate(tangents) if tangent is not None)
    call = _prepared("jvp", fun, primals, grad_states, moving or None, has_aux)
    along = [] if grad_states is None else [state_tangents]
    if moving:
        along.append(tuple(tangents[number] for number in moving))
    tangent = call.from_user_form(joined(along), "a tangent")

    def push(values: Any, tangent: Any) -> Any:
        return jax.jvp(call.pure, (values,), (tangent,), has_aux=True)

    if debug_nan:
        names = functools.partial(call.name_inputs, tangent=tangent)
        push = find_non_finite(push, lambda result: name_leaves(result[1]), "jvp", names)
    return _committed(call, check_states, *push(call.values, tangent))


def _prepared(
    name: str,
    fun: Callable[..., Any],
    primals: Sequence[Any],
    grad_states: Any,
    argnums: Any,
    has_aux: bool,
) -> DifferentiableCall:
    check_callable(fun, "fun", name)
    where = read_states(grad_states, "grad_states", name)
    has_lens = isinstance(where, Selector)
    if argnums is _ARGUMENT_0:
        argnums = 0 if primals and not has_lens else None
    argnums = read_argnums(argnums, has_lens=has_lens, asked_by=name)
    if grad_states is None and argnums is None:
        raise ArgumentError(
            f"asked {name} for a derivative",
            "there is nothing to differentiate by",
            "grad_states=model.states(ParamState), to differentiate by states",
            "arguments, with their tangents for jvp",
        )
    return DifferentiableCall(
        fun,
        primals,
        {},
        where=where,
        argnums=argnums,
        allowed=Differentiable(name, frozenset(["real", "complex"]), any_argument=True),
        has_aux=has_aux,
    )


def _committed(
    call: DifferentiableCall, check_states: bool, out: Any, linear: Any, aux_outputs: AuxOutputs
) -> tuple[Any, ...]:
    """Commits what a call wrote, and returns its output with what is linear in the inputs."""
    if check_states:
        call.check_touched()
    _, aux = commit(*aux_outputs, call.closed_over)
    return (out, linear, aux) if call.has_aux else (out, linear)
