"""`GradientTransform`: state awareness around anything with the signature of `jax.grad`."""

import copy
import functools
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp

from ..._errors import ArgumentTypeError, explain, user_facing
from .._core import applied, check_callable
from ._differentiable_call import Plan
from ._dtypes import Differentiable
from ._non_finite import find_non_finite
from ._targets import compile_states, read_argnums
from ._units import require_units, with_units


def gradient_value_aux(gradient: Any, *extra: Any) -> Any:
    """Puts the gradient first: ``g``, ``(g, aux)``, ``(g, value)``, ``(g, value, aux)``."""
    return (gradient, *extra) if extra else gradient


def make(fun: Callable[..., Any] | None, cls: type | None = None, **options: Any) -> Any:
    """Makes a gradient transform of a function, or a decorator where there is none."""
    return applied(functools.partial(cls or GradientTransform, **options), fun)


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
        unit_aware: Whether values carry physical units, as for `grad`.
        debug_nan: Whether to refuse a derivative that isn't finite, as for `grad`.
        arrange: Puts derivative, value and auxiliary output in their order.
        order: How often `transform` differentiates, for the units of what it gives.

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
        unit_aware: bool = False,
        debug_nan: bool = False,
        arrange: Callable[..., Any] = gradient_value_aux,
        order: int = 1,
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
        check_callable(transform, "transform", "GradientTransform")
        if not isinstance(transform_params, (Mapping, type(None))):
            raise ArgumentTypeError(
                explain(
                    f"asked GradientTransform for transform_params={transform_params!r}",
                    f"that is a {type(transform_params).__name__}",
                    "a dictionary of keyword arguments for the transform",
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
            reals=not self._params.get("holomorphic"),
        )
        self._check_states = check_states
        self._unit_aware = unit_aware
        if unit_aware:
            require_units(self._name)
        self._debug_nan = debug_nan
        self._arrange = arrange
        self._order = order
        functools.update_wrapper(self, fun, updated=())

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"{self._name}({getattr(self._fun, '__name__', self._fun)!s})"

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._differentiated(args, kwargs, lambda plan: {})

    def _differentiated(
        self, args: Any, kwargs: Any, more_params: Callable[[Plan], Mapping[str, Any]]
    ) -> Any:
        """Differentiates one call, with parameters of the transform that depend on it."""
        plan = self._plan(args, kwargs)
        params = {**self._params, **more_params(plan)}
        if self._unit_aware:
            differentiate = functools.partial(
                with_units, self._transform, self._order, plan.pure, **params
            )
        else:
            differentiate = self._transform(plan.pure, argnums=0, has_aux=True, **params)
        if self._debug_nan:
            differentiate = find_non_finite(differentiate, plan.name_leaves, self._name)
        derivative, beside = differentiate(plan.values)
        value, aux, writes = plan.finish(beside, self._check_states)
        extra = (value,) * self._return_value + (aux,) * self._has_aux
        result = self._arrange(plan.shape(derivative), *extra)
        writes.commit()
        return result

    def closed_over(self, instance: Any) -> "GradientTransform":
        """Returns the transform of a method bound to its object."""
        bound = copy.copy(self)
        bound._fun = MethodType(self._fun, instance)
        return bound

    @property
    def has_tree(self) -> bool:
        """Whether the first argument is a tree that a lens looks at."""
        return self._selector is not None

    @property
    def argnums(self) -> tuple[int, ...]:
        """The arguments that are differentiated."""
        if self._argnums is None:
            return () if self._grad_states is not None else (0,)
        return (self._argnums,) if isinstance(self._argnums, int) else self._argnums

    def zeros(self, args: Any, kwargs: Any) -> Any:
        """Gives a gradient of zeros for a call, without making it."""
        plan = self._plan(args, kwargs)
        return plan.shape(jax.tree.map(jnp.zeros_like, plan.values))

    def _plan(self, args: Any, kwargs: Any) -> Plan:
        return Plan(
            self._fun,
            args,
            kwargs,
            grad_states=self._grad_states,
            selector=self._selector,
            argnums=self._argnums,
            allowed=self._allowed,
            has_aux=self._has_aux,
            asked_by=self._name,
            # Units are nodes of trees.
            keeps_value=self._return_value,
            as_list=not self._unit_aware and getattr(self._transform, "takes_lists", False),
        )
