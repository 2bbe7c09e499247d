"""Where states lie in a mapped function: an axis, or a mesh partition, for each state.

`vmap` takes an axis for each state, `shard_map` a `PartitionSpec`. They are said by lens:
``{lens: place}``, or ``{place: lens}`` as ported programs have it, or a lens alone. Lenses
that aren't bound say it of the first argument.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..._errors import ArgumentTypeError, SelectionError
from ...lens import Selector, combine, focus_on, is_bound, split
from ...state import State
from .._core import read_states
from ._prefix import PlaceKind


@dataclass
class Placement:
    """Places of states: of those that are given themselves, and of what is selected in a tree."""

    default: Any  # that of other states
    cells: dict[State, Any] = field(default_factory=dict)
    selectors: list[tuple[Selector, Any]] = field(default_factory=list)

    def place_of(self, cell: State) -> Any:
        """Gives the place of a state."""
        return self.cells.get(cell, self.default)

    @property
    def places(self) -> list[Any]:
        """All places that there are."""
        return [self.default, *self.cells.values(), *self.of_parts]

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


def read_placements(
    states: Iterable[Any], asked_by: str, kind: PlaceKind
) -> tuple[Placement, Placement]:
    """Reads the places of states before the call, and after it: the same, if nothing is said."""
    in_states, out_states = states
    before = _read(in_states, "in_states", asked_by, kind)
    after = _read(out_states, "out_states", asked_by, kind)
    after.cells = {**before.cells, **after.cells}
    return before, after


def _read(spec: Any, option: str, asked_by: str, kind: PlaceKind) -> Placement:
    """Reads ``{states: place}``, ``{place: states}``, states (for the default place), or None."""
    placement = Placement(kind.shared)
    for states, place in _pairs(spec, option, asked_by, kind):
        found = read_states(states, option, asked_by)
        if isinstance(found, Selector):
            placement.selectors.append((found, place))
            continue
        for unit in found.units if found else ():
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


def _pairs(spec: Any, option: str, asked_by: str, kind: PlaceKind) -> list[tuple[Any, Any]]:
    if spec is None:
        return []
    is_place = kind.is_place
    is_by_place = isinstance(spec, Mapping) and bool(spec) and all(map(is_place, spec))
    if not isinstance(spec, Mapping) or (is_bound(spec) and not is_by_place):
        return [(spec, kind.default)]
    if is_by_place and not all(map(is_place, spec.values())):
        return [(states, place) for place, states in spec.items()]
    for place in spec.values():
        if not is_place(place):
            raise ArgumentTypeError(
                f"asked {asked_by} for {option} with the place {place!r}",
                f"that is a {type(place).__name__}",
                f"{{lens: {kind.default!r}}}, a place for each lens",
            )
    return list(spec.items())
