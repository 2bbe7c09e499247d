"""Leaves by name: what of a tree is saved, and how a tree with other values is made."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.core
import jax.tree_util as jtu

from .._errors import CheckpointError, SelectionError, StateTypeError, StructureError
from .._tree import (
    Cell,
    Index,
    LensLeaf,
    MutableNode,
    Path,
    TreeDef,
    flatten,
    flatten_with_path,
    format,
    from_jax,
    hidden_cells,
    looking,
    sites,
)
from ..lens import BoundLens, LensSpec, View, focus_on, selector_of
from ._encoding import is_saved, why_not


class Slot(NamedTuple):
    """A leaf that is saved: its path, all its names, and where it is."""

    path: Path
    names: tuple[str, ...]
    # What is there: an array, a shape and dtype, or a number; under an index, the part.
    leaf: Any
    index: Index | None
    # Among the leaves of the tree, or of the value of a cell.
    cell: Cell | None
    position: int


def is_all(spec: LensSpec) -> bool:
    """Says whether a lens is ``...``."""
    return spec is ... or selector_of(spec) == selector_of(...)


def slots_of(tree: Any, spec: LensSpec, required_by: str) -> list[Slot]:
    """Lists the leaves that a lens selects, those inside states too, in the tree's order."""
    found = list(looking(_slots, tree, spec, required_by))
    seen: dict[str, Slot] = {}
    for slot in found:
        earlier = seen.setdefault(slot.names[0], slot)
        if earlier is not slot:
            raise StructureError(
                f"asked to {required_by} a tree by the names of its leaves",
                f"two of them are called '{slot.names[0]}'",
                "keys of dictionaries that are written differently",
            )
    return found


def _slots(tree: Any, spec: LensSpec, required_by: str) -> Iterator[Slot]:
    parts = None if is_all(spec) else _selected(tree, spec, required_by)
    live = _live_arrays(tree)
    for paths, positions, unit in sites(tree, lambda path, leaf: is_saved(leaf)):
        if parts is not None and positions[0] not in parts:
            continue
        selected = None if parts is None else parts[positions[0]]
        for position, (inner, leaf) in enumerate(_atoms(unit)):
            if not is_saved(leaf) or (selected and position not in selected):
                continue
            index = selected[position] if selected else None
            leaf = leaf if index is None else index.read(leaf)
            here = tuple(path + inner for path in paths)
            names = tuple(map(format, here))
            if isinstance(unit, Cell):
                yield Slot(here[0], names, leaf, index, unit, position)
            else:
                place = next((live[p] for p in here if p in live), _Place(None, positions[0]))
                if place.index is not None and index is not None:
                    raise SelectionError(
                        f"asked to {required_by} the part {index} of '{names[0]}'",
                        f"that is itself a part of an array, {place.index}",
                        "the module with one lens, in place of a bound lens with another one",
                    )
                yield Slot(here[0], names, leaf, place.index or index, place.cell, place.atom)


def _atoms(unit: Any) -> list[tuple[Path, Any]]:
    if not isinstance(unit, Cell):
        return [((), unit)]
    paths, leaves, _ = flatten_with_path(unit.look())
    return list(zip(paths, leaves, strict=True))


def _selected(tree: Any, spec: LensSpec, required_by: str) -> dict[int, dict[int, Index | None]]:
    """Says which atoms are selected of the unit at each position: none are all of them."""
    found: dict[int, dict[int, Index | None]] = {}
    for entry in focus_on(selector_of(spec), tree, required_by=required_by).entries:
        atoms = found.setdefault(entry.positions[0], {})
        if entry.atom is not None or entry.index is not None:
            atoms[entry.atom or 0] = entry.index
    return found


class _Place(NamedTuple):
    """Where an array is that a state holds: which of its leaves, and which part of that."""

    cell: Cell | None
    atom: int
    index: Index | None = None


def _live_arrays(tree: Any) -> dict[Path, _Place]:
    """Lists the arrays outside of states that can be assigned: of modules, and of bound lenses."""
    found = {
        path + inner: _Place(cell, atom)
        for cell, path in hidden_cells(tree).items()
        for atom, (inner, _) in enumerate(_atoms(cell))
    }
    for path, node in _outer(tree)[0]:
        if isinstance(node, BoundLens):
            for inner, unit in node.units().items():
                if isinstance(unit, View):
                    paths = [at for at, _ in _atoms(unit.cell)]
                    place = _Place(unit.cell, paths.index(unit.inner), unit.index)
                    found[path + inner] = place
    return found


