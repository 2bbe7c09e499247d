"""`checkpoint` and `named_scope`: wrappers that don't change what a function computes."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, Self, TypedDict, TypeVar, Unpack, overload

import jax

from ..._errors import ArgumentTypeError, check_callable, user_facing
from ...state import State
from .._core import (
    Decorator,
    Wrapper,
    after_self,
    applied,
    commit,
    parse_arguments,
    pure,
    split_arguments,
)

P = ParamSpec("P")
R = TypeVar("R")


class _Checkpointed(Wrapper):
    """A function under `jax.checkpoint`, aware of states."""

    name = "checkpoint"

    def __init__(self, fun: Callable[..., Any], static_argnums: Any, **options: Any):
        super().__init__(fun)
        self._static = parse_arguments(fun, static_argnums, None, "static", "checkpoint")
        policy = options.get("policy")
        if policy is not None:
            check_callable(policy, "policy", "checkpoint")
        self._options = options

    def _bound_to(self, instance: Any) -> Self:
        bound = super()._bound_to(instance)
        names = (label for label in self._static if isinstance(label, str))
        bound._static = frozenset([*after_self(self._static), *names])
        return bound

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        operands = split_arguments(args, kwargs, self._static)
        touched: dict[State, None] = {}
        checkpointed = jax.checkpoint(pure(self._fun, touched), **self._options)
        out, writes = checkpointed(*operands)
        return commit(out, writes, touched)


class _Options(TypedDict, total=False):
    """The options of `checkpoint`."""

    prevent_cse: bool
    policy: Callable[..., bool] | None
    static_argnums: Any


@overload
def checkpoint(fun: Callable[P, R], **options: Unpack[_Options]) -> Callable[P, R]: ...
@overload
def checkpoint(fun: None = None, **options: Unpack[_Options]) -> Decorator: ...
@user_facing
def checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    prevent_cse: bool = True,
    policy: Callable[..., bool] | None = None,
    static_argnums: Any = (),
) -> Any:
    """Makes a derivative compute a function's intermediate values again instead of keeping them.

    Args:
        fun: The function; it may read and write states. What it writes is written once. Left
            out, `checkpoint` gives a decorator.
        prevent_cse: As for `jax.checkpoint`.
        policy: What to keep all the same, as for `jax.checkpoint`: one of
            `jax.checkpoint_policies`.
        static_argnums: Positions of arguments that aren't traced. Functions, texts and other
            leaves that are no arrays never are.

    Returns:
        A function like `fun`.

    Raises:
        ArgumentTypeError: `fun` or `policy` is no function.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.array(2.0))
        >>> @sl.transform.checkpoint
        ... def layer(x):
        ...     return jnp.sin(w.value * x)
        >>> sl.grad(layer, w)(0.0)
        Array(0., dtype=float32...)
    """
    make = functools.partial(
        _Checkpointed, static_argnums=static_argnums, prevent_cse=prevent_cse, policy=policy
    )
    return applied(make, fun)


remat = checkpoint
"""The other name of `checkpoint`, as in JAX."""


class Scope(Decorator, Protocol):
    """A context manager that decorates functions too."""

    def __enter__(self) -> Any: ...

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any, /) -> None: ...


@user_facing
def named_scope(name: str, static_argnums: Any = None, static_argnames: Any = None) -> "Scope":
    """Gives what is computed in it a name, which profiles and programs show.

    Args:
        name: The name.
        static_argnums: Taken for the sake of ported programs; nothing is traced for a name.
        static_argnames: Likewise.

    Returns:
        A context manager and decorator, that of `jax.named_scope`. States are read and written
        in it as outside.

    Raises:
        ArgumentTypeError: `name` is no text.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> @sl.transform.named_scope("double")
        ... def double(x):
        ...     return 2 * x
        >>> double(1.0)
        2.0
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(
            f"asked for a scope named {name!r}",
            f"that is a {type(name).__name__}",
            'a text, as in named_scope("encoder")',
        )
    return jax.named_scope(name)
