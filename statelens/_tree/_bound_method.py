"""Methods of mutable nodes: pytrees, whose one child is the object that they are bound to."""

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import jax.tree_util as jtu

from .._errors import user_facing


class BoundMethod:
    """A method bound to a mutable node, with the node's states as leaves.

    What keeps a function as a part of a pytree (a `diffrax.ODETerm`, `equinox.filter_jit`) so
    takes the states' values as inputs, and not for constants. Two methods of one object by one
    function are equal, as Python's own are.
    """

    __slots__ = ("__func__", "__self__", "__weakref__")

    def __init__(self, function: Callable[..., Any], node: Any):
        self.__func__ = function
        self.__self__ = node

    @classmethod
    def of(cls, node: Any, method: MethodType) -> Any:
        """Makes one of a bound method, if it is a plain function bound to the node."""
        is_plain = method.__self__ is node and isinstance(method.__func__, FunctionType)
        return cls(method.__func__, node) if is_plain else method

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(MethodType(self.__func__, self.__self__))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundMethod):
            return NotImplemented
        return self.__self__ is other.__self__ and self.__func__ is other.__func__

    def __hash__(self) -> int:
        return hash((id(self.__self__), self.__func__))

    def __reduce__(self) -> Any:
        return getattr, (self.__self__, self.__func__.__name__)

    def __repr__(self) -> str:
        return f"<bound method {self.__func__.__qualname__} of a {type(self.__self__).__name__}>"


METHODS = (MethodType, BoundMethod)
"""The classes of bound methods."""


def _flatten_with_keys(method: BoundMethod) -> tuple[list[tuple[Any, Any]], Callable[..., Any]]:
    return [(jtu.GetAttrKey("__self__"), method.__self__)], method.__func__


jtu.register_pytree_with_keys(
    BoundMethod,
    _flatten_with_keys,
    lambda function, children: BoundMethod(function, *children),
    lambda method: ([method.__self__], method.__func__),
)
