"""What a trace has read of mutable modules: when that changes, the trace is stale.

States and arguments are inputs of a compiled function. The attributes of a module that are no
states (``model.training``, a list of layers) are part of the program, so the program is good as
long as they are what they were. Only what was read is remembered. Other names (globals, closures,
attributes of other objects) are followed where they led to states; what else they stand for is
taken as `jax.jit` takes it, as it is when the function is traced.
"""

import operator
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.tree_util as jtu

from .._tree import (
    CONTAINERS,
    MISSING,
    PLAIN_TYPES,
    Cell,
    MutableNode,
    fields_of,
    flatten_as_jax,
    is_same,
    put_weakly,
)

# Modules first: to be asked for what they are not is expensive for them.
_OWNERS = (MutableNode, Cell)


class Readers:
    """The traces that have read the attributes of one module, by attribute."""

    def __init__(self) -> None:
        self._by_name: dict[str | None, dict[int, weakref.ref[Reads]]] = {}

    def add(self, name: str | None, reads: "Reads") -> None:
        """Adds a trace that has read an attribute, or, for None, which attributes there are."""
        put_weakly(self._by_name.setdefault(name, {}), id(reads), reads)

    def notify(self, *names: str | None) -> None:
        """Has the traces that have read one of these attributes look at them again."""
        for name in names:
            # Listed at once, since another thread may be tracing.
            for reader in list(self._by_name.get(name, {}).values()):
                reads = reader()
                if reads is not None:
                    reads.stamp = object()

    def notify_all(self) -> None:
        """Has all traces that have read something look at it again."""
        self.notify(*list(self._by_name))


class _Read(NamedTuple):
    node: "weakref.ref[MutableNode]"
    name: str | None
    value: Callable[[], Any]
    inside: bool


class _Name(NamedTuple):
    name: str
    find: Callable[[], Any]
    value: Callable[[], Any]

    def leads_elsewhere(self) -> bool:
        value = self.value()
        return value is None or self.find() is not value  # it is None if it is gone


class _Contents:
    """What was in a container; what is gone from there may end."""

    def __init__(self, container: Any, on_end: Callable[[Any], None], inside: bool):
        self.container = container
        self.inside = inside
        self._items = [_weakly(item, on_end) for item in _items_of(container)]

    def are_still_there(self) -> bool:
        """Says whether the container has the very items that it had."""
        now = _items_of(self.container)
        # One that has ended gives None, which `Reads` knows of.
        before = [item() for item in self._items]
        return len(now) == len(before) and all(map(operator.is_, now, before))


class _Fields:
    """What was in a plain object, which may lead to the model and isn't kept alive."""

    inside = True

    def __init__(self, owner: Any, fields: dict[str, Any]):
        self._owner = _weakly(owner)
        self._fields = {name: _weakly(value) for name, value in fields.items()}

    @property
    def container(self) -> Any:
        """The object; None if it is gone."""
        return self._owner()

    def are_still_there(self) -> bool:
        """Says whether the object has the very fields that it had."""
        owner = self.container
        if owner is None:  # what is gone can't have changed
            return True
        now = fields_of(owner) or {}
        if now.keys() != self._fields.keys():
            return False
        return all(_is_what_it_was(ref, now[name]) for name, ref in self._fields.items())


_are_still_there = operator.methodcaller("are_still_there")


def _is_what_it_was(ref: Callable[[], Any], now: Any) -> bool:
    return is_same(ref(), now) and not (now is None and isinstance(ref, weakref.ref))


