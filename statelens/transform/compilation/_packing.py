"""Packed states: values that lie in one buffer, as a program takes and gives them.

A call of a compiled program costs something for each array that goes in and comes out. Where
states are many and small, that is all that it costs. A *block* stands for several states among
those that a program takes: it holds one array with all of their values, and each of its states
holds a reference to a part of that. Inside of the program the array is cut into the values, and
what was written is put together again. To pools, and to calls, a block is one more state.

A block is *full* while the values are there. A reader gets a part of the array, and the block
stays full. Before one of its states is written, or another program takes it, all values go back
to their states; the next call of the program takes them over again.
"""

import functools
import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._errors import StructureError, explain
from ...state import Deferred, Holding, State, active_frame, held_value, moves, moving, peek
from .._core import as_partitioned, staged_value
from ._pool import close_pools


class Kind(NamedTuple):
    """What may lie in a block at the place of a state."""

    shape: tuple[int, ...]
    dtype: Any
    is_weak: bool


def _kind(value: Any) -> Kind | None:
    """Returns the kind of an array that may lie in a block, or None for anything else."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        return None
    try:
        aval = jax.typeof(value)
    except TypeError:  # an array of objects
        return None
    if jnp.issubdtype(aval.dtype, jax.dtypes.extended):
        return None
    return Kind(aval.shape, aval.dtype, aval.weak_type)


def _device(value: Any) -> Any:
    """Returns the device on which a concrete array lies as a whole, or None."""
    if not isinstance(value, jax.Array):
        return jax.config.jax_default_device or jax.local_devices()[0]  # type: ignore[attr-defined]
    if len(value.sharding.device_set) != 1:
        return None
    (device,) = value.sharding.device_set
    is_usual = value.sharding.memory_kind in (None, device.default_memory().kind)
    return device if is_usual else None


class _Missing:
    """Lies in a block that isn't full."""


_MISSING = _Missing()


