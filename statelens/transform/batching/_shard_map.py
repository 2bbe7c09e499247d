"""`shard_map`: each device runs a function on its part of arguments and of states.

What it adds to `jax.shard_map`: a partition of each state, coming in and going out; a state
without one is whole on every device, and may be written only with what is the same on all.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from ..._errors import ArgumentError, ArgumentTypeError, SelectionError, explain, user_facing
from ...state import State, Writes, this_frame
from .._core import (
    Attempt,
    Wrapper,
    applied,
    current_value,
    discover,
    merge_static,
    run,
    split_arguments,
    split_static,
    split_value,
    states_in,
)
from ._axes import Grouping, Kind, group, spread
from ._placement import Places, read_places


def _names(part: Any) -> tuple[Any, ...]:
    if part is None or part is PartitionSpec.UNCONSTRAINED:
        return ()
    return part if isinstance(part, tuple) else (part,)


def _is_spec(place: Any) -> bool:
    return isinstance(place, PartitionSpec)


_SPECS = Kind(_is_spec, "a PartitionSpec", "partitions")


def _operands(args: tuple[Any, ...], specs: Any) -> tuple[tuple[Any, ...], Any]:
    """Sets apart what of arguments isn't traced; gives what is, and the partitions of it."""
    if not isinstance(specs, (list, tuple)) or _is_spec(specs):
        return split_arguments(args, {})[0], specs
    operands, own = [], []
    for number, (arg, spec) in enumerate(zip(args, specs, strict=True)):
        what = f"argument {number}"
        operand, each = spread(spec, arg, _SPECS, "in_specs", what, "shard_map")
        operands.append(operand)
        own.append(
            spec if _is_spec(spec) else jax.tree.unflatten(jax.tree.structure(operand), each)
        )
    return tuple(operands), tuple(own)


def _grouped(out: Any, specs: Any) -> tuple[dict[Any, list[Any]], list[Grouping]]:
    groups, form = group(out, specs, _SPECS, "out_specs", "the output", "shard_map")
    return groups, [form]


