"""`vmap` and `vmap_new_states`: batching, for functions that read and write states.

What they add to `jax.vmap`: each state that is mapped has an axis, coming in and going out; all
lanes share the others, and may write to them only what is the same in all of them; a state
that holds random keys gives each lane a key of its own.
"""

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import jax
import jax.numpy as jnp

from .._errors import ArgumentError, ArgumentTypeError, SelectionError, explain, user_facing
from .._frames import Captured, Writes, capture
from .._resolve import focus_on
from ..state import State, active_frame, peek
from ._carry import staged
from ._discover import Attempt, settle
from ._mixed import Mixed, mixed, unmixed
from ._options import count, read_lens
from ._places import Places, read_places
from ._pure import states_in
from ._wrapper import Wrapper


class _Batched(Wrapper):
    """A function mapped by `jax.vmap`, aware of states."""

    def __init__(
        self,
        fun: Callable[..., Any],
        *,
        in_axes: Any,
        out_axes: Any,
        in_states: Any,
        out_states: Any,
        axis_size: int | None,
        new_states: "_NewStates | None" = None,
        **options: Any,
    ):
        self.name = "vmap" if new_states is None else "vmap_new_states"
        super().__init__(fun)
        self._in_axes = _read_axes(in_axes, self.name)
        for axis in jax.tree.leaves(out_axes):
            if not _is_axis(axis):
                raise ArgumentTypeError(
                    explain(
                        f"asked {self.name} for out_axes={out_axes!r}",
                        f"{axis!r} is a {type(axis).__name__}",
                        "an integer or None, or a tree of them that the output begins with",
                    )
                )
        self._out_axes = out_axes
        self._in_states = in_states
        self._out_states = out_states
        self._axis_size = count(axis_size, "axis_size", self.name, least=0)
        self._new_states = new_states
        self._options = options
        self._places()

    def _bound_to(self, instance: Any) -> Any:
        axes = self._in_axes
        if self._places()[0].selectors or (
            isinstance(axes, tuple) and axes and axes[0] is not None
        ):
            return MethodType(self, instance)  # the object itself is mapped
        bound = super()._bound_to(instance)
        if isinstance(axes, tuple):
            bound._in_axes = axes[1:]
        return bound

    def _places(self) -> tuple[Places, Places]:
        coming = read_places(self._in_states, "in_states", self.name, _is_axis, 0)
        going = read_places(self._out_states, "out_states", self.name, _is_axis, 0)
        going.cells = {**coming.cells, **going.cells}
        return coming, going

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        def run(attempt: Attempt) -> Any:
            return self._attempted(attempt, args, kwargs)

        return settle(run, self.name, self._fun)

    def _attempted(self, attempt: Attempt, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        coming, going = self._places()
        call = _Call(self, attempt, coming, going, args, kwargs)
        call.check_sizes()
        undo: list[Callable[[], None]] = []
        try:
            out = call.run(None if self._new_states is None else undo)
            call.commit()
        except BaseException:
            for restore in reversed(undo):
                restore()
            raise
        return out


class _Call:
    """One call of a mapped function."""

    def __init__(
        self,
        batched: _Batched,
        attempt: Attempt,
        coming: Places,
        going: Places,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ):
        self._batched = batched
        self._attempt = attempt
        self._coming = coming
        self._going = going
        self._axes = list(dict.fromkeys([None, *going.cells.values()]))
        axes = batched._in_axes
        axes = axes if isinstance(axes, tuple) else (axes,) * len(args)
        if len(axes) != len(args):
            raise ArgumentError(
                explain(
                    f"asked {batched.name} for in_axes={batched._in_axes}",
                    f"the call has {len(args)} positional arguments",
                    "an axis for each, or one integer for all",
                )
            )
        parts: list[Any] = []
        if coming.selectors:
            _check_has_tree(args, batched.name)
            parts, rest = coming.split(args[0], batched.name)
            args, axes = (rest, *args[1:]), (None, *axes[1:])
        labelled = [
            (mixed(arg, lambda: f"argument {number}"), arg)  # noqa: B023
            for number, arg in enumerate(args)
        ]
        states = [staged(_read(cell), cell) for cell in coming.cells]
        named = {name: mixed(arg, lambda: f"argument {name!r}") for name, arg in kwargs.items()}  # noqa: B023
        self._operands = (states, parts, tuple(arg for arg, _ in labelled), named)
        self._operand_axes = (
            list(coming.cells.values()),
            coming.of_parts,
            tuple(_axes_of(a, *pair) for a, pair in zip(axes, labelled, strict=True)),
            0,
        )

    def check_sizes(self) -> None:
        """Refuses axes that aren't there, and sizes that differ."""
        states, parts, args, named = self._operands
        labels = [f"the state {cell.name or repr(cell)!r}" for cell in self._coming.cells]
        labels += [f"part {n} of argument 0" for n, _ in enumerate(parts)]
        labels += [f"argument {n}" for n, _ in enumerate(args)]
        labels += [f"argument {name!r}" for name in named]
        axes = [*self._operand_axes[0], *self._operand_axes[1], *self._operand_axes[2]]
        axes += [0] * len(named)
        sizes: dict[int, str] = {}
        size = self._batched._axis_size
        if size is not None:
            sizes[size] = f"axis_size={size}"
        operands = [*states, *parts, *args, *named.values()]
        for label, operand, own in zip(labels, operands, axes, strict=True):
            for leaf, axis in _leaves_with_axes(operand, own, label, self._batched.name):
                shape = jnp.shape(leaf)
                if axis is None:
                    continue
                if not -len(shape) <= axis < len(shape):
                    raise ArgumentError(
                        explain(
                            f"asked {self._batched.name} to map {label} over axis {axis}",
                            f"there is an array of shape {shape} in it",
                            "an axis that it has; None for what all lanes share",
                        )
                    )
                sizes.setdefault(shape[axis], label)
        if len(sizes) != 1:
            found = ", ".join(f"{label}: {size}" for size, label in sizes.items())
            raise ArgumentError(
                explain(
                    f"asked {self._batched.name} to map over an axis",
                    f"its size isn't one number: {found}" if found else "nothing says its size",
                    "arrays of the same size along the axes that are mapped",
                    "axis_size=n, if nothing is mapped",
                )
            )

    def run(self, undo: list[Callable[[], None]] | None) -> Any:
        """Runs the function in all lanes; what it wrote is kept for `commit`."""
        lanes = self._lanes()
        self._undo = undo
        going = self._going
        out_axes = (self._batched._out_axes, going.of_parts, None, self._axes, [0, None])
        mapped = self._mapped(self._one_lane, out_axes)
        try:
            out, parts, rest, written, made = mapped(lanes, *self._operands)
        except ValueError as error:
            self._explain(error, lanes)
            raise
        self._written, self._made = written, made
        out = unmixed(out)
        return (out, Places.join(parts, unmixed(rest))) if going.selectors else out

    def commit(self) -> None:
        """Gives the states what the lanes have left them with."""
        found = [
            (cell, unmixed(value))
            for cells_, values in zip(self._cells, self._written, strict=True)
            for cell, value in zip(cells_, values, strict=True)
        ]
        found += self._next
        if found:
            Writes(*zip(*found, strict=True)).commit()  # type: ignore[arg-type]
        if self._batched._new_states is not None:
            for cells_, values in zip(self._new_cells, self._made, strict=True):
                for cell, value in zip(cells_, values, strict=True):
                    self._batched._new_states.keep(cell, unmixed(value))

    def _mapped(self, fun: Callable[..., Any], out_axes: Any) -> Callable[..., Any]:
        batched = self._batched
        return jax.vmap(
            fun,
            in_axes=(0, *self._operand_axes),
            out_axes=out_axes,
            axis_size=batched._axis_size,
            **batched._options,
        )

    def _lanes(self) -> list[Any]:
        """Deals out the states of which each lane has a part of its own."""
        self._next: list[tuple[State, Any]] = []
        lanes = []
        if self._attempt.cells:
            sizes = self._mapped(lambda *_: jnp.zeros(()), 0)
            size = jax.eval_shape(sizes, [], *self._operands).shape[0]
            for cell in self._attempt.cells:
                dealt = cell.split_lanes(peek(cell), size)
                assert dealt is not None
                lanes.append(dealt[0])
                self._next.append((cell, dealt[1]))
        return lanes

    def _one_lane(
        self, lanes: list[Any], states: list[Any], parts: list[Any], args: Any, kwargs: Any
    ) -> tuple[Any, ...]:
        captured = self._captured(lanes, states, parts, args, kwargs)
        writes = captured.writes
        grouped: dict[Any, list[tuple[State, Any]]] = {axis: [] for axis in self._axes}
        for cell, value in zip(writes.cells, writes.values, strict=True):
            if cell not in self._attempt.cells:
                grouped[self._going.cells.get(cell)].append((cell, staged(value, cell)))
        self._cells = [[cell for cell, _ in group] for group in grouped.values()]
        values = [[value for _, value in group] for group in grouped.values()]
        out, rest = captured.out, None
        if self._going.selectors:
            out, tree = self._pair(out)
            parts, rest = self._going.split(tree, self._batched.name)
        else:
            parts = []
        made = self._split_made(captured.made)
        out, rest = (mixed(tree, lambda: "the output") for tree in (out, rest))
        return out, parts, rest, values, made

    def _captured(
        self, lanes: list[Any], states: list[Any], parts: list[Any], args: Any, kwargs: Any
    ) -> Captured:
        args = [unmixed(arg) for arg in args]
        if self._coming.selectors:
            args[0] = Places.join(parts, args[0])
        named = {name: unmixed(arg) for name, arg in kwargs.items()}
        frozen = states_in(tuple(args), named)
        known = dict(zip(self._coming.cells, map(unmixed, states), strict=True))
        dealt = dict(zip(self._attempt.cells, lanes, strict=True))

        undealt: list[State] = []

        def on_touch(cell: State) -> None:
            if type(cell).split_lanes is not State.split_lanes and cell not in frozen:
                undealt.append(cell)

        captured = capture(
            self._batched._fun,
            tuple(args),
            named,
            values=known | dealt,
            frozen=frozen,
            on_touch=on_touch,
            undo=self._undo,
        )
        used = [cell for cell in self._attempt.cells if cell in captured.touched]
        self._attempt.require((*used, *undealt))
        return captured

    def _split_made(self, made: Writes) -> list[list[Any]]:
        new_states = self._batched._new_states
        if new_states is None:
            return [[], []]
        pairs = list(zip(made.cells, made.values, strict=True))
        stacked = [pair for pair in pairs if not new_states.excludes(*pair)]
        shared = [pair for pair in pairs if new_states.excludes(*pair)]
        self._new_cells = [[cell for cell, _ in group] for group in (stacked, shared)]
        return [[staged(value, cell) for cell, value in group] for group in (stacked, shared)]

    def _pair(self, out: Any) -> tuple[Any, Any]:
        if isinstance(out, tuple) and len(out) == 2:
            return out
        raise ArgumentTypeError(
            explain(
                f"asked {self._batched.name} for out_states of a tree, by an unbound lens",
                f"the function returned a {type(out).__name__}, not (out, tree)",
                "statelens.thread(fun), which returns the tree that it was given",
            )
        )

    def _explain(self, error: ValueError, lanes: list[Any]) -> None:
        """Names the state that shared a value which isn't the same in all lanes."""
        if "out_axes" not in str(error) or not hasattr(self, "_cells"):
            return
        for number, cell in enumerate(self._cells[0]):

            def only(*operands: Any, number: int = number) -> Any:
                return self._one_lane(*operands)[3][0][number]

            try:
                jax.eval_shape(self._mapped(only, None), lanes, *self._operands)
            except ValueError:
                raise SelectionError(
                    explain(
                        f"asked {self._batched.name} to write {cell!r}, which all lanes share",
                        "the value isn't the same in all lanes",
                        "out_states={state: 0}, so that the state has a value for each lane",
                        "one value from all lanes, as by jax.lax.pmean over an axis_name",
                    )
                ) from error
        if "out_axes" in str(error) and "None" in str(error):
            raise ArgumentError(
                explain(
                    f"asked {self._batched.name} for out_axes={self._batched._out_axes!r}",
                    "an output where it is None isn't the same in all lanes",
                    "an axis for that output",
                    "one value from all lanes, as by jax.lax.pmean over an axis_name",
                )
            ) from error


class _NewStates:
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


def _read(cell: State) -> Any:
    frame = active_frame.get()
    return cell.value if frame is None else frame.read(cell)


def _is_axis(place: Any) -> bool:
    return place is None or (isinstance(place, int) and not isinstance(place, bool))


def _read_axes(in_axes: Any, name: str) -> Any:
    if _is_axis(in_axes):
        return in_axes
    if isinstance(in_axes, (list, tuple)):
        return tuple(in_axes)
    raise ArgumentTypeError(
        explain(
            f"asked {name} for in_axes={in_axes!r}",
            f"that is a {type(in_axes).__name__}",
            "an integer, None, or one of these (or a tree of them) for each argument",
        )
    )


def _leaves_with_axes(operand: Any, axes: Any, label: str, name: str) -> list[tuple[Any, Any]]:
    """Pairs the arrays of an operand with their axes."""
    if _is_axis(axes):
        return [(leaf, axes) for leaf in jax.tree.leaves(operand)]
    found = jax.tree.leaves(axes, is_leaf=lambda node: node is None)
    for axis in found:
        if not _is_axis(axis):
            raise ArgumentTypeError(
                explain(
                    f"asked {name} for in_axes={axes!r} of {label}",
                    f"{axis!r} is a {type(axis).__name__}",
                    "an integer or None, or a tree of them",
                )
            )
    try:
        spread = jax.tree.broadcast(axes, operand, is_leaf=lambda node: node is None)
    except ValueError as error:
        raise ArgumentError(
            explain(
                f"asked {name} for in_axes={axes!r} of {label}",
                f"its structure is {jax.tree.structure(operand)}: {error}",
                "a tree that the argument begins with",
            )
        ) from None
    spread = jax.tree.leaves(spread, is_leaf=lambda node: node is None)
    return list(zip(jax.tree.leaves(operand), spread, strict=True))


def _axes_of(axes: Any, operand: Any, arg: Any) -> Any:
    """Returns the axes of an argument whose arrays were set apart."""
    if _is_axis(axes) or not isinstance(operand, Mixed):
        return axes
    leaves = jax.tree.leaves(
        jax.tree.broadcast(axes, arg, is_leaf=lambda node: node is None),
        is_leaf=lambda node: node is None,
    )
    return operand.with_traced(leaves)


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


@user_facing
def vmap(
    fun: Callable[..., Any] | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    in_states: Any = None,
    out_states: Any = None,
) -> Any:
    """Maps a function over axes of its arguments and of states, as `jax.vmap` does.

    Args:
        fun: The function; it may read and write states. Left out, `vmap` gives a decorator.
        in_axes: The axis of each argument, as for `jax.vmap`.
        out_axes: The axis of each output, as for `jax.vmap`.
        axis_name: A name for the axis, for collectives.
        axis_size: The size of the axis, if nothing that is mapped says it.
        spmd_axis_name: As for `jax.vmap`.
        in_states: The states that are mapped: ``{states: axis}``, ``{axis: states}``, or
            states alone, for axis 0. The states are bound in any form; a lens that isn't
            bound selects in the first argument, the rest of which all lanes share.
        out_states: The states that have a value for each lane after the call, likewise. Those
            that are mapped coming in keep their axis. A lens that isn't bound selects in the
            tree of ``(out, tree)``, as `thread` returns it.

    Returns:
        A function like `fun` of stacked arguments.

    Raises:
        SelectionError: A state that all lanes share was written with a value for each.
        ArgumentTypeError: An axis is none.
        ArgumentError: There is no axis for each argument.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> h = sl.HiddenState(jnp.zeros(3))
        >>> def leak(x):
        ...     h.value = 0.5 * h.value + x
        ...     return h.value
        >>> sl.transform.vmap(leak, in_states=h)(jnp.arange(3.0))
        Array([0., 1., 2.], dtype=float32)
        >>> h.value
        Array([0., 1., 2.], dtype=float32)
    """
    make = functools.partial(
        _Batched,
        in_axes=in_axes,
        out_axes=out_axes,
        axis_name=axis_name,
        axis_size=axis_size,
        spmd_axis_name=spmd_axis_name,
        in_states=in_states,
        out_states=out_states,
    )
    return make if fun is None else make(fun)


@user_facing
def vmap_new_states(
    fun: Callable[..., Any] | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    state_tag: str | None = None,
    state_to_exclude: Any = None,
    in_states: Any = None,
    out_states: Any = None,
) -> Any:
    """Maps a function that makes states: each has a value for each lane afterwards.

    Modules that were made before the call may be given states in it. If the call fails, they
    have them not.

    Args:
        fun: The function. Left out, `vmap_new_states` gives a decorator.
        in_axes: As for `vmap`.
        out_axes: As for `vmap`.
        axis_name: As for `vmap`.
        axis_size: The size of the axis, if nothing that is mapped says it.
        spmd_axis_name: As for `vmap`.
        state_tag: A tag for the new states.
        state_to_exclude: Which of the new states all lanes share: a lens in any form, that
            is asked about each of them.
        in_states: As for `vmap`.
        out_states: As for `vmap`.

    Returns:
        A function like `fun`.

    Raises:
        StateLensError: As for `vmap`.

    Example:
        An ensemble of three models:

        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> ensemble = sl.nn.Module()
        >>> @sl.transform.vmap_new_states
        ... def init(key):
        ...     ensemble.weight = sl.ParamState(jax.random.normal(key, (2,)))
        >>> init(jax.random.split(jax.random.key(0), 3))
        >>> ensemble
        Module(  # 6 in ParamState
          weight=ParamState(f32[3,2]),
        )
    """
    make = functools.partial(
        _Batched,
        in_axes=in_axes,
        out_axes=out_axes,
        axis_name=axis_name,
        axis_size=axis_size,
        spmd_axis_name=spmd_axis_name,
        in_states=in_states,
        out_states=out_states,
        new_states=_NewStates(state_tag, state_to_exclude),
    )
    return make if fun is None else make(fun)
