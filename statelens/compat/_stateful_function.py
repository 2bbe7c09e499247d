"""`StatefulFunction`: the pure form of a function, as ported programs ask for it."""

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

import jax
from jax.extend.core import Jaxpr

from .._errors import ArgumentError, user_facing
from .._tree import TreeDef
from ..state import State
from ..transform._core import merge_static
from ..transform.compilation import TouchedStates
from ..transform.inspection import (
    pure_form,
    shapes_and_states,
    stage,
    static_labels,
)

P = ParamSpec("P")
R = TypeVar("R")


class StatefulFunction(Generic[P, R]):
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
        fun: Callable[P, R],
        static_argnums: Any = None,
        static_argnames: Any = None,
        *,
        name: str | None = None,
        return_only_write: bool = True,
    ):
        self._only_written = return_only_write
        self._name = name
        self._static = static_labels(fun, static_argnums, static_argnames, "StatefulFunction")
        self._fun = fun
        functools.update_wrapper(self, fun, updated=())  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"StatefulFunction({self._name or getattr(self._fun, '__name__', self._fun)!s})"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
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
        return self._shapes_and_states(args, kwargs)[1]

    @user_facing
    def out_shapes(self, *args: Any, **kwargs: Any) -> Any:
        """Finds what the function returns, with shapes and dtypes in the place of arrays.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The output, with a `jax.ShapeDtypeStruct` in the place of each array.
        """
        return self._shapes_and_states(args, kwargs)[0]

    @user_facing
    def in_tree(self, *args: Any, **kwargs: Any) -> TreeDef:
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
    def out_tree(self, *args: Any, **kwargs: Any) -> TreeDef:
        """Gives the structure of what comes out of the pure function.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The tree structure of ``(out, values)``.
        """
        out, touched = self._shapes_and_states(args, kwargs)
        return jax.tree.structure((out, [cell.value for cell in touched.read]))

    @user_facing
    def pure(self, *args: Any, **kwargs: Any) -> Callable[..., tuple[R, list[Any]]]:
        """Gives the function in pure form: ``(values, *args) -> (out, values)``.

        Args:
            *args: Arguments, or their shapes and dtypes, to find the states by.
            **kwargs: Keyword arguments likewise.

        Returns:
            The pure function, of the values of ``states(*args).read`` as a list.
        """
        return pure_form(self._fun, self.states(*args, **kwargs))

    @user_facing
    def jaxpr(self, *args: Any, **kwargs: Any) -> Jaxpr:
        """Gives the program of the pure function, as `jax.make_jaxpr` does.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The jaxpr: of the values of the states, and then the arguments, to the output, and
            then the new values.
        """
        call, (positional, named, values) = self._staged(args, kwargs, only_written=False)
        by_values = jax.make_jaxpr(lambda values, args, kwargs: call(args, kwargs, values))
        return cast(Jaxpr, by_values(values, positional, named))  # see `get_jaxpr`

    def _shapes_and_states(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, TouchedStates]:
        return shapes_and_states(self._fun, args, kwargs, self._static)

    def _staged(self, args: Any, kwargs: Any, only_written: bool) -> tuple[Any, Any]:
        touched = self.states(*args, **kwargs)
        pure = pure_form(self._fun, touched, only_written)
        return stage(pure, touched, args, kwargs, self._static)

    # Names of ported programs.

    jaxpr_call_auto = __call__

    @user_facing
    def make_jaxpr(self, *args: Any, **kwargs: Any) -> Self:
        """Traces the function, which finds its errors; nothing is kept."""
        self._shapes_and_states(args, kwargs)
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
    def jaxpr_call(self, state_vals: Any, *args: Any, **kwargs: Any) -> tuple[list[Any], R]:
        """Runs the pure function against values of the states; gives ``(new values, out)``."""
        touched = self.states(*args, **kwargs)
        if len(state_vals) != len(touched.read):
            raise ArgumentError(
                f"asked {self!r} to run with {len(state_vals)} values of states",
                f"it touches {len(touched.read)} states",
                "a value for each of get_states(*args)",
            )
        pure = pure_form(self._fun, touched, self._only_written)
        out, after = pure(list(state_vals), *args, **kwargs)
        return after, out

    @user_facing
    def get_jaxpr(self, *args: Any, **kwargs: Any) -> Jaxpr:
        """Gives the program, of the arguments and then the values of the states."""
        call, inputs = self._staged(args, kwargs, self._only_written)
        # What older versions of JAX call a ClosedJaxpr is a Jaxpr in newer ones.
        return cast(Jaxpr, jax.make_jaxpr(call)(*inputs))

    @user_facing
    def get_out_shapes(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """Gives the shapes and dtypes of ``(out, new values of the states)``."""
        call, inputs = self._staged(args, kwargs, self._only_written)
        out, after = jax.eval_shape(call, *inputs)
        return merge_static(out), after

    def get_out_treedef(self, *args: Any, **kwargs: Any) -> TreeDef:
        """Gives the structure of what `get_out_shapes` gives."""
        return jax.tree.structure(self.get_out_shapes(*args, **kwargs))
