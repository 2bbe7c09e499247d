"""How a module is shown: its attributes, one a line, and how many numbers are in them."""

from collections import Counter
from typing import Any

import equinox as eqx
import jax

from .._tree import Cell, MutableNode, flatten, is_array, looking
from ..state import State
from ._graph import contains_mutables


def shown(module: Any, above: frozenset[int] = frozenset()) -> str:
    """Returns the text of a module, in the modules whose ids are `above`."""
    if id(module) in above:
        return f"<{type(module).__name__} again>"
    lines = []
    with looking():
        attributes = module._attributes()
    for name, value in attributes.items():
        text = _shown_value(value, above | {id(module)})
        lines.append("  " + f"{name}={text},".replace("\n", "\n  "))
    if not lines:
        return f"{type(module).__name__}()"
    counts = f"  # {_counted(module)}" if not above else ""
    return "\n".join([f"{type(module).__name__}({counts}", *lines, ")"])


def _shown_value(value: Any, above: frozenset[int]) -> str:
    if isinstance(value, MutableNode):
        return shown(value, above)
    if isinstance(value, (list, tuple)) and contains_mutables(value):
        inside = [_shown_value(item, above) for item in value]
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    elif isinstance(value, dict) and contains_mutables(value):
        inside = [f"{key!r}: {_shown_value(item, above)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        return repr(value) if isinstance(value, State) else eqx.tree_pformat(value)
    lines = ["  " + item.replace("\n", "\n  ") + "," for item in inside]
    return "\n".join([opening, *lines, closing])


def _counted(module: Any) -> str:
    scalars: Counter[str] = Counter()
    with looking():
        leaves, _ = flatten(module)
    for leaf in leaves:
        if isinstance(leaf, Cell) or is_array(leaf):
            kind = type(leaf).__name__ if isinstance(leaf, Cell) else "arrays"
            value = leaf.look() if isinstance(leaf, Cell) else leaf
            scalars[kind] += sum(leaf.size for leaf in jax.tree.leaves(value) if is_array(leaf))
    return ", ".join(f"{count:,} in {kind}" for kind, count in scalars.items()) or "no arrays"
