"""Paths: where a leaf lies in a pytree.

A path is a tuple of keys from the root: ``('layers', 0, 'weight')``. Attribute names and
text keys of dictionaries are `str`, positions in sequences are `int`, any other dictionary
key is itself. Its written form is ``layers[0].weight``; text that isn't a Python name is
quoted in brackets, ``['a b']``, so that the text key ``'0'`` and the position ``0`` never
look alike. `parse` and `format` are inverse on keys that are Python literals.
"""

import ast
import difflib
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.tree_util as jtu
import numpy as np

from .._errors import PathError, explain, user_facing
from ._protocols import MISSING, Cell, MutableNode
from ._scanner import Scanner

__all__ = ["Path", "format", "parse", "resolve"]

Path = tuple[Hashable, ...]

_NAME = re.compile(r"[^\W\d]\w*\Z")


@dataclass(frozen=True)
class GraphKey:
    """The key path entry of a leaf in a graph that is flattened all at once.

    Attributes:
        paths: The leaf's path from the graph's root, and after it the other paths by
            which the same leaf is reached.
    """

    paths: tuple[Path, ...]

    def __str__(self) -> str:
        text = format(self.paths[0])
        return text if text.startswith("[") or not text else f".{text}"


@user_facing
def parse(text: str) -> Path:
    """Reads a written path.

    Args:
        text: A path such as ``"layers[0].weight"`` or ``"table['a b']"``; the empty text
            is the root.

    Returns:
        The keys from the root to the leaf.

    Raises:
        PatternError: The text isn't a path; the message points at the character.

    Example:
        >>> import statelens as sl
        >>> sl.path.parse("layers[0].weight")
        ('layers', 0, 'weight')
    """
    scanner = Scanner(text, "path")
    keys: list[Hashable] = []
    while not scanner.done:
        keys.append(scan_key(scanner, first=not keys))
    return tuple(keys)


def scan_key(scanner: Scanner, *, first: bool) -> Hashable:
    """Reads one key, ``.name`` or ``[literal]``, at the scanner's position.

    Args:
        scanner: The text, with the position to read at.
        first: Whether this is the first key, which has no dot before its name.

    Returns:
        The key.
    """
    if scanner.peek == "[":
        start = scanner.at
        return literal(scanner, scanner.bracket(), start)
    if not first and not scanner.take("."):
        scanner.fail(f"expected '.', '[' or the end, not {scanner.peek!r}")
    return scan_name(scanner)


def scan_name(scanner: Scanner) -> str:
    """Reads a Python name; other text keys have to be quoted in brackets."""
    name = scanner.match(r"[^\W\d]\w*")
    if name is None:
        digits = scanner.lookahead(r"\d+")
        if digits:
            scanner.fail(
                "a number is no name",
                f"[{digits}] for a position or an integer key",
                f"['{digits}'] for a text key",
            )
        scanner.fail(
            "expected a name" + (f", not {scanner.peek!r}" if scanner.peek else ""),
            "quote a key that is no name, as in ['a b']",
        )
    return name


def literal(scanner: Scanner, text: str, start: int) -> Hashable:
    """Reads the content of a bracket as a Python literal that can be a dictionary key."""
    try:
        key = ast.literal_eval(text.strip())
        hash(key)
    except (ValueError, SyntaxError, TypeError):
        scanner.fail(
            f"{text.strip()!r} in brackets is no key",
            "an integer as in [0], or quoted text as in ['a b']",
            at=start + 1,
        )
    return key


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
    text = "".join(map(format_key, path))
    return text.removeprefix(".")


def format_key(key: Hashable) -> str:
    """Writes one key with the dot or the brackets that it needs."""
    if isinstance(key, str) and _NAME.match(key):
        return f".{key}"
    return f"[{key!r}]"


def from_jax(keys: Iterable[Any]) -> tuple[Path, tuple[Path, ...]]:
    """Converts a JAX key path.

    Args:
        keys: Key path entries as `jax.tree_util.tree_flatten_with_path` gives them.

    Returns:
        The path, and the other paths by which the same leaf is reached.
    """
    first: list[Hashable] = []
    others: list[Path] = []
    for key in keys:
        if isinstance(key, GraphKey):
            tails = [path + tail for path in (tuple(first), *others) for tail in key.paths]
            first, others = list(tails[0]), tails[1:]
        else:
            name = _plain_key(key)
            first.append(name)
            others = [(*path, name) for path in others]
    return tuple(first), tuple(others)


def _plain_key(key: Any) -> Hashable:
    kind = type(key)
    if kind is jtu.SequenceKey:
        return key.idx
    if kind is jtu.GetAttrKey:
        return key.name
    if kind is jtu.DictKey or kind is jtu.FlattenedIndexKey:
        return int(key.key) if isinstance(key.key, np.integer) else key.key
    return jtu.keystr((key,), simple=True)


def step(node: Any, key: Hashable) -> Any:
    """Returns the child of `node` under `key`, or `MISSING`; no cell is touched by that."""
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
        PathError: The path leads nowhere; the message names the keys that are there.

    Example:
        >>> import statelens as sl
        >>> sl.path.resolve({"layers": [1.0, 2.0]}, ("layers", 1))
        2.0
    """
    node = tree
    for depth, key in enumerate(path):
        child = _child(node.value if isinstance(node, Cell) else node, key)
        if child is MISSING:
            raise PathError(
                explain(
                    f"asked for the path '{format(path)}'",
                    f"'{format(path[:depth])}' is a {type(node).__name__} without {key!r}",
                    "list what is there with sl.lens(...).paths(tree)",
                )
            )
        node = child
    return node


def as_path(key: Any) -> Path:
    """Reads a path that is given as a tuple of keys or as text."""
    if isinstance(key, tuple):
        return key
    if isinstance(key, str):
        return parse(key)
    raise PathError(
        explain(
            f"asked to set or get the path {key!r}",
            f"that is a {type(key).__name__}, not a path",
            "a tuple of keys, as in ('layers', 0), or text, as in 'layers[0]'",
        )
    )


def closest(path: str, candidates: Iterable[Path], count: int = 3) -> list[str]:
    """Returns the written forms nearest to a path, best first."""
    written = [format(candidate) for candidate in candidates]
    return difflib.get_close_matches(path, written, n=count, cutoff=0.4)
