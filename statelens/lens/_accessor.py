"""Selecting by accessor: what a function of the tree returns, as `equinox.tree_at` does.

The function is called with a tree that has a probe in the place of each leaf; which probes
come back says what it selects.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._errors import SelectionError, explain
from .._tree import Cell, Path, Site, atoms, flatten, flatten_with_path, leaves_with_path
from ._coverage import WHOLE, CacheKeyDepth, Coverage, Scope, Selector


@dataclass(frozen=True)
class Accessed(Selector):
    """Units that a function of the tree returns, as `equinox.tree_at` selects them."""

    function: Callable[[Any], Any]
    key_depth = CacheKeyDepth.VALUES

    def coverage(self, site: Site, scope: Scope) -> Coverage:
        accessed = scope.once(self, lambda: self._accessed(scope.tree))
        inside = [path for path, _ in atoms(site.unit)]
        full = [[(path + inner) for path in site.paths] for inner in inside]
        picked = {
            inner: None
            for inner, paths in zip(inside, full, strict=True)
            if any(path in accessed for path in paths)
        }
        if any(path in accessed for path in site.paths):
            return WHOLE
        return picked or None

    def _accessed(self, tree: Any) -> set[Path]:
        probes: dict[int, Path] = {}
        kept: list[Any] = []

        def probe(path: Path) -> Any:
            kept.append(_Probe())
            probes[id(kept[-1])] = path
            return kept[-1]

        paths, leaves, treedef = flatten_with_path(tree)
        copies: dict[int, Any] = {}
        for position, ((path, _), leaf) in enumerate(zip(paths, leaves, strict=True)):
            if isinstance(leaf, Cell):
                if id(leaf) not in copies:
                    inner_paths, inner, structure = flatten_with_path(leaf.look())
                    value = structure.unflatten(
                        None if atom is None else probe(path + tail)
                        for (tail, _), atom in zip(inner_paths, inner, strict=True)
                    )
                    copy = leaf.with_value(value)
                    kept.append(copy)
                    copies[id(leaf)] = copy
                    probes[id(copy)] = path
                leaves[position] = copies[id(leaf)]
            elif leaf is not None:
                leaves[position] = probe(path)
        try:
            found = flatten(self.function(treedef.unflatten(leaves)))[0]
        except (AttributeError, TypeError, LookupError) as error:
            raise SelectionError(
                explain(
                    f"asked for what the accessor {self} returns",
                    f"it raised {type(error).__name__}: {error}",
                    "return nodes or leaves of the tree, as in at(lambda m: m.layers[0].weight)",
                    "index the lens for a part of an array, as in at(lambda m: m.weight)[0]",
                )
            ) from None
        if not found or not all(id(leaf) in probes for leaf in found):
            raise SelectionError(
                explain(
                    f"asked for what the accessor {self} returns",
                    f"it returned {found!r}, which is no part of the tree",
                    "return nodes or leaves of the tree, as in at(lambda m: m.layers[0].weight)",
                )
            )
        return {probes[id(leaf)] for leaf in found}

    def covers(self, path: Path, node: Any, scope: Scope) -> bool:
        accessed = scope.once(self, lambda: self._accessed(scope.tree))
        if path in accessed:
            return True
        inside = [path + inner for inner, _ in leaves_with_path(node)]
        return bool(inside) and all(leaf in accessed for leaf in inside)

    def __str__(self) -> str:
        return f"at({getattr(self.function, '__qualname__', self.function)})"


class _Probe:
    """A leaf that an accessor may return."""
