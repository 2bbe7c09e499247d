"""`StateFinder`: the states that a function touches, in the form that ported programs ask for."""

from collections.abc import Callable, Hashable
from typing import Any, Literal

from .._errors import ArgumentError, ArgumentTypeError, check_callable, user_facing
from ..lens import focus_on
from ..state import State
from ..transform._core import read_lens
from ..transform.inspection import shapes_and_states


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
        self._fun = check_callable(fun, "fun", "StateFinder")
        self._selector = None if filter is None else read_lens(filter, "filter", "StateFinder")
        self._usage = _one_of(usage, "usage", ("all", "read", "write", "both"))
        self._return_type = _one_of(return_type, "return_type", ("dict", "list", "tuple"))
        key_fn = (lambda number, state: number) if key_fn is None else key_fn
        self._key_fn = check_callable(key_fn, "key_fn", "StateFinder")

    @user_facing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Finds the states for arguments.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The states.
        """
        _, touched = shapes_and_states(self._fun, args, kwargs)
        kept = [cell for cell in touched.read if self._keeps(cell)]
        found = {
            "all": kept,
            "read": [cell for cell in kept if cell not in touched.written],
            "write": [cell for cell in kept if cell in touched.written],
        }
        if self._usage == "both":
            return {usage: self._given(found[usage]) for usage in ("read", "write")}
        return self._given(found[self._usage])

    find = __call__

    def _keeps(self, cell: State) -> bool:
        return self._selector is None or bool(focus_on(self._selector, cell).entries)

    def _given(self, states: list[State]) -> Any:
        if self._return_type == "dict":
            return {self._key_fn(number, state): state for number, state in enumerate(states)}
        return tuple(states) if self._return_type == "tuple" else states


def _one_of(given: Any, option: str, allowed: tuple[str, ...]) -> Any:
    if given in allowed:
        return given
    error = ArgumentError if isinstance(given, str) else ArgumentTypeError
    raise error(
        f"asked StateFinder for {option}={given!r}",
        "that is none of what there is",
        f"one of {', '.join(map(repr, allowed))}",
    )
