"""What to say of trees in which a lens finds nothing, or that differ."""

from collections.abc import Collection
from itertools import islice
from typing import Any

from .._errors import ArgumentTypeError, SelectionError, explain
from .._tree import (
    Cell,
    Path,
    a_leaf,
    cells,
    closest,
    flatten_with_path,
    format,
    is_array,
    leaves_with_path,
)

_WHERE_STATES_ARE = (
    "the model as the tree, or as the first argument",
    "model.states(...), for states that are no argument",
)


def unmatched(text: str, tree: Any, required_by: str) -> str:
    """Says what there is in a tree in which a pattern matches nothing."""
    leaves = leaves_with_path(tree)
    units = [path for path, leaf in leaves if is_array(leaf)]
    written = {format(path): leaf for path, leaf in leaves}
    tagged = [cell for cell in cells(tree) if text in cell.tag]
    below = [path for path in units if format(path).startswith((f"{text}.", f"{text}["))]
    remedies = []
    if tagged:
        found = f"it is read as a path, and {text!r} is a tag, that of {tagged[0]!r} first"
        remedies.append(f"sl.tagged({text!r}), for the states that bear the tag")
    elif text in written:
        kind = type(written[text]).__name__
        found = f"'{text}' is of type {kind}, and only arrays, numbers and states are selected"
        remedies.append("make it an array with jnp.asarray")
    elif len(leaves) == 1 and not leaves[0][0]:
        found = f"the tree is {a_leaf(leaves[0][1])}, which has no paths inside"
        remedies += _WHERE_STATES_ARE
    elif tree is None:
        found = "there is no tree to look at"
        remedies += _WHERE_STATES_ARE
    elif below:
        found = f"'{text}' is a node with {len(below)} leaves below it"
        remedies.append(f"'{text}.**' for all of them")
    else:
        near = _near(text, units)
        listed = near or [format(path) for path in units[:5]]
        rest = f" and {len(units) - 5} more" if not near and len(units) > 5 else ""
        found = f"{'the closest paths are' if near else 'the paths are'} {_listed(listed)}{rest}"
        if near:
            remedies.append(f"'{near[0]}'")
    remedies.append("lens(..., optional=True), if it may match nothing")
    return explain(f"asked {required_by} for '{text}', which matches nothing", found, *remedies)


def refuse_without_paths(values: Any, asked: str) -> None:
    """Refuses what isn't a mapping by path."""
    if not hasattr(values, "items"):
        raise ArgumentTypeError(
            f"asked to {asked}",
            f"there is {a_leaf(values)} for them, without paths",
            "a dictionary with a value for each path, as lens.get(tree) or values_dict() gives it",
            "update with a function of a value, for one rule for all of them",
        )


def refuse_several(paths: Collection[Path], of: str, all_of_them: str) -> None:
    """Refuses several units where one is meant."""
    if len(paths) > 1:
        first = ", ".join(f"'{format(path)}'" for path in islice(paths, 5))
        raise SelectionError(
            f"asked for the only unit of {of}",
            f"it selects {len(paths)}: {first}{', ...' if len(paths) > 5 else ''}",
            f"{all_of_them} for all of them, or a narrower lens",
        )


def _near(text: str, units: list[Path]) -> list[str]:
    """Lists patterns like a written one that match something."""
    for wildcard in (".**", ".*"):
        if text.endswith(wildcard):
            nodes = dict.fromkeys(path[:end] for path in units for end in range(1, len(path)))
            return [near + wildcard for near in closest(text.removesuffix(wildcard), nodes)]
    return closest(text.replace("**.", ""), units)


def empty(text: str, tree: Any, required_by: str) -> str:
    """Says what there is in a tree in which a lens selects nothing."""
    asked = f"asked {required_by} for lens({text!r}), which selects nothing"
    leaves = leaves_with_path(tree)
    if len(leaves) == 1 and not leaves[0][0] and not is_array(leaf := leaves[0][1]):
        found = f"the tree is {a_leaf(leaf)}, and only arrays and states are selected"
        return explain(asked, found, *_WHERE_STATES_ARE)
    kinds = sorted({type(leaf).__name__ for _, leaf in leaves if isinstance(leaf, Cell)})
    paths = [format(path) for path, leaf in leaves if is_array(leaf)]
    found = f"the tree has {len(paths)} arrays"
    if paths:
        found += f": {_listed(paths[:5])}" + (" and more" if len(paths) > 5 else "")
    if kinds:
        found += f"; its states are of the classes {', '.join(kinds)}"
    return explain(
        asked,
        found,
        "a lens that selects some of these; lens(...).paths(tree) shows what it selects",
    )


def _listed(paths: list[str]) -> str:
    return ", ".join(f"'{path}'" for path in paths) or "none"


def difference(first: Any, second: Any, prefix: Path = ()) -> str:
    """Says where two trees of different structures differ, for a message."""
    ours, theirs = flatten_with_path(first)[0], flatten_with_path(second)[0]
    in_one = set(ours) ^ set(theirs)
    differing = [path for path in [*ours, *theirs] if path in in_one]
    if differing:
        return f"they differ at '{format(prefix + differing[0])}', which only one of them has"
    return f"they differ in their nodes: {type(first).__name__}, {type(second).__name__}"
