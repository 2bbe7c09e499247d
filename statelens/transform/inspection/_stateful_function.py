"""Looking at a function without running it: its states, its shapes, its program.

`StatefulFunction` is the pure form of a function together with the states that it was found to
read and write; `StateFinder`, `eval_shape` and `make_jaxpr` are views of it.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, Literal, Self

import jax

from ..._errors import ArgumentError, ArgumentTypeError, explain, user_facing
from ...lens import focus_on
from ...state import State
from ...thread import functionalize
from .._core import (
    check_callable,
    merge_static,
    parse_argnames,
    parse_argnums,
    positions_of,
    read_lens,
    run,
    split_arguments,
    split_static,
)
from ..compilation import TouchedStates


class StatefulFunction:
    """The pure form of a function, with its states, its inputs and its output.

    It is traced, without being run, for the arguments that each method is given. The methods
    whose names begin with ``get_``, and ``jaxpr_call``, are there for ported programs: they say
    the same with the arguments before the states, and None for a state that isn't written.

    Args:
        fun: A function that reads and writes states.
        static_argnums: Positions of arguments that aren't traced.
        static_argnames: Their names.
        name: What to call it where it is shown.
        return_only_write: Whether the methods for ported programs leave out, as None, the new
            value of a state that isn't written.

    Raises:
        ArgumentTypeError: `fun` is no function.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> total = sl.State(jnp.zeros(()))
        >>> def add(x):
        ...     total.value += x
        ...     return total.value
        >>> stateful = sl.transform.StatefulFunction(add)
        >>> stateful.states(1.0).written
        (State(f32[]),)
        >>> stateful.pure(1.0)([jnp.ones(())], 1.0)
        (Array(2., dtype=float32), [Array(2., dtype=float32)])
    """

    @user_facing
    def __init__(
        self,
        fun: Callable[..., Any],
        static_argnums: Any = None,
        static_argnames: Any = None,
        *,
        name: str | None = None,
        return_only_write: bool = True,
    ):
        self._only_written = return_only_write
        self._name = name
        self._fun = check_callable(fun, "fun", "StatefulFunction")
        named = parse_argnames(static_argnames, "static_argnames", "StatefulFunction")
        self._static = frozenset(
            parse_argnums(static_argnums, "static_argnums", "StatefulFunction")
            | positions_of(fun, named, "StatefulFunction")
            | named
        )
        functools.update_wrapper(self, fun, updated=())

    def __repr__(self) -> str:
        return f"StatefulFunction({self._name or getattr(self._fun, '__name__', self._fun)!s})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the function itself."""
        return self._fun(*args, **kwargs)

    @user_facing
    def states(self, *args: Any, **kwargs: Any) -> TouchedStates:
        """Finds the states that the function touches.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The states that it reads or writes, and those that it writes.
        """
        return self._look(args, kwargs)[1]

    @user_facing
    def out_shapes(self, *args: Any, **kwargs: Any) -> Any:
        """Finds what the function returns, with shapes and dtypes in the place of arrays.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The output, with a `jax.ShapeDtypeStruct` in the place of each array.
        """
        return self._look(args, kwargs)[0]

    @user_facing
    def in_tree(self, *args: Any, **kwargs: Any) -> Any:
        """Gives the structure of what goes into the pure function.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The tree structure of ``(values, *args)``; of keyword arguments too, if there are.
        """
        values = [cell.value for cell in self.states(*args, **kwargs).read]
        return jax.tree.structure(((values, *args), kwargs) if kwargs else (values, *args))

    @user_facing
    def out_tree(self, *args: Any, **kwargs: Any) -> Any:
        """Gives the structure of what comes out of the pure function.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The tree structure of ``(out, values)``.
        """
        out, touched = self._look(args, kwargs)
        return jax.tree.structure((out, [cell.value for cell in touched.read]))

    @user_facing
    def pure(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Gives the function in pure form: ``(values, *args) -> (out, values)``.

        Args:
            *args: Arguments, or their shapes and dtypes, to find the states by.
            **kwargs: Keyword arguments likewise.

        Returns:
            The pure function, of the values of ``states(*args).read`` as a list.
        """
        touched = self._look(args, kwargs)[1]
        if touched.read:
            return functionalize(self._fun, list(touched.read))
        return lambda values, *args, **kwargs: (self._fun(*args, **kwargs), values)

    @user_facing
    def jaxpr(self, *args: Any, **kwargs: Any) -> Any:
        """Gives the program of the pure function, as `jax.make_jaxpr` does.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The jaxpr: of the values of the states, and then the arguments, to the output, and
            then the new values.
        """
        values = [cell.value for cell in self.states(*args, **kwargs).read]
        run = self.pure(*args, **kwargs)
        positional, named = split_arguments(args, kwargs, self._static)

        def flat(values: Any, args: Any, kwargs: Any) -> Any:
            given = {name: merge_static(arg) for name, arg in kwargs.items()}
            out, after = run(values, *map(merge_static, args), **given)
            return split_static(out, lambda: "the output"), after

        return jax.make_jaxpr(flat)(values, positional, named)

    # Names of ported programs.

    jaxpr_call_auto = __call__

    @user_facing
    def make_jaxpr(self, *args: Any, **kwargs: Any) -> Self:
        """Traces the function, which finds its errors; nothing is kept."""
        self._look(args, kwargs)
        return self

    def get_states(self, *args: Any, **kwargs: Any) -> tuple[State, ...]:
        """Gives the states that the function reads or writes: ``states(*args).read``."""
        return self.states(*args, **kwargs).read

    def get_read_states(self, *args: Any, **kwargs: Any) -> tuple[State, ...]:
        """Gives the states that it reads and doesn't write."""
        touched = self.states(*args, **kwargs)
        return tuple(cell for cell in touched.read if cell not in touched.written)

    def get_write_states(self, *args: Any, **kwargs: Any) -> tuple[State, ...]:
        """Gives the states that it writes: ``states(*args).written``, as they are first met."""
        touched = self.states(*args, **kwargs)
        return tuple(cell for cell in touched.read if cell in touched.written)

    @user_facing
    def jaxpr_call(self, state_vals: Any, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """Runs the pure function against values of the states; gives ``(new values, out)``."""
        touched = self.states(*args, **kwargs)
        if len(state_vals) != len(touched.read):
            raise ArgumentError(
                explain(
                    f"asked {self!r} to run with {len(state_vals)} values of states",
                    f"it touches {len(touched.read)} states",
                    "a value for each of get_states(*args)",
                )
            )
        out, after = self.pure(*args, **kwargs)(list(state_vals), *args, **kwargs)
        return [
            value if cell in touched.written or not self._only_written else None
            for cell, value in zip(touched.read, after, strict=True)
        ], out

    @user_facing
    def get_jaxpr(self, *args: Any, **kwargs: Any) -> Any:
        """Gives the program, of the arguments and then the values of the states."""
        values = [cell.value for cell in self.states(*args, **kwargs).read]
        return jax.make_jaxpr(self._swapped)(*split_arguments(args, kwargs, self._static), values)

    @user_facing
    def get_out_shapes(self, *args: Any, **kwargs: Any) -> Any:
        """Gives the shapes and dtypes of ``(out, new values of the states)``."""
        values = [cell.value for cell in self.states(*args, **kwargs).read]
        out, after = jax.eval_shape(
            self._swapped, *split_arguments(args, kwargs, self._static), values
        )
        return merge_static(out), after

    def get_out_treedef(self, *args: Any, **kwargs: Any) -> Any:
        """Gives the structure of what `get_out_shapes` gives."""
        return jax.tree.structure(self.get_out_shapes(*args, **kwargs))

    def _swapped(self, args: Any, kwargs: Any, values: Any) -> Any:
        given = {name: merge_static(arg) for name, arg in kwargs.items()}
        after, out = self.jaxpr_call(values, *map(merge_static, args), **given)
        return split_static(out, lambda: "the output"), after

    def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, TouchedStates]:
        found: list[TouchedStates] = []

        def look(args: Any, kwargs: Any) -> Any:
            captured = run(self._fun, args, kwargs)
            found.append(TouchedStates(tuple(captured.closed_over), captured.writes.cells))
            return split_static(captured.out, lambda: "the output")

        out = jax.eval_shape(look, *split_arguments(args, kwargs, self._static))
        return merge_static(out), found[-1]


class StateFinder:
    """Finds the states that a function touches, without running it.

    Args:
        fun: The function.
        filter: Which states to keep: a lens in any form, that is asked about each state.
        usage: "all" for those that it touches, "read" for those that it touches and doesn't
            write, "write" for those that it writes, "both" for a dictionary of the latter
            two.
        return_type: "dict", "list" or "tuple".
        key_fn: Gives the key in the dictionary for the number of a state and the state. None
            for the number.

    Raises:
        ArgumentError: `usage` or `return_type` is another text.
        ArgumentTypeError: `fun` is no function.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w, calls = sl.ParamState(jnp.ones(2)), sl.State(jnp.zeros((), int))
        >>> def model(x):
        ...     calls.value += 1
        ...     return x @ w.value
        >>> sl.transform.StateFinder(model, usage="write", return_type="list")(jnp.ones(2))
        [State(i32[])]
    """

    @user_facing
    def __init__(
        self,
        fun: Callable[..., Any],
        filter: Any = None,
        *,
        usage: Literal["all", "read", "write", "both"] = "all",
        return_type: Literal["dict", "list", "tuple"] = "dict",
        key_fn: Callable[[int, State], Hashable] | None = None,
    ):
        self._stateful = StatefulFunction(check_callable(fun, "fun", "StateFinder"))
        self._selector = None if filter is None else read_lens(filter, "filter", "StateFinder")
        self._usage = _one_of(usage, "usage", ("all", "read", "write", "both"))
        self._return_type = _one_of(return_type, "return_type", ("dict", "list", "tuple"))
        if key_fn is not None:
            check_callable(key_fn, "key_fn", "StateFinder")
        self._key_fn = key_fn or (lambda number, state: number)

    @user_facing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Finds the states for arguments.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The states.
        """
        touched = self._stateful.states(*args, **kwargs)
        kept = [cell for cell in touched.read if self._keeps(cell)]
        written = [cell for cell in kept if cell in touched.written]
        unwritten = [cell for cell in kept if cell not in touched.written]
        found = {"all": kept, "read": unwritten, "write": written}
        if self._usage == "both":
            return {"read": self._given(unwritten), "write": self._given(written)}
        return self._given(found[self._usage])

    find = __call__

    def _keeps(self, cell: State) -> bool:
        return self._selector is None or bool(focus_on(self._selector, cell).entries)

    def _given(self, states: list[State]) -> Any:
        if self._return_type == "dict":
            return {self._key_fn(number, state): state for number, state in enumerate(states)}
        return tuple(states) if self._return_type == "tuple" else states


@user_facing
def eval_shape(
    fun: Callable[..., Any], *args: Any, return_state_shapes: bool = False, **kwargs: Any
) -> Any:
    """Gives the shapes and dtypes of what a function returns, as `jax.eval_shape` does.

    Nothing is computed, and no state changes. A function that makes a module gives one whose
    states have shapes and dtypes for values.

    Args:
        fun: The function.
        *args: Arguments, or their shapes and dtypes.
        return_state_shapes: Whether to return the shapes of the states as well.
        **kwargs: Keyword arguments likewise.

    Returns:
        The output with a `jax.ShapeDtypeStruct` in the place of each array; or a pair of a
        dictionary of the values' shapes by state, and that.

    Raises:
        ArgumentTypeError: `fun` is no function.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones((2, 3)))
        >>> sl.transform.eval_shape(lambda x: x @ w.value, jnp.ones((5, 2)))
        ShapeDtypeStruct(shape=(5, 3), dtype=float32)
    """
    out, touched = StatefulFunction(check_callable(fun, "fun", "eval_shape"))._look(args, kwargs)
    if not return_state_shapes:
        return out
    return {cell: jax.eval_shape(lambda: cell.value) for cell in touched.read}, out  # noqa: B023


@user_facing
def make_jaxpr(
    fun: Callable[..., Any],
    static_argnums: Any = None,
    static_argnames: Any = None,
    return_states: bool = True,
    *,
    return_shape: bool = False,
    return_only_write: bool = False,
) -> Callable[..., Any]:
    """Gives a function's program, as `jax.make_jaxpr` does, with its states as inputs.

    Args:
        fun: The function.
        static_argnums: Positions of arguments that aren't traced.
        static_argnames: Their names.
        return_states: Whether to return the states as well.
        return_shape: Whether to return what the function returns, with shapes and dtypes in
            the place of arrays, as well.
        return_only_write: Whether states that aren't written are left out of its outputs.

    Returns:
        A function of arguments that gives ``(jaxpr, states)``, or the jaxpr alone. Its inputs
        are the arguments, as those of `jax.make_jaxpr`, and then the values of the states.

    Raises:
        ArgumentTypeError: `fun` is no function.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones(()))
        >>> sl.transform.make_jaxpr(lambda x: w.value * x)(jnp.ones(()))
        ({ lambda ; a:f32[] b:f32[]. let c:f32[] = mul b a in (c, b) }, (ParamState(f32[]),))
    """
    check_callable(fun, "fun", "make_jaxpr")
    stateful = StatefulFunction(
        fun, static_argnums, static_argnames, return_only_write=return_only_write
    )

    @user_facing
    def make(*args: Any, **kwargs: Any) -> Any:
        found = [stateful.get_jaxpr(*args, **kwargs)]
        if return_states:
            found.append(stateful.get_states(*args, **kwargs))
        if return_shape:
            found.append(stateful.out_shapes(*args, **kwargs))
        return tuple(found) if len(found) > 1 else found[0]

    return make


def _one_of(given: Any, option: str, allowed: tuple[str, ...]) -> Any:
    if given in allowed:
        return given
    error = ArgumentError if isinstance(given, str) else ArgumentTypeError
    raise error(
        explain(
            f"asked StateFinder for {option}={given!r}",
            "that is none of what there is",
            f"one of {', '.join(map(repr, allowed))}",
        )
    )
