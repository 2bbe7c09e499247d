"""Frames: where purity is made.

A *frame* is an overlay on all states. While one is open, reads look in it first and writes
stay in it; the cells themselves are not touched. When a transform runs a function, it opens
a frame inside the trace, takes what was written out of the trace as ordinary outputs, and
*commits* them, to the enclosing frame or to the cells, after the transform has succeeded.
Everything stateful in the library goes through `capture`; no transform saves and restores
cells by hand.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.tree_util as jtu
import numpy as np

from ._bound import View
from ._errors import (
    ArgumentTypeError,
    FrozenTreeError,
    SelectionError,
    StateTypeError,
    TracerLeakError,
    explain,
    user_facing,
)
from ._given import units_of
from ._trace import current_trace, has_tracers
from ._units import Cell, flatten, map_cells
from .path import Path, format
from .state import ENDED, State, active_frame, refuse_leak

__all__ = ["functionalize", "overlay", "thread"]


@jtu.register_pytree_node_class
class Writes:
    """What was written in a frame: cells, and their new values as the pytree's leaves.

    The cells travel in the tree structure, so that writes pass through any JAX transform as
    one more output.

    Attributes:
        cells: The cells that were written.
        values: The value of each at the end.
    """

    def __init__(self, cells: tuple[State, ...], values: tuple[Any, ...]):
        self.cells = cells
        self.values = values

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[State, ...]]:
        return self.values, self.cells

    @classmethod
    def tree_unflatten(cls, cells: tuple[State, ...], values: Any) -> Self:
        return cls(cells, tuple(values))

    def commit(self) -> None:
        """Gives the writes to the enclosing frame, or to the cells when there is none.

        Raises:
            FrozenTreeError: A cell belongs to a frozen tree of an enclosing frame.
            TracerLeakError: A value is traced and there is no enclosing frame.
        """
        frame = active_frame.get()
        pairs = list(zip(self.cells, self.values, strict=True))
        for cell, value in pairs:
            if frame is None:
                refuse_leak(cell, value)
            else:
                frame.check(cell, value)  # type: ignore[attr-defined]
        for cell, value in pairs:
            if frame is None:
                cell.store(value)
            else:
                frame.write(cell, value)


class Frame:
    """An overlay on all states, open while its ``with`` block runs.

    Attributes:
        values: The values that differ from those outside.
        touched: The cells that were read or written.
    """

    def __init__(self, values: Mapping[State, Any], frozen: Mapping[State, Path]):
        self.values: dict[State, Any] = dict(values)
        self.touched: set[State] = set()
        self._written: dict[State, None] = {}
        self._made: set[State] = set()
        self._borrowed: dict[State, list[Any]] = {}
        self._frozen = frozen

    def __enter__(self) -> Self:
        self._parent: Frame | None = active_frame.get()  # type: ignore[assignment]
        self._trace = current_trace()
        self._token = active_frame.set(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        active_frame.reset(self._token)
        for cell in self._made:
            self._release(cell)

    def _release(self, cell: State) -> None:
        """Lets go of a cell that was made in this frame; only traced values end with it."""
        value = self.values[cell]
        if self._parent is not None and self._trace == self._parent._trace:
            self._parent.adopt(cell, value)
        elif has_tracers(value):
            cell.store(ENDED)
        elif self._parent is not None:
            self._parent.adopt(cell, value)
        else:
            cell.store(value)

    def adopt(self, cell: State, value: Any) -> None:
        """Takes a cell that was made while the frame was open."""
        cell.store(ENDED)
        self._made.add(cell)
        self.values[cell] = value

    def peek(self, cell: State) -> Any:
        """Returns the cell's value in this frame, without touching it."""
        frame: Frame | None = self
        while frame is not None:
            if cell in frame.values:
                return frame.values[cell]
            frame = frame._parent
        return cell._value

    def touch(self, cell: State) -> None:
        """Notes that the function has read a cell."""
        self.touched.add(cell)
        if cell not in self.values and self._parent is not None:
            self._parent.touch(cell)

    def read(self, cell: State) -> Any:
        """Returns the cell's value in this frame."""
        self.touch(cell)
        value = self.peek(cell)
        if (
            cell in self.values
            or isinstance(value, (jax.Array, np.ndarray, float, int))
            or value is ENDED
        ):
            return value
        # A container could be changed in place, past the frame: lend a copy, and look at it
        # again when the writes are taken out.
        leaves, treedef = jax.tree.flatten(value)
        self._borrowed[cell] = leaves
        self.values[cell] = treedef.unflatten(leaves)
        return self.values[cell]

    def check(self, cell: State, value: Any) -> None:
        """Refuses a write that would be lost, or that would leak a traced value."""
        frame: Frame | None = self
        while frame is not None:
            if cell in frame._frozen:
                raise FrozenTreeError(_frozen_write(cell, frame._frozen[cell]))
            frame = None if cell in frame._made else frame._parent
        if current_trace() != self._trace and has_tracers(value) and not cell.is_at_home:
            raise TracerLeakError(
                explain(
                    f"asked to assign a traced value to {cell!r}",
                    "a plain JAX transform is running inside a transform of statelens, and "
                    "would leave its tracer in the state",
                    "the transform of statelens by the same name",
                    "return the value from the inner function, and assign it outside",
                )
            )

    def write(self, cell: State, value: Any) -> None:
        """Sets the cell's value in this frame."""
        self.check(cell, value)
        self.touched.add(cell)
        self._written[cell] = None
        self._borrowed.pop(cell, None)
        self.values[cell] = value

    def writes(self) -> Writes:
        """Returns what was written so far to cells that were made outside this frame."""
        for cell, lent in self._borrowed.items():
            now = jax.tree.leaves(self.values[cell])
            if len(now) != len(lent) or any(a is not b for a, b in zip(now, lent, strict=True)):
                self.check(cell, self.values[cell])
                self._written[cell] = None
        written = tuple(cell for cell in self._written if cell not in self._made)
        return Writes(written, tuple(self.values[cell] for cell in written))


