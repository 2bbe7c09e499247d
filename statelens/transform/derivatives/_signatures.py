"""What the derivatives share of their signatures: options, and how types go through them.

Options that all take are declared once, as typed dictionaries, and `grad` says what they mean. A
derivative keeps the parameters of what it is taken of, and each may be used as a decorator,
with `fun` left out.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import (
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from ..._errors import ArgumentTypeError, user_facing
from .._core import applied

P = ParamSpec("P")
O = ParamSpec("O")  # noqa: E741
R = TypeVar("R")
Aux = TypeVar("Aux")

Argnums = int | Sequence[int] | None


class CheckOptions(TypedDict, total=False):
    """What is to be checked."""

    check_states: bool
    debug_nan: bool


class LossOptions(CheckOptions, total=False):
    """What `grad` takes beside what says what it gives."""

    holomorphic: bool
    allow_int: bool
    unit_aware: bool


class ValueOptions(LossOptions, total=False):
    """What `value_and_grad` takes."""

    has_aux: bool


class DerivativeOptions(CheckOptions, total=False):
    """What every derivative takes."""

    has_aux: bool
    return_value: bool


class UnitOptions(DerivativeOptions, total=False):
    """What derivatives take that know of physical units."""

    unit_aware: bool


class Derivative(Protocol[O]):
    """A function like `jacrev`: of a function, or with that left out a decorator."""

    @overload
    def __call__(
        self, fun: Callable[P, Any], *args: O.args, **kwargs: O.kwargs
    ) -> Callable[P, Any]: ...
    @overload
    def __call__(
        self, fun: None = None, *args: O.args, **kwargs: O.kwargs
    ) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...


class Product(Protocol[O]):
    """A function like `hvp`, which gives a function that takes a vector first."""

    @overload
    def __call__(
        self, fun: Callable[P, Any], *args: O.args, **kwargs: O.kwargs
    ) -> Callable[Concatenate[Any, P], Any]: ...
    @overload
    def __call__(
        self, fun: None = None, *args: O.args, **kwargs: O.kwargs
    ) -> Callable[[Callable[P, Any]], Callable[Concatenate[Any, P], Any]]: ...


class Grad(Protocol):
    """The types of `grad`: the gradient, and with it what is asked for."""

    @overload
    def __call__(
        self,
        fun: Callable[P, Any],
        grad_states: Any = None,
        argnums: Argnums = None,
        *,
        has_aux: Literal[False] = False,
        return_value: Literal[False] = False,
        **options: Unpack[LossOptions],
    ) -> Callable[P, Any]: ...
    @overload
    def __call__(
        self,
        fun: Callable[P, R],
        grad_states: Any = None,
        argnums: Argnums = None,
        *,
        has_aux: Literal[False] = False,
        return_value: Literal[True],
        **options: Unpack[LossOptions],
    ) -> Callable[P, tuple[Any, R]]: ...
    @overload
    def __call__(
        self,
        fun: Callable[P, tuple[Any, Aux]],
        grad_states: Any = None,
        argnums: Argnums = None,
        *,
        has_aux: Literal[True],
        return_value: Literal[False] = False,
        **options: Unpack[LossOptions],
    ) -> Callable[P, tuple[Any, Aux]]: ...
    @overload
    def __call__(
        self,
        fun: Callable[P, tuple[R, Aux]],
        grad_states: Any = None,
        argnums: Argnums = None,
        *,
        has_aux: Literal[True],
        return_value: Literal[True],
        **options: Unpack[LossOptions],
    ) -> Callable[P, tuple[Any, R, Aux]]: ...
    @overload
    def __call__(
        self,
        fun: None = None,
        grad_states: Any = None,
        argnums: Argnums = None,
        *,
        has_aux: Literal[False] = False,
        return_value: Literal[False] = False,
        **options: Unpack[LossOptions],
    ) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
    @overload
    def __call__(
        self,
        fun: None = None,
        grad_states: Any = None,
        argnums: Argnums = None,
        *,
        has_aux: Literal[False] = False,
        return_value: Literal[True],
        **options: Unpack[LossOptions],
    ) -> Callable[[Callable[P, R]], Callable[P, tuple[Any, R]]]: ...
    @overload
    def __call__(
        self,
        fun: None = None,
        grad_states: Any = None,
        argnums: Argnums = None,
        *,
        has_aux: Literal[True],
        return_value: Literal[False] = False,
        **options: Unpack[LossOptions],
    ) -> Callable[[Callable[P, tuple[Any, Aux]]], Callable[P, tuple[Any, Aux]]]: ...
    @overload
    def __call__(
        self,
        fun: None = None,
        grad_states: Any = None,
        argnums: Argnums = None,
        *,
        has_aux: Literal[True],
        return_value: Literal[True],
        **options: Unpack[LossOptions],
    ) -> Callable[[Callable[P, tuple[R, Aux]]], Callable[P, tuple[Any, R, Aux]]]: ...


class ValueAndGrad(Protocol[O]):
    """A function like `value_and_grad`: what the function returns comes first."""

    @overload
    def __call__(
        self, fun: Callable[P, R], *args: O.args, **kwargs: O.kwargs
    ) -> Callable[P, tuple[R, Any]]: ...
    @overload
    def __call__(
        self, fun: None = None, *args: O.args, **kwargs: O.kwargs
    ) -> Callable[[Callable[P, R]], Callable[P, tuple[R, Any]]]: ...


class Linearization(Protocol):
    """The types of `vjp` and `linearize`: the output, and a linear map."""

    @overload
    def __call__(
        self,
        fun: Callable[..., R],
        *primals: Any,
        grad_states: Any = None,
        argnums: Argnums = ...,
        has_aux: Literal[False] = False,
        **options: Unpack[CheckOptions],
    ) -> tuple[R, Callable[..., Any]]: ...
    @overload
    def __call__(
        self,
        fun: Callable[..., tuple[R, Aux]],
        *primals: Any,
        grad_states: Any = None,
        argnums: Argnums = ...,
        has_aux: Literal[True],
        **options: Unpack[CheckOptions],
    ) -> tuple[R, Callable[..., Any], Aux]: ...


class Jvp(Protocol):
    """The types of `jvp`: the output, and its tangent."""

    @overload
    def __call__(
        self,
        fun: Callable[..., R],
        primals: Sequence[Any],
        tangents: Sequence[Any] | None = None,
        *,
        grad_states: Any = None,
        state_tangents: Any = None,
        has_aux: Literal[False] = False,
        **options: Unpack[CheckOptions],
    ) -> tuple[R, Any]: ...
    @overload
    def __call__(
        self,
        fun: Callable[..., tuple[R, Aux]],
        primals: Sequence[Any],
        tangents: Sequence[Any] | None = None,
        *,
        grad_states: Any = None,
        state_tangents: Any = None,
        has_aux: Literal[True],
        **options: Unpack[CheckOptions],
    ) -> tuple[R, Any, Aux]: ...


def derivative(
    function: Callable[Concatenate[Callable[..., Any], O], Callable[..., Any]],
) -> Derivative[O]:
    """Lets `fun` be left out of a public derivative, and refuses options that it hasn't."""
    signature = inspect.signature(function)
    first, *others = signature.parameters.values()
    known = {parameter.name for parameter in others}
    if others[-1].kind is inspect.Parameter.VAR_KEYWORD:
        (declared,) = others[-1].annotation.__args__
        known |= declared.__annotations__.keys()
    name = function.__name__

    @functools.wraps(function)
    def call(fun: Any = None, *args: O.args, **kwargs: O.kwargs) -> Any:
        for option in kwargs:
            if option not in known:
                near = difflib.get_close_matches(option, known, n=1)
                hint = f". Did you mean {near[0]!r}?" if near else ""
                raise ArgumentTypeError(
                    f"{name}() got an unexpected keyword argument {option!r}{hint}"
                )
        return applied(lambda fun: function(fun, *args, **kwargs), fun)

    parameters = [first.replace(default=None), *others]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return user_facing(call)


def product(
    function: Callable[Concatenate[Callable[..., Any], O], Callable[..., Any]],
) -> Product[O]:
    """Does what `derivative` does, for what gives functions that take a vector first."""
    return cast(Product[O], derivative(function))


def value_first(
    function: Callable[Concatenate[Callable[..., Any], O], Callable[..., Any]],
) -> ValueAndGrad[O]:
    """Does what `derivative` does, for what gives functions that return a value and more."""
    return cast(ValueAndGrad[O], derivative(function))


as_grad = cast(Callable[[Callable[..., Any]], Grad], derivative)
as_linearization = cast(Callable[[Callable[..., Any]], Linearization], user_facing)
as_jvp = cast(Callable[[Callable[..., Any]], Jvp], user_facing)
