"""Trees with Equinox modules in them, put together again and again from other leaves.

JAX puts a module together by a function of Python that sets one attribute after the other. What
a module is lies in its ``__dict__``: a copy of that, with other leaves in it, makes another one
sooner.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax

_new, _set_attribute = object.__new__, object.__setattr__


class _Step(NamedTuple):
    """How to put one node together.

    Attributes:
        cls: Its class, if it is a module.
        unflatten: What makes it of its contents, if it is anything else.
        contents: Its attributes, or its children.
        places: For those that aren't the same each time, where they are among all values.
    """

    cls: type
    unflatten: Callable[[list[Any]], Any] | None
    contents: Any
    places: list[tuple[Any, int]]


class Assembly:
    """How a tree is put together from some of its leaves.

    Args:
        fill: Puts it together in the usual way.
        count: How many leaves it takes.

    Attributes:
        modules: The modules that lie in no other one: where each is among all values, and which
            of the leaves are its own.
    """

    def __init__(self, fill: Callable[[Sequence[Any]], Any], count: int):
        self.modules: list[tuple[int, slice]] = []
        self._steps: list[_Step] = []
        self._count = count
        holes = list(map(_Hole, range(count)))
        # What isn't the same object in both is made for each tree.
        self._add(fill(holes), fill(holes))

    def values(self, leaves: Sequence[Any]) -> list[Any]:
        """Puts the tree together.

        Args:
            leaves: The leaves that it takes.

        Returns:
            These, and all nodes that were made; the tree is the last one.
        """
        values = [*leaves]
        for cls, unflatten, contents, places in self._steps:
            contents = contents.copy()
            for key, place in places:
                contents[key] = values[place]
            if unflatten is None:
                node = _new(cls)
                _set_attribute(node, "__dict__", contents)
            else:
                node = unflatten(contents)
            values.append(node)
        return values

    def _add(self, node: Any, twin: Any, is_inside: bool = False) -> tuple[int, list[int]]:
        """Finds out how a node is made; says where it is, and which leaves are in it."""
        if isinstance(node, _Hole):
            return node.place, [node.place]
        unflatten = None
        is_module = isinstance(node, eqx.Module)
        if is_module:
            contents, others = dict(vars(node)), vars(twin)
            pairs = [(name, value, others[name]) for name, value in contents.items()]
        else:
            contents, treedef = jax.tree.flatten(node, is_leaf=_is_module)
            others = jax.tree.leaves(twin, is_leaf=_is_module)
            pairs = list(zip(range(len(contents)), contents, others, strict=True))
            unflatten = treedef.unflatten
        inside = is_inside or is_module
        found = [
            (key, *self._add(value, other, inside))
            for key, value, other in pairs
            if isinstance(value, _Hole) or value is not other
        ]
        own = [place for _, _, places in found for place in places]
        self._steps.append(_Step(type(node), unflatten, contents, [at[:2] for at in found]))
        where = self._count + len(self._steps) - 1
        if is_module and not is_inside:
            self.modules.append((where, slice(min(own, default=0), max(own, default=-1) + 1)))
        return where, own


def has_modules(tree: Any) -> bool:
    """Says whether there are Equinox modules in a tree."""
    return any(map(_is_module, jax.tree.leaves(tree, is_leaf=_is_module)))


class _Hole:
    """Takes the place of a leaf.

    Attributes:
        place: Where the leaf is among all values.
    """

    def __init__(self, place: int):
        self.place = place


def _is_module(node: Any) -> bool:
    return isinstance(node, eqx.Module)
