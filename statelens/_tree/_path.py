"""Paths: where a leaf lies in a pytree.

A path is a tuple of keys from the root: ``('layers', 0, 'weight')``. Attribute names and
text keys of dictionaries are `str`, positions in sequences are `int`, any other dictionary
key is itself. Its written form is ``layers[0].weight``; text that isn't a Python name is
quoted in brackets, ``['a b']``, so that the text key ``'0'`` and the position ``0`` never
look alike. A tuple key of a dictionary is itself a path, whose keys are those of the tuple, so
that a mapping by path is read as the tree is. `parse` and `format` are inverse on keys that are
Python literals.
"""

import difflib
import enum
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import jax.tree_util as jtu
import numpy as np

from .._errors import PathError, user_facing
from ._nested import nest
from ._protocols import MISSING, Cell, MutableNode

Path = tuple[Hashable, ...]

_NAME = re.compile(r"[^\W\d]\w*\Z")


class GraphKey(jtu.GetAttrKey):
    """The key path entry of a leaf in a graph: its path from the root, and its other paths."""

    # A kind of `GetAttrKey`, since Orbax and others refuse keys that they don't know.

    def __init__(self, paths: tuple[Path, ...]):
        super().__init__(format(paths[0]))
        self.paths = paths

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GraphKey) and self.paths == other.paths

    def __hash__(self) -> int:
        return hash(self.paths)

    def __reduce__(self) -> tuple[Any, ...]:
        return GraphKey, (self.paths,)

    def __str__(self) -> str:
        return "".join(map(format_key, self.paths[0]))

    def __repr__(self) -> str:
        return f"GraphKey({self.paths!r})"


def format(path: Path) -> str:
    """Writes a path as text.

    Args:
        path: The keys from the root to the leaf.

    Returns:
        The written form, which `parse` reads back.

    Example:
        >>> import statelens as sl
        >>> sl.path.format(("table", "a b", 0, "weight"))
        "table['a b'][0].weight"
    """
    return "".join(map(format_key, path)).removeprefix(".")


def format_key(key: Hashable) -> str:
    """Writes one key with the dot or the brackets that it needs."""
    # A member of an enumeration of texts or numbers equals one, and is written as that.
    if isinstance(key, str):
        return f".{str.__str__(key)}" if _NAME.match(key) else f"[{str.__repr__(key)}]"
    if isinstance(key, frozenset):
        return f"[frozenset({{{', '.join(sorted(map(repr, key)))}}})]" if key else f"[{key!r}]"
    if isinstance(key, int) and not isinstance(key, bool):
        return f"[{int.__repr__(key)}]"
    if isinstance(key, enum.Enum) and key.name is not None:
        return f"[{format_member(key)}]"
    return f"[{key!r}]"


def format_member(key: enum.Enum) -> str:
    """Writes a member of an enumeration as in Python."""
    return f"{type(key).__name__}.{key.name}"


def format_slice(start: int | None, stop: int | None, step: int | None) -> str:
    """Writes a slice as it stands between brackets."""
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    return text if step is None else f"{text}:{step}"


def from_jax(keys: Sequence[Any]) -> tuple[Path, ...]:
    """Converts a JAX key path to all paths by which the leaf is reached, the first one first."""
    if GraphKey not in map(type, keys):
        return (tuple(chain.from_iterable(map(_plain_keys, keys))),)
    paths: list[Path] = [()]
    for key in keys:
        tails = key.paths if isinstance(key, GraphKey) else (_plain_keys(key),)
        paths = [path + tail for path in paths for tail in tails]
    return tuple(paths)


def _plain_keys(key: Any) -> Path:
    """Reads one key of JAX; a tuple key of a dictionary is a path."""
    kind = type(key)
    if kind is jtu.SequenceKey:
        return (key.idx,)
    if kind is jtu.GetAttrKey:
        return (key.name,)
    if kind is jtu.DictKey or kind is jtu.FlattenedIndexKey:
        keys = key.key if type(key.key) is tuple else (key.key,)
        return tuple(int(k) if isinstance(k, np.integer) else k for k in keys)
    return (jtu.keystr((key,), simple=True),)


def ancestors(tree: Any, path: Path, nested: dict[int, Any] | None = None) -> list[Any]:
    """Lists the nodes from the root to `path`, as far as keys lead there; touches no cell.

    Mappings by path are nested; `nested` keeps them by identity for the next path.
    """
    nested = {} if nested is None else nested
    nodes = [_nested_once(tree, nested)]
    for key in path:
        nodes.append(_nested_once(_look_at_child(nodes[-1], key), nested))
        if nodes[-1] is MISSING:
            break
    return nodes


def _nested_once(node: Any, nested: dict[int, Any]) -> Any:
    if not isinstance(node, Mapping):
        return node
    if id(node) not in nested:
        nested[id(node)] = nest(node)
    return nested[id(node)]


def _look_at_child(node: Any, key: Hashable) -> Any:
    if isinstance(node, MutableNode) and isinstance(key, str):
        child = node._read_attribute(key)
        if child is not MISSING:
            return child.look() if child is node._cell_of(key) else child
    return _child(node.look() if isinstance(node, Cell) else node, key)


def _child(node: Any, key: Hashable) -> Any:
    if isinstance(node, Mapping):
        return node.get(key, MISSING)
    if isinstance(node, Sequence) and isinstance(key, int):
        return node[key] if -len(node) <= key < len(node) else MISSING
    return getattr(node, key, MISSING) if isinstance(key, str) else MISSING


@user_facing
def resolve(tree: Any, path: Path) -> Any:
    """Returns the subtree at `path`.

    Args:
        tree: A pytree of sequences, dictionaries and objects with attributes.
        path: The keys from the root.

    Returns:
        The node or leaf at the path.

    Raises:
        PathError: The path is no tuple of keys, or leads nowhere.

    Example:
        >>> import statelens as sl
        >>> sl.path.resolve({"layers": [1.0, 2.0]}, ("layers", 1))
        2.0
    """
    if not isinstance(path, tuple):
        raise not_a_path(path, "resolve")
    node = tree
    for depth, key in enumerate(path):
        child = _child(nest(node.value if isinstance(node, Cell) else node), key)
        if child is MISSING:
            where = f"'{format(path[:depth])}'" if depth else "the tree"
            raise PathError(
                f"asked for the path '{format(path)}'",
                f"{where} is a {type(node).__name__} without {key!r}",
                "list what is there with sl.lens(...).paths(tree)",
            )
        node = child
    return node


def not_a_path(given: Any, to_do: str) -> PathError:
    """Makes the error that something is no path."""
    return PathError(
        f"asked to {to_do} the path {given!r}",
        f"that is a {type(given).__name__}",
        "a tuple of keys, as in ('layers', 0), which parse makes of a text",
    )


def closest(path: str, candidates: Iterable[Path]) -> list[str]:
    """Returns the written forms nearest to a path, best first."""
    return closest_names(path, map(format, candidates))


def closest_names(name: str, names: Iterable[str]) -> list[str]:
    """Returns the names nearest to one, best first."""
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.4)
