"""The type of what a transform gives where the function is left out."""

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    """What keeps the parameters of the function that it is given, and what that returns."""

    def __call__(self, fun: Callable[P, R], /) -> Callable[P, R]: ...
