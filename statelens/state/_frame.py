"""Frames: overlays on all states, and what is written in them.

While a frame is open, reads look in it first and writes stay in it; the cells themselves
are not touched. What was written in a frame is given to the enclosing one, or to the cells, by
`Writes.commit`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self
from weakref import ref

import jax
import jax.core
import jax.tree_util as jtu

from .._errors import ArgumentError
from .._tree import MutableNode, Path, TreeDef, flatten, format, is_array
from ._context import TOP, active_frame, current_trace, has_tracers
from ._dependencies import Reads
from ._lent import Lendings, Lent, this_thread
from ._plain_jax import explain_reuse, record_read
from ._refusals import refuse_ended_frame, refuse_frozen, refuse_leak, refuse_write_inside
from ._state import State, held_value, peek, refuse_states, store_all
from ._storage import ENDED, Alias
from ._unfinished import UNFINISHED, refuse_unfinished


# As a dataclass, whose fields JAX knows, it is flattened without a call of Python.
@jtu.register_dataclass
@dataclass(slots=True, eq=False)
class Writes:
    """What was written in a frame: cells, and their new values as the pytree's leaves.

    The cells travel in the tree structure, so that writes pass through any JAX transform as
    one more output.

    Attributes:
        cells: The cells that were written.
        values: The value of each at the end.
    """

    cells: tuple[State, ...] = field(metadata={"static": True})
    values: tuple[Any, ...]

    def __bool__(self) -> bool:
        return bool(self.cells)

    def commit(self) -> None:
        """Gives the writes to the enclosing frame, or to the cells when there is none.

        Raises:
            FrozenTreeError: A cell belongs to a frozen tree of an enclosing frame.
            TracerLeakError: A value is traced and there is no enclosing frame.
        """
        self.commit_to(active_frame.get())

    def commit_to(self, frame: "Frame | None") -> None:
        """Gives the writes to a frame, or to the cells; see `commit`."""
        if frame is not None:
            frame.write_all(self.cells, self.values)
            return
        if current_trace() != TOP or has_tracers(self.values):
            for cell, value in zip(self.cells, self.values, strict=True):
                refuse_leak(cell, value)
        store_all(self.cells, self.values)


class Frame:
    """An overlay on all states, open while its ``with`` block runs.

    Args:
        values: Values of states to run it against, instead of their own.
        frozen: States that must not be written, with their paths.
        on_touch: What to call when a state that isn't among `values` is met first.
        undo: Where to put what takes back new attributes of nodes made outside, or None to
            refuse them.
        reads: Where to note what is read of mutable nodes.

    Attributes:
        values: The values that differ from those outside.
        frozen: The states that must not be written, with their paths.
        touched: The cells that were read or written.
        made: The cells that were made while the frame was open, in order.
        reads: What is read of mutable nodes, if that matters.
        can_raise: Whether the function has checks that may fail when it runs.
        checks: The checks among them that keep the errors which they raise.
        trace: The trace in which the frame was opened.
    """

    def __init__(
        self,
        values: Mapping[State, Any] = {},
        frozen: Mapping[State, Path] = {},
        on_touch: Callable[[State], None] | None = None,
        undo: list[Callable[[], None]] | None = None,
        reads: Reads | None = None,
    ):
        self.values: dict[State, Any] = dict(values)
        self.touched: dict[State, None] = {}
        self.made: dict[State, None] = {}
        # Mutable nodes that were made while the frame was open, by id.
        self.nodes: dict[int, ref[Any]] = {}
        self._written: dict[State, None] = {}
        self._lent: dict[State, Lent] = {}
        # To plain transforms that run inside.
        self._lendings = Lendings()
        # Made here too, to stand for other cells until the frame ends.
        self._aliases: list[State] = []
        self.frozen = frozen
        self._on_touch = on_touch
        self._undo = undo
        self.reads = reads
        self.can_raise = False
        self.checks: dict[Any, None] = {}
        self.is_open: bool = False
        self._parent: Frame | None = None

    def __enter__(self) -> Self:
        if self.is_open:
            raise ArgumentError(
                "asked to open an overlay",
                "it is open already",
                "another overlay, as in statelens.overlay(values)",
            )
        parent = active_frame.get()
        if parent is not None:
            parent.require_open("asked for another transform or overlay")
            self.reads = self.reads or parent.reads
            self.values = {cell._original: value for cell, value in self.values.items()}
        self._parent = parent
        self.trace: Any = current_trace()
        self.is_open = True
        active_frame.set(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the overlay; what is closed already stays so."""
        # An interrupt may have cut short an earlier attempt, so nothing here depends on its state.
        if active_frame.get() is self:
            active_frame.set(self.parent)
        if self.is_open:
            for cell in self.made:
                self._release(cell)
            store_all(self._aliases, [ENDED] * len(self._aliases))
            self.is_open = False

    @property
    def parent(self) -> "Frame | None":
        """The enclosing frame that is open: generators may close theirs in any order."""
        frame = self._parent
        while frame is not None and not frame.is_open:
            frame = frame._parent
        return frame

    def require_open(self, asked: str, cell: State | None = None) -> None:
        """Refuses to go on in a frame that has ended, as a task that was started in it may."""
        if not self.is_open:
            refuse_ended_frame(asked if cell is None else f"{asked} {cell._description()}")

    def _release(self, cell: State) -> None:
        """Lets go of a cell that was made in this frame; only traced values end with it."""
        value = self.values[cell]
        parent, is_traced = self.parent, has_tracers(value)
        if parent is not None and (self.trace == parent.trace or not is_traced):
            parent.adopt(cell, value)
        elif is_traced:
            cell.store(ENDED)
        elif current_trace() == TOP:
            cell.outlive_trace(value)
        else:
            cell.store(value)

    def adopt(self, cell: State, value: Any) -> None:
        """Takes a cell that was made while the frame was open."""
        cell.store(ENDED)
        self.made[cell] = None
        self.values[cell] = value

    def hand_over(self, made: Sequence[State], cells: Sequence[State]) -> None:
        """Gives cells the values of others that were made here, and stand for them then."""
        cells = [cell._original for cell in cells]
        self.write_all(cells, list(map(self.peek, made)))
        for alias, cell in zip(made, cells, strict=True):
            for known in (self.made, self.values, self.touched, self._written, self._lent):
                known.pop(alias, None)
            alias.store(Alias(cell))
        self._aliases += made

    def may_grow(self, node: MutableNode) -> bool:
        """Says whether states may be added to an older node, and how to take them away."""
        if self._undo is None:
            return False
        self._undo.append(node._snapshot())
        return True

    def peek(self, cell: State) -> Any:
        """Returns the cell's value in this frame, without touching it."""
        self.require_open("asked for the value of", cell)
        cell = cell._original
        frame: Frame | None = self
        while frame is not None:
            if cell in frame.values:
                return frame.values[cell]
            frame = frame.parent
        return held_value(cell)

    def look(self, cell: State) -> Any:
        """Returns the cell's value for a look at its structure, shapes and dtypes.

        That doesn't touch the cell, but a program that follows from the look is good as long
        as these are what they were.
        """
        cell = cell._original
        # What was made in a trace, such as the states of an argument, ends with it.
        if self.reads is not None and not cell.is_of_a_trace:
            outer: Frame | None = self
            while outer is not None and outer.reads is self.reads:
                outer = outer.parent
            value = held_value(cell) if outer is None else outer.peek(cell)
            if value is not ENDED:
                self.reads.record_type(cell, value)
        return self.peek(cell)

    def touch(self, cell: State) -> None:
        """Notes that the function has read a cell."""
        if cell in self.touched:
            return
        if this_thread.lendings:
            this_thread.check((cell,))
        if self.reads is not None:
            self.reads.record_labels(cell)
        if cell not in self.values:
            if self._on_touch is not None:
                self._on_touch(cell)
            if self.parent is not None:
                self.parent.touch(cell)
        self.touched[cell] = None

    def read(self, cell: State) -> Any:
        """Returns the cell's value in this frame, for the function that runs in it."""
        self.require_open("asked for the value of", cell)
        if cell not in self.touched:
            cell = cell._original
            self.touch(cell)
        value = self.values[cell] if cell in self.values else self.peek(cell)
        if value is ENDED:
            return value
        is_inside = current_trace() != self.trace
        if is_inside:
            record_read(cell, value, self.trace)
        if isinstance(value, (jax.Array, int, float)):
            return value
        if is_inside and not cell.is_at_home:
            return self._lendings.lend(cell, value)
        if self._lendings:
            self._lendings.check(cell, is_over=not is_inside)
        if cell in self._lent or cell in self._written or cell in self.made:
            return value
        # What is changed in place is looked at again when the writes are taken out.
        lent = self._lent[cell] = Lent(value, cell._description)
        self.values[cell] = lent.copy
        return lent.copy

    def expect_errors(self, checks: Iterable[Any] = ()) -> None:
        """Notes that the function has checks that may fail when it runs."""
        frame: Frame | None = self
        while frame is not None:
            frame.can_raise = True
            frame.checks.update(dict.fromkeys(checks))
            frame = frame.parent

    def check(self, cell: State) -> None:
        """Refuses a write that would be lost, or that would leak a traced value."""
        self.require_open("asked to assign a value to", cell)
        if this_thread.lendings:
            this_thread.check((cell,))
        if self._lendings:
            self._lendings.check(cell, is_over=True)
        self._check(cell)

    def _check(self, cell: State) -> None:
        frame: Frame | None = self
        while frame is not None:
            if cell in frame.frozen:
                refuse_frozen(cell, format(frame.frozen[cell]))
            frame = None if cell in frame.made else frame.parent
        if current_trace() != self.trace and not cell.is_at_home:
            refuse_write_inside(cell)

    def write(self, cell: State, value: Any) -> None:
        """Sets the cell's value in this frame."""
        self.write_all((cell,), (value,))

    def write_all(self, cells: Sequence[State], values: Sequence[Any]) -> None:
        """Sets the values of several cells in this frame, or of none of them."""
        cells = [cell._original for cell in cells]
        for cell in cells:
            self.check(cell)
        # All values last and at once, so that an interrupt leaves all or none of them.
        self.touched |= dict.fromkeys(cells)
        self._written |= dict.fromkeys(cells)
        for cell in cells:
            self._lent.pop(cell, None)
        self.values.update(zip(cells, values, strict=True))

    def writes(self) -> Writes:
        """Returns what was written so far to cells that were made outside this frame."""
        if self._lendings:
            self._lendings.check_all()
        for cell, lent in self._lent.items():
            if lent.has_changed():
                self._check(cell)
                refuse_states(cell, lent.copy)
                self._written[cell] = None
        written = tuple(cell for cell in self._written if cell not in self.made)
        return Writes(written, tuple(self.values[cell] for cell in written))


