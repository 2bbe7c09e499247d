"""Lanes: what `vmap` has of its own in a mapped call.

A state that is mapped has an axis; the others are shared by all lanes. One that holds random
keys gives each lane a key of its own. What a lane makes of that is the lane's own, and the state
goes on with what comes after the lanes; but if the lanes have put one and the same value in its
place, as by seeding it, the state has that.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.custom_batching import custom_vmap

from ...state import Captured, State, Writes, has_tracers, peek
from .._core import Attempt, run, split_value, states_in
from ._axes import AXES, check_out_axes, size_along
from ._new_states import NewStates
from ._placement import Placement
from ._prefix import Grouping, Leaves


@dataclass(frozen=True)
class Mapping:
    """How a function is mapped, but for its states; `options` are others of `jax.vmap`."""

    name: str
    in_axes: Any
    out_axes: Any
    axis_size: int | None
    options: dict[str, Any] = field(default_factory=dict)
    new_states: NewStates | None = None


class Lanes:
    """The lanes of one call, and what states of random keys go on with after it."""

    kind = AXES

    def __init__(
        self,
        asked: Mapping,
        attempt: Attempt,
        in_states: Placement,
        out_states: Placement,
        undo: list[Callable[[], None]] | None,
    ):
        self.name = asked.name
        self.in_places = asked.in_axes
        self.out_places = asked.out_axes
        self.state_places: Sequence[Any] = () if asked.new_states is None else (0,)
        self._after: dict[State, Any] = {}
        self._asked = asked
        self._attempt = attempt
        # What is known of another call may be of states that have a place in this one.
        self._own_cells = [cell for cell in attempt.cells if cell not in in_states.cells]
        self._out_states = out_states
        self._undo = undo

    def transform(self, fun: Any, in_places: Any, out_places: Any) -> Callable[..., Any]:
        """Applies `jax.vmap`."""
        size, options = self._asked.axis_size, self._asked.options
        return jax.vmap(fun, in_axes=in_places, out_axes=out_places, axis_size=size, **options)

    def other_states(self, leaves: Leaves) -> dict[State, tuple[Any, Any]]:
        """Gives each lane a part of its own of the states that are split."""
        size = size_along(leaves, self._asked.axis_size, self.name)
        per_lane: dict[State, tuple[Any, Any]] = {}
        for cell in self._own_cells:
            split = cell.split_lanes(peek(cell), size)
            assert split is not None
            per_lane[cell] = split[0], 0
            self._after[cell] = split[1]
        return per_lane

    def run(self, fun: Any, args: Any, kwargs: Any, values: dict[State, Any]) -> Captured:
        """Runs the function in a lane."""
        frozen = states_in(args, kwargs)
        missing: list[State] = []

        def on_touch(cell: State) -> None:
            if _is_split(cell) and cell not in frozen:
                missing.append(cell)

        captured = run(
            fun, args, kwargs, values=values, frozen=frozen, on_touch=on_touch, undo=self._undo
        )
        # What is written first is never met as it was; it may still differ from lane to lane.
        known = {*values, *self._out_states.cells, *missing}
        missing += [c for c in captured.writes.cells if _is_split(c) and c not in known]
        used = [cell for cell in self._own_cells if cell in captured.touched]
        self._attempt.require_exactly((*used, *missing))
        return captured

    def outgoing(
        self, captured: Captured, values: dict[State, Any]
    ) -> Iterator[tuple[State, Any, Any]]:
        """Gives what was written and made, but for what a lane has made of its own part."""
        placed = self._out_states.cells
        for cell, value in zip(captured.writes.cells, captured.writes.values, strict=True):
            value = split_value(value, cell)
            is_own = cell in self._own_cells and cell not in placed
            if not is_own or not _differs(value, values[cell]):
                yield cell, value, placed.get(cell)
        new_states = self._asked.new_states
        if new_states is not None:
            for cell, value in zip(captured.made.cells, captured.made.values, strict=True):
                place = None if new_states.are_shared(cell, value) else 0
                yield cell, split_value(value, cell), place

    def commit(self, written: dict[State, Any], made: dict[State, Any]) -> None:
        """Gives the states what the lanes have left them with."""
        values = self._after | written
        Writes(tuple(values), tuple(values.values())).commit()
        if self._asked.new_states is not None:
            for cell, value in made.items():
                self._asked.new_states.keep(cell, value)

    def check_output(self, groups: dict[Any, list[Any]], grouping: Grouping) -> None:
        """Refuses an axis that an output will not have."""
        check_out_axes(groups, grouping, self.name)


def _is_split(cell: State) -> bool:
    return type(cell).split_lanes is not State.split_lanes


def _differs(value: Any, lane: Any) -> bool:
    """Says whether a value differs from lane to lane, as `lane` does, as far as JAX knows."""
    if not has_tracers(value):
        return False
    found: list[bool] = []

    @custom_vmap
    def look(value: Any, lane: Any) -> Any:
        return lane

    @look.def_vmap
    def in_lanes(size: int, batched: Any, value: Any, lane: Any) -> tuple[Any, Any]:
        found.append(any(jax.tree.leaves(batched[0])))
        return lane, batched[1]

    look(value, lane)
    return found[0]
