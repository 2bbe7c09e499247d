"""What leads from a function to its states by other ways than attributes of modules.

At each call it is walked again from the function on, so that nothing on the way is kept: neither a
dictionary, a tuple or a closure that has the model in it, nor an object that leads back to it.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ._contents import Contents


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