class Captured(NamedTuple):
    """What came of running a function in a frame.

    Attributes:
        out: What the function returned.
        writes: What it wrote.
        touched: The cells that it read or wrote, in order, without those that it made.
        made: The cells that it made, with their values.
        arguments: The states in its arguments, with their paths.
        can_raise: Whether it has checks that may fail when it runs.
        checks: The checks among them that keep the errors which they raise.
    """

    out: Any
    writes: Writes
    touched: tuple[State, ...]
    made: Writes
    arguments: Mapping[State, Path]
    can_raise: bool
    checks: tuple[Any, ...]

    @property
    def closed_over(self) -> list[State]:
        """The cells that it read or wrote and that aren't in its arguments."""
        return [cell for cell in self.touched if cell not in self.arguments]


def capture(
    fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], frame: Frame
) -> Captured:
    """Runs a function in a frame, and commits nothing.

    Args:
        fun: Any function that reads and writes states.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        frame: The frame, which has not been open yet.

    Returns:
        What it returned, what it wrote and what it touched. States in the output are new
        states with the values at the end.
    """
    with closing(frame), frame:  # twice, since an interrupt may cut short the first exit
        try:
            out = fun(*args, **kwargs)
        except jax.errors.UnexpectedTracerError as error:
            explain_reuse(error)
            raise
        if isinstance(out, UNFINISHED):
            refuse_unfinished(out, fun)
        leaves, treedef, inside = _opened(out, frame)
        writes = frame.writes()
        made = Writes(tuple(frame.made), tuple(map(frame.peek, frame.made)))
    if treedef is not None:
        outside = {cell: cell.with_value(value) for cell, value in inside.items()}
        leaves = [outside[leaf] if isinstance(leaf, State) else leaf for leaf in leaves]
        out = treedef.unflatten(leaves)
    touched = tuple(cell for cell in frame.touched if cell not in frame.made)
    return Captured(out, writes, touched, made, frame.frozen, frame.can_raise, tuple(frame.checks))


def _opened(out: Any, frame: Frame) -> tuple[list[Any], TreeDef | None, dict[State, Any]]:
    """Returns the leaves of an output, their structure, and the values of states among them."""
    # States in the output must be opened inside the frame, which has their values, and
    # made again outside of it. A state that is only handed through isn't touched by that.
    leaves, treedef = ([], None) if is_array(out) else flatten(out)
    return leaves, treedef, {cell: frame.peek(cell) for cell in leaves if isinstance(cell, State)}


def record_reads(cells: Iterable[State]) -> None:
    """Notes that a program has taken the values of states, in whatever trace is running."""
    frame = active_frame.get()
    own_trace = TOP if frame is None else frame.trace
    if current_trace() != own_trace:
        for cell in cells:
            record_read(cell, peek(cell), own_trace)
