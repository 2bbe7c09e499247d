"""Live units: a state, a view of a part of one, and a mapping of these by path."""

import abc
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from .._errors import PathError, user_facing
from .._tree import (
    Cell,
    Index,
    Path,
    as_path,
    closest,
    flatten,
    flatten_with_path,
    format,
    is_array,
    is_numeric,
)
from ._replace import like


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

    @property
    def _original(self) -> "View":
        """The view of the cell that its own stands for."""
        return View(self.cell._original, self.inner, self.index)

    def look(self) -> Any:
        """Returns the part for a look at its shape and dtype, without touching the state."""
        return self.of(self.cell.look())

    def of(self, whole: Any) -> Any:
        """Returns this part of a value of the state."""
        leaf = flatten(whole, self.cell._description)[0][self._atom(whole)]
        return leaf if self.index is None else self.index.read(leaf)

    def put(self, whole: Any, part: Any) -> Any:
        """Returns a value of the state with another part in the place of this one."""
        leaves, treedef = flatten(whole, self.cell._description)
        atom = self._atom(whole)
        leaves[atom] = part if self.index is None else self.index.write(leaves[atom], part)
        return treedef.unflatten(leaves)

    def _reachable(self) -> list[Any]:
        return [self.cell]

    def _atom(self, whole: Any) -> int:
        paths = flatten_with_path(whole, self.cell._description)[0]
        if self.inner in paths:
            return paths.index(self.inner)
        raise PathError(
            f"asked for the part '{format(self.inner)}' of {self.cell!r}",
            "the state's value has no such leaf any more",
            "bind the lens again, after the state has got its new value",
        )

    def __repr__(self) -> str:
        index = "" if self.index is None else str(self.index)
        return f"View({self.cell!r}, '{format(self.inner)}{index}')"


Unit: TypeAlias = Cell | View


U_co = TypeVar("U_co", bound=Unit, covariant=True)


def arrays_in(units: Iterable[Any]) -> list[Any]:
    """Lists the arrays in units, none of which is touched, with what stands for plain numbers."""
    values = [unit.look() if isinstance(unit, (Cell, View)) else unit for unit in units]
    leaves = [leaf for leaf in jax.tree.leaves(values) if is_numeric(leaf)]
    return [x if is_array(x) else jax.ShapeDtypeStruct((), jnp.result_type(x)) for x in leaves]


class UnitMapping(Mapping[Path, U_co]):
    """A mapping from path to live units, which are looked up again at each use.

    Keys are tuples; the written form of a path is accepted as well.
    """

    # What `units_of` made of the units that were found last, and for which operation.
    _last_form: tuple[Any, str, Any] | None = None

    @abc.abstractmethod
    def units(self, *, required_by: str | None = None) -> dict[Path, U_co]:
        """Returns the units by path; see `BoundLens.units`."""

    @user_facing
    def __getitem__(self, path: Path | str) -> U_co:
        return self._find(path)[1]

    @user_facing
    def __iter__(self) -> Iterator[Path]:
        return iter(self.units())

    @user_facing
    def __len__(self) -> int:
        return len(self.units())

    @user_facing
    def keys(self) -> KeysView[Path]:
        """The paths, in order."""
        return self.units().keys()

    @user_facing
    def values(self) -> ValuesView[U_co]:
        """The cells, in the order of their paths."""
        return self.units().values()

    @user_facing
    def items(self) -> ItemsView[Path, U_co]:
        """Paths and cells, in order."""
        return self.units().items()

    @user_facing
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and self.units() == dict(other.items())

    def __repr__(self) -> str:
        lines = [f"  {path!r}: {unit!r},\n" for path, unit in self.items()]
        return "{\n" + "".join(lines) + "}" if lines else "{}"

    @user_facing
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
        units = self.units()
        cells = [unit if isinstance(unit, Cell) else unit.cell for unit in units.values()]
        wholes = cells[0].read_all(cells) if cells else []
        return {
            path: whole if isinstance(unit, Cell) else unit.of(whole)
            for (path, unit), whole in zip(units.items(), wholes, strict=True)
        }

    @user_facing
    def paths(self) -> tuple[Path, ...]:
        """Returns the paths, in order; see `Lens.paths`."""
        return tuple(self.units())

    @user_facing
    def count(self) -> int:
        """Returns the number of scalars; see `Lens.count`.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.scale = sl.ParamState(jnp.ones((2, 3)))
            >>> model.states().count()
            6
        """
        return sum(array.size for array in arrays_in(self.units().values()))

    @user_facing
    def nbytes(self) -> int:
        """Returns the number of bytes; see `Lens.nbytes`."""
        return sum(x.size * x.dtype.itemsize for x in arrays_in(self.units().values()))

    @user_facing
    def focus(self) -> dict[Path, Any]:
        """Returns the values by path, as `values_dict`; see `Lens.focus`."""
        return self.values_dict()

    # What ported programs call it.
    to_dict_values = values_dict

    def copy(self) -> dict[Path, U_co]:
        """Returns the units by path: a dictionary that doesn't look again."""
        return dict(self.items())

    def _find(self, key: Any) -> tuple[Path, U_co]:
        """Returns a unit with the path under which it is listed."""
        path, units = as_path(key), self.units()
        if path in units:
            return path, units[path]
        listed = self._listed_as(path)
        if listed in units:
            return listed, units[listed]
        written = format(path)
        near = closest(written, units)
        shown = ", ".join(near or list(map(format, units))[:5])
        raise PathError(
            f"asked for the state at '{written}', which isn't there",
            f"the {'closest paths' if near else 'paths'} are {shown}",
            f"'{near[0]}'" if near else "list(states) shows the paths",
        )

    def _listed_as(self, path: Path) -> Path | None:
        """Returns the path under which a shared unit is listed that another path leads to."""
        return None
