"""States: mutable cells that hold a pytree of arrays.

A state is the one mutable thing of the library. Its value is read and assigned as
``.value``; while a transform runs your function, both go to the transform's *frame*, an
overlay that leaves the cell itself untouched, and the cell gets its new value when, and only
when, the call has succeeded. A state is a pytree node too: it can be passed as an argument,
and then it is an ordinary value.

    >>> import jax.numpy as jnp, statelens as sl
    >>> count = sl.State(jnp.zeros(2), name="count")
    >>> count.value += 1
    >>> count
    State(f32[2], name='count')
"""

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np

from .._errors import hide_own_frames, user_facing
from .._tree import Cell, flatten_as_jax, is_probed
from ._context import TOP, active_frame, concrete_types, current_trace, has_tracers
from ._dependencies import Readers
from ._lent import this_thread
from ._plain_jax import record_read
from ._refusals import (
    NoArray,
    read_tags,
    refuse_ended,
    refuse_equality,
    refuse_leak,
    refuse_state_inside,
)
from ._storage import ENDED, Alias, LazyValue

if TYPE_CHECKING:
    # So that a bare `State` is a `State[Any]` to type checkers, which all know this module.
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")


def held_value(cell: Any) -> Any:
    """Returns the value in a cell itself, past all frames."""
    value = cell._value
    # Of the class: Equinox modules are slow to say what they aren't.
    return value.load() if issubclass(type(value), LazyValue) else value


def peek(cell: "State[Any]") -> Any:
    """Returns the value that a state has in the active frame, without touching the state."""
    frame = active_frame.get()
    return held_value(cell) if frame is None else frame.peek(cell)


def is_alive(cell: "State[Any]") -> bool:
    """Says whether a state has a value here; one that was made in another trace has none."""
    value = peek(cell)
    if value is ENDED:
        return False
    return not cell.is_of_a_trace or cell.is_at_home or not has_tracers(value)