class Block:
    """The values of several states in one array, in place of these states in a program.

    Args:
        cells: The states.
        kinds: The kinds of their values, with dtype and weakness in common.
        device: Where they lie.

    Attributes:
        cells: The states; none, when the program is gone.
    """

    __slots__ = (
        "__weakref__",
        "_device",
        "_kinds",
        "_on_release",
        "_seen",
        "_starts",
        "_value",
        "cells",
    )

    holds_array = True
    is_of_a_trace = False

    def __init__(self, cells: Iterable[State], kinds: Iterable[Kind], device: Any):
        self.cells = tuple(cells)
        self._kinds = tuple(kinds)
        self._device = device
        self._starts = [0, *itertools.accumulate(math.prod(kind.shape) for kind in self._kinds)]
        self._value: Any = _MISSING
        self._seen: _Seen | None = None
        self._on_release: Callable[[], Callable[[], None] | None] = _nobody

    def __repr__(self) -> str:
        return f"the buffer of {len(self._kinds)} packed states"

    @property
    def is_full(self) -> bool:
        """Whether the values are here, and not in their cells."""
        return self._value is not _MISSING

    def tell(self, on_release: Callable[[], None]) -> None:
        """Takes the method to call when the values have gone back to their cells."""
        self._on_release = weakref.WeakMethod(on_release)

    def let_go(self) -> None:
        """Is told that the program is gone: each state takes its value when it is looked at.

        Nothing is computed here, since this may be called in the middle of anything.
        """
        self.cells = ()

    def fits(self) -> bool:
        """Says whether the values that the states have now can lie here."""
        return self.is_full or all(
            found == (kind, self._device)
            for found, kind in zip(map(_kind_in, self.cells), self._kinds, strict=True)
        )

    def can_hold(self, values: Iterable[Any]) -> bool:
        """Says whether values, traced ones too, have the kinds that lie here."""
        return all(_kind(value) == kind for value, kind in zip(values, self._kinds, strict=True))

    def given(self) -> Any:
        """Returns the array with the values that the states have now, for a program to take.

        Raises:
            StructureError: A state has a value of another kind than the program was made for.
        """
        with moving:
            if self.is_full and active_frame.get() is None:
                return held_value(self)
            values = list(map(peek, self.cells))
            for cell, value, kind in zip(self.cells, values, self._kinds, strict=True):
                if _kind(value) != kind:
                    raise StructureError(
                        explain(
                            f"asked for the value of {cell!r} in a program that packs it",
                            f"the program was compiled for {kind.dtype} of shape {kind.shape}",
                            "lower and compile the function again, now that the state has changed",
                        )
                    )
            if active_frame.get() is not None:
                return joined(values)
            with jax.ensure_compile_time_eval():
                buffer = _join(values)
            if all(isinstance(value, jax.Array) for value in values):
                self._take(buffer)
            # An array of NumPy stays where it is until the program has succeeded.
            return buffer

    def store(self, value: Any) -> None:
        """Puts an array here that a program has given."""
        with moving:
            if isinstance(self._value, Deferred):
                self._value.make_room(self)
            if self.is_full:
                self._value = value
            else:
                self._take(value)

    def _take(self, buffer: Any) -> None:
        close_pools(self.cells)
        moves.advance()
        self._value = buffer
        for number, cell in enumerate(self.cells):
            cell._value = Part(self, number)

    def release(self) -> None:
        """Gives the values back to their cells."""
        with moving:
            if not self.is_full:
                return
            moves.advance()
            on_release = self._on_release()
            if on_release is not None:
                on_release()
            if isinstance(self._value, Deferred):
                self._value.make_room(self)
            values = self._cut(self._value, range(len(self.cells)))
            for number, cell in enumerate(self.cells):
                found = cell._value
                if type(found) is Part and found.block is self:
                    cell._value = values[number]
            self._value, self._seen = _MISSING, None

    def value(self, number: int) -> Any:
        """Returns the value of one of the states.

        Raises:
            LookupError: The values have gone back to their cells.
        """
        buffer = held_value(self)
        if buffer is _MISSING:
            raise LookupError
        return self._cut(buffer, [number])[0]

    def kind(self, number: int) -> tuple[Kind, Any]:
        """Returns the kind of the value of one of the states, and where it lies."""
        return self._kinds[number], self._device

    def _cut(self, buffer: Any, numbers: Iterable[int]) -> list[Any]:
        seen = self._seen
        if seen is None or seen.buffer() is not buffer:
            seen = self._seen = _Seen(buffer)
        values = seen.values
        # What was donated to a program that failed is gone, as any donated array is.
        cut = _deleted if buffer.is_deleted() else _part
        with jax.ensure_compile_time_eval():
            for number in numbers:
                if number not in values:
                    start, shape = self._starts[number], self._kinds[number].shape
                    values[number] = cut(buffer, start, shape)
        return [values[number] for number in numbers]

    def parts(self, buffer: Any) -> list[Any]:
        """Cuts an array into the values, traced or not."""
        return parted(buffer, tuple(kind.shape for kind in self._kinds))


class _Seen:
    """The values that have been cut out of an array, as long as the array lives.

    Attributes:
        buffer: Gives the array.
        values: The values, by number.
    """

    def __init__(self, buffer: Any):
        values: dict[int, Any] = {}
        self.values = values
        self.buffer: Callable[[], Any] = weakref.ref(buffer, lambda _: values.clear())


class Part(Deferred):
    """Stands for the value of a state, which lies in a block.

    Attributes:
        block: The block.
    """

    __slots__ = ("_number", "block")

    holds_array = is_elsewhere = True

    def __init__(self, block: Block, number: int):
        self.block = block
        self._number = number

    @property
    def tree(self) -> Any:
        """The value."""
        return self.block.value(self._number)

    @property
    def kind(self) -> tuple[Kind, Any]:
        """Its kind, and where it lies."""
        return self.block.kind(self._number)

    def found_in(self, cell: Holding) -> Any:
        """Returns the value; it stays in the block, if there is still a program to take it."""
        try:
            value = self.block.value(self._number)
        except LookupError:  # another thread has just taken all of them back
            return held_value(cell)
        if not self.block.cells:
            with moving:
                if cell._value is self:
                    cell._value = value
        return value

    def make_room(self, cell: Holding) -> None:
        """Gives all values of the block back to their cells."""
        if self.block.cells:
            self.block.release()
        else:
            self.found_in(cell)


