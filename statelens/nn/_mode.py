"""The mode of a model: training or inference, which layers of Equinox bear as an attribute."""

from typing import Any, TypeVar

import equinox as eqx

from .._errors import ArgumentTypeError, user_facing
from .._tree import MutableNode, Path, Site, format, looking
from ..lens import Nodes, Selector, lens
from ._attribute_tree import is_mutable
from ._graph import nodes_with_path

Tree = TypeVar("Tree")

_MODE = "inference"


class _OfLayers(Selector):
    """Nodes of immutable models that have a mode."""

    @property
    def is_optional(self) -> bool:
        return True

    def coverage(self, site: Site, scope: Any) -> None:
        """Selects no units, only nodes."""

    def covers(self, path: Path, node: Any, scope: Any) -> bool:
        # Not of a module, which would say that it has none.
        return not is_mutable(node) and hasattr(node, _MODE)

    def __str__(self) -> str:
        return _MODE


_layers: Nodes[Any] = Nodes(_OfLayers())
_modules: Nodes[Any] = Nodes(lens(MutableNode, optional=True).selector)


@user_facing
def inference_mode(tree: Tree, value: bool = True) -> Tree:
    """Sets all layers in a model to inference, or to training, as `equinox.nn.inference_mode` does.

    It sets the attribute `inference` of whatever in an immutable model has one. Of an `nn.Module`,
    and of the modules in it, it sets an attribute `inference` or `training` of its own likewise,
    if that is a boolean.

    Args:
        tree: An immutable model, which stays as it is; or an `nn.Module`, which is changed in
            place; or a tree of both.
        value: Whether to set it to inference, and not to training.

    Returns:
        The model in that mode. An `nn.Module` is the same object, and so is what has no mode.

    Source:
        `equinox.nn.inference_mode`, which can't see into an `nn.Module`.

    Example:
        >>> import equinox as eqx, statelens as sl
        >>> model = eqx.nn.Sequential([eqx.nn.Dropout(0.5)])
        >>> sl.nn.inference_mode(model)[0].inference
        True
    """
    for module in _modules.get(tree).values():
        for _, node in nodes_with_path(module):
            _set_own(node, value)
    return _layers.update(tree, lambda layer: eqx.nn.inference_mode(layer, value))


def _set_own(node: MutableNode, value: bool) -> None:
    for name, flag in ((_MODE, value), ("training", not value)):
        of_class = getattr(type(node), name, None)
        if any(isinstance(own, bool) for own in (node._read_attribute(name), of_class)):
            setattr(node, name, flag)


def refuse_mode(module: Any) -> None:
    """Refuses to be asked for a mode that layers in a module have, and not the module itself."""
    paths = ", ".join(map(format, looking(_layers.paths, module)))
    if paths:
        raise ArgumentTypeError(
            f"asked for the attribute {_MODE!r} of a {type(module).__name__}, as "
            "equinox.nn.inference_mode(model) does",
            f"it has none, and layers in it have, which would stay as they are: {paths}",
            "model.eval() or model.train(), which set all of them",
            "statelens.nn.inference_mode(tree), for a tree that has modules in it",
        )
