"""`GradientTransform`: state awareness around anything with the signature of `jax.grad`."""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, Generic

import jax
import jax.numpy as jnp

from ..._errors import ArgumentTypeError, check_callable, user_facing
from ...lens import Selector, StateForm, units_of
from .._core import Wrapper, commit, is_closed_over, merge_static, read_states
from ._differentiable_call import DifferentiableCall
from ._dtypes import Differentiable, fields_of
from ._non_finite import find_non_finite
from ._signatures import Argnums, P
from ._targets import read_argnums
from ._units import require_units, with_units


def transform_as(
    name: str, real_only: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a transform of a function that gives ``(derivative, aux)`` of `fun` at `values`.

    One for real numbers only pushes each number forward along a one: the derivative by a complex
    number has two such directions, unless the function is holomorphic.
    """

    def transform_of(take: Callable[..., Any]) -> Callable[..., Any]:
        def transform(fun: Callable[..., Any], argnums: int, has_aux: bool, **params: Any) -> Any:
            return functools.partial(take, fun, **params)

        transform.__name__ = name
        transform.real_only = real_only  # type: ignore[attr-defined]
        return transform

    return transform_of


def gradient_value_aux(gradient: Any, *extra: Any) -> Any:
    """Puts the gradient first: ``g``, ``(g, aux)``, ``(g, value)``, ``(g, value, aux)``."""
    return (gradient, *extra) if extra else gradient


class GradientTransform(Wrapper, Generic[P]):
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

    As a decorator of a method it counts the object as argument 0, and a lens looks at it. A
    mutable object, such as an `nn.Module`, is closed over: the method may write its states, and
    where neither `grad_states` nor `argnums` is given the first argument after it is meant.

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
        fun: Callable[P, Any],
        transform: Callable[..., Any],
        grad_states: Any = None,
        argnums: Argnums = None,
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
        self.name: str = getattr(transform, "__name__", "a transform")
        if not callable(fun):
            raise ArgumentTypeError(
                f"asked {self.name} to differentiate a {type(fun).__name__}",
                "that isn't a function",
                "the function itself, not what it returns",
            )
        check_callable(transform, "transform", "GradientTransform")
        if not isinstance(transform_params, (Mapping, type(None))):
            raise ArgumentTypeError(
                f"asked GradientTransform for transform_params={transform_params!r}",
                f"that is a {type(transform_params).__name__}",
                "a dictionary of keyword arguments for the transform",
            )
        super().__init__(fun)
        self._transform = transform
        self._grad_states = grad_states
        self._where = read_states(grad_states, "grad_states", self.name)
        self._argnums = read_argnums(argnums, has_lens=self.has_tree, asked_by=self.name)
        self._has_aux = has_aux
        self._return_value = return_value
        self._params = dict(transform_params or {})
        fields = fields_of(
            self._params.get("holomorphic"),
            self._params.get("allow_int"),
            getattr(transform, "real_only", False),
        )
        self._allowed = Differentiable(self.name, fields, options=frozenset(self._params))
        self._check_states = check_states
        self._unit_aware = unit_aware
        if unit_aware:
            require_units(self.name)
        self._debug_nan = debug_nan
        self._arrange = arrange
        self._order = order
        # As a method: the object, which is argument 0.
        self._object: tuple[Any, ...] = ()

    def _bound_to(self, instance: Any) -> "GradientTransform[...]":
        bound = copy.copy(self)
        bound._object = (instance,)
        return bound

    @user_facing
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        return self._differentiated(self._prepared(args, kwargs), self._params)

    def _differentiated(self, call: DifferentiableCall, params: Mapping[str, Any]) -> Any:
        """Differentiates one call, and commits what it wrote."""
        if self._unit_aware:
            differentiate = functools.partial(
                with_units, self._transform, self._order, call.pure, **params
            )
        else:
            differentiate = self._transform(call.pure, argnums=0, has_aux=True, **params)
        if self._debug_nan:
            names = functools.partial(call.name_inputs, **params)
            differentiate = find_non_finite(differentiate, call.name_leaves, self.name, names)
        derivative, (outputs, writes) = differentiate(call.values)
        if self._check_states:
            call.check_touched()
        value, aux = merge_static(outputs)
        extra = (value,) * self._return_value + (aux,) * self._has_aux
        out = self._arrange(call.to_user_form(derivative), *extra)
        return commit(out, writes, call.closed_over)

    @property
    def has_tree(self) -> bool:
        """Whether the first argument is a tree that a lens looks at."""
        return isinstance(self._where, Selector)

    @property
    def argnums(self) -> tuple[int, ...]:
        """The arguments of a call that are differentiated; a method's object isn't among them."""
        numbers = self._argnums
        if numbers is None:
            numbers = self._first_argument if self._where is None else ()
        numbers = (numbers,) if isinstance(numbers, int) else numbers
        bound = len(self._object)
        return tuple(number - bound for number in numbers if number >= bound)

    def zeros(self, args: Any, kwargs: Any) -> Any:
        """Gives a gradient of zeros for a call, without making it."""
        call = self._prepared(args, kwargs)
        return call.to_user_form(jax.tree.map(jnp.zeros_like, call.values))

    @property
    def _first_argument(self) -> int:
        """What is differentiated by where nothing is said; an object that is closed over isn't."""
        return int(any(map(is_closed_over, self._object)))

    def _prepared(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DifferentiableCall:
        where = self._where
        if isinstance(where, StateForm):
            where = units_of(self._grad_states, self.name)  # as they are now
        return DifferentiableCall(
            self._fun,
            (*self._object, *args),
            kwargs,
            where=where,
            argnums=self._argnums,
            first=self._first_argument,
            allowed=self._allowed,
            has_aux=self._has_aux,
        )
