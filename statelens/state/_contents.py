"""What was in a container or a plain object that a trace has met, to be compared with what is."""

import operator
import weakref
from collections import deque
from collections.abc import Callable, Container
from typing import Any

from .._tree import MISSING, PLAIN_TYPES, fields_of, is_same, reads_own_fields

CONTAINERS = (list, dict, set, deque, bytearray)
"""What has items that change in place."""

ALL_FIELDS = frozenset({"__dict__"})
"""The names in code that may read any field of an object."""

_PLAIN = frozenset(PLAIN_TYPES)


class Contents:
    """What was in a container; what is gone from there may end.

    Args:
        container: The container, which isn't kept.
        on_end: What to call when something has ended that was in it.
    """

    def __init__(self, container: Any, on_end: Callable[[Any], None] | None):
        items = items_of(container)
        self._class = type(container)
        self._others: list[tuple[int, Callable[[], Any]]] = []
        if not is_plain(items):
            for place, item in enumerate(items):
                if type(item) not in _PLAIN:
                    self._others.append((place, weakly(item, on_end)))
                    items[place] = MISSING
        self._plain = items

    def are_those_of(self, container: Any) -> bool:
        """Says whether a container has the very items that there were."""
        if type(container) is not self._class:
            return False
        now = items_of(container)
        if len(now) != len(self._plain):
            return False
        for place, item in self._others:
            # One that has ended gives None, which `Reads` knows of.
            if item() is not now[place]:
                return False
            now[place] = MISSING
        return all(map(operator.is_, now, self._plain))


class ContainerRead:
    """A container that a trace has met, with what was in it."""

    def __init__(self, container: Any, on_end: Callable[[Any], None] | None):
        self._container = container
        self._contents = Contents(container, on_end)

    def is_unchanged(self) -> bool:
        """Says whether the container has the very items that it had."""
        return self._contents.are_those_of(self._container)


class FieldsRead:
    """A plain object that a trace has met, with those of its fields that it may have read.

    Args:
        owner: The object, which may lead to the model and isn't kept.
        fields: The fields.
        names: Which names the code has that was traced.
    """

    def __init__(self, owner: Any, fields: dict[str, Any], names: Container[str]):
        self._owner = weakly(owner)
        self._names = names
        self._fields = {name: weakly(value) for name, value in fields.items()}

    def is_unchanged(self) -> bool:
        """Says whether the object has the very fields that it had."""
        owner = self._owner()
        if owner is None:  # what is gone can't have changed
            return True
        now = named_fields(owner, self._names) or {}
        if now.keys() != self._fields.keys():
            return False
        return all(is_what_it_was(ref, now[name]) for name, ref in self._fields.items())


def is_what_it_was(ref: Callable[[], Any], now: Any) -> bool:
    """Says whether there still is what there was, which may be gone."""
    return is_same(ref(), now) and not (now is None and isinstance(ref, weakref.ref))


def named_fields(value: Any, names: Container[str]) -> dict[str, Any] | None:
    """Gives the fields of a plain object that code with these names may read; None for no such."""
    fields = fields_of(value)
    if fields is None or "__dict__" in names or reads_own_fields(type(value)):
        return fields
    return {name: field for name, field in fields.items() if name in names}


def items_of(container: Any) -> list[Any]:
    """Lists what is in a container, and of a dictionary the keys too."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)


def is_plain(items: list[Any]) -> bool:
    """Says whether there are only plain values in a list."""
    return _PLAIN.issuperset(map(type, items))


def weakly(value: Any, on_end: Callable[[Any], None] | None = None) -> Callable[[], Any]:
    """Refers to an object weakly, where it can be."""
    try:
        return weakref.ref(value, on_end)
    except TypeError:
        return lambda: value
