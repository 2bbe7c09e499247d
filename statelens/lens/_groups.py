"""Groups: a labelling of a tree's units that is total and disjoint."""

from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import takewhile
from typing import Any, NoReturn, TypeVar

from .._errors import ArgumentTypeError, PathError, SelectionError, user_facing
from .._tree import Cell, a_leaf, flatten, flatten_with_path, format
from ._algebra import Not, Or, without
from ._lens import Lens
from ._partition import Repeat, label, split
from ._selection import Entry, Focused, Selection, focus_on
from ._spec import LensSpec, selector_of

T = TypeVar("T")


class Groups:
    """Lenses by name that share out a tree among them; see `groups`."""

    def __init__(self, lenses: Mapping[str, LensSpec], *, first_match: bool):
        if not isinstance(lenses, Mapping):
            raise ArgumentTypeError(
                f"asked for groups={lenses!r:.80}",
                f"that is {a_leaf(lenses)}, without names",
                "a dictionary with a lens for each name, as in groups({'decay': sl.ndim >= 2})",
            )
        self._selectors = {name: selector_of(spec) for name, spec in lenses.items()}
        self._first_match = first_match

    @user_facing
    def __getitem__(self, name: str) -> Lens:
        if name not in self._selectors:
            raise PathError(
                f"asked for the group {name!r}",
                f"the groups are {', '.join(map(repr, self._selectors))}",
                "one of these",
            )
        selector = self._selectors[name]
        if self._first_match:
            earlier = takewhile(name.__ne__, self._selectors)
            selector = reduce(without, map(self._selectors.__getitem__, earlier), selector)
        return Lens(selector)

    def __iter__(self) -> Iterator[str]:
        return iter(self._selectors)

    def __len__(self) -> int:
        return len(self._selectors)

    def __repr__(self) -> str:
        inside = ", ".join(f"{k!r}: {v.written()!r}" for k, v in self._selectors.items())
        return f"groups({{{inside}}}{', first_match=True' * self._first_match})"

    @user_facing
    def partition(self, tree: T) -> dict[str, T]:
        """Splits a tree in one half for each group.

        Args:
            tree: Any pytree.

        Returns:
            For each name the tree with None outside the group; what is no unit (functions,
            numbers) is in none of them. `combine` puts them together.

        Raises:
            SelectionError: The groups are not total or not disjoint on this tree.
        """
        halves = {}
        for name, (leaves, treedef, entries) in self._shares(tree).items():
            focus, _ = flatten(split(leaves, treedef, entries)[0])
            for position, first in entries.repeats.items():
                focus[position] = Repeat(first)
            halves[name] = treedef.unflatten(focus)
        return halves

    @user_facing
    def __call__(self, tree: Any) -> Any:
        """Returns the tree with the name of its group for each leaf.

        Args:
            tree: Any pytree.

        Returns:
            Labels; what is no unit (functions, numbers) is None, as in
            ``equinox.filter(tree, equinox.is_array)``.

            `optax.multi_transform` takes the groups themselves. It also takes a tree of labels,
            but calls one that can be called, and the labels of an Equinox model can, as it does
            (Optax 0.2.8: "unsupported operand type(s) for @: 'str' and 'MLP'"). Give it the
            groups, or ``lambda _: labels``.

        Raises:
            SelectionError: The groups are not total or not disjoint on this tree.
        """
        shares = self._shares(tree)
        leaves, treedef = flatten(tree)
        labels = ((entry, name) for name, share in shares.items() for entry in share.entries)
        return label(leaves, treedef, labels, None)

    def _shares(self, tree: Any) -> dict[str, Focused]:
        """Returns what each group takes of a tree that they share out."""
        taken = {
            name: focus_on(selector, tree, required_by=f"the group {name!r}")
            for name, selector in self._selectors.items()
        }
        self._refuse_units_in_none(tree)
        owners: dict[tuple[int, int | None], str] = {}
        shares = {}
        for name, (leaves, treedef, selection) in taken.items():
            entries: list[Entry] = []
            for entry in selection:
                alone = _atoms_of(entry, leaves[entry.positions[0]])
                owned = {
                    _place(atom): owners[_place(atom)] for atom in alone if _place(atom) in owners
                }
                if owned and not self._first_match:
                    _refuse_two_owners(alone, owned, name)
                left = [atom for atom in alone if _place(atom) not in owned]
                owners.update((_place(atom), name) for atom in left)
                entries += left if owned else [entry]
            if selection and not entries:
                raise SelectionError(
                    f"asked for the group {name!r}",
                    f"it is shadowed: earlier groups take all that it selects, "
                    f"'{format(selection[0].path)}' first",
                    "put it before them, or leave it out",
                )
            cells = [position for position, leaf in enumerate(leaves) if isinstance(leaf, Cell)]
            shares[name] = Focused(leaves, treedef, Selection(entries, cells=cells))
        return shares

    def _refuse_units_in_none(self, tree: Any) -> None:
        every = Or(selector_of(None), *self._selectors.values())
        left = focus_on(Not(every), tree).entries
        if left:
            raise SelectionError(
                "asked for groups that share out a tree",
                f"'{format(left[0].path)}' is in no group"
                + (f", nor are {len(left) - 1} others" if len(left) > 1 else ""),
                "a group for all that is left: {..., 'rest': ...} with first_match=True",
            )


def _atoms_of(entry: Entry, unit: Any) -> list[Entry]:
    """Lists the leaves in a cell one by one; anything else is its own only one."""
    if entry.atom is not None or not isinstance(unit, Cell):
        return [entry]
    paths, leaves, _ = flatten_with_path(unit.look(), unit._description)
    return [
        entry._replace(path=entry.path + inner, atom=atom, inner=inner)
        for atom, (inner, leaf) in enumerate(zip(paths, leaves, strict=True))
        if leaf is not None
    ] or [entry]


def _place(atom: Entry) -> tuple[int, int | None]:
    return atom.positions[0], atom.atom


def _refuse_two_owners(atoms: list[Entry], owned: dict[Any, str], name: str) -> NoReturn:
    path = next(atom.path for atom in atoms if _place(atom) in owned)
    raise SelectionError(
        "asked for disjoint groups",
        f"'{format(path)}' is in the group {next(iter(owned.values()))!r} and in {name!r}",
        "make the lenses disjoint, as in one - other",
        "first_match=True, if the first one is to win",
    )


@user_facing
def groups(lenses: Mapping[str, LensSpec], *, first_match: bool = False) -> Groups:
    """Shares out a tree among named lenses; every unit is in exactly one group.

    Args:
        lenses: A lens, in any form that `lens` takes, for each name.
        first_match: Whether a unit that several lenses select goes to the first of them.
            Otherwise that is an error.

    Returns:
        The groups: called with a tree they give its labels, and so `optax.multi_transform`
        takes the groups themselves; ``groups[name]`` is the lens of one; `partition` gives a
        half for each.

    Raises:
        ArgumentTypeError: `lenses` isn't a mapping, or one of them is nothing that selects.
        SelectionError: When used, where a unit is in no group or in several, or a group has
            nothing left.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> decay = sl.groups({"decay": sl.ndim >= 2, "plain": sl.ndim < 2})
        >>> decay({"b": jnp.ones(2), "w": jnp.ones((2, 2))})
        {'b': 'plain', 'w': 'decay'}
    """
    return Groups(lenses, first_match=first_match)