class Reads:
    """The attributes that were read, with their values.

    Attributes:
        stamp: Another object each time that an attribute which was read is set.
        checked: The stamp at which all attributes were last seen to be what they were.
        on_end: What to call when something has ended that led to states.
    """

    stamp: object
    checked: object
    on_end: Callable[[], None] | None

    def __init__(self) -> None:
        self.stamp = self.checked = object()
        self.on_end = None
        self._has_ended = False
        self._attributes: dict[Hashable, _Read] = {}
        self._containers: dict[int, _Contents | _Fields] = {}
        # Names that led to states, and what they led to.
        self._names: list[_Name] = []
        # Cells that were looked at, with the structure, shapes and dtypes of their values.
        self._cell_types: dict[int, tuple[weakref.ref[Cell], Hashable]] = {}
        # Cells that were met, with their names, tags and further attributes.
        self._labels: dict[int, tuple[weakref.ref[Cell], dict[str, Any]]] = {}

    def record(
        self, node: MutableNode, name: str | None, value: Any, *, inside: bool = False
    ) -> None:
        """Records that an attribute was read.

        Args:
            node: Whose attribute it is.
            name: Its name; None for the names of all that there are.
            value: Its value.
            inside: Whether what lies in plain objects there may have been read too.
        """
        key = id(node), name
        known = self._attributes.get(key)
        if known is not None and known.node() is node and known.inside >= inside:
            return
        node._readers.add(name, self)
        self._attributes[key] = _Read(weakref.ref(node), name, _reference(value), inside)
        if name is not None:
            self._record_containers(value, inside)

    @property
    def nodes(self) -> list[MutableNode]:
        """The nodes of which attributes were read."""
        found = [read.node() for read in self._attributes.values()]
        return [node for node in found if node is not None]

    @property
    def values(self) -> list[Any]:
        """The values that attributes had, but for states, modules and plain values."""
        found = [read.value() for read in self._attributes.values() if read.name is not None]
        return [value for value in found if not isinstance(value, (*_OWNERS, *PLAIN_TYPES))]

    def follow(self, names: Iterable[tuple[str, Any, Callable[[], Any]]], lists: list[Any]) -> None:
        """Records what leads to states by another way than attributes.

        Args:
            names: Names, what each leads to, and what finds it again.
            lists: Lists and other containers of nothing but states and modules.
        """
        self._names = [_Name(name, find, _weakly(value, self._end)) for name, value, find in names]
        for container in lists:
            self._record_containers(container, inside=False)

    def record_type(self, cell: Cell, value: Any) -> None:
        """Records that the structure, shapes and dtypes of a cell's value were looked at."""
        known = self._cell_types.get(id(cell))
        if known is None or known[0]() is not cell:
            self._cell_types[id(cell)] = weakref.ref(cell), _type_of(cell, value)

    def record_labels(self, cell: Cell) -> None:
        """Records that a cell was met: its name, tags and further attributes may have been read."""
        known = self._labels.get(id(cell))
        if known is None or known[0]() is not cell:
            cell._readers.add(None, self)
            self._rerecord_labels(cell)

    def _rerecord_labels(self, cell: Cell) -> None:
        self._labels[id(cell)] = weakref.ref(cell), dict(vars(cell))
        for value in vars(cell).values():
            self._record_containers(value, inside=True)

    def rerecord(self, node: MutableNode, name: str, value: Any) -> None:
        """Records what the traced function itself has set; JAX takes that for done."""
        if (id(node), name) in self._attributes:
            read = self._attributes.pop((id(node), name))
            self.record(node, name, value, inside=read.inside)

    def finish_trace(self, touched: Iterable[Cell]) -> None:
        """Takes things as they are when a trace ends.

        What it did to containers is done; and the cells that it touched are inputs of the
        program, so that JAX itself sees to their structure, shapes and dtypes.
        """
        for cell in touched:
            self._cell_types.pop(id(cell), None)
        for cell in _living(self._labels.values()):
            self._rerecord_labels(cell)
        for known in list(self._containers.values()):
            self._record_containers(known.container, known.inside)
        self._has_ended = False

    def _end(self, _: Any) -> None:
        """Takes note that what led to states is gone: it can't be met again."""
        self._has_ended = True
        self.stamp = object()
        if self.on_end is not None:
            self.on_end()

    def update(self, other: "Reads") -> None:
        """Adds what was read in another trace."""
        for key, read in other._attributes.items():
            self._attributes[key] = read
            node = read.node()
            if node is not None:
                node._readers.add(read.name, self)
        for known in list(other._containers.values()):
            self._record_containers(known.container, known.inside)
        # Where this trace runs, they may have other values: it looks for itself.
        for cell in _living(other._cell_types.values()):
            cell.look()
        for cell in _living(other._labels.values()):
            self.record_labels(cell)

    def attributes_unchanged(self) -> bool:
        """Says whether all attributes are what they were."""
        # What another thread sets while this one looks gives another stamp, which isn't checked.
        stamp = self.stamp
        if stamp is self.checked:
            return True
        if next(self._changed(), None) is not None:
            return False
        self.checked = stamp
        return True

    def changes(self) -> list[str]:
        """Lists the attributes that aren't what they were, for a message."""
        changes = []
        for node, name, before, now in self._changed():
            if name is not None:
                of, was, new = type(node).__name__, _described(before), _described(now)
                new = f"another {type(now).__name__}" if new == was else new
                changes.append(f"the attribute {name!r} of a {of} was {was}, and is {new}")
        changes += [
            f"the name {name.name!r} leads to another {type(name.find()).__name__}"
            for name in self._names
            if name.leads_elsewhere()
        ]
        return changes

    def _changed(self) -> Iterator[tuple[MutableNode | Cell, str | None, Any, Any]]:
        """Gives what was read and is no longer the same, before and now."""
        for read in list(self._attributes.values()):
            node = read.node()
            # A module that is gone can't have changed.
            if node is not None:
                before, now = read.value(), node._read_attribute(read.name)
                if not is_same(before, now):
                    yield node, read.name, before, now
        for ref, labels in list(self._labels.values()):
            cell = ref()
            if cell is not None:
                for name in {**labels, **vars(cell)}:
                    before, now = labels.get(name, MISSING), vars(cell).get(name, MISSING)
                    if not is_same(before, now):
                        yield cell, name, before, now

    def leads_to_the_same(self) -> bool:
        """Says whether names and containers lead to what they led to."""
        if self._has_ended or any(map(_Name.leads_elsewhere, self._names)):
            return False
        return all(map(_are_still_there, self._containers.values()))

    def containers_unchanged(self) -> bool:
        """Says whether what isn't an attribute leads where it did, to cells of such values."""
        if not self.leads_to_the_same():
            return False
        for ref, before in self._cell_types.values():
            cell = ref()
            if cell is not None and _type_of(cell, cell.look()) != before:
                return False
        return True

    def are_exhaustive(self) -> bool:
        """Says whether `containers_unchanged` sees all that could change while none is set.

        It does where attributes are states, modules, plain values, and lists, tuples and
        dictionaries of these; it doesn't see what lies in nodes of other libraries.
        """
        return all(_is_seen_through(read.value()) for read in self._attributes.values())

    def _record_containers(self, value: Any, inside: bool) -> None:
        stack, seen = [value], set[int]()
        while stack:
            value = stack.pop()
            if type(value) in PLAIN_TYPES or isinstance(value, _OWNERS) or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, CONTAINERS):
                self._containers[id(value)] = _Contents(value, self._end, inside)
            if isinstance(value, (*CONTAINERS, tuple, frozenset)):
                stack += _items_of(value)
            elif inside and (fields := fields_of(value)) is not None:
                self._containers[id(value)] = _Fields(value, fields)
                stack += fields.values()


