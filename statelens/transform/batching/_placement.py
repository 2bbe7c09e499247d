"""Where states lie in a mapped function: an axis, or a mesh partition, for each state.

`vmap` takes an axis for each state, `shard_map` a `PartitionSpec`. They are said by lens:
``{lens: place}``, or ``{place: lens}`` as ported programs have it, or a lens alone. Lenses
that aren't bound say it of the first argument.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..._errors import ArgumentTypeError, SelectionError
from ...lens import Selector, combine, focus_on, is_bound, split, units_of
from ...state import State
from .._core import read_lens


@dataclass
class Placement:
    """Places of states: of those that are given themselves, and of what is selected in a tree."""

    cells: dict[State, Any] = field(default_factory=dict)
    selectors: list[tuple[Selector, Any]] = field(default_factory=list)

    def split(self, tree: Any, asked_by: str) -> tuple[list[Any], Any]:
        """Splits a tree: one part for each selector, and the rest."""
        parts = []
        for selector, _ in self.selectors:
            part, tree = split(*focus_on(selector, tree, required_by=asked_by))
            parts.append(part)
        return parts, tree

    @property
    def of_parts(self) -> list[Any]:
        """The places of the parts that `split` gives."""
        return [place for _, place in self.selectors]

    @staticmethod
    def join(parts: list[Any], rest: Any) -> Any:
        """Undoes `split`."""
        for part in reversed(parts):
            rest = combine(part, rest)
        return rest


def read_placement(
    spec: Any, option: str, asked_by: str, is_place: Callable[[Any], bool], default: Any
) -> Placement:
    """Reads ``{states: place}``, ``{place: states}``, states (for the default place), or None."""
    placement = Placement()
    for states, place in _pairs(spec, option, asked_by, is_place, default):
        if not is_bound(states):
            placement.selectors.append((read_lens(states, option, asked_by), place))
            continue
        for unit in units_of(states, asked_by).units:
            if not isinstance(unit, State):
                raise SelectionError(
                    f"asked {asked_by} for {option} of {unit!r}",
                    "that is a part of a state, and a state lies in one place as a whole",
                    "the whole state",
                )
            if placement.cells.setdefault(unit, place) != place:
                raise SelectionError(
                    f"asked {asked_by} for {option}",
                    f"{unit!r} is given two places: {placement.cells[unit]} and {place}",
                    "one place for each state",
                )
    return placement


def _pairs(
    spec: Any, option: str, asked_by: str, is_place: Callable[[Any], bool], default: Any
) -> list[tuple[Any, Any]]:
    if spec is None:
        return []
    if not isinstance(spec, Mapping) or is_bound(spec):
        keyed_by_place = isinstance(spec, Mapping) and all(map(is_place, spec))
        if not keyed_by_place or not spec:
            return [(spec, default)]
    if all(map(is_place, spec)) and not all(map(is_place, spec.values())):
        return [(states, place) for place, states in spec.items()]
    for place in spec.values():
        if not is_place(place):
            raise ArgumentTypeError(
                f"asked {asked_by} for {option} with the place {place!r}",
                f"that is a {type(place).__name__}",
                f"{{lens: {default!r}}}, a place for each lens",
            )
    return list(spec.items())