def refuse_unsavable(slots: list[Slot], required_by: str, *, may_be_spread: bool = False) -> None:
    """Refuses leaves that no file can hold, all of them at once."""
    reasons = [(slot, why_not(slot.leaf, may_be_spread=may_be_spread)) for slot in slots]
    wrong = [(slot, why) for slot, why in reasons if why is not None]
    if wrong:
        lines = [f"'{slot.names[0]}' is {why}" for slot, why in wrong[:10]]
        raise CheckpointError(
            f"asked to {required_by} {len(slots)} leaves, of which {len(wrong)} can't be saved",
            "\n".join(lines + [f"and {len(wrong) - 10} more"] * (len(wrong) > 10)),
            "a lens that leaves them out",
            "save outside of compiled functions, and before a step that donates",
            "Checkpoints(..., engine='orbax'), for arrays of several processes",
        )


def _refuse_traced(slots: list[Slot]) -> None:
    traced = [slot.names[0] for slot in slots if isinstance(slot.leaf, jax.core.Tracer)]
    if traced:
        raise CheckpointError(
            f"asked to load '{traced[0]}'",
            "there is a value that is being traced: the file would be read once, for good",
            "load before the compiled function is called, and pass the tree to it",
        )


class Target(NamedTuple):
    """A tree to be loaded into."""

    tree: Any
    slots: list[Slot]
    # The names of all leaves, those too that the lens doesn't select.
    names: frozenset[str]

    @classmethod
    def of(cls, like: Any, spec: LensSpec) -> "Target":
        """Finds what is to be loaded; refuses what can't be assigned."""
        slots = slots_of(like, spec, "load")
        _refuse_traced(slots)
        every = slots if is_all(spec) else slots_of(like, ..., "load")
        inside = [path for path, node in _outer(like)[0] if isinstance(node, MutableNode)]
        for slot in slots:
            if slot.cell is None and any(slot.path[: len(path)] == path for path in inside):
                raise StateTypeError(
                    f"asked to load the array at '{slot.names[0]}'",
                    "it lies in a module beside other modules or states, without a cell to write",
                    "make what holds it an attribute of its own in its module",
                    "a lens that leaves it out",
                )
        return cls(like, slots, frozenset(name for slot in every for name in slot.names))

    def filled(self, values: Mapping[int, Any]) -> Any:
        """Returns the tree with values by number of the slot; states are assigned, all at once."""
        cells: dict[Cell, tuple[list[Any], TreeDef]] = {}
        leaves, treedef = looking(flatten, self.tree)
        leaves = list(leaves)
        for number, value in values.items():
            slot, into = self.slots[number], leaves
            if slot.cell is not None:
                into = cells.setdefault(slot.cell, _flat(slot.cell))[0]
            whole = into[slot.position]
            into[slot.position] = value if slot.index is None else slot.index.write(whole, value)
        filled = self._around(treedef.unflatten(leaves))
        if cells:
            news = [structure.unflatten(inner) for inner, structure in cells.values()]
            next(iter(cells)).write_all(tuple(cells), news)
        return filled

    def _around(self, filled: Any) -> Any:
        """Returns a filled tree with modules and bound lenses themselves, which are assigned to."""
        entries, structure = _outer(self.tree)
        if not any(isinstance(node, _LIVE) for _, node in entries):
            return filled
        news = structure.flatten_up_to(filled)
        return structure.unflatten(
            node if isinstance(node, _LIVE) else new
            for (_, node), new in zip(entries, news, strict=True)
        )


def _flat(cell: Cell) -> tuple[list[Any], TreeDef]:
    leaves, structure = flatten(cell.look())
    return list(leaves), structure


_LIVE = (MutableNode, BoundLens)


def _is_outer(node: Any) -> bool:
    return node is None or isinstance(node, (LensLeaf, *_LIVE))


def _outer(tree: Any) -> tuple[list[tuple[Path, Any]], TreeDef]:
    """Flattens a tree down to its modules, states and other leaves, with their paths."""
    entries, structure = jtu.tree_flatten_with_path(tree, is_leaf=_is_outer)
    return [(from_jax(keys)[0], node) for keys, node in entries], structure
