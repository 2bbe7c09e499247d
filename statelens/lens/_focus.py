"""A lens held against a tree: the selection, and the errors when it selects nothing."""

from typing import Any, NamedTuple

from .._errors import PathError, SelectionError, explain
from .._tree import (
    Cell,
    Path,
    TreeDef,
    a_leaf,
    closest,
    flatten,
    format,
    is_array,
    leaves_with_path,
)
from ._coverage import Selector
from ._selection import Selection, select
from ._selectors import And, ByPath, Optional, Or, Sliced, Within


class Focused(NamedTuple):
    """A flattened tree, and what a lens selects in it.

    Attributes:
        leaves: The tree's leaves, cells whole.
        treedef: Its structure.
        entries: What is selected.
    """

    leaves: list[Any]
    treedef: TreeDef
    entries: Selection


def focus_on(
    selector: Selector,
    tree: Any,
    *,
    required_by: str | None = None,
    may_be_empty: bool = False,
) -> Focused:
    """Flattens a tree and selects in it.

    Args:
        selector: What to select.
        tree: Any pytree.
        required_by: The operation for which it is an error that a pattern matches nothing, or
            that nothing is selected; None if neither is.
        may_be_empty: Whether only the first is.

    Returns:
        The flattened tree with the selection.

    Raises:
        PathError: A pattern that isn't optional matches nothing.
        SelectionError: Nothing is selected.
    """
    leaves, treedef = flatten(tree)
    entries = select(selector, tree, leaves, treedef)
    if required_by is not None:
        if entries.unmatched:
            raise PathError(_unmatched(entries.unmatched[0], tree, required_by))
        if not (entries or may_be_empty or _is_optional(selector)):
            raise SelectionError(_empty(selector, tree, required_by))
    return Focused(leaves, treedef, entries)


def _is_optional(selector: Selector) -> bool:
    """Says whether it is meant that a selector may select nothing."""
    match selector:
        case Optional():
            return True
        case Or(a, b):
            return _is_optional(a) or _is_optional(b)
        case And(a, _) | Within(a, _) | Sliced(a, _):
            return _is_optional(a)
        case _:
            return False


def _unmatched(pattern: ByPath, tree: Any, required_by: str) -> str:
    text = pattern.written()
    leaves = leaves_with_path(tree)
    units = [path for path, leaf in leaves if is_array(leaf)]
    written = {format(path): leaf for path, leaf in leaves}
    below = [path for path in units if format(path).startswith((f"{text}.", f"{text}["))]
    remedies = []
    if text in written:
        kind = type(written[text]).__name__
        found = f"'{text}' is of type {kind}, and only arrays and states are selected"
        remedies.append("make it an array with jnp.asarray")
    elif len(leaves) == 1 and not leaves[0][0]:
        found = f"the tree is {a_leaf(leaves[0][1])}, which has no paths inside"
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


def _near(text: str, units: list[Path]) -> list[str]:
    """Lists patterns like a written one that match something."""
    for wildcard in (".**", ".*"):
        if text.endswith(wildcard):
            nodes = dict.fromkeys(path[:end] for path in units for end in range(1, len(path)))
            return [near + wildcard for near in closest(text.removesuffix(wildcard), nodes)]
    return closest(text.replace("**.", ""), units)


_WHERE_STATES_ARE = (
    "the model as the tree, or as the first argument",
    "model.states(...), for states that are no argument",
)


def _empty(selector: Selector, tree: Any, required_by: str) -> str:
    asked = f"asked {required_by} for lens({selector.written()!r}), which selects nothing"
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
