"""Bound lenses: a lens together with the live cells that it selects."""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.tree_util as jtu

from .._errors import (
    PathError,
    SelectionError,
    StateTypeError,
    StructureError,
    explain,
    user_facing,
)
from .._tree import (
    Cell,
    Index,
    MutableNode,
    Path,
    ancestors,
    as_path,
    closest,
    flatten,
    flatten_with_path,
    format,
    looking,
)
from ._coverage import CacheKeyDepth, Selector
from ._focus import focus_on
from ._partition import like, read_all
from ._selection import Entry, key_depth_of
from ._selectors import Not, Or, both
from ._spec import LensSpec, selector_of


@dataclass(unsafe_hash=True, repr=False)
class View:
    """A part of a state: a leaf inside its value, or a slice of an array.

    Attributes:
        cell: The state.
        inner: The path of the leaf inside the state's value.
        index: Which part of the array, or None for all of it.
    """

    cell: Cell
    inner: Path = ()
    index: Index | None = None

    @property
    def value(self) -> Any:
        """The part itself; assigning writes it into the state."""
        return self.of(self.cell.value)

    @value.setter
    @user_facing
    def value(self, value: Any) -> None:
        whole = self.cell.value
        self.cell.value = self.put(whole, like(self.inner, self.of(whole), value))

    def of(self, whole: Any) -> Any:
        """Returns this part of a value of the state."""
        leaf = flatten(whole)[0][self._atom(whole)]
        return leaf if self.index is None else self.index.read(leaf)

    def put(self, whole: Any, part: Any) -> Any:
        """Returns a value of the state with another part in the place of this one."""
        leaves, treedef = flatten(whole)
        atom = self._atom(whole)
        leaves[atom] = part if self.index is None else self.index.write(leaves[atom], part)
        return treedef.unflatten(leaves)

    def _atom(self, whole: Any) -> int:
        for position, (path, _) in enumerate(flatten_with_path(whole)[0]):
            if path == self.inner:
                return position
        raise PathError(
            explain(
                f"asked for the part '{format(self.inner)}' of {self.cell!r}",
                "the state's value has no such leaf any more",
                "bind the lens again, after the state has got its new value",
            )
        )

    def __repr__(self) -> str:
        index = "" if self.index is None else str(self.index)
        return f"View({self.cell!r}, '{format(self.inner)}{index}')"


Unit: TypeAlias = Cell | View


