"""A jitted function's stages ahead of time, as `jax.stages` has them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
from jax.stages import ArgInfo, Compiled, Lowered
from jax.tree_util import treedef_is_leaf

from ..._errors import ArgumentError, ArgumentTypeError, user_facing
from ...state import State
from .._core import Arguments, Partitioned, describe_difference, labels_of
from ._arguments import Inputs
from ._trace_guard import label_of

if TYPE_CHECKING:
    from ._program import Program


class AheadOfTime:
    """A function traced, lowered or compiled for its arguments; all else is as JAX has it."""

    def __init__(
        self, stage: Any, program: "Program", prepare: Callable[..., tuple[Any, Any]], what: str
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

    @user_facing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs what was compiled, on the states as they are now.

        Raises:
            ArgumentTypeError: It isn't compiled yet, or it was for arguments or states of another
                structure.
        """
        if not isinstance(self._stage, Compiled):
            rest = "compile()" if isinstance(self._stage, Lowered) else "lower().compile()"
            raise ArgumentTypeError(
                f"asked {self!r} for a result",
                "it isn't compiled yet, and so is not callable",
                f"what its .{rest} gives",
                "the jitted function itself",
            )
        if not self._program.is_current():
            changes = "; ".join(self._program.reads.changes())
            raise ArgumentError(
                f"asked {self!r} for a result",
                f"what it was compiled for has changed: {changes or 'a list or dictionary'}",
                "lower and compile it again",
                "the jitted function itself, which sees such changes",
            )
        split = self._prepare(args, kwargs)
        try:
            result = self._program.run(*split, self._stage)
        except TypeError:
            # Where shapes and dtypes alone differ, JAX has said so by the arguments' names.
            changes = self._changes(self._program.inputs(*split))
            if not changes:
                raise
            raise ArgumentTypeError(
                f"asked {self!r} for a result",
                f"it was compiled for other arguments or states: {changes}",
                "arguments and states of the structure that it was lowered with",
                "the jitted function itself, which is compiled for each structure",
            ) from None
        return self._program.finish(result)

    def _changes(self, given: Inputs) -> str:
        """Says what of the inputs has another structure than what it was compiled for."""
        try:
            labels = labels_of(self._program.host.restore(*self._arguments(given))[0])
            compiled = jax.tree.map(_shape, self._stage.args_info[0])
            before, now = map(self._by_place, (Inputs(*compiled), given))
            found = {place: _change(before, now, place) for place in {**before, **now}}
            return "; ".join(f"{_name(place, labels)} {how}" for place, how in found.items() if how)
        except Exception:  # a node of another library may take nothing but arrays
            return ""

    def _arguments(self, inputs: Inputs) -> Arguments:
        return inputs.arguments(self._program.host.donated_args)

    def _by_place(self, inputs: Inputs) -> dict[Any, Any]:
        """Gives inputs by state, and by the position or name of the argument.

        What is lent of the first argument comes before it.
        """
        args, kwargs = self._arguments(inputs)
        states = zip(self._program.taken, inputs.values, strict=True)
        return {**dict(states), **dict(enumerate(args, -self._program.host.donates_part)), **kwargs}


def _change(before: dict[Any, Any], now: dict[Any, Any], place: Any) -> str:
    """Says how an input differs from what it was; nothing, if it has the same structure."""
    if place not in now:
        return "is missing"
    if place not in before:
        return "is one too many"
    if jax.tree.structure(now[place]) == jax.tree.structure(before[place]):
        return ""
    return f"differs: {describe_difference(*map(_constant_of, (now[place], before[place])))}"


def _constant_of(tree: Any) -> Any:
    """Gives an argument that isn't traced at all as a leaf of which nothing is."""
    if type(tree) is Partitioned and tree.static.leaves and treedef_is_leaf(tree.static.treedef):
        return tree.static.leaves[0]
    return tree


def _name(place: Any, labels: Mapping[State, str]) -> str:
    if isinstance(place, (int, str)):
        return "what is donated of argument 0" if place == -1 else f"argument {place!r}"
    return label_of(place, labels)


def _shape(info: ArgInfo) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(info.shape, info.dtype)
