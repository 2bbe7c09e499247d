"""Errors that a compiled program raises while it runs.

A program that can raise is waited for before its writes are committed, so that a failure leaves
states as they were. JAX gives such errors as text inside of its own; here they come out again as
what they were.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

_CALLBACKS = ("debug_callback", "io_callback", "pure_callback")
_raised: deque[Exception] = deque(maxlen=16)

_FROM_EQUINOX = re.compile(r"EquinoxRuntimeError: (.*?)(?:\n\n\n-{20}|\Z)", re.DOTALL)


def remembering(callback: Callable[..., None]) -> Callable[..., None]:
    """Wraps a host callback so that what it raises can be raised again by `reraise`."""

    def call(*args: Any, **kwargs: Any) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as error:
            _raised.append(error)
            raise

    return call


def forget_errors() -> None:
    """Forgets what was raised before; to be called before a program is run."""
    _raised.clear()


def reraise(error: Exception) -> NoReturn:
    """Raises the error that a program raised, in place of the one that JAX made of it."""
    text = str(error).rstrip()
    for known in reversed(_raised):
        if text.endswith(f"{type(known).__name__}: {known}".rstrip()):
            forget_errors()
            raise known.with_traceback(None) from None
    found = _FROM_EQUINOX.search(str(error))
    if found is not None:
        raise RuntimeError(found.group(1).strip()) from None
    raise error


def can_raise(jaxpr: Any) -> bool:
    """Says whether a program calls back into Python, which may raise."""
    return any(eqn.primitive.name in _CALLBACKS for eqn in _equations(jaxpr))


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _equations(inner)


def _is_jaxpr(value: Any) -> bool:
    # Open and closed ones are two classes in some versions of JAX, and one in others.
    return hasattr(value, "eqns")
