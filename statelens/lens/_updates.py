"""The operations of a lens that give another tree: `set`, `update` and what follows from them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

from .._errors import PathError, SelectionError, StructureError, check_callable, user_facing
from .._tree import (
    Cell,
    Path,
    as_path,
    closest,
    flatten,
    flatten_as,
    flatten_with_path,
    format,
    is_array,
)
from ._coverage import Selector
from ._messages import difference, refuse_without_paths
from ._replace import added, cast_floats, replace_in, values_of
from ._selection import Entry, Focused, focus_on
from ._selectors import check_dtype

T = TypeVar("T")


class TreeUpdates:
    """The operations of a `Lens` that give another tree."""

    selector: Selector

    @user_facing
    def set(self, tree: T, values: Mapping[Any, Any], *, replace: bool = False) -> T:
        """Returns the tree with other values in the focus.

        Args:
            tree: Any pytree.
            values: One value (or state that has it) for each selected path, as `get` gives
                them; a path may be written as text.
            replace: Whether a value may differ in structure, shape or dtype.

        Returns:
            A tree of the same structure; what isn't selected is the same object.

        Raises:
            ArgumentTypeError: `values` isn't a mapping.
            PathError: The paths aren't those that are selected, or nothing is.
            StructureError: A value differs in structure, shape or dtype.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("b").set({"b": jnp.zeros(1), "w": jnp.ones(1)}, {"b": jnp.ones(1)})
            {'b': Array([1.], dtype=float32), 'w': Array([1.], dtype=float32)}
        """
        refuse_without_paths(values, f"set what {self!r} selects")
        focused = focus_on(self.selector, tree, required_by="set")
        by_path = values if isinstance(values, dict) else dict(values.items())
        if tuple(by_path) != focused.entries.paths:
            by_path = {as_path(key): value for key, value in by_path.items()}
            self._check_paths(by_path, focused.entries.paths)
            by_path = {path: by_path[path] for path in focused.entries.paths}
        return replace_in(focused, list(by_path.values()), free=replace)

    @user_facing
    def update(
        self,
        tree: T,
        function: Callable[..., Any],
        *,
        with_path: bool = False,
        replace: bool = False,
    ) -> T:
        """Returns the tree with a function applied to each value in the focus.

        Args:
            tree: Any pytree.
            function: Maps a value to a new one; for a state, its whole value.
            with_path: Whether to call ``function(path, value)``.
            replace: Whether a value may change in structure, shape or dtype.

        Returns:
            A tree of the same structure; what isn't selected is the same object.

        Raises:
            ArgumentTypeError: `function` isn't callable.
            PathError: A pattern matches nothing.
            StructureError: A value changed in structure, shape or dtype.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("b").update({"b": jnp.ones(1)}, lambda b: 2 * b)
            {'b': Array([2.], dtype=float32)}
        """
        check_callable(function, "function", "update")
        focused = focus_on(self.selector, tree, required_by="update")
        values = values_of(focused.leaves, focused.entries)
        columns = (focused.entries.paths, values) if with_path else (values,)
        return replace_in(focused, list(map(function, *columns)), free=replace)

    @user_facing
    def apply_updates(self, tree: T, updates: Any) -> T:
        """Returns the tree with updates added to the focus, as `optax.apply_updates` does.

        Args:
            tree: Any pytree.
            updates: A tree of the focus' structure, as an Optax optimiser gives it.

        Returns:
            The new tree. Sums are taken in the wider dtype and given in that of the tree, so
            that updates in float32 go to weights in bfloat16.

        Raises:
            StructureError: The updates don't fit the focus: in structure or shape, or complex
                updates of real arrays, or floating-point updates of integers.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> tree = {"b": jnp.ones(1), "w": jnp.ones(1)}
            >>> sl.lens("b").apply_updates(tree, {"b": -jnp.ones(1), "w": None})
            {'b': Array([0.], dtype=float32), 'w': Array([1.], dtype=float32)}
        """
        focused = focus_on(self.selector, tree, required_by="apply_updates")
        steps, others = halves_of(focused, updates)
        if steps is None:
            raise StructureError(
                f"asked to apply updates to {self!r}",
                f"of tree and updates, {difference(tree, updates)}",
                "the updates of an optimiser whose init was given this lens' focus",
            )
        values = values_of(focused.leaves, focused.entries)
        news = list(map(added, focused.entries.paths, values, steps))
        if others:
            raise StructureError(
                f"asked to apply updates to what a lens selects, and not to '{format(others[0])}'",
                "there is an update for that",
                "a lens that selects just what was optimised",
                "lens.partition(updates)[0], to leave it as it is",
            )
        return replace_in(focused, news, free=False)

    @user_facing
    def stop_gradient(self, tree: T) -> T:
        """Returns the tree with no gradient flowing through the focus.

        Args:
            tree: Any pytree.

        Returns:
            The tree with `jax.lax.stop_gradient` on each selected array.

        Example:
            >>> import jax, jax.numpy as jnp, statelens as sl
            >>> tree = {"b": jnp.ones(()), "w": jnp.ones(())}
            >>> held = sl.lens("b").stop_gradient
            >>> jax.grad(lambda t: held(t)["b"] * t["w"])(tree)
            {'b': Array(0., dtype=float32), 'w': Array(1., dtype=float32)}
        """
        return self._map_arrays(tree, _hold_still, "stop_gradient")

    @user_facing
    def cast(self, tree: T, dtype: Any) -> T:
        """Returns the tree with the floating-point arrays in the focus cast.

        Args:
            tree: Any pytree.
            dtype: The dtype to cast to. Integers, booleans and keys in the focus
                stay, and so do complex arrays when the dtype is real.

        Returns:
            The new tree.

        Raises:
            PathError: A pattern that isn't optional matches nothing, or nothing is selected.
            SelectionError: The lens selects a part of an array.
            ArgumentTypeError: `dtype` names no dtype.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens(...).cast({"n": jnp.arange(1), "w": jnp.ones(1)}, jnp.bfloat16)
            {'n': Array([0], dtype=int32), 'w': Array([1], dtype=bfloat16)}
        """
        check_dtype(dtype, "cast")
        for entry in focus_on(self.selector, tree, required_by="cast").entries:
            if entry.index is not None:
                raise SelectionError(
                    f"asked to cast the part {entry.index} of '{format(entry.path)}'",
                    "an array has one dtype",
                    "a lens on the whole array",
                )
        return self._map_arrays(tree, lambda x: cast_floats(x, dtype), "cast")

    def _map_arrays(self, tree: Any, function: Callable[[Any], Any], required_by: str) -> Any:
        focused = focus_on(self.selector, tree, required_by=required_by)
        values = jax.tree.map(
            lambda x: function(x) if is_array(x) else x,
            values_of(focused.leaves, focused.entries),
        )
        return replace_in(focused, values, free=True)

    def _check_paths(self, values: Mapping[Path, Any], paths: tuple[Path, ...]) -> None:
        selected = set(paths)
        for path in values:
            if path in selected:
                continue
            near = closest(format(path), paths) or [format(path) for path in paths[:5]]
            raise PathError(
                f"asked to set '{format(path)}', which {self!r} doesn't select",
                f"the closest that it selects: {', '.join(near)}",
                "a path that the lens selects, or a wider lens",
            )
        for path in paths:
            if path not in values:
                raise PathError(
                    f"asked to set what {self!r} selects",
                    f"there is no value for '{format(path)}'",
                    "a narrower lens, or a value for each path that get(tree) lists",
                )


def _hold_still(array: Any) -> Any:
    # No gradient flows through an array of NumPy, and JAX would cast it.
    return jax.lax.stop_gradient(array) if isinstance(array, jax.Array) else array


def halves_of(focused: Focused, other: Any) -> tuple[list[Any] | None, list[Path]]:
    """Reads for each entry a tree of the focus' structure; gives the paths of what else it has.

    Where the structure is another one, it gives None.
    """
    leaves = flatten_as(focused.treedef, other)
    if leaves is None:
        return None, []
    selected = {position for entry in focused.entries for position in entry.positions}
    others = [
        position
        for position, leaf in enumerate(leaves)
        if position not in selected and (is_array(leaf) or isinstance(leaf, Cell))
    ]
    paths = flatten_with_path(other)[0] if others else []
    return [_read(entry, leaves) for entry in focused.entries], [paths[n] for n in others]


def _read(entry: Entry, leaves: list[Any]) -> Any:
    leaf = leaves[entry.positions[0]]
    if entry.atom is not None and isinstance(leaf, Cell):
        leaf = flatten(leaf.value)[0][entry.atom]
    return leaf.value if isinstance(leaf, Cell) else leaf
