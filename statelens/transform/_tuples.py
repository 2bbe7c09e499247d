"""Nested tuples with remembered modules in them, such as the memory of an optimiser.

A training step takes one at each call, and can't begin before it is taken apart, with caches that
the last step has emptied: then every function costs microseconds. So one function is written for
each structure that is met, as `dataclasses` writes methods, and calls none but `recall`.
"""

import functools
from collections.abc import Callable
from types import CodeType
from typing import Any

import equinox as eqx

from .._trace import concrete_types, is_concrete
from ._recall import is_seen_tuple, recall

Taker = Callable[[Any], list[Any] | None]
"""Gives the leaves of a tree that are traced; None, if the tree is of another structure."""

_MOST_NODES = 64


def taker(tree: tuple[Any, ...]) -> Taker | None:
    """Writes the function for trees like this one: only the leaves that are traced may differ.

    Args:
        tree: Nested tuples.

    Returns:
        The function; `no_taker`, if there is more in the tree than arrays and modules, or no
        module; None, if a module in it isn't remembered.
    """
    names: dict[str, Any] = {"concrete_types": concrete_types, "recall": recall}
    lines: list[str] = []
    traced: list[str] = []
    has_modules = False
    nodes: list[tuple[str, Any]] = [("tree", tree)]
    for place, (name, node) in enumerate(nodes, 1):
        if is_concrete(node):
            lines.append(f"if type({name}) not in concrete_types: return None")
            traced.append(name)
        elif node is None:
            lines.append(f"if {name} is not None: return None")
        elif is_seen_tuple(node):
            if len(nodes) + len(node) > _MOST_NODES:
                return no_taker
            names[f"class_{name}"] = type(node)
            wrong = f"type({name}) is not class_{name} or len({name}) != {len(node)}"
            lines.append(f"if {wrong}: return None")
            items = [(f"{name}_{number}", item) for number, item in enumerate(node)]
            if items:
                lines.append(f"{', '.join(item for item, _ in items)}, = {name}")
            nodes[place:place] = items
        elif isinstance(node, eqx.Module):
            mixed, has_modules = recall(node), True
            if mixed is None:
                return None
            names[f"static_{name}"] = mixed.static
            lines.append(f"{name} = recall({name})")
            lines.append(f"if {name} is None or {name}.static is not static_{name}: return None")
            traced.append(f"*{name}.traced")
        else:
            return no_taker
    if not has_modules:
        return no_taker
    body = "\n    ".join([*lines, f"return [{', '.join(traced)}]"])
    exec(_compiled(f"def take(tree):\n    {body}\n"), names)
    return names["take"]


def no_taker(tree: Any) -> None:
    """Takes no tree: stands for structures for which no function is written."""


@functools.lru_cache(64)
def _compiled(source: str) -> CodeType:
    return compile(source, "<statelens taker>", "exec")
