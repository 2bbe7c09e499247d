"""Fields of plain objects: what may be set in an object of a user's class.

Such an object is a leaf to JAX. But what a function reads in it is part of what the function does.
"""

import dataclasses
import enum
import functools
import sys
from argparse import Namespace
from collections import UserDict, UserList
from types import MemberDescriptorType, SimpleNamespace
from typing import Any

from ._protocols import MISSING

FOREIGN = sys.stdlib_module_names - {"__main__"} | {
    "statelens",
    "jax",
    "jaxlib",
    "numpy",
    "equinox",
    "optax",
}
"""Packages whose code is not of the user's making, and holds no states."""


def fields_of(value: Any) -> dict[str, Any] | None:
    """Gives the fields of a plain object by name; None for what is none, or stays as it is."""
    cls = type(value)
    if not _has_fields(cls):
        return None
    fields = dict(getattr(value, "__dict__", {}))
    for name in _cached(cls):
        fields.pop(name, None)
    for name, slot in slots_of(cls).items():
        try:
            fields[name] = slot.__get__(value)
        except AttributeError:
            fields[name] = MISSING
    return fields


@functools.lru_cache(maxsize=4096)
def _has_fields(cls: type) -> bool:
    if issubclass(cls, (SimpleNamespace, Namespace, UserDict, UserList)):
        return True
    if is_foreign(cls.__module__) or issubclass(cls, (type, enum.Enum)):
        return False
    # What says what it equals, and has a hash, is a value such as a unit or a mesh.
    return cls.__hash__ in (None, object.__hash__) or dataclasses.is_dataclass(cls)


@functools.lru_cache(maxsize=4096)
def reads_own_fields(cls: type) -> bool:
    """Says whether objects of a class have fields that code of another's making reads."""
    kinds = {base.__module__ for base in cls.__mro__ if is_foreign(base.__module__)}
    return not kinds <= {"builtins", "abc", "typing", "types", "argparse", "enum"}


@functools.lru_cache(maxsize=4096)
def _cached(cls: type) -> tuple[str, ...]:
    """Lists what an object keeps only so as not to compute it again."""
    members = [member for base in cls.__mro__ for member in vars(base).items()]
    return tuple(name for name, each in members if isinstance(each, functools.cached_property))


@functools.lru_cache(maxsize=4096)
def slots_of(cls: type) -> dict[str, MemberDescriptorType]:
    """Gives the slots of a class by name."""
    return {
        name: slot
        for base in cls.__mro__
        for name, slot in vars(base).items()
        if isinstance(slot, MemberDescriptorType) and not is_foreign(base.__module__)
    }


def is_foreign(module: str | None) -> bool:
    """Says whether a module is not of the user's making, and knows nothing of states."""
    return (module or "").partition(".")[0] in FOREIGN
