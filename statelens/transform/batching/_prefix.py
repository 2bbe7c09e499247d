"""Places of arrays (axes, or mesh partitions), said by a tree that the whole tree begins with."""

from collections.abc import Callable, Container
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from ..._errors import ArgumentError, ArgumentTypeError
from ..._tree import Path, format, from_jax
from .._core import Partitioned, children_of, described, merge_static, split_static

Leaves = list[tuple[str, Any, Any]]
"""What arrays that come in are called, with the arrays and their places."""


class PlaceKind(NamedTuple):
    """What places are, and how messages speak of them."""

    is_place: Callable[[Any], bool]
    shared: Any  # the place of what all lanes, or devices, share
    default: Any  # that of states that are given without one, and of keyword arguments
    option: str  # the name of the options, after ``in_`` and ``out_``
    # In messages: what a place is, what several are called, which ones a lens gives.
    one: str
    several: str
    of_lens: str
    # What is said of a state that all share, and where its value has to be the same.
    is_shared: str
    everywhere: str
    # What to write for what isn't shared, and how all come to have one value.
    for_state: str
    for_output: str
    for_all: str

    def leaves(self, places: Any) -> list[Any]:
        """Lists what is in a tree of places, whether it is one or not."""
        return jax.tree.leaves(places, is_leaf=lambda node: node is None or self.is_place(node))

    def out_groups(self, places: Any) -> list[Any]:
        """Lists the places that outputs may get: those in a tree of them, and the shared one."""
        found = filter(self.is_place, self.leaves(places))
        return list(dict.fromkeys([*found, self.shared]))


def spread(
    places: Any, tree: Any, kind: PlaceKind, side: str, what: str, asked_by: str
) -> tuple[Any, list[Any]]:
    """Splits a tree; gives it with the place of each of its dynamic leaves."""
    # One place stands for all below it; where the tree has something static may be anything.
    operand = split_static(tree, lambda: what)
    positions = list(range(jax.tree.structure(tree).num_leaves))
    is_traced = set(_of_traced(operand, positions)).__contains__
    asked = f"asked {asked_by} for {side}_{kind.option}={{!r}} of {what}"
    found: list[Any] = []

    def descend(place: Any, here: Any, path: Path) -> None:
        count = jax.tree.structure(here).num_leaves
        below = range(len(found), len(found) + count)
        (form, children), (own_form, own_children) = children_of(place), children_of(here)
        if kind.is_place(place):
            found.extend([place] * count)
        elif not jtu.treedef_is_leaf(form):
            if form != own_form:
                raise ArgumentError(
                    asked.format(place),
                    _difference(place, here, path, kind, what),
                    f"a tree that {what} begins with, where one stands for all below it",
                )
            for (keys, own), (_, child) in zip(children, own_children, strict=True):
                descend(own, child, path + from_jax(keys)[0])
        elif any(map(is_traced, below)):
            raise ArgumentTypeError(
                asked.format(place),
                f"{place!r} is a {type(place).__name__}",
                f"{kind.one}, or a tree of them",
            )
        else:
            found.extend([place] * count)

    descend(places, tree, ())
    return operand, _of_traced(operand, found)


def _of_traced(operand: Any, each: list[Any]) -> list[Any]:
    """Picks what belongs to the dynamic leaves of a split tree, of one thing for each leaf."""
    return operand.with_dynamic(each).dynamic if isinstance(operand, Partitioned) else each


def _difference(place: Any, here: Any, path: Path, kind: PlaceKind, what: str) -> str:
    where = f"at '{format(path)}' " if path else ""
    theirs, ours = described(place), described(here)
    if theirs == ours:
        ours += " with other static parts"
    return f"{where}the {kind.several} are {theirs}, and {what} has {ours}"


class Grouping(NamedTuple):
    """How to put a tree together whose arrays were grouped by place."""

    treedef: Any  # of the tree as it was split
    places: list[Any]  # of each array
    labels: list[str]  # what each array is called

    def labels_of(self, place: Any) -> list[str]:
        """Lists what the arrays that get a place are called."""
        return [one for one, own in zip(self.labels, self.places, strict=True) if own == place]

    def join(self, groups: dict[Any, list[Any]]) -> Any:
        """Gives the tree, as the caller sees it."""
        left = {place: iter(group) for place, group in groups.items()}
        return merge_static(self.treedef.unflatten([next(left[place]) for place in self.places]))


def group(
    tree: Any, places: Any, shared: Container[int], kind: PlaceKind, what: str, asked_by: str
) -> tuple[dict[Any, list[Any]], Grouping]:
    """Groups the arrays in a tree that a function returns by the place that they get.

    The leaves at the positions `shared` are shared, whatever their places are.
    """
    # A function under a JAX transform has no other way to say the places of what only it knows.
    operand, each = spread(places, tree, kind, "out", what, asked_by)
    labels = [_label(keys, what) for keys, _ in jtu.tree_flatten_with_path(tree)[0]]
    positions = _of_traced(operand, list(range(len(labels))))
    labels = [labels[position] for position in positions]
    each = [kind.shared if n in shared else place for n, place in zip(positions, each, strict=True)]
    leaves, treedef = jax.tree.flatten(operand)
    groups: dict[Any, list[Any]] = {place: [] for place in kind.out_groups(places)}
    for leaf, place in zip(leaves, each, strict=True):
        groups[place].append(leaf)
    return groups, Grouping(treedef, each, labels)


def _label(keys: Any, what: str) -> str:
    return f"{what} at '{format(from_jax(keys)[0])}'" if keys else what
