"""Looking at a function without running it: the states it touches, its shapes, its program."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, overload

import jax
from jax.extend.core import Jaxpr

from ..._errors import check_callable, user_facing
from ...state import State
from ...thread import functionalize
from .._core import (
    merge_arguments,
    merge_static,
    parse_arguments,
    run,
    split_arguments,
    split_static,
)
from ..compilation import TouchedStates

R = TypeVar("R")
Labels = frozenset[int | str]


def static_labels(fun: Callable[..., Any], argnums: Any, argnames: Any, asked_by: str) -> Labels:
    """Reads which arguments are static: their positions and names."""
    check_callable(fun, "fun", asked_by)
    return parse_arguments(fun, argnums, argnames, "static", asked_by)


def shapes_and_states(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    static: Labels = frozenset(),
) -> tuple[Any, TouchedStates]:
    """Traces a function; gives its output's shapes, and the states that it touches and writes."""
    found: list[TouchedStates] = []

    def look(args: Any, kwargs: Any) -> Any:
        captured = run(fun, args, kwargs)
        found.append(TouchedStates(tuple(captured.closed_over), captured.writes.cells))
        return split_static(captured.out, lambda: "the output")

    out = jax.eval_shape(look, *split_arguments(args, kwargs, static))
    return merge_static(out), found[-1]


def pure_form(
    fun: Callable[..., R], touched: TouchedStates, only_written: bool = False
) -> Callable[..., tuple[R, list[Any]]]:
    """Makes ``(values, *args) -> (out, values)``, with None for what isn't written if so asked."""
    if not touched.read:
        return lambda values, *args, **kwargs: (fun(*args, **kwargs), values)
    given = touched.written if only_written else touched.read
    pure = functionalize(fun, list(touched.read))

    def of_values(*args: Any, **kwargs: Any) -> tuple[R, list[Any]]:
        out, after = pure(*args, **kwargs)
        pairs = zip(touched.read, after, strict=True)
        return out, [value if cell in given else None for cell, value in pairs]

    return of_values


def stage(
    pure: Callable[..., Any],
    touched: TouchedStates,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    static: Labels,
) -> tuple[Callable[..., Any], tuple[Any, Any, list[Any]]]:
    """Makes a pure function one of split arguments and then values; gives its inputs too."""

    def call(args: Any, kwargs: Any, values: list[Any]) -> tuple[Any, list[Any]]:
        args, kwargs = merge_arguments(args, kwargs)
        out, after = pure(values, *args, **kwargs)
        return split_static(out, lambda: "the output"), after

    values = [cell.value for cell in touched.read]
    return call, (*split_arguments(args, kwargs, static), values)


@overload
def eval_shape(
    fun: Callable[..., Any],
    *args: Any,
    return_state_shapes: Literal[True],
    **kwargs: Any,
) -> tuple[dict[State, Any], Any]: ...
@overload
def eval_shape(
    fun: Callable[..., Any], *args: Any, return_state_shapes: bool = False, **kwargs: Any
) -> Any: ...
@user_facing
def eval_shape(
    fun: Callable[..., Any], *args: Any, return_state_shapes: bool = False, **kwargs: Any
) -> Any:
    """Gives the shapes and dtypes of what a function returns, as `jax.eval_shape` does.

    Nothing is computed, and no state changes. A function that makes a module gives one whose
    states have shapes and dtypes for values.

    Args:
        fun: The function.
        *args: Arguments, or their shapes and dtypes.
        return_state_shapes: Whether to return the shapes of the states as well.
        **kwargs: Keyword arguments likewise.

    Returns:
        The output with a `jax.ShapeDtypeStruct` in the place of each array; or a pair of a
        dictionary of the values' shapes by state, and that.

    Raises:
        ArgumentTypeError: `fun` is no function.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones((2, 3)))
        >>> sl.transform.eval_shape(lambda x: x @ w.value, jnp.ones((5, 2)))
        ShapeDtypeStruct(shape=(5, 3), dtype=float32)
    """
    check_callable(fun, "fun", "eval_shape")
    out, touched = shapes_and_states(fun, args, kwargs)
    if not return_state_shapes:
        return out
    return {cell: jax.eval_shape(lambda: cell.value) for cell in touched.read}, out  # noqa: B023


@overload
def make_jaxpr(
    fun: Callable[..., Any],
    static_argnums: Any = None,
    static_argnames: Any = None,
    return_states: Literal[True] = True,
    *,
    return_shape: Literal[False] = False,
    return_only_write: bool = False,
) -> Callable[..., tuple[Jaxpr, tuple[State, ...]]]: ...
@overload
def make_jaxpr(
    fun: Callable[..., Any],
    static_argnums: Any = None,
    static_argnames: Any = None,
    return_states: bool = True,
    *,
    return_shape: bool = False,
    return_only_write: bool = False,
) -> Callable[..., Any]: ...
@user_facing
def make_jaxpr(
    fun: Callable[..., Any],
    static_argnums: Any = None,
    static_argnames: Any = None,
    return_states: bool = True,
    *,
    return_shape: bool = False,
    return_only_write: bool = False,
) -> Callable[..., Any]:
    """Gives a function's program, as `jax.make_jaxpr` does, with its states as inputs.

    Args:
        fun: The function.
        static_argnums: Positions of arguments that aren't traced.
        static_argnames: Their names.
        return_states: Whether to return the states as well.
        return_shape: Whether to return what the function returns, with shapes and dtypes in
            the place of arrays, as well.
        return_only_write: Whether states that aren't written are left out of its outputs.

    Returns:
        A function of arguments that gives ``(jaxpr, states)``, or the jaxpr alone. Its inputs
        are the arguments, as those of `jax.make_jaxpr`, and then the values of the states.

    Raises:
        ArgumentTypeError: `fun` is no function.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones(()))
        >>> sl.transform.make_jaxpr(lambda x: w.value * x)(jnp.ones(()))
        ({ lambda ; a:f32[] b:f32[]. let c:f32[] = mul b a in (c, b) }, (ParamState(f32[]),))
    """
    static = static_labels(fun, static_argnums, static_argnames, "make_jaxpr")

    @user_facing
    def make(*args: Any, **kwargs: Any) -> Any:
        out, touched = shapes_and_states(fun, args, kwargs, static)
        pure = pure_form(fun, touched, return_only_write)
        call, inputs = stage(pure, touched, args, kwargs, static)
        found: list[Any] = [jax.make_jaxpr(call)(*inputs)]
        if return_states:
            found.append(touched.read)
        if return_shape:
            found.append(out)
        return tuple(found) if len(found) > 1 else found[0]

    return make
