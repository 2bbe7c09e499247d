"""One call of a function in lanes that run side by side, and what becomes of states in it.

A state that is mapped has an axis; the others are shared by all lanes. One that holds random
keys deals a key of its own to each lane. What a lane makes of that is the lane's own, and the
state goes on with what comes after the lanes; but if the lanes have put one and the same value
in its place, as by seeding it, the state has that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from ..._errors import ArgumentError, ArgumentTypeError, SelectionError, explain
from ...lens import focus_on
from ...state import Captured, State, Writes, active_frame, has_tracers, peek
from .._core import Attempt, merge_static, read_lens, run, split_static, split_value, states_in
from ._axes import AXES, check_axes, group, is_axis, spread
from ._placement import Places


@dataclass(frozen=True)
class Mapping:
    """How a function is mapped.

    Attributes:
        fun: The function.
        name: The transform, for messages.
        in_axes: The axes of arguments: one, or a tuple with one or a tree for each.
        out_axes: The axes of the output: one, or a tree.
        axis_size: The size of the axis, if it is said.
        options: Further options of `jax.vmap`.
        new_states: What becomes of the states that the function makes, or None.
    """

    fun: Callable[..., Any]
    name: str
    in_axes: Any
    out_axes: Any
    axis_size: int | None
    options: dict[str, Any] = field(default_factory=dict)
    new_states: "NewStates | None" = None


class Call:
    """One call of a mapped function."""

    def __init__(
        self,
        asked: Mapping,
        attempt: Attempt,
        coming: Places,
        going: Places,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ):
        self._asked = asked
        self._attempt = attempt
        self._coming = coming
        self._going = going
        self._state_axes = list(dict.fromkeys([None, *going.cells.values()]))
        self._out_axes = AXES.among(asked.out_axes)
        axes = asked.in_axes
        axes = axes if isinstance(axes, tuple) else (axes,) * len(args)
        if len(axes) != len(args):
            raise ArgumentError(
                explain(
                    f"asked {asked.name} for in_axes={asked.in_axes}",
                    f"the call has {len(args)} positional arguments",
                    "an axis for each, or one integer for all",
                )
            )
        parts: list[Any] = []
        if coming.selectors:
            _check_has_tree(args, asked.name)
            parts, rest = coming.split(args[0], asked.name)
            args, axes = (rest, *args[1:]), (None, *axes[1:])
        self._labelled: list[tuple[str, Any, Any]] = []
        states = [
            self._operand(
                f"the state {cell.name or repr(cell)!r}", split_value(cell.value, cell), axis
            )[0]
            for cell, axis in coming.cells.items()
        ]
        for number, (part, axis) in enumerate(zip(parts, coming.of_parts, strict=True)):
            self._operand(f"part {number} of argument 0", part, axis)
        positional = [
            self._operand(f"argument {number}", arg, axis)
            for number, (arg, axis) in enumerate(zip(args, axes, strict=True))
        ]
        named = {
            name: self._operand(f"argument {name!r}", arg, 0)[0] for name, arg in kwargs.items()
        }
        self._operands = (states, parts, tuple(operand for operand, _ in positional), named)
        self._operand_axes = (
            list(coming.cells.values()),
            coming.of_parts,
            tuple(axes for _, axes in positional),
            0,
        )

    def _operand(self, label: str, tree: Any, axes: Any) -> tuple[Any, Any]:
        """Sets apart what isn't traced; gives what is, with its axes."""
        operand, each = spread(axes, tree, AXES, "in_axes", label, self._asked.name)
        pairs = zip(jax.tree.leaves(operand), each, strict=True)
        self._labelled += [(label, leaf, axis) for leaf, axis in pairs]
        if not is_axis(axes):
            axes = jax.tree.unflatten(jax.tree.structure(operand), each)
        return operand, axes

    def check_sizes(self) -> None:
        """Refuses axes that aren't there, and sizes that differ."""
        name, size = self._asked.name, self._asked.axis_size
        sizes: dict[int, str] = {} if size is None else {size: f"axis_size={size}"}
        for label, leaf, axis in self._labelled:
            shape = jnp.shape(leaf)
            if axis is None:
                continue
            if not -len(shape) <= axis < len(shape):
                raise ArgumentError(
                    explain(
                        f"asked {name} to map {label} over axis {axis}",
                        f"there is an array of shape {shape} in it",
                        "an axis that it has; None for what all lanes share",
                    )
                )
            sizes.setdefault(shape[axis], label)
        if len(sizes) != 1:
            found = ", ".join(f"{label}: {size}" for size, label in sizes.items())
            raise ArgumentError(
                explain(
                    f"asked {name} to map over an axis",
                    f"its size isn't one number: {found}" if found else "nothing says its size",
                    "arrays of the same size along the axes that are mapped"
                    if found
                    else "axis_size=n",
                )
            )

    def run(self, undo: list[Callable[[], None]] | None) -> Any:
        """Runs the function in all lanes; what it wrote is kept for `commit`."""
        lanes = self._lanes()
        self._undo = undo
        going = self._going
        out_axes = (self._out_axes, going.of_parts, None, self._state_axes, [0, None])
        mapped = self._mapped(self._one_lane, out_axes)
        try:
            out, parts, rest, written, made = mapped(lanes, *self._operands)
        except ValueError as error:
            self._explain(error, lanes)
            raise
        self._written, self._made = written, made
        out = self._out.join(dict(zip(self._out_axes, out, strict=True)))
        return (out, Places.join(parts, merge_static(rest))) if going.selectors else out

    def commit(self) -> None:
        """Gives the states what the lanes have left them with."""
        found = {
            cell: merge_static(value)
            for cells_, values in zip(self._cells, self._written, strict=True)
            for cell, value in zip(cells_, values, strict=True)
        }
        found = self._next | found
        if found:
            Writes(tuple(found), tuple(found.values())).commit()
        if self._asked.new_states is not None:
            for cells_, values in zip(self._new_cells, self._made, strict=True):
                for cell, value in zip(cells_, values, strict=True):
                    self._asked.new_states.keep(cell, merge_static(value))

    def _mapped(self, fun: Callable[..., Any], out_axes: Any) -> Callable[..., Any]:
        return jax.vmap(
            fun,
            in_axes=(0, *self._operand_axes),
            out_axes=out_axes,
            axis_size=self._asked.axis_size,
            **self._asked.options,
        )

    def _lanes(self) -> list[Any]:
        """Deals out the states of which each lane has a part of its own."""
        self._next: dict[State, Any] = {}
        lanes = []
        if self._attempt.cells:
            sizes = self._mapped(lambda *_: jnp.zeros(()), 0)
            size = jax.eval_shape(sizes, [], *self._operands).shape[0]
            for cell in self._attempt.cells:
                dealt = cell.split_lanes(peek(cell), size)
                assert dealt is not None
                lanes.append(dealt[0])
                self._next[cell] = dealt[1]
        return lanes

    def _one_lane(
        self, lanes: list[Any], states: list[Any], parts: list[Any], args: Any, kwargs: Any
    ) -> tuple[Any, ...]:
        captured = self._captured(lanes, states, parts, args, kwargs)
        written = self._by_axis(captured.writes, lanes)
        self._cells = [[cell for cell, _ in group] for group in written]
        values = [[value for _, value in group] for group in written]
        out, rest, parts = captured.out, None, []
        if self._going.selectors:
            out, tree = self._pair(out)
            parts, rest = self._going.split(tree, self._asked.name)
        made = self._split_made(captured.made)
        what, name = "the output", self._asked.name
        out, form = group(out, self._asked.out_axes, AXES, "out_axes", what, name)
        check_axes(out, form, "out_axes", name)
        self._out = form
        return list(out.values()), parts, split_static(rest, lambda: "the output"), values, made

    def _by_axis(self, writes: Writes, lanes: list[Any]) -> list[list[tuple[State, Any]]]:
        """Lists what was written that the states will have, by the axis that they get."""
        dealt = dict(zip(self._attempt.cells, lanes, strict=True))
        grouped: dict[Any, list[tuple[State, Any]]] = {axis: [] for axis in self._state_axes}
        for cell, value in zip(writes.cells, writes.values, strict=True):
            value = split_value(value, cell)
            # What a lane makes of its own part stays in it.
            if cell in self._going.cells or cell not in dealt or not _differs(value, dealt[cell]):
                grouped[self._going.cells.get(cell)].append((cell, value))
        return list(grouped.values())

    def _captured(
        self, lanes: list[Any], states: list[Any], parts: list[Any], args: Any, kwargs: Any
    ) -> Captured:
        args = [merge_static(arg) for arg in args]
        if self._coming.selectors:
            args[0] = Places.join(parts, args[0])
        named = {name: merge_static(arg) for name, arg in kwargs.items()}
        frozen = states_in(tuple(args), named)
        known = dict(zip(self._coming.cells, states, strict=True))
        dealt = dict(zip(self._attempt.cells, lanes, strict=True))

        undealt: list[State] = []

        def on_touch(cell: State) -> None:
            if _is_dealt(cell) and cell not in frozen:
                undealt.append(cell)

        captured = run(
            self._asked.fun,
            tuple(args),
            named,
            values=known | dealt,
            frozen=frozen,
            on_touch=on_touch,
            undo=self._undo,
        )
        # What is written first is never met as it was; it may still differ from lane to lane.
        undealt += [
            cell
            for cell in captured.writes.cells
            if _is_dealt(cell) and cell not in (*known, *dealt, *self._going.cells, *undealt)
        ]
        used = [cell for cell in self._attempt.cells if cell in captured.touched]
        self._attempt.require_exactly((*used, *undealt))
        return captured

    def _split_made(self, made: Writes) -> list[list[Any]]:
        new_states = self._asked.new_states
        if new_states is None:
            return [[], []]
        pairs = list(zip(made.cells, made.values, strict=True))
        stacked = [pair for pair in pairs if not new_states.excludes(*pair)]
        shared = [pair for pair in pairs if new_states.excludes(*pair)]
        self._new_cells = [[cell for cell, _ in group] for group in (stacked, shared)]
        return [[split_value(value, cell) for cell, value in group] for group in (stacked, shared)]

    def _pair(self, out: Any) -> tuple[Any, Any]:
        if isinstance(out, tuple) and len(out) == 2:
            return out
        raise ArgumentTypeError(
            explain(
                f"asked {self._asked.name} for out_states of a tree, by an unbound lens",
                f"the function returned a {type(out).__name__}, not (out, tree)",
                "statelens.thread(fun), which returns the tree that it was given",
            )
        )

    def _explain(self, error: ValueError, lanes: list[Any]) -> None:
        """Names what was to be shared and isn't the same in all lanes."""
        if "out_axes" not in str(error) or not hasattr(self, "_out"):
            return

        def is_shared(pick: Callable[[tuple[Any, ...]], Any]) -> bool:
            one = self._mapped(lambda *operands: pick(self._one_lane(*operands)), None)
            try:
                jax.eval_shape(one, lanes, *self._operands)
            except ValueError:
                return False
            return True

        for number, cell in enumerate(self._cells[0]):
            if not is_shared(lambda lane, number=number: lane[3][0][number]):
                raise SelectionError(
                    explain(
                        f"asked {self._asked.name} to write {cell!r}, which all lanes share",
                        "the value isn't the same in all lanes",
                        "vmap with in_states={state: 0} and out_states={state: 0}, for a state "
                        "that has a value for each lane",
                        "one value from all lanes, as by jax.lax.pmean over an axis_name",
                    )
                ) from error
        if None not in self._out_axes:
            return
        position = self._out_axes.index(None)
        for number, label in enumerate(self._out.labels_of(None)):
            if not is_shared(lambda lane, number=number: lane[0][position][number]):
                raise ArgumentError(
                    explain(
                        f"asked {self._asked.name} for out_axes={self._asked.out_axes!r}",
                        f"{label}, where it is None, isn't the same in all lanes",
                        "an axis for that output",
                        "one value from all lanes, as by jax.lax.pmean over an axis_name",
                    )
                ) from error


