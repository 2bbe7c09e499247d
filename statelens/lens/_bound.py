"""Bound lenses: a lens together with the live cells that it selects."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import jax.tree_util as jtu

from .._errors import SelectionError, StateTypeError, StructureError, user_facing
from .._tree import Cell, MutableNode, Path, ancestors, format, is_array, looking
from ._algebra import And, Not, Or, Sliced
from ._assignment import WritableMapping
from ._coverage import CacheKeyDepth, Selector
from ._messages import refuse_several, refuse_without_paths
from ._partition import mark, split
from ._replace import read_all
from ._selection import Entry, Focused, focus_on
from ._selectors import Below, Everything, OfClass
from ._spec import LensSpec, selector_of
from ._units import U_co, Unit, UnitMapping, View

V = TypeVar("V")


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
            return self._search(required_by)
        # By the class: what an instance is asked for it looks up among its states first.
        keep = type(self.module)._keep
        kept = keep(self.module, self._kept, lambda: self._search(required_by))
        # Whether it is an error that there is none depends on who asks.
        self._kept = kept if kept.found else None
        return kept.found

    @cached_property
    def _can_keep(self) -> bool:
        # What depends on values or labels of cells can't be kept.
        is_kept = self.selector.whole_key_depth <= CacheKeyDepth.FREE_ARRAYS
        return is_kept and isinstance(self.module, MutableNode)

    def _search(self, required_by: str | None) -> dict[Path, Any]:
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
    def only(self) -> U_co:
        """Returns the one state, or view of one, that is selected; see `Lens.only`.

        Returns:
            The state.

        Raises:
            SelectionError: Several are selected, or none.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.calls, model.scale = sl.State(0), sl.ParamState(jnp.ones(2))
            >>> model.states(sl.ParamState).only()
            ParamState(f32[2])
        """
        units = self.units(required_by="only")
        refuse_several(units, f"lens({self.selector.written()!r})", "values()")
        return next(iter(units.values()))

    @user_facing
    def mask(self, values: Mapping[Any, Any] | None = None) -> dict[Path, Any]:
        """Returns booleans by path: a mask for Optax beside gradients or values by path.

        Args:
            values: What the mask is for: a mapping by path, as `values_dict()` and gradients by
                state are, or a bound lens. None stands for all states of the module, with what is
                selected beside them.

        Returns:
            The mapping with True for each leaf that is in one of these states, and False for
            all others; see `Lens.mask`.

        Raises:
            ArgumentTypeError: `values` isn't a mapping.
            SelectionError: None of the values is of these states, or a part of an array is
                selected, and the whole one is there.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.bias, model.weight = sl.ParamState(jnp.ones(2)), sl.ParamState(jnp.ones(2))
            >>> model.states("weight").mask()
            {('bias',): False, ('weight',): True}
        """
        every = BoundLens(Or(OfClass(Cell), self.selector), self.module)
        focused = looking(self._focus_in, every if values is None else values, "make a mask of")
        return mark(focused, f"lens({self.selector.written()!r})")

    @user_facing
    def partition(self, values: Mapping[Path, V]) -> tuple[dict[Path, V], dict[Path, V]]:
        """Splits values by path in those of these states and the rest.

        Args:
            values: A mapping by path, as `values_dict()`, gradients by state and an optimiser's
                moments are.

        Returns:
            Two mappings by the same paths: the values of these states, with None elsewhere, and
            the rest, with None where the first has something. `combine` puts them together. Of
            an array of which a part is selected the first has that part.

        Raises:
            ArgumentTypeError: `values` isn't a mapping.
            SelectionError: None of the values is of these states.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.bias, model.weight = sl.ParamState(jnp.ones(2)), sl.ParamState(jnp.ones(2))
            >>> values = model.states().values_dict()
            >>> model.states("weight").partition(values)[0]
            {('bias',): None, ('weight',): Array([1., 1.], dtype=float32)}
        """
        return split(*self._focus_in(values, "partition"))

    def _focus_in(self, values: Mapping[Any, Any], asked: str) -> Focused:
        """Selects in values by path what these states, and the parts of them, have there."""
        refuse_without_paths(values, f"{asked} values by path")
        whole, parts = list[Path](), list[Selector]()
        for path, unit in self.units().items():
            # Of a part there is its own value under its path, as in its gradient, or the array's.
            if isinstance(unit, View) and unit.index and not _fits(values.get(path), unit):
                parts.append(Sliced(Below(frozenset([path])), unit.index))
            else:
                whole.append(path)
        tree = values if isinstance(values, (dict, UnitMapping)) else dict(values.items())
        focused = focus_on(Or(Below(frozenset(whole)), *parts), tree)
        if values and (whole or parts) and not focused.entries:
            raise SelectionError(
                f"asked to {asked} values by path",
                f"their keys are {_first_of(map(repr, values))}, and none is the path of one of "
                f"these states, as {_first_of(map(repr, self.units()))} are",
                "values by the paths of states of the same module, as tuples",
            )
        return focused

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


def _first_of(texts: Iterable[str]) -> str:
    first = list(islice(texts, 4))
    return ", ".join(first[:3] + ["..."] * (len(first) > 3))


def _fits(value: Any, view: View) -> bool:
    value = value.look() if isinstance(value, (Cell, View)) else value
    return is_array(value) and value.shape == view.look().shape


def _is_in(unit: Unit, cell: Cell, inner: Path) -> bool:
    """Says whether a unit is a cell, or its part at a path inside it."""
    if isinstance(unit, Cell):
        return unit is cell and not inner
    return unit.cell is cell and unit.inner == inner and unit.index is None


def _flatten_bound(bound: BoundLens[Any]) -> tuple[list[Any], tuple[Path, ...]]:
    units = bound.units()
    return [x if isinstance(x, Cell) else x.value for x in units.values()], tuple(units)


def _flatten_bound_with_keys(bound: BoundLens[Any]) -> tuple[list[Any], tuple[Path, ...]]:
    cells, paths = _flatten_bound(bound)
    return list(zip(map(jtu.DictKey, paths), cells, strict=True)), paths


def _unflatten_bound(paths: tuple[Path, ...], cells: Any) -> Any:
    values = [cell.value if isinstance(cell, Cell) else cell for cell in cells]
    return dict(zip(paths, values, strict=True))


# To JAX a bound lens is what it reads as: states by path. What JAX makes of it is no live state,
# so that values come back, as `values_dict` gives them and as gradients are given.
jtu.register_pytree_with_keys(BoundLens, _flatten_bound_with_keys, _unflatten_bound, _flatten_bound)


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
