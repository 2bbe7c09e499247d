"""What the wrappers of functions share: how they are shown, and how they bind as methods.

A wrapper that is bound to an object gives a method of Python's own, which calls what the wrapper
makes of the object. Positions of arguments count the object.
"""

import copy
import functools
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import jax.tree_util as jtu

from ..._errors import check_callable, user_facing
from ..._tree import MutableNode


class Wrapper:
    """A function under a transform, whose `name` messages give."""

    name = "a transform"

    def __init__(self, fun: Callable[..., Any]):
        self._fun = check_callable(fun, "fun", self.name)
        functools.update_wrapper(self, fun, updated=())  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self._as_method, instance)

    # One object, so that methods of one wrapper and one instance are equal.
    @functools.cached_property
    def _as_method(self) -> "_AsMethod":
        return _AsMethod(self)

    def _bound_to(self, instance: Any) -> Any:
        """Returns what to call as a method of an object; by default, it closes over that."""
        bound = copy.copy(self)
        bound._fun = MethodType(self._fun, instance)
        return bound

    def __repr__(self) -> str:
        return f"{self.name}({getattr(self._fun, '__name__', self._fun)!s})"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class _AsMethod:
    """A wrapper that is called with an object first."""

    def __init__(self, wrapper: Wrapper):
        functools.update_wrapper(self, wrapper, updated=())  # type: ignore[arg-type]
        self._wrapper = wrapper

    @user_facing
    def __call__(self, instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper._bound_to(instance)(*args, **kwargs)


def is_closed_over(instance: Any) -> bool:
    """Says whether a method closes over its object; an immutable pytree is its first argument."""
    return isinstance(instance, MutableNode) or jtu.all_leaves([instance])


def after_self(arguments: Iterable[int | str]) -> tuple[int, ...]:
    """Gives positions of a method's arguments as its bound form counts them; names are left out."""
    return tuple(sorted(n - 1 for n in arguments if isinstance(n, int) and n))