def _frozen_write(cell: State, path: Path) -> str:
    return explain(
        f"asked to write the state '{format(path)}' of a tree that was passed as an argument",
        f"{cell!r} belongs to a functional tree; the write would be lost with it",
        "statelens.thread(fun), which gives (out, tree): "
        "grad(thread(fun), lens, has_aux=True)(tree, ...) gives (grads, tree)",
        "bound states, which are written back: grad(fun, lens.bind(model)), "
        "with the model closed over",
    )


class Captured(NamedTuple):
    """What came of running a function in a frame.

    Attributes:
        out: What the function returned.
        writes: What it wrote.
        touched: The cells that it read or wrote.
    """

    out: Any
    writes: Writes
    touched: set[State]


def capture(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    values: Mapping[State, Any] = {},
    frozen: Mapping[State, Path] = {},
) -> Captured:
    """Runs a function in a frame of its own, and commits nothing.

    Args:
        fun: Any function that reads and writes states.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        values: Values of states to run it against, instead of their own.
        frozen: States that must not be written, with their paths.

    Returns:
        What it returned, what it wrote and what it touched. States in the output are new
        states with the values at the end.
    """
    with Frame(values, frozen) as frame:
        out = fun(*args, **kwargs)
        # States in the output must be opened inside the frame, which has their values, and
        # made anew outside of it. A state that is only handed through isn't touched by that.
        leaves, treedef = flatten(out)
        inside = {cell: frame.peek(cell) for cell in leaves if isinstance(cell, State)}
        writes = frame.writes()
    outside = {cell: cell.with_value(value) for cell, value in inside.items()}
    out = treedef.unflatten([outside[leaf] if isinstance(leaf, State) else leaf for leaf in leaves])
    return Captured(out, writes, frame.touched)


