"""Bound lenses: a lens together with the live cells that it selects."""

from functools import cached_property
from typing import Any

import jax.tree_util as jtu

from .._errors import SelectionError, StateTypeError, StructureError, user_facing
from .._tree import Cell, MutableNode, Path, ancestors, format, looking
from ._algebra import And, Not, Or
from ._assignment import WritableMapping
from ._coverage import CacheKeyDepth, Selector
from ._replace import read_all
from ._selection import Entry, focus_on
from ._selectors import Everything
from ._spec import LensSpec, selector_of
from ._units import U_co, Unit, View


class BoundLens(WritableMapping[U_co]):
    """The cells that a lens selects in a module: a mapping from path to cell.

    It looks at the module again at each use, so that a parameter added later is seen. Keys
    are tuples; the written form of a path is accepted as well. To JAX it is the values by path,
    which is what Optax takes: to map over the states themselves, `jax.tree.map` has to be told
    that they are leaves, as in ``is_leaf=lambda s: isinstance(s, State)``.

    Attributes:
        selector: What is selected.
        module: The tree in which it is selected.
    """

    selector: Selector
    module: Any

    def __init__(self, selector: Selector, module: Any):
        self.selector = selector
        self.module = module
        self._kept: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundLens, (self.selector, self.module)

    def __hash__(self) -> int:
        return hash((self.selector, id(self.module)))

    def _reachable(self) -> list[Any]:
        return [self.module]

    def units(self, *, required_by: str | None = None) -> dict[Path, U_co]:
        """Returns the cells, and views of cells, that are selected; none is touched.

        Args:
            required_by: The operation for which an empty selection is an error, or None. A
                pattern that matches nothing always is one, unless it is optional.

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

    @cached_property
    def _can_keep(self) -> bool:
        # What depends on values or labels of cells can't be kept.
        is_kept = self.selector.whole_key_depth <= CacheKeyDepth.FREE_ARRAYS
        return is_kept and isinstance(self.module, MutableNode)

    def _look(self, required_by: str | None) -> dict[Path, Any]:
        return looking(self._found, required_by)

    def _found(self, required_by: str | None) -> dict[Path, Any]:
        leaves, _, entries = focus_on(
            self.selector,
            self.module,
            required_by=required_by or "states",
            may_be_empty=required_by is None,
        )
        if len(entries.cells) == len(entries):
            return dict(zip(entries.paths, read_all(leaves, entries), strict=True))
        return {entry.path: self._unit_at(entry, leaves) for entry in entries}

    def _listed_as(self, path: Path) -> Path | None:
        for depth, node in enumerate(ancestors(self.module, path)):
            cell, inner = _cell_at(node, path[depth:])
            if cell is not None:
                found = [p for p, unit in self.units().items() if _is_in(unit, cell, inner)]
                return found[0] if found else None
        return None

    def _unit_at(self, entry: Entry, leaves: list[Any]) -> Unit:
        unit = leaves[entry.positions[0]]
        if isinstance(unit, Cell):
            return unit if entry.atom is None else View(unit, entry.inner, entry.index)
        nodes = ancestors(self.module, entry.path)
        for depth in reversed(range(len(entry.path))):
            cell, inner = _cell_at(nodes[depth], entry.path[depth:])
            if cell is not None:
                return View(cell, inner, entry.index)
        raise StateTypeError(
            f"asked for the cell at '{format(entry.path)}'",
            "there is an array in an immutable tree, which has no cell to write to",
            "pass the tree as an argument and give the lens itself, unbound",
            "narrow the lens to the states, as in lens & State",
            "a layer beside modules in a list: make it an attribute of its own in its module",
        )

    @user_facing
    def filter(self, *specs: LensSpec) -> "BoundLens[U_co]":
        """Returns the bound lens of those that any of the specs selects as well."""
        return BoundLens(_both(self.selector, selector_of(specs)), self.module)

    @user_facing
    def split(self, *specs: LensSpec) -> tuple["BoundLens[U_co]", ...]:
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
                f"asked to split states along {len(specs)} specs",
                f"'{format(next(iter(left)))}' matches none of them",
                "add ... as the last one, for all that is left",
            )
        return tuple(parts)

    @user_facing
    def __or__(self, other: LensSpec) -> "BoundLens[Any]":
        return BoundLens(Or(self.selector, self._selector(other)), self.module)

    @user_facing
    def __and__(self, other: LensSpec) -> "BoundLens[U_co]":
        return BoundLens(_both(self.selector, self._selector(other)), self.module)

    @user_facing
    def __sub__(self, other: LensSpec) -> "BoundLens[U_co]":
        return BoundLens(_both(self.selector, Not(self._selector(other))), self.module)

    def _selector(self, other: LensSpec) -> Selector:
        if not isinstance(other, BoundLens):
            return selector_of(other)
        if other.module is not self.module:
            raise StructureError(
                "asked to join the states of two different trees",
                "their paths start at different roots",
                "a dictionary of both: {'encoder': a.states(), 'decoder': b.states()}",
            )
        return other.selector


def _cell_at(node: Any, path: Path) -> tuple[Cell | None, Path]:
    """Returns the cell that a node is, or has behind an attribute, and what is left of a path."""
    if isinstance(node, Cell):
        return node, path
    return node._cell_of(path[0]) if path and isinstance(node, MutableNode) else None, path[1:]


def _is_in(unit: Unit, cell: Cell, inner: Path) -> bool:
    """Says whether a unit is a cell, or its part at a path inside it."""
    if isinstance(unit, Cell):
        return unit is cell and not inner
    return unit.cell is cell and unit.inner == inner and unit.index is None


def _flatten_bound(bound: BoundLens[Any]) -> tuple[list[Any], tuple[Path, ...]]:
    units = bound.units()
    return [x if isinstance(x, Cell) else x.value for x in units.values()], tuple(units)


def _unflatten_bound(paths: tuple[Path, ...], cells: Any) -> Any:
    values = [cell.value if isinstance(cell, Cell) else cell for cell in cells]
    return dict(zip(paths, values, strict=True))


# To JAX a bound lens is what it reads as: states by path. What JAX makes of it is no live state,
# so that values come back, as `values_dict` gives them and as gradients are given.
jtu.register_pytree_node(BoundLens, _flatten_bound, _unflatten_bound)


def first_match(
    selector: Selector, specs: tuple[LensSpec, ...], module: Any
) -> list[BoundLens[Any]]:
    """Binds one lens for each spec, without what an earlier one took; the last is the rest."""
    bound: list[BoundLens[Any]] = []
    for spec in specs:
        chosen = selector_of(spec)
        bound.append(BoundLens(_both(selector, chosen), module))
        selector = _both(selector, Not(chosen))
    return [*bound, BoundLens(selector, module)]


def _both(a: Selector, b: Selector) -> Selector:
    """Returns what both select, without an `Everything` that would say nothing."""
    return b if isinstance(a, Everything) else And(a, b)
