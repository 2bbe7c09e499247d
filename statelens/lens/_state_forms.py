"""Forms in which states are given: live cells in whatever containers a caller hands over.

A gradient mirrors what was passed: a mapping by the same keys, a list a list, one state one
gradient. `units_of` takes such a form apart and remembers how to put it together.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

from .._errors import SelectionError, StateTypeError, StructureError
from .._tree import Cell, Path, a_leaf, format, is_sortable
from ._units import Unit, UnitMapping, View


class StateForm:
    """States as they were given, flat, and how to give something back in the same form."""

    # Whether JAX can flatten that form: it sorts the keys of dictionaries.
    is_pytree: bool = True

    def __init__(self, paths: list[Path], units: list[Unit]):
        self.paths = paths
        self.units: list[Unit] = [unit._original for unit in units]
        self.cells: list[Cell] = [u if isinstance(u, Cell) else u.cell for u in self.units]

    def values(self) -> list[Any]:
        """Reads the values of the states."""
        values = zip(self.units, self.cells[0].read_all(self.cells), strict=True)
        return [whole if isinstance(unit, Cell) else unit.of(whole) for unit, whole in values]

    def overlaid(self, values: Sequence[Any]) -> dict[Any, Any]:
        """Returns for each cell the value in which the given values of its parts are put."""
        return overlaid_values(self.units, values)

    def rebuild(self, given: Sequence[Any]) -> Any:
        """Puts one thing for each unit in the form in which they were given."""
        return given[0]

    def flatten(self, values: Any) -> list[Any]:
        """Lists what something of that form has for each unit."""
        return [values]

    def label(self, number: int) -> str:
        """Says what to call a state in messages: by its path, or its name if it has none."""
        unit, path = self.units[number], self.paths[number]
        cell, inner = (unit, ()) if isinstance(unit, Cell) else (unit.cell, unit.inner)
        if inner and path[-len(inner) :] == inner:
            return format(path)
        if cell.name is not None and (not path or isinstance(path[-1], int)):
            path = (cell.name,)
        return format((*path, *inner)) or type(cell).__name__

    def label_of(self, cell: Cell) -> str:
        """Says what to call the first state or view that is of a cell."""
        return self.label(self.cells.index(cell))


class _Container(StateForm):
    """States in a mapping or sequence, each under a key or in a form that is nested there."""

    def __init__(self, spec: Any, path: Path, asked_by: str):
        paths: list[Path] = []
        units: list[Unit] = []
        # The form nested below each key, or None for a state.
        self._nested: dict[Any, StateForm | None] = {}
        self._sequence: Any = None if isinstance(spec, Mapping) else type(spec)
        self._asked_by = asked_by
        for key in _keys_of(spec):
            inner, nested = spec[key], None
            tail = key if isinstance(key, tuple) else (key,)
            if isinstance(inner, (Cell, View)):
                paths.append(path + tail)
                units.append(inner)
            else:
                nested = _form_of(inner, path + tail, asked_by)
                paths += nested.paths
                units += nested.units
            self._nested[key] = nested
        super().__init__(paths, units)
        self.is_pytree = is_sortable(self._nested) and all(
            nested is None or nested.is_pytree for nested in self._nested.values()
        )

    def rebuild(self, given: Sequence[Any]) -> Any:
        left = iter(given)
        each = [
            next(left) if nested is None else nested.rebuild(list(islice(left, len(nested.units))))
            for nested in self._nested.values()
        ]
        if self._sequence is None:
            return dict(zip(self._nested, each, strict=True))
        is_named_tuple = hasattr(self._sequence, "_fields")
        return self._sequence(*each) if is_named_tuple else self._sequence(each)

    def flatten(self, values: Any) -> list[Any]:
        own, there = self._nested.keys(), _keys_of(values)
        if there != (own if self._sequence is None else range(len(own))):
            raise StructureError(
                f"asked {self._asked_by} for values by {list(own)}",
                f"the values are given by {list(there)}",
                "values in the very form in which the states were given",
            )
        found: list[Any] = []
        for key, nested in self._nested.items():
            found += [values[key]] if nested is None else nested.flatten(values[key])
        return found


def _keys_of(container: Any) -> Collection[Any]:
    """Lists the keys of a mapping or sequence; those of one are never equal to the other's."""
    if isinstance(container, Mapping):
        return container.keys()
    return range(len(container)) if isinstance(container, (list, tuple)) else ()


