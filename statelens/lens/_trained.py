"""What is trained: parameters, and floating-point arrays outside of cells.

What Equinox holds as state (the statistics of a normalisation) is no such array.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx

from .._tree import Cell, MutableNode, Path, Site, is_inexact
from ._coverage import WHOLE, CacheKeyDepth, Coverage, Scope, Selector

_EQUINOX_STATE = (eqx.nn.State, eqx.nn.StateIndex)


@dataclass(frozen=True)
class Trained(Selector):
    """Cells of a class of parameters, and the arrays that are trained beside them."""

    cls: type[Cell]
    # Whether of the arrays only those of Equinox's layers in a mutable node.
    only_layers: bool
    key_depth = CacheKeyDepth.FREE_ARRAYS

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        if isinstance(site.unit, Cell):
            return WHOLE if isinstance(site.unit, self.cls) else None
        if not is_inexact(site.unit):
            return None
        nodes = scope.nodes(site.paths[0])
        if any(isinstance(node, _EQUINOX_STATE) for node in nodes):
            return None
        return WHOLE if not self.only_layers or _is_in_layer(nodes) else None

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        return isinstance(node, self.cls)

    def __str__(self) -> str:
        return self.cls.__qualname__ if self.only_layers else "trainable"


def _is_in_layer(nodes: list[Any]) -> bool:
    """Says whether the last of some nodes lies in an Equinox module that a mutable node holds."""
    held = False
    for node in reversed(nodes):
        if isinstance(node, MutableNode):
            return held
        held = held or isinstance(node, eqx.Module)
    return False
