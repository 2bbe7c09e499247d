"""Methods that are compiled: bound to an object, which the program must not keep alive."""

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any


class Method:
    """A method that is compiled, of an object that it doesn't keep alive."""

    def __init__(self, function: Callable[..., Any], instance: Any, on_end: Callable[[Any], Any]):
        functools.update_wrapper(self, function, updated=())
        self._function = function
        # Functions of C need have none.
        with contextlib.suppress(TypeError, ValueError):
            self.__signature__ = inspect.signature(MethodType(function, instance))
        try:
            self._instance: Callable[[], Any] = weakref.ref(instance, on_end)
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