class _Sharded(Wrapper):
    """A function under `jax.shard_map`, aware of states."""

    name = "shard_map"

    def __init__(
        self,
        fun: Callable[..., Any],
        mesh: Any,
        in_specs: Any,
        out_specs: Any,
        in_states: Any,
        out_states: Any,
        options: dict[str, Any],
    ):
        super().__init__(fun)
        if mesh is not None and not isinstance(
            mesh, (jax.sharding.Mesh, jax.sharding.AbstractMesh)
        ):
            raise ArgumentTypeError(
                explain(
                    f"asked shard_map for mesh={mesh!r}",
                    f"that is a {type(mesh).__name__}",
                    'a mesh, as in jax.make_mesh((8,), ("data",))',
                )
            )
        self._mesh = mesh
        self._in_specs = in_specs
        self._out_specs = out_specs
        self._in_states = in_states
        self._out_states = out_states
        self._options = options
        # The partition of states of which nothing is said.
        self._coming = in_states if _is_spec(in_states) else PartitionSpec()
        self._going = out_states if _is_spec(out_states) else self._coming
        self._places()

    def _check_specs(self, places: list[Any]) -> None:
        """Refuses what is no partition, and axes that the mesh hasn't."""
        mesh = self._mesh if self._mesh is not None else jax.sharding.get_abstract_mesh()
        if mesh.empty:
            raise ArgumentError(
                explain(
                    "asked shard_map to run on the devices of a mesh",
                    "none is given, and none is set",
                    'mesh=jax.make_mesh((8,), ("data",))',
                    "with jax.set_mesh(mesh): around the call",
                )
            )
        for option, specs in (("in_specs", self._in_specs), ("out_specs", self._out_specs)):
            leaves = jax.tree.leaves(specs, is_leaf=lambda node: node is None or _is_spec(node))
            if option == "in_specs" and not leaves:
                continue
            for spec in leaves:
                if not _is_spec(spec):
                    raise ArgumentTypeError(
                        explain(
                            f"asked shard_map for {option}={specs!r}",
                            f"{spec!r} is a {type(spec).__name__}",
                            "a PartitionSpec, or a tree of them; PartitionSpec() for a whole array",
                        )
                    )
            places = [*places, *leaves]
        names = [name for place in places for part in place for name in _names(part)]
        for name in names:
            if name not in mesh.axis_names:
                raise ArgumentError(
                    explain(
                        f"asked shard_map for a partition along the axis {name!r}",
                        f"the axes of the mesh are {', '.join(map(repr, mesh.axis_names))}",
                        "one of these",
                    )
                )

    def _places(self) -> tuple[Places, Places]:
        whole = PartitionSpec()
        coming, going = (
            Places()
            if _is_spec(states)
            else read_places(states, option, "shard_map", _is_spec, whole)
            for states, option in ((self._in_states, "in_states"), (self._out_states, "out_states"))
        )
        going.cells = {**coming.cells, **going.cells}
        if going.selectors:
            raise ArgumentTypeError(
                explain(
                    "asked shard_map for out_states by a lens that isn't bound",
                    "there is no tree to look at among the outputs",
                    "out_specs, for a tree that the function returns",
                    "bind the lens to the model, as in lens.bind(model)",
                )
            )
        return coming, going

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(self._attempted, args, kwargs)
        out, writes = discover(call, "shard_map", self._fun)
        writes.commit()
        return out

    def _attempted(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], attempt: Attempt
    ) -> tuple[Any, Writes]:
        coming, going = self._places()
        self._check_specs(
            [
                self._coming,
                self._going,
                *coming.cells.values(),
                *going.cells.values(),
                *coming.of_parts,
            ]
        )
        missing = [cell for cell in coming.cells if cell not in attempt.cells]
        if missing:
            attempt.cover((*attempt.cells, *missing))
        specs: Any = self._in_specs
        parts: list[Any] = []
        if coming.selectors:
            if not args:
                raise ArgumentError(
                    explain(
                        "asked shard_map for the states that a lens selects",
                        "the call has no positional argument for it to look at",
                        "pass the model as the first argument",
                    )
                )
            parts, rest = coming.split(args[0], "shard_map")
            args = (rest, *args[1:])
            if isinstance(specs, (list, tuple)) and not _is_spec(specs):
                specs = (PartitionSpec(), *specs[1:])
        if isinstance(specs, (list, tuple)) and not _is_spec(specs) and len(specs) != len(args):
            raise ArgumentError(
                explain(
                    f"asked shard_map for in_specs={self._in_specs!r}",
                    f"the call has {len(args)} positional arguments",
                    "a PartitionSpec for each, or one for all",
                )
            )
        parts = [split_static(part, lambda: "argument 0") for part in parts]
        operands, specs = _operands(args, specs)
        cells = attempt.cells
        in_specs = (
            tuple(coming.cells.get(cell, self._coming) for cell in cells),
            tuple(coming.of_parts),
            specs,
        )
        out_places = _SPECS.among(self._out_specs)
        form: list[Grouping] = []
        groups = list(dict.fromkeys([PartitionSpec(), self._going, *going.cells.values()]))
        found: list[list[State]] = []

        def one_device(values: Any, parts: Any, operands: Any) -> tuple[Any, Any]:
            given = [merge_static(operand) for operand in operands]
            if coming.selectors:
                given[0] = Places.join([merge_static(part) for part in parts], given[0])
            inside = states_in(tuple(given), kwargs)
            before = dict(zip(cells, map(merge_static, values), strict=True))

            def on_touch(cell: State) -> None:
                if cell not in inside:
                    # It isn't an input yet. The run is given up, but not for its shape.
                    frame = this_frame()
                    frame.values[cell] = _part(frame.peek(cell), self._coming)

            captured = run(
                self._fun, tuple(given), kwargs, values=before, frozen=inside, on_touch=on_touch
            )
            attempt.cover(captured.closed_over)
            written = dict(zip(captured.writes.cells, captured.writes.values, strict=True))
            found[:] = [
                [cell for cell in written if going.cells.get(cell, self._going) == group]
                for group in groups
            ]
            values = tuple([split_value(written[cell], cell) for cell in group] for group in found)
            out, form[:] = _grouped(captured.out, self._out_specs)
            return tuple(out.values()), values

        def mapped(fun: Callable[..., Any], out_specs: Any) -> Callable[..., Any]:
            mesh = {} if self._mesh is None else {"mesh": self._mesh}
            options = {**mesh, **self._options}
            return jax.shard_map(fun, in_specs=in_specs, out_specs=out_specs, **options)

        inputs = (tuple(map(current_value, attempt.cells)), tuple(parts), operands)
        try:
            out, written = mapped(one_device, (tuple(out_places), tuple(groups)))(*inputs)
        except ValueError as error:
            for number, cell in enumerate(found[0] if found else ()):

                def only(*inputs: Any, number: int = number) -> Any:
                    return one_device(*inputs)[1][0][number]

                _explain(mapped(only, PartitionSpec()), inputs, cell, error)
            raise
        writes = [
            (cell, merge_static(value))
            for group, values in zip(found, written, strict=True)
            for cell, value in zip(group, values, strict=True)
        ]
        return form[0].join(dict(zip(out_places, out, strict=True))), Writes(
            tuple(cell for cell, _ in writes), tuple(value for _, value in writes)
        )


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


