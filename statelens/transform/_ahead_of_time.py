"""A jitted function's stages ahead of time, as `jax.stages` has them."""

from collections.abc import Callable
from typing import Any

from .._errors import user_facing
from ._program import Program


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

    @user_facing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs what was compiled, on the states as they are now."""
        args, kwargs = self._prepare(args, kwargs)
        return self._program.finish(self._stage(*self._program.inputs(args, kwargs)))