class BoundLens(Mapping[Path, Any]):
    """The cells that a lens selects in a module: a mapping from path to cell.

    It looks at the module anew at each use, so that a parameter added later is seen. Keys
    are tuples; the written form of a path is accepted as well.

    Attributes:
        selector: What is selected.
        module: The tree in which it is selected.
        taken_apart: The units that were found last, who asked for them, and what has been made
            of them, or None.
    """

    def __init__(self, selector: Selector, module: Any):
        self.selector = selector
        self.module = module
        # What depends on values or labels of cells can't be kept.
        self._can_keep = (
            isinstance(module, MutableNode) and key_depth_of(selector) <= CacheKeyDepth.CLASSES
        )
        self._kept: Any = None
        self.taken_apart: tuple[Mapping[Path, Unit], str, Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundLens, (self.selector, self.module)

    def __hash__(self) -> int:
        return hash((self.selector, id(self.module)))

    def units(self, *, required_by: str | None = None) -> dict[Path, Unit]:
        """Returns the cells, and views of cells, that are selected; none is touched.

        Args:
            required_by: The operation for which an empty selection is an error, or None.

        Returns:
            The units by path. The same dictionary may be given again: don't change it.
        """
        if not self._can_keep:
            return self._look(required_by)
        # By the class: what an instance is asked for it looks up among its states first.
        keep = type(self.module)._keep
        kept = keep(self.module, self._kept, lambda: self._look(required_by))
        # Whether it is an error that there is none depends on who asks.
        self._kept = kept if kept.found else None
        return kept.found

    def _look(self, required_by: str | None) -> dict[Path, Unit]:
        with looking():
            leaves, _, entries = focus_on(self.selector, self.module, required_by=required_by)
            if len(entries.cells) == len(entries):
                return dict(zip(entries.paths, read_all(leaves, entries), strict=True))
            return {entry.path: self._unit_at(entry, leaves) for entry in entries}

    def _unit_at(self, entry: Entry, leaves: list[Any]) -> Unit:
        unit = leaves[entry.positions[0]]
        if isinstance(unit, Cell):
            return unit if entry.atom is None else View(unit, entry.inner, entry.index)
        nodes = ancestors(self.module, entry.path)
        for depth in reversed(range(len(entry.path))):
            node = nodes[depth]
            cell = node._cell_of(entry.path[depth]) if isinstance(node, MutableNode) else None
            if cell is not None:
                return View(cell, entry.path[depth + 1 :], entry.index)
        raise StateTypeError(
            explain(
                f"asked for the cell at '{format(entry.path)}'",
                "there is an array in an immutable tree, which has no cell to write to",
                "pass the tree as an argument and give the lens itself, unbound",
                "narrow the lens to the states, as in lens & State",
            )
        )

    @user_facing
    def __getitem__(self, path: Path | str) -> Any:
        cells = self.units()
        key = as_path(path)
        try:
            return cells[key]
        except KeyError:
            raise PathError(self._no_such(key, cells)) from None

    def _no_such(self, path: Path, cells: Mapping[Path, Any]) -> str:
        written = format(path)
        near = closest(written, cells)
        found = (
            f"the closest paths are {', '.join(near)}" if near else f"there are {len(cells)} paths"
        )
        return explain(
            f"asked for the state at '{written}', which isn't there",
            found,
            *([f"'{near[0]}'"] if near else ["list(states) shows the paths"]),
        )

    def __iter__(self) -> Iterator[Path]:
        return iter(self.units())

    def __len__(self) -> int:
        return len(self.units())

    def keys(self) -> KeysView[Path]:
        """The paths, in order."""
        return self.units().keys()

    def values(self) -> ValuesView[Any]:
        """The cells, in the order of their paths."""
        return self.units().values()

    def items(self) -> ItemsView[Path, Any]:
        """Paths and cells, in order."""
        return self.units().items()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BoundLens):
            return self.units() == other.units()
        return isinstance(other, Mapping) and self.units() == dict(other)

    def values_dict(self) -> dict[Path, Any]:
        """Returns the values by path: a pytree that Optax and JAX take as it is.

        Returns:
            The value of each cell.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.scale = sl.ParamState(jnp.ones(2))
            >>> model.states().values_dict()
            {('scale',): Array([1., 1.], dtype=float32)}
        """
        return {path: cell.value for path, cell in self.items()}

    @user_facing
    def assign(self, values: Mapping[Any, Any], *, replace: bool = False) -> None:
        """Assigns values by path: all of them, or none if one is refused.

        Args:
            values: New values (or states that have them) by path, tuple or text. Paths
                that are left out keep their values.
            replace: Whether a value may differ in structure, shape or dtype.

        Raises:
            PathError: A path isn't there.
            StructureError: A value differs in structure, shape or dtype.
        """
        cells = self.units()
        ready: list[tuple[Unit, Any]] = []
        for key, value in values.items():
            path = as_path(key)
            if path not in cells:
                raise PathError(self._no_such(path, cells))
            value = value.value if isinstance(value, (Cell, View)) else value
            cell = cells[path]
            free = replace and isinstance(cell, Cell)
            ready.append((cell, value if free else like(path, cell.value, value)))
        for cell, value in ready:
            owner = cell if isinstance(cell, Cell) else cell.cell
            owner.check_write(value)
        for cell, value in ready:
            cell.value = value

    @user_facing
    def filter(self, *specs: LensSpec) -> "BoundLens":
        """Returns the bound lens of those that any of the specs selects as well."""
        return BoundLens(both(self.selector, selector_of(specs)), self.module)

    @user_facing
    def split(self, *specs: LensSpec) -> tuple["BoundLens", ...]:
        """Splits along specs, the first that matches wins; together they must take all.

        Args:
            *specs: What goes in the first part, the second, and so on. ``...`` as the last
                one takes what is left.

        Returns:
            One bound lens for each spec.

        Raises:
            SelectionError: A state matches none of the specs.
        """
        *parts, left = first_match(self.selector, specs, self.module)
        if left:
            raise SelectionError(
                explain(
                    f"asked to split states along {len(specs)} specs",
                    f"'{format(next(iter(left)))}' matches none of them",
                    "add ... as the last one, for all that is left",
                )
            )
        return tuple(parts)

    @user_facing
    def __or__(self, other: "BoundLens | LensSpec") -> "BoundLens":
        return BoundLens(Or(self.selector, self._selector(other)), self.module)

    @user_facing
    def __and__(self, other: "BoundLens | LensSpec") -> "BoundLens":
        return BoundLens(both(self.selector, self._selector(other)), self.module)

    @user_facing
    def __sub__(self, other: "BoundLens | LensSpec") -> "BoundLens":
        return BoundLens(both(self.selector, Not(self._selector(other))), self.module)

    def _selector(self, other: "BoundLens | LensSpec") -> Selector:
        if not isinstance(other, BoundLens):
            return selector_of(other)
        if other.module is not self.module:
            raise StructureError(
                explain(
                    "asked to join the states of two different trees",
                    "their paths start at different roots",
                    "a dictionary of both: {'encoder': a.states(), 'decoder': b.states()}",
                )
            )
        return other.selector

    def __repr__(self) -> str:
        lines = [f"  {path!r}: {cell!r},\n" for path, cell in self.items()]
        return "{\n" + "".join(lines) + "}" if lines else "{}"


def _flatten_bound(bound: BoundLens) -> tuple[list[Any], tuple[Path, ...]]:
    cells = bound.units()
    return [c if isinstance(c, Cell) else c.value for c in cells.values()], tuple(cells)


def _unflatten_bound(paths: tuple[Path, ...], cells: Any) -> Any:
    return dict(zip(paths, cells, strict=True))


# To JAX a bound lens is what it reads as: states by path. A plain dictionary comes back.
jtu.register_pytree_node(BoundLens, _flatten_bound, _unflatten_bound)


def first_match(selector: Selector, specs: tuple[LensSpec, ...], module: Any) -> list[BoundLens]:
    """Binds one lens for each spec, without what an earlier one took; the last is the rest."""
    bound = []
    for spec in specs:
        chosen = selector_of(spec)
        bound.append(BoundLens(both(selector, chosen), module))
        selector = both(selector, Not(chosen))
    return [*bound, BoundLens(selector, module)]