def _explain(fun: Callable[..., Any], inputs: Any, cell: State, error: ValueError) -> None:
    """Names a state that was written with what isn't the same on all devices."""
    try:
        jax.eval_shape(fun, *inputs)
    except ValueError:
        raise SelectionError(
            explain(
                f"asked shard_map to write {cell!r}, which is whole on every device",
                "the value isn't the same on all devices",
                "out_states={state: PartitionSpec(...)}, if each device has a part of it",
                "one value from all devices, as by jax.lax.pmean over an axis of the mesh",
            )
        ) from error


def _one(given: Any, ported: Any, name: str, other: str) -> Any:
    """Picks the one of two names of an option that was used."""
    if given is not None and ported is not None:
        raise ArgumentError(
            explain(
                f"asked shard_map for {name} and {other}",
                "these are two names of one option",
                f"one of them: {name}",
            )
        )
    return ported if given is None else given


@user_facing
def shard_map(
    fun: Callable[..., Any] | None = None,
    mesh: Any = None,
    in_specs: Any = None,
    out_specs: Any = None,
    *,
    in_states: Any = None,
    out_states: Any = None,
    state_in_specs: Any = None,
    state_out_specs: Any = None,
    axis_names: Any = None,
    check_vma: bool = True,
) -> Any:
    """Runs a function on each device's part of arguments and states, as `jax.shard_map` does.

    Args:
        fun: The function; it may read and write states. Left out, it gives a decorator. A
            state of random keys is as any other: whole on every device, all of which draw the
            same numbers. `jax.random.fold_in` with `jax.lax.axis_index` tells them apart.
        mesh: The mesh; None for the one that is set.
        in_specs: The partition of each argument, as for `jax.shard_map`.
        out_specs: The partition of each output, as for `jax.shard_map`.
        in_states: The partition of states: ``{states: PartitionSpec}``, or the other way
            round. The states are bound in any form; a lens that isn't bound selects in the
            first argument, the rest of which is whole on every device. A PartitionSpec alone
            is that of all states.
        out_states: The partition of states after the call, if it is another one.
        state_in_specs: The other name of `in_states`, for ported programs.
        state_out_specs: That of `out_states`.
        axis_names: As for `jax.shard_map`.
        check_vma: As for `jax.shard_map`.

    Returns:
        A function like `fun` of whole arrays. What is in keyword arguments is whole on every
        device.

    Raises:
        SelectionError: A state that is whole on every device was written with a value that
            isn't the same on all.
        ArgumentTypeError: A partition is none.

    Example:
        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> seen = sl.State(jnp.zeros(()))
        >>> @sl.transform.shard_map(mesh=mesh, in_specs=P("data"), out_specs=P("data"))
        ... def double(x):
        ...     seen.value += jax.lax.psum(x.shape[0], "data")
        ...     return 2 * x
        >>> double(jnp.arange(3.0)), float(seen.value)
        (Array([0., 2., 4.], dtype=float32), 3.0)
    """
    options: dict[str, Any] = {"check_vma": check_vma}
    if axis_names is not None:
        options["axis_names"] = axis_names

    def make(fun: Callable[..., Any]) -> Any:
        return _Sharded(fun, mesh, in_specs, out_specs, *states, options)

    states = (
        _one(in_states, state_in_specs, "in_states", "state_in_specs"),
        _one(out_states, state_out_specs, "out_states", "state_out_specs"),
    )
    return applied(make, fun)
