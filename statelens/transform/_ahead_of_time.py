"""A jitted function's stages ahead of time, as `jax.stages` has them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.stages

from .._errors import ArgumentTypeError, explain, user_facing
from ..state import State
from ._layout import arguments
from ._program import Program
from ._reach import labels_of
from ._retrace import changed, described


class AheadOfTime:
    """A function traced, lowered or compiled for its arguments; all else is as JAX has it."""

    def __init__(
        self, stage: Any, program: Program, prepare: Callable[..., tuple[Any, Any]], what: str
    ):
        self._stage = stage
        self._program = program
        self._prepare = prepare
        self._what = what

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def __repr__(self) -> str:
        return f"{type(self._stage).__name__} of {self._what}"

    def lower(self, *args: Any, **kwargs: Any) -> "AheadOfTime":
        """Lowers what was traced; see `jax.stages.Traced`."""
        return self._next(self._stage.lower(*args, **kwargs))

    def compile(self, *args: Any, **kwargs: Any) -> "AheadOfTime":
        """Compiles what was lowered; see `jax.stages.Lowered`."""
        return self._next(self._stage.compile(*args, **kwargs))

    def _next(self, stage: Any) -> "AheadOfTime":
        return AheadOfTime(stage, self._program, self._prepare, self._what)

    @property
    def args_info(self) -> Any:
        """The arguments that it is for, and those by keyword, with `jax.stages.ArgInfo` leaves."""
        _, _, args, kwargs = self._inputs(self._stage.args_info[0])
        return args, kwargs

    @user_facing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs what was compiled, on the states as they are now.

        Raises:
            ArgumentTypeError: It was compiled for arguments or states of another structure.
        """
        inputs = self._program.inputs(*self._prepare(args, kwargs))
        try:
            result = self._stage(*inputs)
        except TypeError:
            # What is of another shape or dtype, JAX names well.
            if jax.tree.structure((inputs, {})) == self._stage.in_tree:
                raise
            raise ArgumentTypeError(
                explain(
                    f"asked {self!r} for a result",
                    "it was compiled for arguments and states of another structure: "
                    + (self._changes(inputs) or "something that isn't traced was another"),
                    "arguments and states of the structure that it was lowered with",
                    "the jitted function itself, which is compiled for each structure",
                )
            ) from None
        return self._program.finish(result)

    def _inputs(self, given: tuple[Any, ...]) -> tuple[Any, dict[State, Any], Any, Any]:
        """Gives the function, values by state, and the arguments as the caller gave them."""
        taken = self._program.taken
        values = zip(taken, given[: len(taken)], strict=True)
        fun, args, kwargs = self._program.host.restore(*arguments(given[len(taken) :]))
        return fun, {cell: value for cell, value in values if isinstance(cell, State)}, args, kwargs

    def _changes(self, given: tuple[Any, ...]) -> str:
        """Says in what inputs differ from those that it is for, as far as leaves show it."""
        try:
            fun, *before = self._inputs(jax.tree.map(_shape, self._stage.args_info[0]))
            _, *now = self._inputs(jax.tree.map(_shape, given))
            changes = changed(described(*before), described(*now), labels_of(fun))
        except Exception:  # a node of another library may take nothing but arrays
            return ""
        return "; ".join(changes)


def _shape(leaf: Any) -> Any:
    """Gives the shape and dtype of a leaf, if it has them."""
    try:
        found = leaf if isinstance(leaf, jax.stages.ArgInfo) else jax.typeof(leaf)
    except TypeError:
        return leaf
    return jax.ShapeDtypeStruct(found.shape, found.dtype)
