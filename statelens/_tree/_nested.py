"""Mappings by path: a tuple key of a dictionary is a path, and not one key.

Gradients by state, `values_dict()` and what `Lens.get` gives are such mappings. Their entries
lie in nodes that nobody has built; they are made here, for whoever looks at the nodes along a path.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import jax.tree_util as jtu


class PathNode(dict[Any, Any]):
    """A node on the way to the entries of a mapping by path."""

    @property
    def length(self) -> int | None:
        """The length of the sequence whose items are there, or None if they aren't those of one."""
        is_sequence = all(type(key) is int and key >= 0 for key in self)
        return max(self) + 1 if self and is_sequence else None

    def _flatten_with_keys(self) -> Any:
        return [(jtu.DictKey(key), value) for key, value in self.items()], tuple(self)

    @classmethod
    def _unflatten(cls, keys: tuple[Any, ...], values: Iterable[Any]) -> Self:
        return cls(zip(keys, values, strict=True))


jtu.register_pytree_with_keys(PathNode, PathNode._flatten_with_keys, PathNode._unflatten)


def nest(node: Any) -> Any:
    """Returns a mapping with a `PathNode` for each part of its tuple keys; any other node as is."""
    if not isinstance(node, Mapping) or not any(isinstance(key, tuple) for key in node):
        return node
    nested = PathNode()
    # Entries of a mapping that is there itself are found beside those by path.
    for key, value in sorted(node.items(), key=lambda item: isinstance(item[0], tuple)):
        *above, last = key if isinstance(key, tuple) and key else (key,)
        at = nested
        for part in above:
            there = at.get(part)
            if not isinstance(there, PathNode):
                at[part] = there = PathNode(there if isinstance(there, Mapping) else ())
            at = there
        at[last] = value
    return nested
