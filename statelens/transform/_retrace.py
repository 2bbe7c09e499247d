"""A guard against tracing anew: it says which argument or state has changed."""

import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.tree_util as jtu

from .._errors import RetraceError, explain
from .._reads import Reads
from ..path import format, from_jax
from ..state import State
from ._mixed import unmixed

_Trace: TypeAlias = dict[Hashable, tuple[str, str]]
"""What a trace depends on, by state (weakly) or argument: what to call it, and its kind."""


class TraceGuard:
    """Counts the traces of a function, and refuses one too many.

    Args:
        most: How many there may be, or None for any number.
    """

    def __init__(self, most: int | None):
        self._most = most
        self._traces: list[_Trace] = []

    def count(
        self,
        what: str,
        values: dict[State, Any],
        args: Any,
        kwargs: Any,
        *,
        labels: Callable[[], Mapping[State, str]],
        reads: Iterable[Reads],
    ) -> None:
        """Counts one.

        Args:
            what: What is traced.
            values: The values of the states that it takes.
            args: Its arguments.
            kwargs: Its keyword arguments.
            labels: Gives what to call states, as far as that is known.
            reads: What earlier traces have read of modules.

        Raises:
            RetraceError: It is one too many.
        """
        if self._most is None:
            return
        described = _described(values, args, kwargs, labels())
        if len(self._traces) == self._most:
            changes = [change for each in reads for change in each.changes()]
            raise RetraceError(
                _explained(what, self._most, self._traces[-1], described, dict.fromkeys(changes))
            )
        self._traces.append(described)

    def take_back(self) -> None:
        """Takes back the last one, which was given up."""
        del self._traces[-1:]

    def clear(self) -> None:
        """Forgets all of them."""
        self._traces.clear()


def _described(
    values: dict[State, Any], args: Any, kwargs: Any, labels: Mapping[State, str]
) -> _Trace:
    """Says of each state and argument what a trace depends on."""
    found: _Trace = {}
    for cell, value in values.items():
        name = labels.get(cell, cell.name)
        label = f"state {name!r}" if name else f"a {type(cell).__name__}"
        found[weakref.ref(cell)] = label, _kinds(value)
    for key, arg in [*enumerate(args[1:]), *kwargs.items()]:
        for keys, leaf in jtu.tree_flatten_with_path(unmixed(arg))[0]:
            path = format(from_jax(keys)[0])
            label = f"argument {key!r}" + (f" at '{path}'" if path else "")
            found[label] = label, _kinds(leaf)
    return found


def _kinds(tree: Any) -> str:
    return ", ".join(map(_kind, jax.tree.leaves(tree))) or "nothing"


def _kind(leaf: Any) -> str:
    try:
        return str(jax.typeof(leaf))
    except TypeError:
        return repr(leaf)


def _explained(what: str, most: int, before: _Trace, now: _Trace, changes: Iterable[str]) -> str:
    nothing = None, "not there"
    changed = list(changes)
    for key in dict.fromkeys((*before, *now)):
        (old_label, old), (label, new) = before.get(key, nothing), now.get(key, nothing)
        # A trace may have been given states that turned out not to matter.
        is_of_both = key in before and key in now
        if old != new and (is_of_both or isinstance(key, str)):
            changed.append(f"{label or old_label} was {old}, and is {new}")
    return explain(
        f"asked for at most {most} traces of {what}",
        f"another one is needed: {'; '.join(changed) or 'it touches other states'}",
        "arguments, states and attributes of modules that are alike in each call",
        "a larger max_traces",
    )
