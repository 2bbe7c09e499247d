"""A guard against tracing anew: it says which argument or state has changed."""

from typing import Any

import jax
import jax.tree_util as jtu

from .._errors import RetraceError, explain
from ..path import format, from_jax
from ..state import State
from ._mixed import unmixed


class TraceGuard:
    """Counts the traces of a function, and refuses one too many.

    Args:
        most: How many there may be, or None for any number.
    """

    def __init__(self, most: int | None):
        self._most = most
        self._traces: list[dict[str, str]] = []

    def count(self, what: str, values: dict[State, Any], args: Any, kwargs: Any) -> None:
        """Counts one.

        Args:
            what: What is traced.
            values: The values of the states that it takes.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            RetraceError: It is one too many.
        """
        if self._most is None:
            return
        described = _described(values, args, kwargs)
        if len(self._traces) == self._most:
            raise RetraceError(_explained(what, self._most, self._traces[-1], described))
        self._traces.append(described)

    def take_back(self) -> None:
        """Takes back the last one, which was given up."""
        del self._traces[-1:]

    def clear(self) -> None:
        """Forgets all of them."""
        self._traces.clear()


def _described(values: dict[State, Any], args: Any, kwargs: Any) -> dict[str, str]:
    """Says of each state and argument what a trace depends on."""
    found = {}
    for number, (cell, value) in enumerate(values.items()):
        label = f"state {cell.name!r}" if cell.name else f"{type(cell).__name__} number {number}"
        found[label] = _kinds(value)
    for label, arg in [*enumerate(args[1:]), *kwargs.items()]:
        for keys, leaf in jtu.tree_flatten_with_path(unmixed(arg))[0]:
            path = format(from_jax(keys)[0])
            found[f"argument {label!r}" + (f" at '{path}'" if path else "")] = _kinds(leaf)
    return found


def _kinds(tree: Any) -> str:
    return ", ".join(map(_kind, jax.tree.leaves(tree))) or "nothing"


def _kind(leaf: Any) -> str:
    try:
        return str(jax.typeof(leaf))
    except TypeError:
        return repr(leaf)


def _explained(what: str, most: int, before: dict[str, str], now: dict[str, str]) -> str:
    changed = [
        f"{label} was {before.get(label, 'not there')}, and is {now.get(label, 'not there')}"
        for label in dict.fromkeys((*before, *now))
        if before.get(label) != now.get(label)
    ]
    return explain(
        f"asked for at most {most} traces of {what}",
        f"another one is needed: {'; '.join(changed) or 'nothing that it takes has changed'}",
        "arguments and states of the same shapes, dtypes and structure in each call",
        "a larger max_traces",
    )
