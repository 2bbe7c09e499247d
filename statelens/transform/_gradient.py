"""`GradientTransform`: state awareness around anything with the signature of `jax.grad`."""

import functools
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from .._errors import ArgumentError, ArgumentTypeError, explain, user_facing
from .._frames import Captured, capture
from ..thread import value_and_aux
from ._parts import (
    Call,
    Differentiable,
    Part,
    arguments_part,
    check_touched,
    compile_states,
    read_argnums,
    states_part,
    tree_part,
)


def gradient_value_aux(gradient: Any, *extra: Any) -> Any:
    """Puts the gradient first: ``g``, ``(g, aux)``, ``(g, value)``, ``(g, value, aux)``."""
    return (gradient, *extra) if extra else gradient


class GradientTransform:
    """A function with its derivative taken by a JAX transform, aware of states.

    What is differentiated is selected by `grad_states` and `argnums`; the function is made
    pure in these; the transform differentiates the pure function; what the function wrote to
    states is committed; and the result is given in the form that was asked for:

    | grad_states | argnums | gradient part ``g`` |
    |---|---|---|
    | None | None | gradient of argument 0 |
    | None | int / sequence | as `jax.grad` gives it |
    | given | None | state gradients |
    | given | int / sequence | ``(state gradients, argument gradients)`` |

    and ``g``, ``(g, aux)``, ``(g, value)`` or ``(g, value, aux)`` by `has_aux` and
    `return_value`.

    Args:
        fun: The function to differentiate.
        transform: Something that is called as ``transform(fun, argnums=0, has_aux=True,
            **transform_params)``, with a function of one argument that returns ``(value,
            aux)``, and returns a function that gives ``(derivative, aux)``: `jax.grad`, or
            a function that calls it and scales, clips or averages what it gives.
        grad_states: The states to differentiate by. States themselves (a bound lens, one
            state, a mapping or list of states), or a lens on the first positional argument,
            in any form that `lens` takes.
        argnums: The positional arguments to differentiate by, counted from 0. Beside a lens
            on the first argument, that one is refused.
        has_aux: Whether `fun` returns ``(value, aux)``.
        return_value: Whether to return the value as well.
        transform_params: Keyword arguments for `transform`.
        check_states: Whether a state that the function never touches is an error.

    Raises:
        ArgumentTypeError: An argument is of the wrong type.
        ArgumentError: `argnums` is out of range, or contradicts `grad_states`.

    Example:
        Gradients of at most unit length:

        >>> import jax, jax.numpy as jnp, optax, statelens as sl
        >>> def clipped_grad(fun, argnums=0, has_aux=False):
        ...     def clipped(*args):
        ...         grads, aux = jax.grad(fun, argnums, has_aux=True)(*args)
        ...         return optax.tree.scale(1 / optax.tree.norm(grads), grads), aux
        ...     return clipped
        >>> weight = sl.ParamState(jnp.array([3.0, 4.0]))
        >>> loss = lambda: jnp.sum(weight.value ** 2)
        >>> sl.transform.GradientTransform(loss, clipped_grad, grad_states=weight)()
        Array([0.6, 0.8], dtype=float32)
    """

    @user_facing
    def __init__(
        self,
        fun: Callable[..., Any],
        transform: Callable[..., Any],
        grad_states: Any = None,
        argnums: Any = None,
        *,
        has_aux: bool = False,
        return_value: bool = False,
        transform_params: Mapping[str, Any] | None = None,
        check_states: bool = True,
        arrange: Callable[..., Any] = gradient_value_aux,
    ):
        self._name = getattr(transform, "__name__", "a transform")
        if not callable(fun):
            raise ArgumentTypeError(
                explain(
                    f"asked {self._name} to differentiate a {type(fun).__name__}",
                    "that isn't a function",
                    "the function itself, not what it returns",
                )
            )
        self._fun = fun
        self._transform = transform
        self._grad_states = grad_states
        self._selector = compile_states(grad_states, self._name)
        self._argnums = read_argnums(
            argnums, has_lens=self._selector is not None, asked_by=self._name
        )
        self._has_aux = has_aux
        self._return_value = return_value
        self._params = dict(transform_params or {})
        self._allowed = Differentiable(
            integers=bool(self._params.get("allow_int")),
            complexes=bool(self._params.get("holomorphic")),
        )
        self._check_states = check_states
        self._arrange = arrange
        functools.update_wrapper(self, fun, updated=())

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"{self._name}({getattr(self._fun, '__name__', self._fun)!s})"

    @user_facing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        parts = self._parts(args)
        # With one part only, its values go in as they are, so that a transform of the
        # user's sees the very tree that was asked for.
        values = parts[0].values if len(parts) == 1 else tuple(part.values for part in parts)
        traced: list[tuple[Call, Captured]] = []

        def pure(values: Any) -> tuple[Any, Any]:
            call = Call(list(args))
            for part, own in zip(parts, values if len(parts) > 1 else (values,), strict=True):
                part.apply(own, call)
            captured = capture(
                self._fun, tuple(call.args), kwargs, values=call.values, frozen=call.frozen
            )
            traced.append((call, captured))
            value, aux = (
                value_and_aux(captured.out, self._fun) if self._has_aux else (captured.out, None)
            )
            return value, (value if self._return_value else None, aux, captured.writes)

        differentiate = self._transform(pure, argnums=0, has_aux=True, **self._params)
        derivative, (value, aux, writes) = differentiate(values)
        if self._check_states:
            check_touched(*traced[-1], self._name)
        each = (derivative,) if len(parts) == 1 else derivative
        shaped = tuple(part.shape(own) for part, own in zip(parts, each, strict=True))
        extra = (value,) * self._return_value + (aux,) * self._has_aux
        result = self._arrange(shaped[0] if len(parts) == 1 else shaped, *extra)
        writes.commit()
        return result

    def _parts(self, args: tuple[Any, ...]) -> list[Part]:
        parts: list[Part] = []
        if self._selector is not None:
            parts.append(tree_part(self._selector, args, self._allowed, self._name))
        elif self._grad_states is not None:
            parts.append(states_part(self._grad_states, self._allowed, self._name))
        argnums = self._argnums
        if argnums is None and not parts:
            argnums = 0
            if not args:
                raise ArgumentError(
                    explain(
                        f"asked {self._name} for the derivative by argument 0",
                        "the call has no positional argument",
                        "grad_states=model.states(ParamState), to differentiate by states",
                        "pass what is differentiated by position",
                    )
                )
        if argnums is not None:
            parts.append(arguments_part(argnums, args, self._name))
        return parts
