"""Regular expressions, matched in a time that is bounded.

Python's `re` tries one after another all ways in which repeats share out a text, and of nested
repeats these are exponentially many. Nothing is asked here but whether the whole text matches,
and for that it is enough to know to which places the parts so far can have led, as it is for
the elements of a pattern. `re` reads what leads to one place at most: characters and anchors.
What depends on the way that led to a place, as a back reference does, is refused.
"""

import functools
import re
from collections.abc import Callable
from itertools import repeat
from typing import NoReturn, TypeAlias

from ._scanner import Scanner

# From the places in a text that were reached so far to those that are reached after a part.
Part: TypeAlias = Callable[[str, set[int]], set[int]]

_OPENING = r"\((?!\?#)(?:\?(?:[aiLmsu-]*:|P<\w+>|<?[=!]))?"
_ESCAPED = r"\\(?:[0-7]{1,3}|x..|u.{4}|U.{8}|N\{[^}]*\}|.)"
_CLASS = r"\[\^?\]?(?:\\.|[^]\\])*\]"
_COMMENT = r"\(\?#[^)]*\)"
_CHARACTER = f"(?s:{_ESCAPED}|{_CLASS}|{_COMMENT}|.)"
_REPEAT = r"[*+?]|\{(?!\})\d*,?\d*\}"
_REFUSED = {
    r"\\(?:[89]|[1-7](?![0-7]{2}))|\(\?P=": "a back reference",
    r"\(\?\(": "a condition",
    r"\(\?>": "a group that doesn't give back",
    r"\(\?[a-zA-Z]*x": "a flag that leaves out white space",
}


def matches_expression(source: str, text: str) -> bool:
    """Says whether a regular expression matches a whole text."""
    return len(text) in read_expression(source)(text, {0})


@functools.lru_cache(maxsize=256)
def read_expression(source: str) -> Part:
    """Reads a regular expression that is one of Python's, or refuses what isn't matched here."""
    scanner = Scanner(source, "regular expression")
    opening = ""
    _refuse(scanner)
    while (flags := scanner.match(r"\(\?\w+\)")) is not None:
        opening += f"{flags[:-1]}:"
        _refuse(scanner)
    return _either(scanner, opening)


def _either(scanner: Scanner, opening: str) -> Part:
    """Reads what stands between bars, up to the end of a group with flags or of the text."""
    options = [_sequence(scanner, opening)]
    while scanner.take("|"):
        options.append(_sequence(scanner, opening))
    return functools.partial(_by_any, options) if len(options) > 1 else options[0]


def _sequence(scanner: Scanner, opening: str) -> Part:
    # A text is what leads to one place, and so are several in a row.
    parts: list[str | Part] = []
    while not scanner.done and scanner.peek not in "|)":
        part = _repeated(scanner, opening)
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return functools.partial(_by_all, [_compiled(part, opening) for part in parts])


def _compiled(part: str | Part, opening: str) -> Part:
    if not isinstance(part, str):
        return part
    match = re.compile(f"{opening}{part}{')' * opening.count('(')}").match
    return functools.partial(_by_one, match)


def _repeated(scanner: Scanner, opening: str) -> str | Part:
    """Reads a character or a group with the repeat that follows."""
    part = _group(scanner, opening)
    written = scanner.match(_REPEAT)
    if written is None:
        return part
    if scanner.peek == "+":
        _fail(scanner, "a repeat that doesn't give back")
    # Whether few or many are tried first makes no difference to whether it matches.
    scanner.take("?")
    least, most = _counts(written)
    return functools.partial(_by_repeats, _compiled(part, opening), least, most)


def _counts(written: str) -> tuple[int, int | None]:
    if not written.startswith("{"):
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[written]
    least, comma, most = written[1:-1].partition(",")
    return int(least or 0), int(most) if most else None if comma else int(least)


def _group(scanner: Scanner, opening: str) -> str | Part:
    _refuse(scanner)
    kind = scanner.match(_OPENING)
    if kind is None:
        return scanner.match(_CHARACTER) or ""
    inside = _either(scanner, opening + kind if kind.endswith(":") else opening)
    scanner.take(")")
    if kind.endswith(("=", "!")):
        look = _by_look_behind if "<" in kind else _by_look
        return functools.partial(look, inside, kind.endswith("="))
    return inside


def _refuse(scanner: Scanner) -> None:
    for pattern, what in _REFUSED.items():
        if scanner.lookahead(pattern):
            _fail(scanner, what)


def _fail(scanner: Scanner, what: str) -> NoReturn:
    scanner.fail(
        f"{what} isn't matched here: it could take for ever",
        "a predicate, as in sl.lens(lambda path, unit: re.fullmatch(..., sl.path.format(path)))",
        "several expressions, as in \"re:'a.*' | re:'b.*'\"",
    )


def _by_one(match: Callable[[str, int], re.Match[str] | None], text: str, at: set[int]) -> set[int]:
    return {found.end() for place in at if (found := match(text, place))}


def _by_all(parts: list[Part], text: str, at: set[int]) -> set[int]:
    return functools.reduce(lambda places, part: part(text, places), parts, at)


def _by_any(options: list[Part], text: str, at: set[int]) -> set[int]:
    return set().union(*[option(text, at) for option in options])


def _by_look(inside: Part, is_wanted: bool, text: str, at: set[int]) -> set[int]:
    return {place for place in at if bool(inside(text, {place})) is is_wanted}


def _by_look_behind(inside: Part, is_wanted: bool, text: str, at: set[int]) -> set[int]:
    behind = inside(text, set(range(len(text) + 1)))
    return {place for place in at if (place in behind) is is_wanted}


def _by_repeats(part: Part, least: int, most: int | None, text: str, at: set[int]) -> set[int]:
    for _ in range(least):
        before, at = at, part(text, at)
        if at == before:
            break
    reached = set(at)
    for _ in repeat(None) if most is None else range(most - least):
        at = part(text, at) - reached
        if not at:
            break
        reached |= at
    return reached
