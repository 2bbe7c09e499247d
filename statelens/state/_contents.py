"""What a trace has met, in a form that can be compared with what is there and keeps none of it.

That are containers, plain objects, and links: what leads from a function to its states by other
ways than attributes of modules. These are walked again at each call, from the function on, so that
nothing on the way is kept: neither a dictionary, a tuple or a closure that has the model in it, nor
an object that leads back to it.
"""

import operator
import weakref
from collections.abc import Callable, Container, Iterable
from typing import Any, NamedTuple

from .._tree import MISSING, PLAIN_TYPES, fields_of, is_same, reads_own_fields

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


class Link(NamedTuple):
    """One step on the way from a function to states and modules.

    Attributes:
        name: By what name.
        source: Where it starts: the place of a root, or, after the roots, that of a link.
        look: Looks where it leads now, given the object that it starts at.
        value: What it leads to.
        is_fixed: Whether it leads there for ever.
        is_uniform: Whether that is a container of nothing but states and modules.
    """

    name: str
    source: int
    look: Callable[[Any], Any]
    value: Any
    is_fixed: bool
    is_uniform: bool


class Links:
    """Links that are walked again.

    Args:
        roots: What gives the objects that they start from, or None for one that is gone.
        links: The links.
        on_end: What to call when something has ended that one of them led to.
    """

    def __init__(
        self,
        roots: Iterable[Callable[[], Any]] = (),
        links: Iterable[Link] = (),
        on_end: Callable[[Any], None] | None = None,
    ):
        roots, links = list(roots), list(links)
        # From most roots there is no way: from the number of layers, say.
        own = {link.source for link in links if link.source < len(roots)}
        self._roots = [root for place, root in enumerate(roots) if place in own]
        places = {old: new for new, old in enumerate(sorted(own))}
        places |= {len(roots) + n: len(own) + n for n in range(len(links))}
        self._links = [
            (link.name, places[link.source], link.look, *_comparison(link, on_end))
            for link in links
        ]

    def first_change(self) -> tuple[str, Any] | None:
        """Gives a name that leads elsewhere, and what it leads to; None if there is none."""
        met = [root() for root in self._roots]
        for name, source, look, ref, is_that in self._links:
            start = met[source]
            if start is None:  # what is gone can't have changed
                met.append(None)
                continue
            now = look(start)
            if ref is not None:
                if ref() is not now:
                    return name, now
            elif is_that is not None and not is_that(now):
                return name, now
            met.append(now)
        return None


def _comparison(
    link: Link, on_end: Callable[[Any], None] | None
) -> tuple[Callable[[], Any] | None, Callable[[Any], bool] | None]:
    """Gives a weak reference to what a link led to, or what recognises it."""
    if link.is_fixed:
        return None, None
    if link.is_uniform:
        return None, Contents(link.value, on_end).are_those_of
    try:
        return weakref.ref(link.value, on_end), None
    except TypeError:
        return None, _Address(link.value).is_that_of


class _Address:
    """Recognises what Python has no weak references to: a dictionary, a tuple.

    Another one may come to lie there once it is gone. What it led to is then looked at by links of
    its own.
    """

    def __init__(self, value: Any):
        self._id, self._class = id(value), weakref.ref(type(value))

    def is_that_of(self, value: Any) -> bool:
        return id(value) == self._id and type(value) is self._class()


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
