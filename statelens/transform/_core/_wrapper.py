"""What the wrappers of functions share: how they are shown, and how they bind as methods.

A wrapper that is bound to an object gives a method of Python's own, which calls what the wrapper
makes of the object. Positions of arguments count the object.
"""

import copy
import functools
import inspect
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import jax.tree_util as jtu

from ..._errors import user_facing
from ..._tree import MutableNode
from ._options import check_callable


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


def after_self(argnums: frozenset[int]) -> tuple[int, ...]:
    """Gives positions of a method's arguments as its bound form counts them."""
    return tuple(sorted(number - 1 for number in argnums if number))


class Method:
    """A method that is compiled, of an object that it doesn't keep alive."""

    def __init__(self, function: Callable[..., Any], instance: Any, on_end: Callable[[], Any]):
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self.__signature__ = _without_self(function)
        try:
            self._instance: Callable[[], Any] = weakref.ref(instance, lambda _: on_end())
        except TypeError:  # it has __slots__; then it is kept
            self._instance = lambda: instance

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._instance(), *args, **kwargs)

    def _reachable(self) -> list[Any]:
        return [self._instance(), self._function]


class BoundMethod:
    """A compiled `Method` together with its object, which it keeps alive."""

    def __init__(self, function: Callable[..., Any], instance: Any):
        functools.update_wrapper(self, function, updated=())  # type: ignore[arg-type]
        self._bound_function = function
        self.__self__ = instance

    @property
    def __call__(self) -> Callable[..., Any]:
        return self._bound_function.__call__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound_function, name)

    def _reachable(self) -> list[Any]:
        return [self.__self__, self._bound_function]


def _without_self(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return signature.replace(parameters=list(signature.parameters.values())[1:])
