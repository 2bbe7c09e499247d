"""What is optimised: the focus of a lens in a tree, or live states; by path, for Optax."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from .._errors import StateTypeError, StructureError
from .._tree import Path, a_leaf, as_path, format
from ..lens import (
    Selector,
    focus_on,
    halves_of,
    overlaid_values,
    replace_in,
    units_of,
    values_of,
)
from ..state import State
from ..thread import overlay

T = TypeVar("T")

ByPath: TypeAlias = dict[Path, Any]


class TreeFocus:
    """What a lens selects in a tree.

    What comes from Optax is read by path: JAX gives dictionaries back in the order of their keys.

    Args:
        selector: What is selected.
        tree: The tree.
        asked_by: What to say in messages that asks for it.
    """

    def __init__(self, selector: Selector, tree: Any, asked_by: str):
        self._focused = focus_on(selector, tree, required_by=asked_by)
        self._tree = tree

    def values(self) -> ByPath:
        """Returns the values by path."""
        leaves, _, entries = self._focused
        return dict(zip(entries.paths, values_of(leaves, entries), strict=True))

    def by_path(self, gradient: Any) -> ByPath:
        """Returns by path what has the structure of the tree."""
        found, others = halves_of(self._focused, gradient)
        paths = self._focused.entries.paths
        if found is None:
            raise StructureError(
                "asked an Optimizer for a step by a gradient",
                f"it is {a_leaf(gradient)}, and not of the tree's structure",
                "the gradient that sl.grad gives for the same lens and the same tree",
            )
        given = {path: value for path, value in zip(paths, found, strict=True) if value is not None}
        _refuse_another_focus(paths, [*given, *others])
        return given

    def with_values(self, values: ByPath) -> Any:
        """Returns the tree with other values."""
        in_order = [values[path] for path in self._focused.entries.paths]
        return replace_in(self._focused, in_order, free=False)

    def run(self, fun: Callable[..., T], values: ByPath, *args: Any) -> T:
        """Calls a function of the tree against other values."""
        return fun(self.with_values(values), *args)


class StateFocus:
    """Live states, in whatever form they are given.

    Args:
        spec: A bound lens; or a mapping, list or tuple of states.
        asked_by: What to say in messages that asks for it.
    """

    def __init__(self, spec: Any, asked_by: str):
        self.spec = spec
        self._asked_by = asked_by

    def _reachable(self) -> list[Any]:
        return [self.spec]

    @property
    def _form(self) -> Any:
        return units_of(self.spec, self._asked_by)

    def values(self) -> ByPath:
        """Returns the values by path."""
        return dict(zip(self._form.paths, self._form.values(), strict=True))

    def by_path(self, gradient: Any) -> ByPath:
        """Returns by path what is given in the form in which the states were."""
        form = self._form
        if isinstance(self.spec, Mapping) and isinstance(gradient, Mapping):
            _refuse_another_focus(list(self.spec), [as_path(key) for key in gradient])
        return dict(zip(form.paths, form.flatten(gradient), strict=True))

    def write(self, values: ByPath, memory: State, state: Any) -> None:
        """Assigns new values, and what the optimiser keeps: all of it, or nothing."""
        form = self._form
        in_order = [values[path] for path in form.paths]
        cells = overlaid_values([*form.units, memory], [*in_order, state])
        memory.write_all(tuple(cells), list(cells.values()))

    def run(self, fun: Callable[..., T], values: ByPath, *args: Any) -> T:
        """Calls a function that reads the states against other values."""
        with overlay(self.by_unit(values)):
            return fun(*args)

    def refuse_written(self, writes: Mapping[State, Any]) -> None:
        """Refuses what was written to these states while they read otherwise."""
        form = self._form
        written = [
            format(p) for p, cell in zip(form.paths, form.cells, strict=True) if cell in writes
        ]
        if written:
            raise StateTypeError(
                f"asked to compute in another dtype with {_listed(written)}",
                "the loss has written to it, by which it would lose its own dtype",
                "to write it after the step",
                "keep=, with a lens of what isn't cast",
            )

    def by_unit(self, values: ByPath) -> dict[Any, Any]:
        """Returns values by state, or view of one."""
        form = self._form
        return {unit: values[path] for unit, path in zip(form.units, form.paths, strict=True)}


Focus: TypeAlias = TreeFocus | StateFocus


def _refuse_another_focus(paths: Any, given: list[Path]) -> None:
    """Refuses a gradient of something else than what is optimised."""
    missing = [format(path) for path in map(as_path, paths) if path not in set(given)]
    others = [format(path) for path in given if path not in set(map(as_path, paths))]
    found = []
    if missing:
        found.append(f"there is none for {_listed(missing)}, which it optimises")
    if others:
        found.append(f"there is one for {_listed(others)}, which it doesn't")
    if found:
        raise StructureError(
            "asked an Optimizer for a step by a gradient",
            "; ".join(found),
            "one lens for both: grad(loss, lens) and Optimizer(..., lens)",
        )


def _listed(paths: list[str]) -> str:
    shown = ", ".join(f"'{path}'" for path in paths[:5])
    return shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
