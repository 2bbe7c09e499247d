"""Lens text: patterns and the operators between them.

The operators bind as they do in Python, so that a lens reads the same as text and as code:
``~`` before ``/`` before ``-`` before ``&`` before ``|``. An index after a parenthesis
chooses a part of an array: ``(embed.weight)[100:110]``. What is no pattern and has a name
starts with ``@``: ``@ndim >= 2``.
"""

import ast
import functools
import re
from itertools import accumulate
from typing import NoReturn

from .._tree import Cell, Index, Scanner, read_expression, scan_pattern, split_index
from ._algebra import OPERATORS, Not, Numbers, Optional, Sliced, Subscripted, Within
from ._coverage import MOST_NESTED, Selector
from ._selectors import (
    ATTRIBUTES,
    COMPARISONS,
    OF_ARRAYS,
    ByPath,
    Compared,
    Everything,
    OfArrays,
    OfClass,
    Tagged,
    cell_classes,
    read_compared,
)
from ._trained import Trained

_LOOSEST_FIRST = list(OPERATORS.items())


@functools.lru_cache(maxsize=1024)
def parse_selector(text: str) -> Selector:
    """Reads patterns joined by operators, such as ``"**.weight & ~encoder.**"``."""
    scanner = Scanner(text, "lens")
    selector = _operation(scanner, 0)
    if not scanner.done:
        problem = f"expected an operator or the end, not {scanner.peek!r}"
        scanner.fail(problem, "&, |, - or / between two patterns")
    return selector


def _operation(scanner: Scanner, depth: int, level: int = 0) -> Selector:
    """Reads operands joined by the operator of a level, those of tighter ones inside."""
    if level == len(_LOOSEST_FIRST):
        return _operand(scanner, depth)
    symbol, join = _LOOSEST_FIRST[level]
    selector = _operation(scanner, depth, level + 1)
    while _take(scanner, symbol):
        selector = join(selector, _operation(scanner, depth, level + 1))
        # Each / is inside of the one after; of the others any number stand in a row.
        depth = _deeper(scanner, depth) if join is Within else depth
    return selector


def _take(scanner: Scanner, symbol: str) -> bool:
    scanner.skip_space()
    return scanner.take(symbol)


def _operand(scanner: Scanner, depth: int) -> Selector:
    if _take(scanner, "~"):
        return Not(_operand(scanner, _deeper(scanner, depth)))
    if scanner.peek == "(":
        selector = _parenthesis(scanner, depth)
    elif scanner.peek == "@":
        selector = _predicate(scanner, depth)
    else:
        selector = _pattern(scanner)
    return Optional(selector) if scanner.take("?") else selector


def _deeper(scanner: Scanner, depth: int) -> int:
    if depth == MOST_NESTED:
        _fail_nested(scanner)
    return depth + 1


def _fail_nested(scanner: Scanner) -> NoReturn:
    scanner.fail(
        f"it is nested more than {MOST_NESTED} deep",
        "a list of lenses, or & and |, of which any number stand in a row",
    )


def _parenthesis(scanner: Scanner, depth: int) -> Selector:
    start = scanner.at
    scanner.take("(")
    selector = _operation(scanner, _deeper(scanner, depth))
    if not _take(scanner, ")"):
        scanner.fail("the '(' that opens here is never closed", "')' where it ends", at=start)
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


def _predicate(scanner: Scanner, depth: int) -> Selector:
    """Reads a predicate that has a name, as ``@inexact`` or ``@ndim >= 2``."""
    start = scanner.at
    name = (scanner.match(r"@\w*") or "")[1:]
    if name in OF_ARRAYS:
        return OfArrays(name, OF_ARRAYS[name])
    classes = cell_classes()
    if name in classes:
        return of_class(classes[name])
    if name == "trainable":
        return Trained(next(c for c in classes.values() if c.stands_for_layers), only_layers=False)
    if name == "numbers" and scanner.peek == "(":
        return Numbers(_parenthesis(scanner, depth))
    if name == "tagged" and scanner.take("("):
        tag = ast.literal_eval(scanner.quoted())
        if scanner.take(")"):
            return Tagged(tag)
    if name in ATTRIBUTES:
        scanner.skip_space()
        symbol = scanner.match(r"[<>]=?|==")
        scanner.skip_space()
        quoted = scanner.peek in ("'", '"')
        value = scanner.quoted() if quoted else scanner.match(r"-?[\w.]+(?:(?<=\de)[+-]\d+)?")
        if symbol and value:
            return _compared(scanner, start, name, symbol, value)
    scanner.fail(
        "a class of yours, a function or a mask can't be read from text",
        "build this lens in code",
        "@ParamState, @trainable, @arrays, @inexact, @ndim >= 2, @size < 10, "
        "@dtype == float32, @name == 'bias' or @tagged('slow')",
        "the paths that it selects in a tree: ' | '.join(map(sl.path.format, lens.paths(tree)))",
        at=start,
    )


def of_class(cls: type) -> Selector:
    """Returns the selector that a class means."""
    is_of_layers = issubclass(cls, Cell) and vars(cls).get("stands_for_layers", False)
    return Trained(cls, only_layers=True) if is_of_layers else OfClass(cls)


def _compared(scanner: Scanner, start: int, name: str, symbol: str, text: str) -> Selector:
    try:
        value = read_compared(name, text)
    except (TypeError, ValueError, SyntaxError):
        scanner.fail(f"{text} is no value for {name} to be compared with", at=start)
    return Compared(name, COMPARISONS[symbol], value)


def _pattern(scanner: Scanner) -> Selector:
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
    divided = split_index(pattern)
    if divided is None:
        return ByPath(pattern)
    named, index = divided
    return Subscripted(ByPath(pattern), Sliced(ByPath(named), Index.of(index)))


def _regular_expression(scanner: Scanner) -> str:
    start = scanner.at
    if scanner.peek and scanner.peek in "'\"":
        source = ast.literal_eval(scanner.quoted())
        start += 1
    else:
        # Unquoted, it goes on to the end: operators of the two languages look alike.
        source = scanner.match(r"(?s).*") or ""
    if max(accumulate((c == "(") - (c == ")") for c in source), default=0) > MOST_NESTED:
        _fail_nested(scanner)
    try:
        re.compile(source)
    except (re.error, OverflowError) as error:
        at = start + (getattr(error, "pos", None) or 0)
        scanner.fail(f"no regular expression: {error}", at=at)
    read_expression(source)
    return source
