"""What a trace has read of mutable modules: when that changes, the trace is stale.

States and arguments are inputs of a compiled function. The attributes of a module that are no
states (``model.training``, a list of layers) are part of the program, so the program is good as
long as they are what they were. Only what was read is remembered; of plain objects there, what the
traced code has a name for. Other names (globals, closures, attributes of other objects) are
followed where they led to states; what else they stand for is taken as `jax.jit` takes it, as it is
when the function is traced.
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
from ._contents import (
    ALL_FIELDS,
    ContainerRead,
    FieldsRead,
    Link,
    Links,
    is_plain,
    is_what_it_was,
    items_of,
    named_fields,
    weakly,
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
        # Containers and plain objects there, with what was in them.
        self._containers: dict[int, ContainerRead | FieldsRead] = {}
        # What led to states by other ways.
        self._links = Links()
        # The names in the code that was traced, once they are known, and so far.
        self._names: frozenset[str] = ALL_FIELDS
        self._names_met: frozenset[str] = frozenset()
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
    def roots(self) -> list[Callable[[], Any]]:
        """What gives the values that attributes had; some may be gone."""
        return [read.value for read in self._attributes.values() if read.name is not None]

    def follow(self, roots: Iterable[Callable[[], Any]], links: Iterable[Link]) -> None:
        """Records what leads to states by other ways than attributes.

        Args:
            roots: What gives the objects that the links start from, or None for one that is gone.
            links: The links.
        """
        self._links = Links(roots, links, self._end)

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

    def finish_trace(self, touched: Iterable[Cell], names: Callable[[], frozenset[str]]) -> None:
        """Takes things as they are when a trace ends.

        What it did to containers is done; and the cells that it touched are inputs of the
        program, so that JAX itself sees to their structure, shapes and dtypes.

        Args:
            touched: The cells.
            names: Gives the names of fields of plain objects that its code may have read.
        """
        if any(isinstance(known, FieldsRead) for known in self._containers.values()):
            self._names_met |= names()
            self._names = self._names_met
        self._containers.clear()
        for read in list(self._attributes.values()):
            if read.name is not None:
                self._record_containers(read.value(), read.inside)
        for cell in touched:
            self._cell_types.pop(id(cell), None)
        for cell in _living(self._labels.values()):
            self._rerecord_labels(cell)
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
            if read.name is not None:
                self._record_containers(read.value(), read.inside)
        self._names_met |= other._names_met
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
        if (link := self._links.first_change()) is not None:
            name, now = link
            changes.append(f"the name {name!r} leads to another {type(now).__name__}")
        return changes

    def _changed(self) -> Iterator[tuple[MutableNode | Cell, str | None, Any, Any]]:
        """Gives what was read and is no longer the same, before and now."""
        for read in list(self._attributes.values()):
            node = read.node()
            # A module that is gone can't have changed.
            if node is not None:
                before, now = read.value(), node._read_attribute(read.name)
                if not is_what_it_was(read.value, now):
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
        if self._has_ended or self._links.first_change() is not None:
            return False
        return all(map(_is_unchanged, self._containers.values()))

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
        stack, seen, places = [value], set[int](), _MOST_PLAIN
        while stack:
            value = stack.pop()
            if type(value) in PLAIN_TYPES or isinstance(value, _OWNERS) or id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, (*CONTAINERS, tuple, frozenset)):
                items = items_of(value)
                if is_data := is_plain(items):
                    places -= isinstance(value, CONTAINERS)
                else:
                    stack += items
                if isinstance(value, CONTAINERS) and not (is_data and places < 0):
                    self._containers[id(value)] = ContainerRead(value, self._end)
            elif inside and fields_of(value) is not None:
                # Of a node of a tree JAX reads all.
                names = self._names if jtu.all_leaves([value]) else ALL_FIELDS
                fields = named_fields(value, names) or {}
                self._containers[id(value)] = FieldsRead(value, fields, names)
                stack += fields.values()


# Of containers with nothing but plain values there may be many: rows of a table, say.
_MOST_PLAIN = 1_000

_is_unchanged = operator.methodcaller("is_unchanged")


def _living(entries: Iterable[tuple[weakref.ref[Cell], Any]]) -> list[Cell]:
    """Lists the cells that are still there."""
    return [cell for ref, _ in list(entries) if (cell := ref()) is not None]


def _is_seen_through(value: Any) -> bool:
    # What knows what it reaches is of this library: a bound lens, say, which changes in nothing.
    if type(value) in PLAIN_TYPES or isinstance(value, _OWNERS):
        return True
    if hasattr(type(value), "_reachable"):
        return True
    if type(value) in (list, dict) or isinstance(value, tuple):
        return all(map(_is_seen_through, items_of(value)))
    return jtu.all_leaves([value])


def _reference(value: Any) -> Callable[[], Any]:
    """Refers to a module weakly: a program must not keep a model alive, nor what leads to it."""
    # A module of Equinox is a value: one that is made again, and alike, is the same to `is_same`.
    if isinstance(value, (*PLAIN_TYPES, Cell, *CONTAINERS, tuple, frozenset, eqx.Module)):
        return lambda: value
    is_weak = isinstance(value, MutableNode) or callable(value) or fields_of(value) is not None
    return weakly(value) if is_weak else lambda: value


def _described(value: Any) -> str:
    if value is MISSING:
        return "not set"
    return repr(value) if isinstance(value, PLAIN_TYPES) else f"a {type(value).__name__}"


def _type_of(cell: Cell, value: Any) -> Hashable:
    if isinstance(value, jax.Array):
        return value.shape, value.dtype
    leaves, treedef = flatten_as_jax(value, name=cell._description)
    return treedef, tuple((getattr(x, "shape", type(x)), getattr(x, "dtype", None)) for x in leaves)