def overlaid_values(units: Sequence[Unit], values: Sequence[Any]) -> dict[Any, Any]:
    """Returns for each cell the value in which the given values of its parts are put."""
    overlaid: dict[Any, Any] = {}
    for unit, value in zip(units, values, strict=True):
        if isinstance(value, (Cell, View)):
            raise StateTypeError(
                f"asked for a value of {unit!r}",
                f"there is {value!r}, a state itself",
                "its value, as in state.value, or states.values_dict() for all of a bound lens",
            )
        if isinstance(unit, View):
            cell = unit.cell
            overlaid[cell] = unit.put(overlaid.get(cell, cell.value), value)
        else:
            overlaid[unit] = value
    return overlaid


def is_bound(spec: Any) -> bool:
    """Says whether a spec is made of live cells, not a description of what to select."""
    if isinstance(spec, (Cell, View, UnitMapping)):
        return True
    if isinstance(spec, Mapping):
        return not spec or any(map(is_bound, spec.values()))
    return isinstance(spec, (list, tuple)) and any(map(is_bound, spec))


def units_of(spec: Any, asked_by: str) -> StateForm:
    """Lists live states: one, or a bound lens, mapping, list or tuple of them, nested at will."""
    if not isinstance(spec, UnitMapping):
        return _checked_form_of(spec, asked_by)
    units = spec.units(required_by=asked_by)
    last = spec._last_form
    if last is None or last[0] is not units or last[1] != asked_by:
        last = spec._last_form = units, asked_by, _checked_form_of(units, asked_by)
    return last[2]


def _checked_form_of(spec: Any, asked_by: str) -> StateForm:
    form = _form_of(spec, (), asked_by)
    if not form.units:
        raise SelectionError(
            f"asked {asked_by} for states",
            "none are given: the mapping or list is empty",
            "the states meant, as in model.states(ParamState)",
        )
    _refuse_twice(form, asked_by)
    return form


def _form_of(spec: Any, path: Path, asked_by: str) -> StateForm:
    if isinstance(spec, (Cell, View)):
        return StateForm([path], [spec])
    if isinstance(spec, UnitMapping):
        return _Container(spec.units(required_by=asked_by), path, asked_by)
    if isinstance(spec, (Mapping, list, tuple)):
        return _Container(spec, path, asked_by)
    where = f"the state at '{format(path)}'" if path else f"states={spec!r:.80}"
    raise StateTypeError(
        f"asked {asked_by} for {where}",
        f"that is {a_leaf(spec)}, not a state",
        "give states, as in model.states(ParamState) or [model.weight]",
        "lens.bind(model), for the states that a lens selects in a model",
    )


def _refuse_twice(form: StateForm, asked_by: str) -> None:
    """Refuses a state that is given twice; two different parts of one are no such thing."""
    if len(set(map(id, form.cells))) == len(form.cells):
        return
    seen: dict[int, list[tuple[Path | None, int]]] = {}
    for number, (cell, unit) in enumerate(zip(form.cells, form.units, strict=True)):
        inner = None if isinstance(unit, Cell) else unit.inner
        for other, first in seen.setdefault(id(cell), []):
            if other is None or inner is None or other == inner:
                names = form.label(first), form.label(number)
                raise SelectionError(
                    f"asked {asked_by} for states",
                    f"the same state is given twice, as '{names[0]}' and as '{names[1]}'",
                    "give each state once; a shared one has one gradient, the sum",
                )
        seen[id(cell)].append((inner, number))