@user_facing
def functionalize(fun: Callable[..., Any], states: Any) -> Callable[..., Any]:
    """Makes a function that closes over states a pure one: ``(values, *args) -> (out, values)``.

    Args:
        fun: A function that reads and writes states.
        states: The states that it may write, and whose values are passed in: one state, or
            a bound lens, mapping, list or tuple of them.

    Returns:
        A function of the states' values, in the form in which `states` were given, and of
        the arguments of `fun`. It returns what `fun` returns, and the new values. It
        touches no cell, and can be given to any JAX transform.

    Raises:
        StateTypeError: `states` has something that is no state.
        SelectionError: The same state is given twice; or, when the pure function is called,
            another state was written.

    Example:
        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> total = sl.State(jnp.zeros(()))
        >>> def add(x):
        ...     total.value += x
        ...     return total.value
        >>> pure = sl.functionalize(add, {"total": total})
        >>> jax.jit(pure)({"total": jnp.ones(())}, 2.0)
        (Array(3., dtype=float32), {'total': Array(3., dtype=float32)})
        >>> total.value
        Array(0., dtype=float32)
    """
    given = units_of(states, "functionalize")

    @functools.wraps(fun, updated=())
    @user_facing
    def pure(values: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        overlaid = overlaid_values(given.units, given.flatten(values))
        out, writes, _ = capture(fun, args, kwargs, values=overlaid)
        final = {**overlaid, **dict(zip(writes.cells, writes.values, strict=True))}
        for cell in writes.cells:
            if cell not in overlaid:
                raise SelectionError(
                    explain(
                        f"asked to functionalize {getattr(fun, '__name__', fun)!r}",
                        f"it wrote {cell!r}, which isn't among the states that were given",
                        "all states that the function writes, as in model.states()",
                    )
                )
        new = [
            final[unit] if isinstance(unit, Cell) else unit.of(final[unit.cell])
            for unit in given.units
        ]
        return out, given.rebuild(new)

    return pure


def overlaid_values(units: list[Any], values: list[Any]) -> dict[State, Any]:
    """Returns for each cell the value in which the given values of its parts are put."""
    overlaid: dict[State, Any] = {}
    for unit, value in zip(units, values, strict=True):
        if isinstance(unit, View):
            cell: Any = unit.cell
            overlaid[cell] = unit.put(overlaid.get(cell, cell.value), value)
        else:
            overlaid[unit] = value
    return overlaid


def thread(fun: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., Any]:
    """Threads the states of a tree through a function: ``(tree, *args) -> (out, tree)``.

    Args:
        fun: A function whose first argument is a tree that holds states, which it may read
            and write: an Equinox module with `State` fields, a facade module, a dictionary.
        has_aux: Whether `fun` returns ``(out, aux)``; then the threaded function returns
            ``(out, (aux, tree))``, as `grad` wants it.

    Returns:
        A function that returns what `fun` returns, and the tree with the states as `fun`
        left them. The states that were passed in stay as they are.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> def visit(tree):
        ...     tree["visits"].value += 1
        ...     return "seen"
        >>> before = {"visits": sl.State(jnp.zeros((), int))}
        >>> out, after = sl.thread(visit)(before)
        >>> after["visits"].value - before["visits"].value
        Array(1, dtype=int32)
    """

    @functools.wraps(fun, updated=())
    @user_facing
    def threaded(tree: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        def run(frame: Frame) -> Any:
            # Fresh cells, made in this frame: writes to them are the tree's own affair.
            fresh: dict[State, State] = {}

            def renew(cell: State) -> State:
                fresh[cell] = cell.with_value(frame.peek(cell))
                return fresh[cell]

            inner = map_cells(tree, renew)
            out = fun(inner, *args, **kwargs)
            for original, cell in fresh.items():
                if cell in frame.touched:
                    frame.touch(original)
            return out, inner

        (value, after), writes, _ = capture(lambda: run(_this_frame()), (), {})
        writes.commit()
        if not has_aux:
            return value, after
        value, aux = value_and_aux(value, fun)
        return value, (aux, after)

    return threaded


def _this_frame() -> Frame:
    frame = active_frame.get()
    assert isinstance(frame, Frame)
    return frame


def value_and_aux(out: Any, fun: Callable[..., Any]) -> tuple[Any, Any]:
    """Takes apart what a function with ``has_aux=True`` returned, or says what is wrong."""
    if not isinstance(out, tuple) or len(out) != 2:
        given = f"a tuple of {len(out)}" if isinstance(out, tuple) else f"a {type(out).__name__}"
        raise ArgumentTypeError(
            explain(
                f"asked for has_aux=True of {getattr(fun, '__name__', fun)!r}",
                f"it returned {given}, not a pair",
                "return value, aux",
                "has_aux=False, if there is nothing to return beside the value",
            )
        )
    return out


class overlay:
    """Runs a block of code against other values of states.

    Inside the block, states read as the values given, and what is assigned stays in the
    overlay. It is dropped at the end of the block unless `commit` is called.

    Args:
        values: The values to run against, by state (or view of one).

    Raises:
        StateTypeError: A key is no state.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> rate = sl.State(jnp.ones(()))
        >>> with sl.overlay({rate: jnp.zeros(())}) as trial:
        ...     rate.value += 5
        >>> rate.value, trial.writes[rate]
        (Array(1., dtype=float32), Array(5., dtype=float32))
    """

    @user_facing
    def __init__(self, values: Mapping[Any, Any] | None = None):
        values = values or {}
        for unit in values:
            if not isinstance(unit, (State, View)):
                raise StateTypeError(
                    explain(
                        f"asked to overlay {unit!r}",
                        f"that is a {type(unit).__name__}, not a state",
                        "values by state, as in overlay({model.weight: value})",
                    )
                )
        self._frame = Frame(overlaid_values(list(values), list(values.values())), {})

    def __enter__(self) -> Self:
        self._frame.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._frame.__exit__(*exception)

    @property
    def writes(self) -> dict[State, Any]:
        """What the block has written so far, by state."""
        writes = self._frame.writes()
        return dict(zip(writes.cells, writes.values, strict=True))

    @user_facing
    def commit(self) -> None:
        """Gives what was written to the enclosing frame, or to the states themselves.

        Raises:
            TracerLeakError: A value is traced and no enclosing frame would take it.
        """
        writes = self._frame.writes()
        inside = active_frame.get() is self._frame
        token = active_frame.set(self._frame._parent) if inside else None
        try:
            writes.commit()
        finally:
            if token is not None:
                active_frame.reset(token)
