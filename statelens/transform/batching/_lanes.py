"""Lanes: what `vmap` has of its own in a mapped call.

A state that is mapped has an axis; the others are shared by all lanes. One that holds random
keys gives each lane a key of its own. What a lane makes of that is the lane's own, and the state
goes on with what comes after the lanes; but if the lanes have put one and the same value in its
place, as by seeding it, the state has that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.custom_batching import custom_vmap

from ...state import Captured, State, Writes, has_tracers, peek
from .._core import Attempt, run, split_value, states_in
from ._axes import AXES, check_out_axes, size_along
from ._new_states import NewStates, NewStatesOfOne, keep
from ._placement import Placement
from ._prefix import Grouping, Leaves


@dataclass
class Lanes:
    """The lanes of one call, and what states of random keys go on with after it.

    `options` are those of `jax.vmap`, the size of the axis among them.
    """

    name: str
    attempt: Attempt
    in_places: Any
    out_places: Any
    in_states: Placement
    out_states: Placement
    options: dict[str, Any]
    new_states: NewStates | None
    after: dict[State, Any] = field(default_factory=dict)
    undo: list[Callable[[], None]] = field(default_factory=list)
    new: NewStatesOfOne | None = None

    kind = AXES

    def transform(self, fun: Any, in_places: Any, out_places: Any) -> Callable[..., Any]:
        """Applies `jax.vmap`."""
        return jax.vmap(fun, in_axes=in_places, out_axes=out_places, **self.options)

    def other_states(self, leaves: Leaves) -> dict[State, tuple[Any, Any]]:
        """Gives each lane a part of its own of the states that are split."""
        size = size_along(leaves, self.options["axis_size"], self.name)
        per_lane: dict[State, tuple[Any, Any]] = {}
        for cell in self.attempt.cells:
            # What is known of another call may be of states that have a place in this one.
            if cell not in self.in_states.cells:
                split = cell.split_lanes(peek(cell), size)
                assert split is not None
                per_lane[cell] = split[0], 0
                self.after[cell] = split[1]
        return per_lane

    def run(self, fun: Any, args: Any, kwargs: Any, values: dict[State, Any]) -> Captured:
        """Runs the function in a lane."""
        frozen = states_in(args, kwargs)
        missing: list[State] = []

        def on_touch(cell: State) -> None:
            if _is_split(cell) and cell not in frozen:
                missing.append(cell)

        undo = None
        if self.new_states is not None:
            undo, fun = self.undo, self.new_states.of(fun)
            self.new = fun
        captured = run(
            fun, args, kwargs, values=values, frozen=frozen, on_touch=on_touch, undo=undo
        )
        # What is written first is never met as it was; it may still differ from lane to lane.
        known = {*values, *self.out_states.cells, *missing}
        missing += [c for c in captured.writes.cells if _is_split(c) and c not in known]
        used = [cell for cell in self.after if cell in captured.touched]
        self.attempt.require_exactly((*used, *missing))
        return captured

    def outgoing(
        self, captured: Captured, values: dict[State, Any]
    ) -> Iterator[tuple[State, Any, Any]]:
        """Gives what was written and made, but for what a lane has made of its own part."""
        for cell, value in zip(captured.writes.cells, captured.writes.values, strict=True):
            value = split_value(value, cell)
            is_own = cell in self.after and cell not in self.out_states.cells
            if not is_own or not _differs(value, values[cell]):
                yield cell, value, self.out_states.place_of(cell)
        if self.new is not None:
            for cell, value in zip(captured.made.cells, captured.made.values, strict=True):
                yield cell, split_value(value, cell), None if cell in self.new.shared else 0

    def shared_leaves(self, out: Any) -> set[int]:
        """Gives the positions of leaves of the output that all lanes share, whatever is asked."""
        return set() if self.new is None else self.new.shared_leaves(out)

    def commit(self, written: dict[State, Any], made: dict[State, Any]) -> None:
        """Gives the states what the lanes have left them with."""
        # Keys that no lane has touched, though it was believed that one would, stay as they are.
        after = {cell: self.after[cell] for cell in self.attempt.found if cell in self.after}
        values = after | written
        Writes(tuple(values), tuple(values.values())).commit()
        for cell, value in made.items() if self.new_states is not None else ():
            keep(cell, value)

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
