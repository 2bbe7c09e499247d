"""Methods that are compiled: bound to an object, which the program must not keep alive."""

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any


class Method:
    """A method of an object that it doesn't keep alive.

    Args:
        function: The function.
        instance: The object.
        on_end: What to call when the object is gone.
    """

    def __init__(self, function: Callable[..., Any], instance: Any, on_end: Callable[[], Any]):
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self.__signature__ = _without_self(function)
        try:
            self._instance: Callable[[], Any] = weakref.ref(instance, lambda _: on_end())
        except TypeError:  # it has __slots__; then it is kept
            self._instance = functools.partial(_identity, instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._instance(), *args, **kwargs)

    def _reachable(self) -> list[Any]:
        return [self._instance(), self._function]


class BoundMethod:
    """A compiled method together with its object, which it keeps alive.

    Args:
        function: The compiled `Method`.
        instance: The object.
    """

    def __init__(self, function: Callable[..., Any], instance: Any):
        functools.update_wrapper(self, function, updated=())  # type: ignore[arg-type]
        self._bound_function = function
        self.__self__ = instance

    @property
    def __call__(self) -> Callable[..., Any]:
        """Calls the method."""
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


def _identity(instance: Any) -> Any:
    return instance


def after_self(argnums: frozenset[int]) -> tuple[int, ...]:
    """Positions of a method's arguments, as its bound form counts them."""
    return tuple(sorted(number - 1 for number in argnums if number))
