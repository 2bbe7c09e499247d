"""Attributes that stay what they are when they are set, but for their values.

An array of an Equinox layer is behind a hidden state, which stays. And where a transform runs, the
states of a module can't change, only their values: a state that is made again there, as
`init_state` makes it, gives its value to the one that is there, and stands for that until the call
ends.
"""

from collections.abc import Container
from typing import Any

from .._errors import FrozenTreeError
from .._tree import MISSING, is_same
from ..state import State, active_frame, owned
from . import _attribute_tree as tree
from ._attribute_tree import is_mutable
from ._graph import contains_mutables
from ._hidden import HiddenCell


def take_over(module: Any, name: str, before: Any, value: Any) -> bool:
    """Gives the states behind an attribute what that is set to, if they are to stay; says so."""
    if isinstance(before, HiddenCell) and not contains_mutables(value):
        before.value = value
        return True
    frame = active_frame.get()
    if frame is None or not contains_mutables(value) or owned(module):
        return False
    states, structure, _ = tree.flatten(before, is_mutable)
    news, new_structure, _ = tree.flatten(value, is_mutable)
    if structure != new_structure:
        return False
    news = [new._original if isinstance(new, State) else new for new in news]
    pairs = list(zip(states, news, strict=True))
    if not all(is_same(*pair) or _is_renewal(*pair, frame.made) for pair in pairs):
        return False
    links = dict.fromkeys((state, new) for state, new in pairs if isinstance(state, State))
    made = {new: state for state, new in links if new is not state}
    difference = next(filter(None, map(_difference, made.values(), made)), None)
    if not len(links) == len({state for state, _ in links}) == len({new for _, new in links}):
        difference = "they aren't shared alike"
    if difference is not None:
        raise FrozenTreeError(
            f"asked to set the attribute {name!r} of a {type(module).__name__} to a new state",
            "a transform is running, where the new state can only give its value to the one "
            f"that is there; but {difference}",
            f"model.{name}.value = ..., for another value",
            "a new state of the same class, name, tags and further attributes",
            "the other state, before the call",
        )
    frame.hand_over(list(made), list(made.values()))
    return True


def _is_renewal(state: Any, new: Any, made: Container[Any]) -> bool:
    return isinstance(state, State) and isinstance(new, State) and new in made


def _difference(state: State, new: State) -> str | None:
    """Says what of a new state but its value would be lost."""
    if type(new) is not type(state):
        return f"one is a {type(new).__name__}, the other a {type(state).__name__}"
    before, now = dict(state.metadata), dict(new.metadata)  # type: ignore[call-overload]
    for label in {**before, **now}:
        one, other = now.get(label, MISSING), before.get(label, MISSING)
        if not is_same(one, other):
            return f"they differ in {label!r}"
    return None
