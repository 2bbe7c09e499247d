"""Errors that a compiled program raises while it runs.

A program that can raise is waited for before its writes are committed, so that a failure leaves
states as they were. JAX gives such errors as text inside of its own; here they come out again as
what they were.
"""

import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from ..._errors import ArgumentError
from ..._tree import format, from_jax
from ...state import active_frame, is_concrete

# From the second call on, JAX lets out what XLA makes of an error, a ValueError.
PROGRAM_ERRORS = (jax.errors.JaxRuntimeError, ValueError)

_CALLBACKS = ("debug_callback", "io_callback", "pure_callback")

_FROM_EQUINOX = re.compile(r"EquinoxRuntimeError: (.*?)(?:\n\n\n-{20}|\Z)", re.DOTALL)


class Check:
    """A host callback that keeps the errors which it raises, for the programs that it is in."""

    def __init__(self, callback: Callable[..., None]):
        self._callback = callback
        self.errors: deque[Exception] = deque(maxlen=16)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        try:
            self._callback(*args, **kwargs)
        except Exception as error:
            self.errors.append(error)
            raise


def expect_errors(*checks: Check) -> None:
    """Notes that what is being traced may fail when it runs."""
    frame = active_frame.get()
    if frame is not None:
        frame.expect_errors(checks)


def raise_failed_check(error: Exception, checks: Iterable[Check]) -> None:
    """Raises the error that a check of a program raised, if JAX made the given one of it."""
    text = str(error).rstrip()
    for check in checks:
        for known in list(check.errors):
            if text.endswith(f"{type(known).__name__}: {known}".rstrip()):
                check.errors.remove(known)
                raise known.with_traceback(None) from None
    found = _FROM_EQUINOX.search(str(error))
    if found is not None:
        raise RuntimeError(found.group(1).strip()) from None


class Taken(NamedTuple):
    """What a program takes: a value with its name, and the option that donates it, if one does."""

    name: str
    value: Any
    donated_by: str | None


def refuse_shared_arrays(taken: Iterable[Taken]) -> None:
    """Refuses an array that is to be donated, and is used under another name too."""
    seen: dict[int, tuple[str, Taken]] = {}
    for each in taken:
        for name, pointer in _pointers_of(each):
            other_name, other = seen.setdefault(pointer, (name, each))
            is_same = other is each and other_name == name
            if is_same or not (other.donated_by or each.donated_by):
                continue
            names = other_name, name
            option = other.donated_by or each.donated_by
            donated, kept = names if other.donated_by else names[::-1]
            raise ArgumentError(
                f"asked jit to donate the array of {donated}",
                f"{kept} has the very same array, which donation would delete",
                "an array of its own for each, as by jnp.copy",
                f"{option}, such that it leaves {donated} out",
            )


def _pointers_of(taken: Taken) -> Iterator[tuple[str, int]]:
    """Lists the buffers of a value, each with the name of the array that lies there."""
    for keys, leaf in jtu.tree_leaves_with_path(taken.value):
        # One that is deleted has been donated before; JAX says so. What is empty lies nowhere.
        if (
            isinstance(leaf, jax.Array)
            and is_concrete(leaf)
            and not leaf.is_deleted()
            and leaf.size
        ):
            name = f"{taken.name} at '{format(from_jax(keys)[0])}'" if keys else taken.name
            for shard in leaf.addressable_shards:
                yield name, shard.data.unsafe_buffer_pointer()


def can_raise(jaxpr: Any) -> bool:
    """Says whether a program calls back into Python, which may raise."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _CALLBACKS:
            return True
        for param in eqn.params.values():
            # Branches come as a tuple; nothing else that is nested has a program in it.
            for inner in param if type(param) in (list, tuple) else (param,):
                # Open and closed ones are two classes in some versions of JAX, and one in others.
                if _has_equations(type(inner)) and can_raise(inner):
                    return True
    return False


@functools.lru_cache(maxsize=4096)
def _has_equations(cls: type) -> bool:
    return hasattr(cls, "eqns")
