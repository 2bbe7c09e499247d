"""Tying: one array in two places of an immutable tree."""

from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import jax.tree_util as jtu

from .._errors import FrozenTreeError, SelectionError, StructureError, user_facing
from .._tree import Cell, GraphKey, flatten, flatten_with_path, format, is_array
from ._selection import focus_on
from ._spec import LensSpec, selector_of


class Tied:
    """A tree in which some leaves are those of other places; see `tie`.

    It reads and is called as the tree itself. To JAX, and to lenses, it is a pytree with the
    tree's own paths in which a tied leaf occurs once.
    """

    def __init__(
        self, tree: Any, sources: tuple[tuple[int, int], ...], by: Callable[[Any], Any] | None
    ):
        # The tree has None at the positions that are tied.
        self.__dict__["_tree"] = tree
        self.__dict__["_sources"] = sources
        self.__dict__["_by"] = by

    @property
    def untied(self) -> Any:
        """The tree itself, with each tied leaf in all its places."""
        leaves, treedef = flatten(self._tree)
        for position, source in self._sources:
            leaves[position] = _made(leaves[source], self._by)
        return treedef.unflatten(leaves)

    @user_facing
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.untied, name)

    @user_facing
    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenTreeError(
            f"asked to set the attribute {name!r} of a tied tree",
            "it is immutable; the write would be lost",
            "a lens, as in lens.set(tied, {path: value})",
            "set it before tying, or on .untied",
        )

    @user_facing
    def __len__(self) -> int:
        return len(self.untied)

    @user_facing
    def __iter__(self) -> Iterator[Any]:
        return iter(self.untied)

    @user_facing
    def __getitem__(self, key: Any) -> Any:
        return self.untied[key]

    @user_facing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.untied(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tied({self._tree!r})"

    def _flatten_with_keys(self) -> Any:
        # The key of no length keeps the tree's own paths.
        return ((GraphKey(((),)), self._tree),), (self._sources, self._by)

    @classmethod
    def _unflatten(cls, tied: tuple[Any, Any], children: Any) -> Self:
        return cls(children[0], *tied)


jtu.register_pytree_with_keys(Tied, Tied._flatten_with_keys, Tied._unflatten)


def _made(source: Any, by: Callable[[Any], Any] | None) -> Any:
    """Returns what stands in a tied place, in a half of a tree or one of shapes too."""
    if by is None or not is_array(source):
        return source
    return jax.eval_shape(by, source) if isinstance(source, jax.ShapeDtypeStruct) else by(source)


@user_facing
def tie(
    tree: Any, to: LensSpec, source: LensSpec, /, *, by: Callable[[Any], Any] | None = None
) -> Tied:
    """Ties arrays of an immutable tree: the places `to` have the arrays at `source`.

    A tied array is one unit with one gradient, the sum over all its places, and stays tied
    under every operation of lenses and every transform. (A `State` that is reached by two
    paths is tied as it is.)

    Args:
        tree: Any pytree, an Equinox model say.
        to: Which places are tied; whatever `lens` takes.
        source: Where their arrays lie; as many, in the same order, of the same shapes.
        by: What makes the array of a place from that at the source, `jax.numpy.transpose` say.
            None, if it is the same array.

    Returns:
        The tied tree. It is called and read as the tree itself; ``.untied`` is the tree.

    Raises:
        SelectionError: The two don't select equally many arrays, or the same one.
        StructureError: Two arrays differ in shape or dtype.

    Example:
        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> tied = sl.tie({"embed": jnp.ones(2), "head": jnp.zeros(2)}, "head", "embed")
        >>> tied["head"]
        Array([1., 1.], dtype=float32)
        >>> jax.grad(lambda t: jnp.sum(t["head"] + 2 * t["embed"]))(tied)["embed"]
        Array([3., 3.], dtype=float32)
    """
    leaves, treedef = flatten(tree)
    ends = [_whole_arrays(tree, leaves, spec) for spec in (to, source)]
    if len(ends[0]) != len(ends[1]) or set(ends[0]) & set(ends[1]):
        raise SelectionError(
            "asked to tie arrays of a tree",
            f"{len(ends[0])} places are to be tied to {len(ends[1])} others, "
            f"of which {len(set(ends[0]) & set(ends[1]))} are the same",
            "two lenses that select equally many different arrays",
        )
    paths = flatten_with_path(tree)[0]
    for position, other in zip(*ends, strict=True):
        target, origin = leaves[position], leaves[other]
        made = origin if by is None else jax.eval_shape(by, origin)
        if (target.shape, target.dtype) != (made.shape, made.dtype):
            raise StructureError(
                f"asked to tie '{format(paths[position])}' to '{format(paths[other])}'",
                f"they are {target.dtype}{list(target.shape)} and "
                f"{made.dtype}{list(made.shape)}" + (" as `by` makes it" if by else ""),
                "arrays of one shape and dtype",
                "tie(..., by=jax.numpy.transpose), if one is the transpose of the other",
            )
        leaves[position] = None
    return Tied(treedef.unflatten(leaves), tuple(zip(*ends, strict=True)), by)


def _whole_arrays(tree: Any, leaves: list[Any], spec: LensSpec) -> list[int]:
    entries = focus_on(selector_of(spec), tree, required_by="tie").entries
    for entry in entries:
        is_state = isinstance(leaves[entry.positions[0]], Cell)
        if is_state or entry.index is not None:
            raise SelectionError(
                f"asked to tie '{format(entry.path)}'",
                "that is a State" if is_state else f"only the part {entry.index} is selected",
                "put the same State in both places" if is_state else "tie whole arrays",
            )
    return [entry.positions[0] for entry in entries]
