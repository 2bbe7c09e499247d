"""Nested tuples with remembered modules in them, such as the memory of an optimiser.

A training step takes one at each call, and can't begin before it is taken apart, with caches that
the last step has emptied: then every function costs microseconds. So one function is written for
each structure that is met, as `dataclasses` writes methods, and calls none but `recall`.
"""

import functools
from collections.abc import Callable
from types import CodeType
from typing import Any

from .._trace import concrete_types, is_concrete
from ._recall import is_tuple, recall

Taker = Callable[[Any], list[Any] | None]
"""Gives the leaves of a tree that are traced; None, if the tree is of another structure."""

_MOST_NODES = 64


def taker(tree: tuple[Any, ...]) -> Taker | None:
    """Writes the function for trees like this one: only the leaves that are traced may differ.

    Args:
        tree: Nested tuples, with arrays and modules in them.

    Returns:
        The function; None, if not all of the modules are remembered, or there are none.
    """
    names: dict[str, Any] = {"concrete_types": concrete_types, "recall": recall}
    lines: list[str] = []
    traced: list[str] = []
    nodes: list[tuple[str, Any]] = [("tree", tree)]
    for place, (name, node) in enumerate(nodes, 1):
        if is_concrete(node):
            lines.append(f"if type({name}) not in concrete_types: return None")
            traced.append(name)
        elif node is None:
            lines.append(f"if {name} is not None: return None")
        elif is_tuple(type(node)):
            names[f"class_{name}"] = type(node)
            wrong = f"type({name}) is not class_{name} or len({name}) != {len(node)}"
            lines.append(f"if {wrong}: return None")
            items = [(f"{name}_{number}", item) for number, item in enumerate(node)]
            if items:
                lines.append(f"{', '.join(item for item, _ in items)}, = {name}")
            nodes[place:place] = items
        elif (mixed := recall(node)) is not None:
            names[f"static_{name}"] = mixed.static
            lines.append(f"{name} = recall({name})")
            lines.append(f"if {name} is None or {name}.static is not static_{name}: return None")
            traced.append(f"*{name}.traced")
        else:
            return None
        if len(nodes) > _MOST_NODES:
            return None
    if not any(name.startswith("static_") for name in names):
        return None
    body = "\n    ".join([*lines, f"return [{', '.join(traced)}]"])
    exec(_compiled(f"def take(tree):\n    {body}\n"), names)
    return names["take"]


@functools.lru_cache(64)
def _compiled(source: str) -> CodeType:
    return compile(source, __file__, "exec")
