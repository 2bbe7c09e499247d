"""Layers of Equinox in a module: they are given to Equinox's functions, not the module."""

from collections.abc import Iterator
from typing import Any

from .._errors import ArgumentTypeError
from .._tree import Path, format, looking
from . import _attribute_tree as tree
from ._attribute_tree import is_mutable
from ._graph import contains_mutables, nodes_with_path

_MODE = "inference"


def refuse_mode(module: Any) -> None:
    """Refuses to be asked for a mode that layers in a module have, and not the module itself."""
    paths = list(map(format, layers_with_mode(module)))
    if paths:
        raise ArgumentTypeError(
            f"asked for the attribute {_MODE!r} of a {type(module).__name__}, as "
            "equinox.nn.inference_mode(model) does",
            f"it has none, and layers in it have, which would stay as they are: {', '.join(paths)}",
            "for each of these attributes, as in "
            f"model.{paths[0]} = equinox.nn.inference_mode(model.{paths[0]})",
        )


def layers_with_mode(root: Any) -> Iterator[Path]:
    """Lists what modules hold that is Equinox's alone and has a mode, by path."""
    for path, node in nodes_with_path(root):
        attributes = looking(node._attributes)
        for name, value in attributes.items():
            if not contains_mutables(value):
                if any(map(_has_mode, tree.leaves(value, _has_mode))):
                    yield (*path, name)
                continue
            for inner, leaf in tree.leaves_with_path(value, _stops):
                if _has_mode(leaf):
                    yield (*path, name, *inner)


def _has_mode(node: Any) -> bool:
    # Not of a module, which would ask here again.
    return not is_mutable(node) and hasattr(node, _MODE)


def _stops(node: Any) -> bool:
    return is_mutable(node) or _has_mode(node)