class NewStates:
    """What becomes of the states that a mapped function makes.

    Args:
        tag: A tag for them.
        exclude: Which of them all lanes share, as a lens.
    """

    def __init__(self, tag: str | None, exclude: Any):
        if tag is not None and not isinstance(tag, str):
            raise ArgumentTypeError(
                explain(
                    f"asked vmap_new_states for state_tag={tag!r}",
                    f"that is a {type(tag).__name__}",
                    'a text, as in state_tag="ensemble"',
                )
            )
        self._tag = tag
        self._exclude = (
            None if exclude is None else read_lens(exclude, "state_to_exclude", "vmap_new_states")
        )

    def excludes(self, cell: State, value: Any) -> bool:
        """Says whether all lanes share a new state."""
        if self._exclude is None:
            return False
        return bool(focus_on(self._exclude, cell.with_value(value)).entries)

    def keep(self, cell: State, value: Any) -> None:
        """Gives a new state its value."""
        frame = active_frame.get()
        if frame is None:
            cell.store(value)
        else:
            frame.adopt(cell, value)
        if self._tag is not None:
            cell.tag = cell.tag | {self._tag}


def _is_dealt(cell: State) -> bool:
    return type(cell).split_lanes is not State.split_lanes


def _differs(value: Any, lane: Any) -> bool:
    """Says whether a value differs from lane to lane, as far as JAX's batching knows.

    Args:
        value: A pytree of arrays that was computed in a lane.
        lane: One that does differ.
    """
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


def _check_has_tree(args: tuple[Any, ...], name: str) -> None:
    if not args:
        raise ArgumentError(
            explain(
                f"asked {name} for the axes of states that a lens selects",
                "the call has no positional argument for it to look at",
                "pass the model as the first argument",
                "bind the lens to the model, as in lens.bind(model)",
            )
        )
