"""How a module is shown: its attributes, one a line, and how many numbers are in them."""

from collections import Counter
from typing import Any

import equinox as eqx

from .._tree import Cell, MutableNode, flatten, is_array, looking
from ..lens import BoundLens
from ..state import State
from . import _attribute_tree as tree
from ._attribute_tree import is_mutable
from ._graph import contains_mutables

# What lies deeper is only named.
_MOST_LEVELS = 30


def shown(module: Any) -> str:
    """Returns the text of a module; what is shared is shown where it comes first."""
    return _shown_module(module, set(), 0)


def _shown_module(module: Any, seen: set[int], level: int) -> str:
    kind = type(module).__name__
    if id(module) in seen:
        return f"<{kind} again>"
    if level == _MOST_LEVELS:
        return f"{kind}(...)"
    seen.add(id(module))
    attributes = looking(module._attributes)
    lines = []
    for name, value in attributes.items():
        text = _shown_value(value, seen, level + 1)
        lines.append("  " + f"{name}={text},".replace("\n", "\n  "))
    if not lines:
        return f"{kind}()"
    counts = f"  # {_counted(module)}" if level == 0 else ""
    return "\n".join([f"{kind}({counts}", *lines, ")"])


def _shown_value(value: Any, seen: set[int], level: int) -> str:
    if isinstance(value, MutableNode):
        return _shown_module(value, seen, level)
    if isinstance(value, BoundLens):
        return f"states({value.selector.written()!r})"
    if isinstance(value, (list, tuple)) and contains_mutables(value):
        inside = [_shown_value(item, seen, level) for item in value]
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    elif isinstance(value, dict) and contains_mutables(value):
        inside = [f"{key!r}: {_shown_value(item, seen, level)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        return repr(value) if isinstance(value, State) else eqx.tree_pformat(value)
    lines = ["  " + item.replace("\n", "\n  ") + "," for item in inside]
    return "\n".join([opening, *lines, closing])


def _counted(module: Any) -> str:
    scalars: Counter[str] = Counter()
    leaves, _ = looking(flatten, module)
    for leaf in leaves:
        if isinstance(leaf, Cell) or is_array(leaf):
            kind = type(leaf).__name__ if isinstance(leaf, Cell) else "arrays"
            value = leaf.look() if isinstance(leaf, Cell) else leaf
            scalars[kind] += sum(x.size for x in tree.leaves(value, is_mutable) if is_array(x))
    return ", ".join(f"{count:,} in {kind}" for kind, count in scalars.items()) or "no arrays"
