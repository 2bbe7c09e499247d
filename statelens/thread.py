"""Purity: functions that read and write states, made pure in the states.

`functionalize` does it for states that a function closes over, `thread` for those in its
first argument; `overlay` is a frame for people. All of them, and every transform, go
through `state.capture`: no other code runs a function against other values of states.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload

from ._errors import (
    ArgumentError,
    ArgumentTypeError,
    SelectionError,
    StateTypeError,
    check_callable,
    hide_own_frames,
    user_facing,
)
from ._tree import Cell, a_leaf, map_cells
from .lens import View, overlaid_values, units_of
from .state import (
    UNFINISHED,
    Frame,
    State,
    active_frame,
    capture,
    record_reads,
    refuse_unfinished,
)

__all__ = ["functionalize", "overlay", "thread"]

P = ParamSpec("P")
R = TypeVar("R")
Aux = TypeVar("Aux")
Tree = TypeVar("Tree")


@user_facing
def functionalize(fun: Callable[P, R], states: Any) -> Callable[Concatenate[Any, P], tuple[R, Any]]:
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
        ArgumentTypeError: `fun` isn't callable.
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
    check_callable(fun, "fun", "functionalize")
    given = units_of(states, "functionalize")

    @functools.wraps(fun, updated=())
    @user_facing
    def pure(values: Any, *args: P.args, **kwargs: P.kwargs) -> tuple[R, Any]:
        overlaid = given.overlaid(given.flatten(values))
        met: list[State] = []
        captured = capture(fun, args, kwargs, Frame(overlaid, on_touch=met.append))
        record_reads(met)
        writes = captured.writes
        final: dict[Any, Any] = {**overlaid, **dict(zip(writes.cells, writes.values, strict=True))}
        for cell in writes.cells:
            if cell not in overlaid:
                raise SelectionError(
                    f"asked to functionalize {getattr(fun, '__name__', fun)!r}",
                    f"it wrote {cell!r}, which isn't among the states that were given",
                    "all states that the function writes, as in model.states()",
                )
        new = [
            final[unit] if isinstance(unit, Cell) else unit.of(final[unit.cell])
            for unit in given.units
        ]
        return captured.out, given.rebuild(new)

    return pure


@overload
def thread(
    fun: Callable[Concatenate[Tree, P], R], *, has_aux: Literal[False] = False
) -> Callable[Concatenate[Tree, P], tuple[R, Tree]]: ...


@overload
def thread(
    fun: Callable[Concatenate[Tree, P], tuple[R, Aux]], *, has_aux: Literal[True]
) -> Callable[Concatenate[Tree, P], tuple[R, tuple[Aux, Tree]]]: ...


@user_facing
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

    Raises:
        ArgumentTypeError: `fun` isn't callable, or gives no pair where `has_aux`.
        ArgumentError: The call has no positional argument.

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
    check_callable(fun, "fun", "thread")

    @functools.wraps(fun, updated=())
    @user_facing
    def threaded(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not args:
            raise ArgumentError(
                f"asked to thread the states of a tree through {getattr(fun, '__name__', fun)!r}",
                "the call has no positional argument, which the tree is",
                "the tree as the first argument, without its name",
            )
        tree, args = args[0], args[1:]
        # Fresh cells, made in this frame: writes to them are the tree's own affair.
        fresh: dict[State, State] = {}
        frame = Frame()

        def renew(cell: State) -> State:
            fresh[cell] = cell.with_value(frame.peek(cell))
            return fresh[cell]

        def run(*args: Any, **kwargs: Any) -> Any:
            inner = map_cells(tree, renew)
            out = fun(inner, *args, **kwargs)
            if isinstance(out, UNFINISHED):
                refuse_unfinished(out, fun)
            for original, cell in fresh.items():
                if cell in frame.touched:
                    frame.touch(original)
            return out, inner

        captured = capture(run, args, kwargs, frame)
        record_reads(captured.closed_over)
        captured.writes.commit()
        value, after = captured.out
        if not has_aux:
            return value, after
        value, aux = value_and_aux(value, fun)
        return value, (aux, after)

    return threaded


def is_pair(out: Any) -> bool:
    """Says whether a function has returned two things."""
    return isinstance(out, tuple) and len(out) == 2


def returned_no_pair(out: Any) -> str:
    """Says what a function has returned in place of two things, for a message."""
    found = f"a tuple of {len(out)}" if isinstance(out, tuple) else a_leaf(out)
    return f"it returned {found}, not a pair"


def value_and_aux(out: Any, fun: Callable[..., Any]) -> tuple[Any, Any]:
    """Takes apart what a function with ``has_aux=True`` returned, or says what is wrong."""
    if not is_pair(out):
        raise ArgumentTypeError(
            f"asked for has_aux=True of {getattr(fun, '__name__', fun)!r}",
            returned_no_pair(out),
            "return value, aux",
            "has_aux=False, if there is nothing to return beside the value",
        )
    return out


class overlay:
    """Runs a block of code against other values of states.

    Inside the block, states read as the values given, and what is assigned stays in the
    overlay. It is dropped at the end of the block unless `commit` is called.

    Args:
        values: The values to run against, by state (or view of one).

    Raises:
        ArgumentTypeError: `values` isn't a mapping.
        StateTypeError: A key is no state, or a value is one.

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
        values = {} if values is None else values
        if not isinstance(values, Mapping):
            raise ArgumentTypeError(
                f"asked to overlay {values!r:.80}",
                f"that is {a_leaf(values)}, and not values by state",
                "values by state, as in overlay({model.weight: value})",
            )
        for unit in values:
            if not isinstance(unit, (State, View)):
                raise StateTypeError(
                    f"asked to overlay {unit!r}",
                    f"that is a {type(unit).__name__}, not a state",
                    "values by state, as in overlay({model.weight: value})",
                )
        # States that are met inside, and have the value that they have outside.
        self._met: list[State] = []
        overlaid = overlaid_values(list(values), list(values.values()))
        self._frame = Frame(overlaid, on_touch=self._met.append)

    # Neither is `user_facing`: an interrupt in what lies between the block and the frame would
    # leave that active.
    def __enter__(self) -> Self:
        was_open = self._frame.is_open
        try:
            self._frame.__enter__()
            return self
        except BaseException as error:
            if not was_open:
                self._frame.close()
            hide_own_frames(error)
            raise

    def __exit__(self, *exception: Any) -> None:
        try:
            try:
                self._frame.close()
            finally:
                self._frame.close()  # twice, since an interrupt may cut short the first attempt
            record_reads(self._met)
        except Exception as error:
            hide_own_frames(error)
            raise

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
        frame = active_frame.get()
        writes.commit_to(self._frame.parent if frame is self._frame else frame)
