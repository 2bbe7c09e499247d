"""Nodes: whole parts of a model, to be looked at, or replaced by something else.

A lens selects units, and keeps a tree's structure; `Nodes` selects what a unit lies in (a layer,
a block, or a leaf itself), and puts something else there: an adapter around a layer, a quantised
layer, a wrapper of paramax around a weight. What selects is a lens' selector, asked of each node.

    >>> import equinox as eqx, jax, statelens as sl
    >>> model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
    >>> linears = sl.nodes(eqx.nn.Linear)
    >>> [sl.path.format(path) for path in linears.paths(model)]
    ['layers[0]', 'layers[1]']
    >>> (linears / "bias").count(model)
    9
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, overload

from .._errors import check_callable, user_facing
from .._tree import Path, looking
from ._algebra import Within
from ._coverage import Selector
from ._lens import Lens
from ._places import Replacement, nodes_in
from ._spec import LensSpec, selector_of

__all__ = ["Nodes", "nodes"]

T = TypeVar("T")
Tree = TypeVar("Tree")


@dataclass(frozen=True, repr=False)
class Nodes(Generic[T]):
    """A selection of whole nodes; see `nodes`.

    ``nodes / spec`` is an ordinary lens, of what the spec selects inside the nodes.

    Attributes:
        selector: What is selected.
    """

    selector: Selector

    @user_facing
    def __truediv__(self, other: LensSpec) -> Lens:
        return Lens(Within(self.selector, selector_of(other)))

    def __str__(self) -> str:
        return self.selector.written()

    def __repr__(self) -> str:
        return f"nodes({str(self)!r})"

    @user_facing
    def get(self, tree: Any) -> dict[Path, T]:
        """Returns the nodes by path.

        Args:
            tree: Any pytree, or a facade module.

        Returns:
            The nodes in the tree's order, each once, by its first path; of nodes that lie in one
            another, the outermost.

        Raises:
            SelectionError: There is no such node.
            PathError: A pattern that isn't optional matches no node.

        Example:
            >>> import equinox as eqx, jax, statelens as sl
            >>> model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
            >>> sl.nodes(eqx.nn.Linear).get(model)["layers", 1].out_features
            1
        """
        return {each.path: each.node for each in nodes_in(self.selector, tree, "get")}

    @user_facing
    def paths(self, tree: Any) -> tuple[Path, ...]:
        """Returns the paths of the nodes, in order.

        Args:
            tree: Any pytree, or a facade module.

        Returns:
            The paths, as `get` gives them.

        Raises:
            SelectionError: There is no such node.
            PathError: A pattern that isn't optional matches no node.

        Example:
            >>> import statelens as sl
            >>> sl.nodes(list).paths({"a": [1, 2], "b": {"c": [3]}})
            (('a',), ('b', 'c'))
        """
        return tuple(each.path for each in looking(nodes_in, self.selector, tree, "paths"))

    @overload
    def update(
        self, tree: Tree, function: Callable[[T], Any], *, with_path: Literal[False] = False
    ) -> Tree: ...

    @overload
    def update(
        self, tree: Tree, function: Callable[[Path, T], Any], *, with_path: Literal[True]
    ) -> Tree: ...

    @user_facing
    def update(self, tree: Any, function: Callable[..., Any], *, with_path: bool = False) -> Any:
        """Replaces each node by what a function gives for it.

        An immutable tree stays as it is, and a new one is returned. A facade module is mutable,
        and is changed in place, as by `Module.assign`: its attributes are set, those of the
        modules in it too, and it is itself what is returned, so that the same line serves both
        styles. All of it is changed, or nothing if the function raises.

        Args:
            tree: Any pytree, or a facade module.
            function: Maps a node to what takes its place, which may be anything.
            with_path: Whether to call ``function(path, node)``.

        Returns:
            The tree with the nodes replaced; what lies outside of them are the same objects. A
            node that is there several times is given to the function once, and its
            replacement is shared as the node was.

        Raises:
            ArgumentTypeError: `function` isn't callable.
            SelectionError: There is no such node.
            PathError: A pattern that isn't optional matches no node.
            FrozenTreeError: In a transform, a facade module would get or lose states.

        Example:
            >>> import equinox as eqx, jax, jax.numpy as jnp, paramax, statelens as sl
            >>> model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
            >>> frozen = sl.nodes("layers[0]").update(model, paramax.NonTrainable)
            >>> type(frozen.layers[0]).__name__
            'NonTrainable'
            >>> paramax.unwrap(frozen)(jnp.ones(2)).shape
            (1,)
        """
        check_callable(function, "function", "update")
        found = nodes_in(self.selector, tree, "update")
        news: dict[Any, Any] = {}
        for met in found:
            if met.identity not in news:
                news[met.identity] = function(*[met.path] * with_path, met.node)
        return Replacement({met.place: news[met.identity] for met in found}).of(tree)


@overload
def nodes(spec: type[T]) -> Nodes[T]: ...


@overload
def nodes(spec: LensSpec) -> Nodes[Any]: ...


@user_facing
def nodes(spec: LensSpec) -> Nodes[Any]:
    """Selects whole nodes of a tree: layers, blocks, or leaves, to look at them or replace them.

    Args:
        spec: A class, of which nodes are instances, or several; a pattern of the nodes' paths,
            ``"encoder.layers[0]"`` or ``"**.weight"``; or a lens of these, as in
            ``sl.lens(eqx.nn.Linear) & "encoder.**"``. Of nodes that lie in one another the
            outermost is selected, and what is in it is a part of it.

    Returns:
        The selection, with `Nodes.get`, `Nodes.paths` and `Nodes.update`; ``nodes / "weight"``
        goes on inside the nodes, as a lens.

    Raises:
        ArgumentTypeError: The spec is nothing that selects.
        PatternError: The text can't be read.

    Example:
        >>> import equinox as eqx, jax, statelens as sl
        >>> class Doubled(eqx.Module):
        ...     layer: eqx.nn.Linear
        ...     def __call__(self, x, key=None):
        ...         return 2 * self.layer(x)
        >>> model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
        >>> model = sl.nodes(eqx.nn.Linear).update(model, Doubled)
        >>> [sl.path.format(path) for path in (sl.nodes(Doubled) / "**.bias").paths(model)]
        ['layers[0].layer.bias', 'layers[1].layer.bias']
    """
    return Nodes(selector_of(spec))