def _living(entries: Iterable[tuple[weakref.ref[Cell], Any]]) -> list[Cell]:
    """Lists the cells that are still there."""
    return [cell for ref, _ in list(entries) if (cell := ref()) is not None]


def _items_of(container: Any) -> list[Any]:
    """Lists what is in a container, and of a dictionary the keys too."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)


def _is_seen_through(value: Any) -> bool:
    # What knows what it reaches is of this library: a bound lens, say, which changes in nothing.
    if type(value) in PLAIN_TYPES or isinstance(value, _OWNERS):
        return True
    if hasattr(type(value), "_reachable"):
        return True
    if type(value) in (list, dict) or isinstance(value, tuple):
        return all(map(_is_seen_through, _items_of(value)))
    return jtu.all_leaves([value])


def _reference(value: Any) -> Callable[[], Any]:
    """Refers to a module weakly: a program must not keep a model alive, nor what leads to it."""
    # A module of Equinox is a value: one that is made again, and alike, is the same to `is_same`.
    if isinstance(value, (*PLAIN_TYPES, Cell, *CONTAINERS, tuple, frozenset, eqx.Module)):
        return lambda: value
    is_weak = isinstance(value, MutableNode) or fields_of(value) is not None
    return _weakly(value) if is_weak else lambda: value


def _weakly(value: Any, on_end: Callable[[Any], None] | None = None) -> Callable[[], Any]:
    """Refers to an object weakly, where it can be."""
    try:
        return weakref.ref(value, on_end)
    except TypeError:
        return lambda: value


def _described(value: Any) -> str:
    if value is MISSING:
        return "not set"
    return repr(value) if isinstance(value, PLAIN_TYPES) else f"a {type(value).__name__}"


def _type_of(cell: Cell, value: Any) -> Hashable:
    if isinstance(value, jax.Array):
        return value.shape, value.dtype
    leaves, treedef = flatten_as_jax(value, name=cell._description)
    return treedef, tuple((getattr(x, "shape", type(x)), getattr(x, "dtype", None)) for x in leaves)
