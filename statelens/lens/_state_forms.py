"""Given states: live cells in whatever form a caller hands them over.

A gradient mirrors what was passed: a mapping by the same keys, a list a list, one state one
gradient. `units_of` takes such a form apart and remembers how to put it together.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .._errors import SelectionError, StateTypeError, StructureError, explain
from .._tree import Cell, Path, format
from ._bound import BoundLens, Unit, View


class StateForm(NamedTuple):
    """States given by their owner, flat, and how to give back in the same form.

    Attributes:
        paths: Where each was given.
        units: The states and views.
        rebuild: Puts one thing for each unit in the form in which they were given.
        flatten: Lists what something of that form has for each unit.
        cells: The states, for each view the one that it is a part of.
        is_pytree: Whether JAX can flatten that form: it sorts the keys of dictionaries.
    """

    paths: list[Path]
    units: list[Unit]
    rebuild: Callable[[list[Any]], Any]
    flatten: Callable[[Any], list[Any]]
    cells: list[Cell]
    is_pytree: bool = True

    def label(self, number: int) -> str:
        """Says what to call a state in messages."""
        return _label(self.units[number], self.paths[number])

    def label_of(self, cell: Cell) -> str:
        """Says what to call the first state or view that is of a cell."""
        return self.label(self.cells.index(cell))


def is_bound(spec: Any) -> bool:
    """Says whether a spec is made of live cells, not a description of what to select."""
    if isinstance(spec, (Cell, View, BoundLens)):
        return True
    if isinstance(spec, Mapping):
        return not spec or any(map(is_bound, spec.values()))
    return isinstance(spec, (list, tuple)) and any(map(is_bound, spec))


def units_of(spec: Any, asked_by: str) -> StateForm:
    """Lists live states in whatever form they are given.

    Args:
        spec: One state, or a bound lens, mapping, list or tuple of them, nested at will.
        asked_by: The operation, for messages.

    Returns:
        The states, and how to give something back in the same form.

    Raises:
        SelectionError: There is none, or one is given twice.
        StateTypeError: Something is no state.
    """
    if not isinstance(spec, BoundLens):
        return _checked_units_of(spec, asked_by)
    cells = spec.units(required_by=asked_by)
    known = spec.taken_apart
    if known is None or known[0] is not cells or known[1] != asked_by:
        known = spec.taken_apart = cells, asked_by, _checked_units_of(cells, asked_by)
    return known[2]


def _checked_units_of(spec: Any, asked_by: str) -> StateForm:
    found = _units_of(spec, (), asked_by)
    if not found.units:
        raise SelectionError(
            explain(
                f"asked {asked_by} for states",
                "none are given: the mapping or list is empty",
                "the states meant, as in model.states(ParamState)",
            )
        )
    _refuse_twice(found, asked_by)
    return found


def _units_of(spec: Any, path: Path, asked_by: str) -> StateForm:
    if isinstance(spec, (Cell, View)):
        units: list[Unit] = [spec]
        return StateForm(
            [path], units, lambda given: given[0], lambda value: [value], _cells_of(units)
        )
    if isinstance(spec, BoundLens):
        spec = spec.units(required_by=asked_by)
        keys: list[Any] = list(spec)
        tails = keys
    elif isinstance(spec, Mapping):
        keys = list(spec)
        tails = [key if isinstance(key, tuple) else (key,) for key in keys]
    elif isinstance(spec, (list, tuple)):
        keys = list(range(len(spec)))
        tails = [(key,) for key in keys]
    else:
        raise StateTypeError(
            explain(
                f"asked {asked_by} for the state at '{format(path)}'",
                f"that is a {type(spec).__name__}, not a state",
                "give states, as in model.states(ParamState) or [model.weight]",
            )
        )
    paths: list[Path] = []
    units: list[Unit] = []
    # What is nested below each key; nothing where there is a state.
    below: list[StateForm | None] = []
    for key, tail in zip(keys, tails, strict=True):
        inner, part = spec[key], None
        if isinstance(inner, (Cell, View)):
            paths.append(path + tail)
            units.append(inner)
        else:
            part = _units_of(inner, path + tail, asked_by)
            paths += part.paths
            units += part.units
        below.append(part)
    container: Any = type(spec)
    known = dict.fromkeys(keys)
    is_mapping, is_flat = isinstance(spec, Mapping), not any(below)

    def rebuild(given: list[Any]) -> Any:
        each, taken = given, iter(given)
        if not is_flat:
            each = [
                next(taken) if part is None else part.rebuild([next(taken) for _ in part.units])
                for part in below
            ]
        if is_mapping:
            return dict(zip(keys, each, strict=True))
        return container(*each) if hasattr(container, "_fields") else container(each)

    def flatten(values: Any) -> list[Any]:
        if isinstance(spec, Mapping):
            fits = isinstance(values, Mapping) and values.keys() == known.keys()
        else:
            fits = isinstance(values, (list, tuple)) and len(values) == len(keys)
        if not fits:
            there = list(values) if isinstance(values, Mapping) else []
            if isinstance(values, (list, tuple)):
                there = list(range(len(values)))
            raise StructureError(
                explain(
                    f"asked {asked_by} for values by {keys}",
                    f"the values are given by {there}",
                    "values in the very form in which the states were given",
                )
            )
        found: list[Any] = []
        for key, part in zip(keys, below, strict=True):
            found += [values[key]] if part is None else part.flatten(values[key])
        return found

    is_pytree = all(part is None or part.is_pytree for part in below)
    is_pytree = is_pytree and _are_sortable(keys)
    return StateForm(paths, units, rebuild, flatten, _cells_of(units), is_pytree)


def _cells_of(units: list[Unit]) -> list[Cell]:
    return [unit if isinstance(unit, Cell) else unit.cell for unit in units]


def _are_sortable(keys: list[Any]) -> bool:
    try:
        sorted(keys)
    except TypeError:
        return False
    return True


def _label(unit: Unit, path: Path) -> str:
    """Names a state by its path; one that is given alone or in a list, by its own name."""
    cell, inner = (unit, ()) if isinstance(unit, Cell) else (unit.cell, unit.inner)
    if inner and path[-len(inner) :] == inner:
        return format(path)
    if cell.name is not None and (not path or isinstance(path[-1], int)):
        path = (cell.name,)
    return format((*path, *inner)) or type(cell).__name__


def _refuse_twice(found: StateForm, asked_by: str) -> None:
    cells = found.cells
    if len(set(map(id, cells))) == len(cells):
        return
    seen: dict[int, list[tuple[Path | None, int]]] = {}
    for number, (cell, unit) in enumerate(zip(cells, found.units, strict=True)):
        inner = None if isinstance(unit, Cell) else unit.inner
        for other, first in seen.setdefault(id(cell), []):
            if other is None or inner is None or other == inner:
                names = found.label(first), found.label(number)
                raise SelectionError(
                    explain(
                        f"asked {asked_by} for states",
                        f"the same state is given twice, as '{names[0]}' and as '{names[1]}'",
                        "give each state once; a shared one has one gradient, the sum",
                    )
                )
        seen[id(cell)].append((inner, number))
