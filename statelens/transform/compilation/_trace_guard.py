"""A guard against retracing: it says which argument or state has changed."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jax
import jax.tree_util as jtu

from ..._errors import RetraceError
from ..._tree import format, from_jax
from ...state import Reads, State

_Trace: TypeAlias = "dict[weakref.ref[State] | str, str]"
"""What a trace depends on: the kind of each state, and of each argument by what it is called."""


class TraceGuard:
    """Counts the traces of a function, and refuses one more than there may be."""

    def __init__(self, most: int):
        self.most = most
        self._traces: list[_Trace] = []
        self._changes: list[str] = []

    def remember(self, changes: list[str]) -> None:
        """Remembers what has changed, of a trace that is no longer there to be asked."""
        self._changes = changes

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
        """Counts a trace, given what it depends on and what earlier traces have read of modules."""
        described = _described(values, args, kwargs)
        if len(self._traces) == self.most:
            listed = [self._changes, *[each.changes() for each in reads]]
            changes = dict.fromkeys(change for each in listed for change in each)
            changes |= dict.fromkeys(_changed(self._traces[-1], described, labels()))
            raise RetraceError(
                f"asked for at most {self.most} traces of {what}",
                f"another one is needed: {'; '.join(changes) or 'it touches other states'}",
                "arguments, states and attributes of modules that are alike in each call",
                "a larger max_traces",
            )
        self._traces.append(described)
        self._changes = []

    def take_back(self) -> None:
        """Takes back the last one, which was given up."""
        del self._traces[-1:]

    def clear(self) -> None:
        """Forgets all of them."""
        self._traces.clear()
        self._changes = []


def _described(values: dict[State, Any], args: Any, kwargs: Any) -> _Trace:
    found: _Trace = {weakref.ref(cell): _kinds(value) for cell, value in values.items()}
    for key, arg in [*enumerate(args), *kwargs.items()]:
        for keys, leaf in jtu.tree_flatten_with_path(arg)[0]:
            path = format(from_jax(keys)[0])
            found[f"argument {key!r}" + (f" at '{path}'" if path else "")] = _kinds(leaf)
    return found


def _kinds(tree: Any) -> str:
    return ", ".join(map(_kind, jax.tree.leaves(tree))) or "nothing"


def _kind(leaf: Any) -> str:
    try:
        return str(jax.typeof(leaf))
    except TypeError:
        return repr(leaf)


def _changed(before: _Trace, now: _Trace, labels: Mapping[State, str]) -> Iterator[str]:
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        # A trace may have been given states that turned out not to matter.
        if old != new and (isinstance(key, str) or None not in (old, new)):
            label = key if isinstance(key, str) else label_of(key(), labels)
            yield f"{label} was {old or 'not there'}, and is {new or 'not there'}"


def label_of(cell: Any, labels: Mapping[State, str]) -> str:
    """Gives what to call a state in a message.

    Args:
        cell: The state.
        labels: What to call states, as far as that is known.
    """
    name = labels.get(cell, cell.name)
    return f"state {name!r}" if name else f"a {type(cell).__name__}"
