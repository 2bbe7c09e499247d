"""Patterns: which paths a written pattern matches.

A pattern is a sequence of elements, one for each key, except for ``**`` which stands for
any number of them. Each element says how it is matched, and how it is written, so that a
pattern is text and back.
"""

import enum
import fnmatch
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from ._parse import literal, scan_name
from ._path import Path, format_key, format_member, format_slice
from ._scanner import Scanner

# The length of the sequence that a key indexes, or None; few patterns ask for it.
Length: TypeAlias = Callable[[], int | None]
Lengths: TypeAlias = Callable[[int], int | None]


@dataclass(frozen=True)
class Exact:
    """One key; a negative position counts from the end of a sequence."""

    key: Hashable
    # 1 == True in Python, but [1] and [True] are two patterns.
    kind: type = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", type(self.key))

    def accepts(self, key: Hashable, length: Length) -> bool:
        if isinstance(self.key, int) and self.key < 0:
            count = length()
            if count is not None:
                return key == count + self.key
        return key == self.key and isinstance(key, bool) == (self.kind is bool)

    def __str__(self) -> str:
        return format_key(self.key)


@dataclass(frozen=True)
class Member:
    """``[Color.RED]``: a member of an enumeration, whose class the text only names."""

    text: str

    def accepts(self, key: Hashable, length: Length) -> bool:
        return isinstance(key, enum.Enum) and format_member(key) == self.text

    def __str__(self) -> str:
        return f"[{self.text}]"


@dataclass(frozen=True)
class Glob:
    """``conv*``: a name with wildcards in it; ``*`` alone is any key."""

    pattern: str

    def accepts(self, key: Hashable, length: Length) -> bool:
        is_name = isinstance(key, str)
        return self.pattern == "*" or (is_name and fnmatch.fnmatchcase(key, self.pattern))

    def __str__(self) -> str:
        return f".{self.pattern}"


@dataclass(frozen=True)
class Span:
    """``[1:4]``: positions of a sequence, as Python slices count them."""

    start: int | None
    stop: int | None
    step: int | None

    def accepts(self, key: Hashable, length: Length) -> bool:
        positions = range(length() or 0)[self.start : self.stop : self.step]
        return key in positions

    def __str__(self) -> str:
        return f"[{format_slice(self.start, self.stop, self.step)}]"


@dataclass(frozen=True)
class Choice:
    """``{weight,bias}``: any of several elements."""

    options: tuple["Element", ...]

    def accepts(self, key: Hashable, length: Length) -> bool:
        return any(option.accepts(key, length) for option in self.options)

    def __str__(self) -> str:
        written = (str(option) for option in self.options)
        return "." + "{" + ",".join(text.removeprefix(".") for text in written) + "}"


@dataclass(frozen=True)
class AnyPath:
    """``**``: any number of keys, none included."""

    def __str__(self) -> str:
        return ".**"


Element: TypeAlias = Exact | Member | Glob | Span | Choice
_MEMBER = re.compile(r"\s*[^\W\d]\w*\.[^\W\d][\w|]*\s*")
_SPAN = re.compile(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*)?")

Pattern: TypeAlias = tuple[Element | AnyPath, ...]


def format_pattern(pattern: Pattern) -> str:
    """Writes a pattern as text that `scan_pattern` reads back."""
    return "".join(map(str, pattern)).removeprefix(".")


def matches(pattern: Pattern, path: Path, lengths: Lengths) -> bool:
    """Says whether a pattern matches a whole path; `lengths` gives the length at each depth."""
    # The depths that the elements read so far can have led to.
    depths = {0}
    for element in pattern:
        if isinstance(element, AnyPath):
            depths = set(range(min(depths), len(path) + 1))
        else:
            depths = {
                depth + 1
                for depth in depths
                if depth < len(path) and element.accepts(path[depth], partial(lengths, depth))
            }
        if not depths:
            return False
    return len(path) in depths


def is_named(pattern: Pattern) -> bool:
    """Says whether the last key of what a pattern matches is written out in it."""
    *_, last = pattern or (None,)
    options = last.options if isinstance(last, Choice) else (last,)
    return all(isinstance(option, (Exact, Member)) for option in options)


def split_index(pattern: Pattern) -> tuple[Pattern, int | slice] | None:
    """Takes a position or slice off the end, if what stands before it is written out."""
    *before, last = pattern or (None,)
    if not before or not is_named(tuple(before)):
        return None
    if isinstance(last, Span):
        return tuple(before), slice(last.start, last.stop, last.step)
    if isinstance(last, Exact) and isinstance(last.key, int) and last.kind is not bool:
        return tuple(before), last.key
    return None


def scan_pattern(scanner: Scanner) -> Pattern:
    """Reads a pattern up to white space, an operator or the end."""
    elements: list[Element | AnyPath] = []
    while not scanner.done and not scanner.lookahead(r"[\s&|~()/?]|-"):
        elements.append(_scan_element(scanner, first=not elements))
    return tuple(elements)


def _scan_element(scanner: Scanner, *, first: bool) -> Element | AnyPath:
    if scanner.peek == "[":
        return _in_brackets(scanner)
    if not first and not scanner.take("."):
        scanner.fail(f"expected '.', '[', an operator or the end, not {scanner.peek!r}")
    if scanner.peek == "{":
        return _choice(scanner)
    if scanner.take("**"):
        if scanner.peek == "*":
            scanner.fail("there is no '***'", "* for one key, ** for any number of keys")
        return AnyPath()
    return _name(scanner)


def _name(scanner: Scanner) -> Element:
    pattern = scanner.match(r"\w*\*[\w*]*")
    return Exact(scan_name(scanner)) if pattern is None else Glob(pattern)


def _in_brackets(scanner: Scanner) -> Element:
    start = scanner.at
    inside = scanner.enclosed()
    if inside.strip() == "*":
        return Glob("*")
    span = _SPAN.fullmatch(inside)
    if span is not None:
        return Span(*(None if bound is None else int(bound) for bound in span.groups()))
    if re.match(r"\s*[\w-]*\s*:", inside):
        scanner.fail(
            f"[{inside}] is no slice",
            "a slice as in [1:4]",
            "(embed.weight)[1:4, 0], with parentheses, for a part of an array",
            at=start,
        )
    if _MEMBER.fullmatch(inside):
        return Member(inside.strip())
    return Exact(literal(scanner, inside, start))


def _choice(scanner: Scanner) -> Choice:
    start = scanner.at
    end = start + len(scanner.enclosed()) + 1
    scanner.at = start + 1
    options: list[Element] = []
    while not options or scanner.take(","):
        scanner.skip_space()
        if scanner.at >= end:
            scanner.fail("a choice needs something between its commas", "{weight,bias}", at=end)
        options.append(_in_brackets(scanner) if scanner.peek == "[" else _name(scanner))
        scanner.skip_space()
    if not scanner.take("}"):
        scanner.fail(f"expected ',' or '}}', not {scanner.peek!r}")
    return Choice(tuple(options))
