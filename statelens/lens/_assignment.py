"""Writing through a mapping of live units: to all of its states at once, or to none."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax

from .._errors import PathError, check_callable, user_facing
from .._tree import Cell, Path, format, is_array
from ._messages import refuse_without_paths
from ._replace import added, cast_floats, like, placed_as
from ._selectors import check_dtype
from ._state_forms import overlaid_values
from ._units import U_co, UnitMapping, View


class WritableMapping(UnitMapping[U_co]):
    """A mapping from path to live units that are assigned together."""

    @user_facing
    def __setitem__(self, path: Path | str, value: Any) -> None:
        self.assign({path: value})

    @user_facing
    def assign(
        self, values: Mapping[Any, Any], *, strict: bool = False, replace: bool = False
    ) -> None:
        """Assigns values by path: all of them, or none if one is refused.

        Arrays of NumPy are copied, and arrays are placed on the devices where those lie that they
        replace.

        Args:
            values: New values (or states that have them) by path, tuple or text.
            strict: Whether there must be a value for each path. Otherwise paths that are left
                out keep their values.
            replace: Whether a value may differ in structure, shape or dtype.

        Raises:
            ArgumentTypeError: `values` isn't a mapping.
            PathError: A path isn't there, is given twice, or is missing and `strict`.
            StructureError: A value differs in structure, shape or dtype.
        """
        refuse_without_paths(values, "assign values to states")
        units = self.units()
        given: dict[Path, Any] = {}
        for key, value in values.items():
            path, unit = self._find(key)
            if path in given:
                _refuse_twice(path, [key for key in values if self._find(key)[0] == path])
            value = value.value if isinstance(value, (Cell, View)) else value
            free = replace and (isinstance(unit, Cell) or unit.index is None)
            given[path] = value if free else like(path, unit.value, value)
        if strict:
            _refuse_missing([path for path in units if path not in given])
        overlaid = overlaid_values([units[path] for path in given], list(given.values()))
        if overlaid:
            news = [placed_as(cell.look(), value) for cell, value in overlaid.items()]
            next(iter(overlaid)).write_all(tuple(overlaid), news)

    @user_facing
    def update(
        self, function: Callable[..., Any], *, with_path: bool = False, replace: bool = False
    ) -> None:
        """Applies a function to each value, and assigns what it gives: to all, or to none.

        Args:
            function: Maps a value to a new one.
            with_path: Whether to call ``function(path, value)``.
            replace: Whether a value may change in structure, shape or dtype.

        Raises:
            ArgumentTypeError: `function` isn't callable.
            StructureError: A value changed in structure, shape or dtype.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.scale = sl.ParamState(jnp.ones(2))
            >>> model.states().update(lambda value: 2 * value)
            >>> model.scale.value
            Array([2., 2.], dtype=float32)
        """
        check_callable(function, "function", "update")
        values = self.values_dict()
        news = {p: function(p, v) if with_path else function(v) for p, v in values.items()}
        self.assign(news, replace=replace)

    @user_facing
    def cast(self, dtype: Any) -> None:
        """Casts the floating-point arrays of all states; see `Lens.cast`.

        Args:
            dtype: The dtype to cast to.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.scale = sl.ParamState(jnp.ones(2))
            >>> model.states().cast(jnp.bfloat16)
            >>> model.scale
            ParamState(bf16[2])
        """
        check_dtype(dtype, "cast")

        def cast(leaf: Any) -> Any:
            return cast_floats(leaf, dtype) if is_array(leaf) else leaf

        self.update(lambda value: jax.tree.map(cast, value), replace=True)

    @user_facing
    def apply_updates(self, updates: Mapping[Any, Any]) -> None:
        """Adds an update to each value, as `optax.apply_updates` does: to all, or to none.

        Args:
            updates: An update for each path, as an Optax optimiser gives them that was made
                for these states.

        Raises:
            ArgumentTypeError: `updates` isn't a mapping.
            PathError: The paths aren't those of the states.
            StructureError: An update has another structure or shape, or would turn integers or
                real numbers into something else.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> model = sl.nn.Module()
            >>> model.scale = sl.ParamState(jnp.ones(2))
            >>> model.states().apply_updates({"scale": -jnp.ones(2)})
            >>> model.scale.value
            Array([0., 0.], dtype=float32)
        """
        refuse_without_paths(updates, "apply updates to states")
        units = self.units()
        steps = {self._find(key)[0]: step for key, step in updates.items()}
        news = {p: added(p, units[p].value, step) for p, step in steps.items()}
        self.assign(news, strict=True)


def _refuse_twice(path: Path, keys: list[Any]) -> NoReturn:
    raise PathError(
        f"asked to assign the state at '{format(path)}'",
        f"there are two values for it, as {' and as '.join(map(repr, keys))}",
        "one value for each path",
    )


def _refuse_missing(paths: list[Path]) -> None:
    if paths:
        shown = ", ".join(f"'{format(path)}'" for path in paths[:5])
        raise PathError(
            "asked to assign or update each state",
            f"there is none for {shown}{', ...' if len(paths) > 5 else ''}",
            "a value for each path that list(states) shows",
            "assign without strict=True, which leaves the others as they are",
        )
