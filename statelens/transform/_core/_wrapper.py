"""What the wrappers of functions share: how they are shown, and how they bind as methods."""

import copy
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any, Self

from ._options import check_callable


class Wrapper:
    """A function under a transform.

    As a method it closes over its object, whose states it may write; positions of arguments
    count the object all the same.

    Attributes:
        name: The transform, for messages.
    """

    name = "a transform"

    def __init__(self, fun: Callable[..., Any]):
        self._fun = check_callable(fun, "fun", self.name)
        functools.update_wrapper(self, fun, updated=())  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else self._bound_to(instance)

    def _bound_to(self, instance: Any) -> Self:
        """Returns a wrapper of the bound method."""
        bound = copy.copy(self)
        bound._fun = MethodType(self._fun, instance)
        return bound

    def __repr__(self) -> str:
        return f"{self.name}({getattr(self._fun, '__name__', self._fun)!s})"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError
