"""Reading a written path; `parse` is the inverse of `format`."""

import ast
import re
from collections.abc import Hashable
from typing import Any

from .._errors import user_facing
from ._path import Path, not_a_path
from ._scanner import Scanner

_FROZENSET = re.compile(r"frozenset\((\{.*\})?\)", re.DOTALL)


@user_facing
def parse(text: str) -> Path:
    """Reads a written path.

    Args:
        text: A path such as ``"layers[0].weight"`` or ``"table['a b']"``; the empty text
            is the root.

    Returns:
        The keys from the root to the leaf.

    Raises:
        PathError: It is no text.
        PatternError: The text isn't a path; the message points at the character.

    Example:
        >>> import statelens as sl
        >>> sl.path.parse("layers[0].weight")
        ('layers', 0, 'weight')
    """
    if not isinstance(text, str):
        raise not_a_path(text, "read")
    scanner = Scanner(text, "path")
    keys: list[Hashable] = []
    while not scanner.done:
        keys.append(_scan_key(scanner, first=not keys))
    return tuple(keys)


def _scan_key(scanner: Scanner, *, first: bool) -> Hashable:
    """Reads one key, ``.name`` or ``[literal]``; the first name has no dot before it."""
    if scanner.peek == "[":
        start = scanner.at
        return literal(scanner, scanner.enclosed(), start)
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
        inside = _FROZENSET.fullmatch(text.strip())
        key = ast.literal_eval(text.strip() if inside is None else inside[1] or "()")
        key = key if inside is None else frozenset(key)
        hash(key)
    except (ValueError, SyntaxError, TypeError):
        scanner.fail(
            f"{text.strip()!r} in brackets is no key",
            "an integer as in [0], or quoted text as in ['a b']",
            at=start + 1,
        )
    return key


def as_path(key: Any) -> Path:
    """Reads a path that is given as a tuple of keys or as text."""
    if isinstance(key, tuple):
        return key
    if isinstance(key, str):
        return parse(key)
    raise not_a_path(key, "set or get")
