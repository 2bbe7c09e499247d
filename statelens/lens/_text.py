"""Lens text: patterns and the operators between them.

The operators bind as they do in Python, so that a lens reads the same as text and as code:
``~`` before ``/`` before ``-`` before ``&`` before ``|``. An index after a parenthesis
chooses a part of an array: ``(embed.weight)[100:110]``.
"""

import ast
import functools
import re

from .._tree import Index, Scanner, scan_pattern
from ._algebra import OPERATORS, Not, Optional, Sliced, Within
from ._coverage import Selector
from ._selectors import ByPath, Everything

_LOOSEST_FIRST = list(OPERATORS.items())
_MOST_NESTED = 50


@functools.lru_cache(maxsize=1024)
def parse_selector(text: str) -> Selector:
    """Reads patterns joined by operators, such as ``"**.weight & ~encoder.**"``."""
    scanner = Scanner(text, "lens")
    selector = _operation(scanner, 0)
    if not scanner.done:
        scanner.fail(f"expected an operator or the end, not {scanner.peek!r}")
    return selector


def _operation(scanner: Scanner, depth: int, level: int = 0) -> Selector:
    """Reads operands joined by the operator of a level, those of tighter ones inside."""
    if level == len(_LOOSEST_FIRST):
        return _operand(scanner, depth)
    symbol, join = _LOOSEST_FIRST[level]
    selector = _operation(scanner, depth, level + 1)
    while _take(scanner, symbol):
        # Each / is inside of the one before; of the others any number stand in a row.
        depth = _deeper(scanner, depth) if join is Within else depth
        selector = join(selector, _operation(scanner, depth, level + 1))
    return selector


def _take(scanner: Scanner, symbol: str) -> bool:
    scanner.skip_space()
    return scanner.take(symbol)


def _operand(scanner: Scanner, depth: int) -> Selector:
    if _take(scanner, "~"):
        return Not(_operand(scanner, _deeper(scanner, depth)))
    selector = _parenthesis(scanner, depth) if scanner.peek == "(" else _pattern(scanner)
    return Optional(selector) if scanner.take("?") else selector


def _deeper(scanner: Scanner, depth: int) -> int:
    if depth == _MOST_NESTED:
        scanner.fail(
            f"it is nested more than {_MOST_NESTED} deep",
            "a list of lenses, or one that is built in code",
        )
    return depth + 1


def _parenthesis(scanner: Scanner, depth: int) -> Selector:
    start = scanner.at
    scanner.take("(")
    selector = _operation(scanner, _deeper(scanner, depth))
    if not _take(scanner, ")"):
        scanner.fail("the '(' that opens here is never closed", at=start)
    while scanner.peek == "[":
        selector = Sliced(selector, _index(scanner))
    return selector


def _index(scanner: Scanner) -> Index:
    start = scanner.at
    inside = scanner.enclosed()
    try:
        return Index.of(tuple(map(_index_item, _items_of(inside))))
    except (TypeError, ValueError):
        scanner.fail(f"[{inside}] is no index", "integers, slices and '...'", at=start)


def _items_of(inside: str) -> list[str]:
    """Splits what is between brackets at commas, but for those in a list of positions."""
    return re.split(r",(?![^\[]*\])", inside.rstrip().removesuffix(","))


def _index_item(text: str) -> object:
    text = text.strip()
    if text.startswith("["):
        positions = text.removeprefix("[").removesuffix("]")
        return [int(position, 0) for position in positions.split(",")] if positions else []
    if ":" in text:
        return slice(*(int(bound, 0) if bound.strip() else None for bound in text.split(":")))
    return Ellipsis if text.strip() == "..." else int(text, 0)


def _pattern(scanner: Scanner) -> Selector:
    start = scanner.at
    if scanner.take("@"):
        scanner.fail(
            "a class, a predicate or a mask can't be read from text",
            "build this lens in code; only patterns are text and back",
            at=start,
        )
    if scanner.take("..."):
        return Everything()
    if scanner.take("re:"):
        return ByPath(_regular_expression(scanner))
    if scanner.take("''"):
        return ByPath(())
    pattern = scan_pattern(scanner)
    if not pattern:
        scanner.fail(
            "expected a path pattern" + (f", not {scanner.peek!r}" if scanner.peek else ""),
            "encoder.layers[0].weight for one leaf, ** for everything, '' for the root",
        )
    return ByPath(pattern)


def _regular_expression(scanner: Scanner) -> str:
    start = scanner.at
    if scanner.peek and scanner.peek in "'\"":
        source = ast.literal_eval(scanner.quoted())
        start += 1
    else:
        # Unquoted, it goes on to the end: operators of the two languages look alike.
        source = scanner.match(r"(?s).*") or ""
    try:
        re.compile(source)
    except re.error as error:
        scanner.fail(f"no regular expression: {error}", at=start + (error.pos or 0))
    return source
