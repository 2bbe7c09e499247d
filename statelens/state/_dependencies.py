"""What a trace has read of mutable modules: when that changes, the trace is no longer good.

States and arguments are inputs of a compiled function. The attributes of a module that are no
states (``model.training``, a list of layers) are part of the program, so the program is good as
long as they are what they were. Only what was read is remembered; what isn't an attribute of a
module (globals, closures, attributes of other objects) is taken as `jax.jit` takes it, as it is
when the function is traced.
"""

import operator
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from .._tree import MISSING, Cell, Holder

# Modules first: to be asked for what they are not is expensive for them.
_OWNERS = (Holder, Cell)
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


class Epoch:
    """The time between two changes: while it is the same, no attribute need be looked at.

    Attributes:
        now: Stands for it; no other epoch has the same object.
    """

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.advance()

    def advance(self) -> None:
        """Begins another one, after a change."""
        self.now = object()


epoch = Epoch()


class _Read(NamedTuple):
    node: "weakref.ref[Holder]"
    name: str | None
    value: Callable[[], Any]


class Reads:
    """The attributes that were read, with their values.

    Attributes:
        lists: The lists among them with nothing but states and modules in them.
        lists_before: What they had in them.
        containers: All other containers among them, with what they had in them.
        kinds: Cells that were looked at, with the structure, shapes and dtypes of their values.
    """

    def __init__(self) -> None:
        self._attributes: dict[Hashable, _Read] = {}
        self._places: dict[int, int] = {}
        self.lists: list[list[Any]] = []
        self.lists_before: list[list[Any]] = []
        self.containers: dict[int, tuple[Any, list[Any]]] = {}
        self.kinds: dict[int, tuple[weakref.ref[Cell], Hashable]] = {}

    def note(self, node: Holder, name: str | None, value: Any) -> None:
        """Notes that an attribute was read.

        Args:
            node: The module.
            name: The attribute; None for the names of all that there are.
            value: What was read.
        """
        key = id(node), name
        known = self._attributes.get(key)
        if known is not None and known.node() is node:
            return
        self._attributes[key] = _Read(weakref.ref(node), name, _reference(value))
        if name is not None:
            self._note_containers(value)

    def note_kind(self, cell: Cell, value: Any) -> None:
        """Notes that the structure, shapes and dtypes of a cell's value were looked at."""
        known = self.kinds.get(id(cell))
        if known is None or known[0]() is not cell:
            self.kinds[id(cell)] = weakref.ref(cell), _kind(value)

    def renote(self, node: Holder, name: str, value: Any) -> None:
        """Notes what the traced function itself has set; JAX takes that for done."""
        if (id(node), name) in self._attributes:
            del self._attributes[id(node), name]
            self.note(node, name, value)

    def settle(self, touched: Iterable[Cell]) -> None:
        """Takes things as they are when a trace ends.

        What it did to containers is done; and the cells that it touched are inputs of the
        program, so that JAX itself sees to their structure, shapes and dtypes.
        """
        for cell in touched:
            self.kinds.pop(id(cell), None)
        others = [container for container, _ in self.containers.values()]
        for container in [*self.lists, *others]:
            self._note_containers(container)

    def update(self, other: "Reads") -> None:
        """Adds what was read in another trace."""
        self._attributes.update(other._attributes)
        for container, before in zip(other.lists, other.lists_before, strict=True):
            self._note_list(container, before)
        self.containers.update(other.containers)
        # Where this trace runs, they may have other values: it looks for itself.
        for ref, _ in other.kinds.values():
            cell = ref()
            if cell is not None:
                cell.look()

    def attributes_hold(self) -> bool:
        """Says whether all attributes are what they were."""
        return next(self._changed(), None) is None

    def changes(self) -> list[str]:
        """Lists the attributes that aren't what they were, for a message."""
        changes = []
        for node, name, before, now in self._changed():
            if name is not None:
                of, was, new = type(node).__name__, _described(before), _described(now)
                new = f"another {type(now).__name__}" if new == was else new
                changes.append(f"the attribute {name!r} of a {of} was {was}, and is {new}")
        return changes

    def _changed(self) -> Iterator[tuple[Holder, str | None, Any, Any]]:
        """Gives what was read and is no longer the same, before and now."""
        for ref, name, value in self._attributes.values():
            node = ref()
            # A module that is gone can't have changed.
            if node is not None:
                before, now = value(), node._read_attribute(name)
                if not _is_same(before, now):
                    yield node, name, before, now

    def contents_hold(self) -> bool:
        """Says whether lists and dictionaries have what they had, and cells such values."""
        # One comparison for all lists; what is in them is equal to nothing but itself.
        if self.lists != self.lists_before:
            return False
        for container, before in self.containers.values():
            if not has_still(container, before):
                return False
        for ref, kind in self.kinds.values():
            cell = ref()
            if cell is not None and _kind(cell.look()) != kind:
                return False
        return True

    def are_exhaustive(self) -> bool:
        """Says whether `contents_hold` sees all that could change while no attribute is set.

        It does where attributes are states, modules, plain values, and lists, tuples and
        dictionaries of these; it doesn't see what lies in nodes of other libraries.
        """
        return all(_is_seen_through(read.value()) for read in self._attributes.values())

    def _note_containers(self, value: Any) -> None:
        if isinstance(value, _OWNERS):
            return
        if isinstance(value, (list, dict, set)):
            items = items_of(value)
            if type(value) is list and all(map(_is_itself_only, items)):
                self._note_list(value, items)
                self.containers.pop(id(value), None)
            else:
                if id(value) in self._places:
                    self._note_list(value, value)
                self.containers[id(value)] = value, items
        if isinstance(value, (list, tuple, dict)):
            for item in items_of(value):
                self._note_containers(item)

    def _note_list(self, container: Any, before: Any) -> None:
        place = self._places.setdefault(id(container), len(self.lists))
        self.lists[place : place + 1] = [container]
        self.lists_before[place : place + 1] = [before]


def _is_itself_only(item: Any) -> bool:
    """Says whether nothing but the item itself is equal to it, as with states and modules."""
    return isinstance(item, _OWNERS) and type(item).__eq__ is object.__eq__


def items_of(container: Any) -> list[Any]:
    """Lists what is in a container, and of a dictionary the keys too."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)


def has_still(container: Any, before: list[Any]) -> bool:
    """Says whether a container has the very items that it had."""
    now = items_of(container)
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _is_seen_through(value: Any) -> bool:
    if type(value) in _PLAIN or isinstance(value, _OWNERS):
        return True
    if type(value) in (list, dict) or isinstance(value, tuple):
        return all(map(_is_seen_through, items_of(value)))
    return jtu.all_leaves([value])


def _reference(value: Any) -> Callable[[], Any]:
    """Refers to a module weakly: a program must not keep a model alive."""
    return weakref.ref(value) if isinstance(value, Holder) else lambda: value


def _described(value: Any) -> str:
    if value is MISSING:
        return "not set"
    return repr(value) if isinstance(value, _PLAIN) else f"a {type(value).__name__}"


def _kind(value: Any) -> Hashable:
    if isinstance(value, jax.Array):
        return value.shape, value.dtype
    leaves, treedef = jax.tree.flatten(value)
    return treedef, tuple((getattr(x, "shape", type(x)), getattr(x, "dtype", None)) for x in leaves)


def _is_same(before: Any, now: Any) -> bool:
    if before is now:
        return True
    return type(before) is type(now) and isinstance(now, (*_PLAIN, tuple)) and before == now
