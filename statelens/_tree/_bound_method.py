"""Methods of mutable nodes: pytrees, whose one child is the object that they are bound to."""

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import jax.tree_util as jtu
from wadler_lindig import TextDoc


class _OfClass(str):
    """A text about a class, in whose place its bound methods have that of their function."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, method: Any, owner: type | None = None) -> str:
        return self if method is None else getattr(method.func, self._name)


class BoundMethod(functools.partial):
    """A method bound to a mutable node, with the node's states as leaves.

    What keeps a function as a part of a pytree (a `diffrax.ODETerm`, `equinox.filter_jit`) so
    takes the states' values as inputs, and not for constants. Two methods of one object by one
    function are equal, as Python's own are.

    As a partial function it is called by C, which takes least time and depth of recursion.
    """

    __slots__ = ()

    @classmethod
    def of(cls, node: Any, method: MethodType) -> Any:
        """Makes one of a bound method, if it is a plain function bound to the node."""
        is_plain = method.__self__ is node and isinstance(method.__func__, FunctionType)
        return cls(method.__func__, node) if is_plain else method

    @property
    def __func__(self) -> Callable[..., Any]:
        return self.func

    @property
    def __self__(self) -> Any:
        return self.args[0]

    # All else is found by `__getattr__`; these two every class has.
    __doc__ = _OfClass(__doc__)
    __module__ = _OfClass(__module__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.func, name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(MethodType(self.func, self.__self__))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self  # as an attribute of a class it isn't bound again, which a partial one may be

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundMethod):
            return NotImplemented
        return self.__self__ is other.__self__ and self.func is other.func

    def __hash__(self) -> int:
        return hash((id(self.__self__), self.func))

    def __reduce__(self) -> Any:
        return getattr, (self.__self__, self.func.__name__)

    def __repr__(self) -> str:
        return f"<bound method {self.func.__qualname__} of a {type(self.__self__).__name__}>"

    def __pdoc__(self, **_: Any) -> TextDoc:
        return TextDoc(repr(self))  # of a partial function Equinox shows the arguments too


METHODS = (MethodType, BoundMethod)
"""The classes of bound methods."""


def _flatten_with_keys(method: BoundMethod) -> tuple[list[tuple[Any, Any]], Callable[..., Any]]:
    return [(jtu.GetAttrKey("__self__"), method.__self__)], method.func


jtu.register_pytree_with_keys(
    BoundMethod,
    _flatten_with_keys,
    lambda function, children: BoundMethod(function, *children),
    lambda method: (method.args, method.func),
)