def _kind_in(cell: State) -> tuple[Kind | None, Any]:
    """Returns the kind of the value in a cell, and where it lies."""
    if type(cell._value) is Part:
        return cell._value.kind
    value = held_value(cell)
    kind = _kind(value)
    return kind, None if kind is None else _device(value)


Box = State | Block


def boxes(cells: Sequence[State], packed: Iterable[State]) -> list[Box]:
    """Puts states in blocks, as far as may be and there are several of one dtype.

    Args:
        cells: States that a program takes.
        packed: Those of them that are to be packed, and others.

    Returns:
        Blocks, and the other states.
    """
    wanted = set(packed)
    groups: dict[Any, dict[State, Kind]] = {}
    for cell in cells:
        if cell in wanted and not cell.is_of_a_trace:
            kind, device = _kind_in(cell)
            if kind is not None and device is not None:
                groups.setdefault((kind.dtype, kind.is_weak, device), {})[cell] = kind
    blocks = [
        Block(group, group.values(), key[-1]) for key, group in groups.items() if len(group) > 1
    ]
    inside = {cell for block in blocks for cell in block.cells}
    return [*blocks, *(cell for cell in cells if cell not in inside)]


def given_value(box: Box) -> Any:
    """Looks up what a staged function takes for a state, or for a block of them."""
    return box.given() if isinstance(box, Block) else staged_value(box, as_partitioned)


def unpacked(boxes: Iterable[Box], values: Iterable[Any]) -> dict[State, Any]:
    """Returns the value of each state, from what a staged function takes or gives."""
    found: dict[State, Any] = {}
    for box, value in zip(boxes, values, strict=True):
        if isinstance(box, Block):
            found.update(zip(box.cells, box.parts(value), strict=True))
        else:
            found[box] = value
    return found


def packed_writes(
    boxes: Sequence[Box], is_lost: int, before: Mapping[State, Any], writes: Mapping[State, Any]
) -> tuple[tuple[Box, ...], tuple[Any, ...]]:
    """Puts what was written in the form in which a staged function gives it.

    What else lies in a block goes with it. Where values don't fit in their block any more, they
    come out by themselves.

    Args:
        boxes: What the function takes, in order.
        is_lost: How many of them, the first ones, are donated.
        before: The value of each state that it was given.
        writes: The values of those that it has written, as they are staged.

    Returns:
        What stands for the states written, in the order of `boxes`, and its values.
    """
    out: dict[Box, Any] = {}
    for place, box in enumerate(boxes):
        if not isinstance(box, Block):
            if box in writes:
                out[box] = writes[box]
            continue
        new = {cell: writes.get(cell, before[cell]) for cell in box.cells}
        if place >= is_lost and not any(cell in writes for cell in new):
            continue
        if box.can_hold(new.values()):
            out[box] = joined(list(new.values()))
        else:
            out |= {cell: new[cell] for cell in new if place < is_lost or cell in writes}
    return tuple(out), tuple(out.values())


def alone(boxes: Iterable[Box]) -> list[State]:
    """Lists the states that aren't in blocks."""
    return [box for box in boxes if not isinstance(box, Block)]


def states_of(boxes: Iterable[Box]) -> Iterator[State]:
    """Lists the states, those in blocks too."""
    for box in boxes:
        yield from box.cells if isinstance(box, Block) else (box,)


def joined(values: Sequence[Any]) -> Any:
    """Puts arrays of one dtype one after the other; weak ones stay weak."""
    return lax.concatenate([lax.reshape(value, (value.size,)) for value in values], 0)


def parted(buffer: Any, shapes: tuple[tuple[int, ...], ...]) -> list[Any]:
    """Undoes what `joined` did."""
    parts = lax.split(buffer, tuple(map(math.prod, shapes)))
    return [lax.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


_join = jax.jit(joined)


# One program for all parts of one shape. A program that gives them all would be run in half of
# the time, and be compiled in a hundred times as long.
@functools.partial(jax.jit, static_argnums=2)
def _part(buffer: Any, start: Any, shape: tuple[int, ...]) -> Any:
    return lax.reshape(lax.dynamic_slice(buffer, (start,), (math.prod(shape),)), shape)


def _deleted(buffer: Any, start: int, shape: tuple[int, ...]) -> Any:
    gone = jnp.empty(shape, buffer.dtype)
    gone.delete()
    return gone


def _nobody() -> None:
    return None
