"""Devices: what `shard_map` has of its own in a mapped call.

A state has a partition over the mesh, coming in and going out; one without a partition is whole
on every device, and may be written only with what is the same on all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ..._errors import ArgumentError, ArgumentTypeError
from ...state import Captured, State, this_frame
from .._core import Attempt, current_value, run, split_value, states_in
from ._placement import Placement
from ._prefix import Grouping, Leaves, PlaceKind


def is_spec(place: Any) -> bool:
    """Says whether something is a partition."""
    return isinstance(place, PartitionSpec)


SPECS = PlaceKind(
    is_spec,
    shared=PartitionSpec(),
    default=PartitionSpec(),
    option="specs",
    one="a PartitionSpec",
    several="partitions",
    of_lens="the states that a lens selects",
    is_shared="which is whole on every device",
    everywhere="on all devices",
    for_state="out_states={state: PartitionSpec(...)}, if each device has a part of it",
    for_output="the partition of that output",
    for_all="one value from all devices, as by jax.lax.pmean over an axis of the mesh",
)


@dataclass
class Devices:
    """The devices of one call; `options` are those of `jax.shard_map`, its mesh among them."""

    attempt: Attempt
    in_places: Any
    out_places: Any
    in_states: Placement
    out_states: Placement
    options: dict[str, Any]

    name = "shard_map"
    kind = SPECS

    def transform(self, fun: Any, in_places: Any, out_places: Any) -> Callable[..., Any]:
        """Applies `jax.shard_map`."""
        mapped = jax.shard_map(fun, in_specs=in_places, out_specs=out_places, **self.options)
        return lambda *inputs: self.attempt.staged(lambda: mapped(*self._placed(inputs, in_places)))

    def _placed(self, inputs: Any, places: Any) -> Any:
        """Places inputs on the mesh, where its axes are explicit: there JAX doesn't do it."""
        mesh = self._mesh
        if jax.sharding.AxisType.Explicit not in mesh.axis_types:
            return inputs

        def placed(spec: PartitionSpec, part: Any) -> Any:
            sharding = spec if "mesh" not in self.options else NamedSharding(mesh, spec)
            return jax.tree.map(lambda leaf: jax.reshard(jnp.asarray(leaf), sharding), part)

        return jax.tree.map(placed, places, inputs, is_leaf=is_spec)

    @property
    def _mesh(self) -> Any:
        return self.options.get("mesh", jax.sharding.get_abstract_mesh())

    def other_states(self, leaves: Leaves) -> dict[State, tuple[Any, Any]]:
        """Gives the other states that the function touches, which all have one partition."""
        cells = [cell for cell in self.attempt.cells if cell not in self.in_states.cells]
        return {cell: (current_value(cell), self.in_states.default) for cell in cells}

    def run(self, fun: Any, args: Any, kwargs: Any, values: dict[State, Any]) -> Captured:
        """Runs the function on a device."""
        frozen = states_in(args, kwargs)

        def on_touch(cell: State) -> None:
            if cell not in frozen:
                # It isn't an input yet. The run is given up, but not for its shape.
                frame = this_frame()
                frame.values[cell] = _part(frame.peek(cell), self.in_states.default)

        captured = run(fun, args, kwargs, values=values, frozen=frozen, on_touch=on_touch)
        placed = self.in_states.cells
        self.attempt.cover(cell for cell in captured.closed_over if cell not in placed)
        return captured

    def outgoing(
        self, captured: Captured, values: dict[State, Any]
    ) -> Iterator[tuple[State, Any, Any]]:
        """Gives what was written."""
        for cell, value in zip(captured.writes.cells, captured.writes.values, strict=True):
            yield cell, split_value(value, cell), self.out_states.place_of(cell)

    def shared_leaves(self, out: Any) -> set[int]:
        """Gives the positions of leaves of the output that all share, whatever is asked."""
        return set()

    def check_output(self, groups: dict[Any, list[Any]], grouping: Grouping) -> None:
        """Leaves it to JAX, which names the shapes that a mesh doesn't divide."""

    def check_specs(self) -> None:
        """Refuses what is no partition, and axes that the mesh hasn't."""
        mesh = self._mesh
        if mesh.empty:
            raise ArgumentError(
                "asked shard_map to run on the devices of a mesh",
                "none is given, and none is set",
                'mesh=jax.make_mesh((8,), ("data",))',
                "with jax.set_mesh(mesh): around the call",
            )
        places = [*self.in_states.places, *self.out_states.places]
        for option, specs in (("in_specs", self.in_places), ("out_specs", self.out_places)):
            for spec in SPECS.leaves(specs):
                if not is_spec(spec):
                    raise ArgumentTypeError(
                        f"asked shard_map for {option}={specs!r}",
                        f"{spec!r} is a {type(spec).__name__}",
                        "a PartitionSpec, or a tree of them; PartitionSpec() for a whole array",
                    )
                places.append(spec)
        for name in [name for place in places for part in place for name in _names(part)]:
            if name not in mesh.axis_names:
                raise ArgumentError(
                    f"asked shard_map for a partition along the axis {name!r}",
                    f"the axes of the mesh are {', '.join(map(repr, mesh.axis_names))}",
                    "one of these",
                )


def _names(part: Any) -> tuple[Any, ...]:
    if part is None or part is PartitionSpec.UNCONSTRAINED:
        return ()
    return part if isinstance(part, tuple) else (part,)


def _part(value: Any, spec: PartitionSpec) -> Any:
    """Takes a device's part of a value that is whole, inside of a mapped function."""

    def part(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            for axis, names in list(enumerate(map(_names, spec)))[: leaf.ndim]:
                if names:
                    size = leaf.shape[axis] // jax.lax.psum(1, names)
                    start = jax.lax.axis_index(names) * size
                    leaf = jax.lax.dynamic_slice_in_dim(leaf, start, size, axis)
        return leaf

    return jax.tree.map(part, value)