class State(NoArray, Cell, Generic[T]):
    """A mutable cell that holds a pytree of arrays.

    Reading and assigning ``.value`` is all there is to it. Any value may be assigned, of
    another structure, shape or dtype too (compiled functions then trace again); the checked
    ways are `Lens.set` and ``model.states().assign``. What is refused is a `State` inside
    the value, and a traced value where no transform of statelens would take it out again.

    States are told apart by identity, as keys of dictionaries too: a subclass can't define ``==``.

    Args:
        value: Any pytree of arrays.
        name: What to call the state in messages.
        tag: A tag or several, for `tagged` to select by.

    Raises:
        ArgumentTypeError: A tag isn't a text.
        StateTypeError: The value is or contains a `State`, or the class defines ``==``.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> weight = sl.ParamState(jnp.ones((2, 3)), tag="decay")
        >>> weight.value = 2 * weight.value
        >>> weight
        ParamState(f32[2,3], tag='decay')
    """

    # What compiled functions read and write at each call is found faster in a slot. What
    # `State[int](0)` notes must not be among the attributes, which are part of the structure.
    __slots__ = ("__orig_class__", "_home", "_label_readers", "_value")

    tag: frozenset[str]

    @user_facing
    def __init__(self, value: T, name: str | None = None, tag: str | Iterable[str] | None = None):
        vars(self).update(name=name, tag=read_tags(tag))
        refuse_states(self, value)
        self._start(value, current_trace())

    def _start(self, value: Any, home: Any) -> None:
        cls = type(self)
        if cls.__eq__ is not object.__eq__ or cls.__hash__ is not object.__hash__:
            refuse_equality(cls)
        # Where the state was made; a traced value may be assigned there even without a frame.
        self._home = None if home == TOP else home
        frame = active_frame.get()
        if frame is None:
            self.store(value)
        else:
            frame.adopt(self, value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _register(cls)

    @property
    def value(self) -> T:
        """The value: any pytree of arrays."""
        try:  # what `user_facing` does, which would take as long as the rest three times
            frame = active_frame.get()
            if frame is not None:
                return self._alive(frame, frame.read(self))
            value = self._value
            # Most are one array of JAX, of which a copy need not be lent.
            is_fixed = (kind := type(value)) in concrete_types and kind is not np.ndarray
            if not is_fixed:
                if this_thread.lendings:
                    this_thread.check((self,))
                value = self._alive(frame, held_value(self))
            if current_trace() == TOP:
                return value
            record_read(self, value, TOP)
            is_own = is_fixed or self.is_at_home
            return value if is_own else this_thread.lendings.lend(self, value)
        except Exception as error:
            hide_own_frames(error)
            raise

    def look(self) -> T:
        """Returns the value for a look at its structure, shapes and dtypes.

        Returns:
            The value, which must not be changed in place. The state counts as touched by
            nothing that is done with it.
        """
        frame = active_frame.get()
        return self._alive(frame, held_value(self) if frame is None else frame.look(self))

    def _alive(self, frame: Any, value: T) -> T:
        """Returns a value that is read, unless it ended with the trace in which it was made."""
        is_traced = frame is None and self.is_of_a_trace and has_tracers(value)
        if value is ENDED or (is_traced and current_trace() == TOP):
            refuse_ended(self)
        # Equinox's `set` makes a state that it is called on invalid: the cell keeps its own.
        if type(value) is eqx.nn.State:
            return jax.tree.map(lambda leaf: leaf, value)
        return value

    @value.setter
    def value(self, value: T) -> None:
        # What `write_all` does, in half the time.
        refuse_states(self, value)
        frame = active_frame.get()
        if frame is None:
            if this_thread.lendings:
                this_thread.check((self,))
            refuse_leak(self, value)
            self.store(value)
        else:
            frame.write(self, value)

    def __setattr__(self, name: str, value: Any) -> None:
        try:  # what `user_facing` does, in less time
            object.__setattr__(self, name, value)
        except Exception as error:
            hide_own_frames(error)
            raise
        if name in self.__dict__:
            self._relabelled()

    @user_facing
    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._relabelled()

    def _relabelled(self) -> None:
        """Is called when a label was set: all attributes but the value are."""
        readers = getattr(self, "_label_readers", None)
        if readers is not None:
            readers.notify_all()

    @property
    def _readers(self) -> Readers:
        """The traces that depend on the labels."""
        readers = getattr(self, "_label_readers", None)
        if readers is None:
            readers = self._label_readers = Readers()
        return readers

    @staticmethod
    def read_all(cells: Sequence["State[Any]"]) -> list[Any]:
        """Reads the values of several states, as each by itself would be read.

        Args:
            cells: The states.

        Returns:
            One value for each.
        """
        are_plain = all(c.value is State.value for c in set(map(type, cells)))  # none overrides it
        if are_plain and active_frame.get() is None and current_trace() == TOP:
            values = [cell._value for cell in cells]
            if concrete_types - {np.ndarray} >= set(map(type, values)):
                return values
        return [cell.value for cell in cells]

    @staticmethod
    def write_all(cells: Sequence["State[Any]"], values: Sequence[Any]) -> None:
        """Assigns the values of several states, or of none of them.

        Not even an interrupt comes in between.

        Args:
            cells: The states, each once.
            values: One for each.

        Raises:
            StateTypeError: A value contains a state.
            TracerLeakError: No transform of statelens would take a value out again.
            FrozenTreeError: A state belongs to a tree that was passed as an argument.
        """
        for cell, value in zip(cells, values, strict=True):
            refuse_states(cell, value)
        frame = active_frame.get()
        if frame is not None:
            frame.write_all(cells, values)
            return
        if this_thread.lendings:
            this_thread.check(cells)
        for cell, value in zip(cells, values, strict=True):
            refuse_leak(cell, value)
        store_all(cells, values)

    @property
    def _original(self) -> "State[Any]":
        value = self._value
        return value.cell if type(value) is Alias else self

    def store(self, value: Any) -> None:
        """Puts a value in the cell itself, past all frames; for frames to call."""
        _set_value(self, value)

    @property
    def is_of_a_trace(self) -> bool:
        """Whether the state was made in a trace, and may hold what is traced there."""
        return self._home is not None

    def outlive_trace(self, value: Any) -> None:
        """Puts a value that isn't traced in a state that outlives the trace it was made in."""
        self.store(value)
        self._home = None

    @property
    def is_at_home(self) -> bool:
        """Whether the state was made in the trace that is running now."""
        return self.is_of_a_trace and self._home == current_trace()

    def with_value(self, value: Any) -> Self:
        """Returns a new state of the same class, name and tags with another value.

        Args:
            value: Any pytree.

        Returns:
            The new state.
        """
        return _make(type(self), self.metadata, value, current_trace())

    @property
    def metadata(self) -> Hashable:
        """Name, tags and further attributes: all but the value."""
        frame = active_frame.get()
        if frame is not None and frame.reads is not None:
            frame.reads.record_labels(self)
        if len(vars(self)) == 2:  # nothing further
            return ("name", self.name), ("tag", self.tag)
        return tuple(sorted(vars(self).items()))

    def split_lanes(self, value: Any, count: int) -> tuple[Any, Any] | None:
        """Says how a value is dealt out to the lanes of a `vmap` that doesn't map the state.

        Args:
            value: A value of the state.
            count: How many lanes there are.

        Returns:
            None, if all lanes share the value. Else the lanes' values, stacked, and the
            value that the state has after the call.
        """
        return None

    def copy(self) -> Self:
        """Returns a new state with a copy of the value.

        Returns:
            A state that shares nothing with this one: donating one leaves the other.
        """
        leaves, treedef = flatten_as_jax(self.value, name=self._description)
        return self.with_value(treedef.unflatten(map(copied, leaves)))

    __copy__ = copy

    def __getstate__(self) -> dict[str, Any]:
        return {**dict(self.metadata), "_value": self.value}  # type: ignore[call-overload]

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        attributes = dict(attributes)
        value = attributes.pop("_value")
        vars(self).update(attributes)
        self._start(value, current_trace())

    def __bool__(self) -> bool:
        # As of any object: `if self.bias:` asks whether there is one.
        return True

    def _description(self) -> str:
        """Says what to call the state where its value may be gone."""
        return f"a {type(self).__name__}" + (f" named {self.name!r}" if self.name else "")

    def __repr__(self) -> str:
        value = peek(self)
        shown = ["<ended>" if value is ENDED else eqx.tree_pformat(value)]
        if self.name is not None:
            shown.append(f"name={self.name!r}")
        if self.tag:
            tags = sorted(self.tag)
            shown.append(f"tag={tags[0]!r}" if len(tags) == 1 else f"tag={tags!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def copied(leaf: Any) -> Any:
    """Returns an array that shares no memory with this one; anything else as it is."""
    return leaf.copy() if isinstance(leaf, (jax.Array, np.ndarray)) else leaf


_set_value = State._value.__set__  # type: ignore[attr-defined]


def store_all(cells: Iterable[State[Any]], values: Iterable[Any]) -> None:
    """Puts values in the cells themselves, all at once: no interrupt comes in between."""
    # One call of C. There are as many values as cells, and to have that checked takes as long
    # as to store ten.
    deque(map(_set_value, cells, values), maxlen=0)


def refuse_states(state: State[Any], value: Any) -> None:
    """Refuses a value that has states in it, or that JAX can't flatten."""
    # The common value, one array, needs no walk.
    if isinstance(value, jax.Array):
        return
    for leaf in flatten_as_jax(value, Cell.__instancecheck__, state._description)[0]:
        if isinstance(leaf, Cell):
            refuse_state_inside(state, leaf)


def _make(cls: type, metadata: Any, value: Any, home: Any) -> Any:
    state = object.__new__(cls)
    vars(state).update(metadata)
    state._start(value, home)
    return state


def _register(cls: type[State[Any]]) -> None:
    key = jtu.GetAttrKey("value")

    def flatten(state: State[Any]) -> tuple[tuple[Any, ...], Hashable]:
        return ((), None) if is_probed() else ((state.value,), state.metadata)

    jtu.register_pytree_with_keys(
        cls,
        lambda state: (((key, state.value),), state.metadata),
        # What JAX makes is at home nowhere: a write to a copy that it throws away is refused.
        lambda metadata, children: _make(cls, metadata, next(iter(children)), TOP),
        flatten,
    )


_register(State)
