"""Rules: which names in a file mean which paths in a tree.

A rule has a pattern for each side. ``{name}`` stands for one key, or a part of one, ``*`` for one
key, ``**`` for any number of keys, and what it stands for on one side stands on the other. So a
rule goes both ways. Where the arrays differ too, it has a function for each way.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from .._errors import ArgumentError, ArgumentTypeError, check_callable, user_facing
from .._tree import closest_names

Rename: TypeAlias = "Mapping[str, str | tuple[str, ...] | None] | Iterable[Rule] | Rule | None"
"""Rules: a mapping from patterns of names in the file to patterns of paths, or `Rule`s."""


class _Capture(NamedTuple):
    name: str
    form: str


_TOKEN = re.compile(r"\{(?P<name>[^\W\d]\w*)\}|\A\*\*\.|\.\*\*|\*\*|\*")
# What is captured where any number of keys may stand, with the dot that goes if there are none.
_MANY = {"**.": r"(?:.*\.)?", ".**": r"(?:[.\[].*)?", "**": r".*"}


class Template:
    """A name with captures in it."""

    def __init__(self, text: Any):
        if not isinstance(text, str):
            raise ArgumentTypeError(
                f"asked for a rule for {text!r}",
                f"that is a {type(text).__name__}",
                "a pattern as text, as in 'layers.{i}.weight', or a tuple of them",
            )
        self.text = text
        self._parts: list[str | _Capture] = []
        end = stars = 0
        for token in _TOKEN.finditer(text):
            self._parts.append(self._literal(text[end : token.start()]))
            if token["name"] is None:
                self._parts.append(_Capture(f"{token[0].strip('.')}{stars}", token[0]))
                stars += 1
            else:
                self._parts.append(_Capture(token["name"], "*"))
            end = token.end()
        self._parts.append(self._literal(text[end:]))
        found = [part for part in self._parts if isinstance(part, _Capture)]
        self.captures = {part.name: part.form for part in found}
        self._groups = {name: f"c{number}" for number, name in enumerate(self.captures)}
        self._expression = re.compile(self._pattern(), re.DOTALL)

    def _literal(self, text: str) -> str:
        if "{" in text or "}" in text:
            raise ArgumentError(
                f"asked for a rule for {self.text!r}",
                f"{text!r} isn't understood",
                "{name} for a key that stands on both sides",
                "several rules, in place of a choice such as {weight,bias}",
            )
        return text

    def _pattern(self) -> str:
        seen: set[str] = set()
        pattern = ""
        for part in self._parts:
            if isinstance(part, str):
                pattern += re.escape(part)
            elif part.name in seen:
                pattern += f"(?P={self._groups[part.name]})"
            else:
                seen.add(part.name)
                keys = _MANY.get(part.form, r"[^.\[\]]+?")
                pattern += f"(?P<{self._groups[part.name]}>{keys})"
        return pattern

    def match(self, name: str) -> dict[str, str] | None:
        """Returns what the captures stand for in a name, or None."""
        match = self._expression.fullmatch(name)
        if match is None:
            return None
        found = {name: match[group] for name, group in self._groups.items()}
        return {
            name: text.strip(".") if self.captures[name] in _MANY else text
            for name, text in found.items()
        }

    def fill(self, captures: Mapping[str, str]) -> str:
        """Returns the name in which the captures stand for what is given."""
        return "".join(
            part if isinstance(part, str) else _written(captures[part.name], part.form)
            for part in self._parts
        )


def _written(text: str, form: str) -> str:
    if form == "**.":
        return f"{text}." if text else ""
    return f".{text}" if form == ".**" and text and not text.startswith("[") else text


@dataclass(frozen=True)
class Rule:
    """Says what of a file goes where in a tree, and back.

    In patterns, ``{i}`` stands for a key or a part of one, ``*`` for one key and ``**`` for any
    number of keys, none included; what they stand for is the same on both sides.

    Without functions all names and all paths of a rule mean one array: of several names those
    that the file has must be equal, as those of a tied head are, and all of them are written.

    Args:
        file: A pattern for names in the file, or several, for arrays that belong together.
        path: A pattern for written paths in the tree, or several; None leaves the arrays out.
        load: Makes of the file's arrays, one argument for each pattern, the tree's: an array, or
            as many as there are patterns. They are NumPy's.
        save: The other way. It may be called twice, so that no copy of all arrays is in memory.

    Raises:
        ArgumentError: A pattern can't be read, or has other captures than the others.
        ArgumentTypeError: A pattern isn't text, or a function is none.

    Example:
        >>> import numpy as np, statelens as sl
        >>> flip = np.transpose
        >>> linear = sl.checkpoint.Rule("fc{i}.weight", "layers[{i}].kernel", flip, flip)
        >>> fused = sl.checkpoint.Rule(
        ...     "h.{i}.attn.c_attn.weight",
        ...     ("blocks[{i}].q.weight", "blocks[{i}].k.weight", "blocks[{i}].v.weight"),
        ...     load=lambda qkv: np.split(qkv, 3),
        ...     save=lambda q, k, v: np.concatenate([q, k, v]),
        ... )
        >>> head = sl.checkpoint.Rule(("wte.weight", "lm_head.weight"), "embed.weight")
    """

    file: str | tuple[str, ...]
    path: str | tuple[str, ...] | None
    load: Callable[..., Any] | None = None
    save: Callable[..., Any] | None = None

    @user_facing
    def __post_init__(self) -> None:
        for option in ("load", "save"):
            if getattr(self, option) is not None:
                check_callable(getattr(self, option), option, "a Rule")
        if not self.files:
            raise ArgumentError("asked for a rule", "it has no name in a file", "Rule(file, path)")
        first, *others = self.files + self.paths
        for other in others:
            if set(other.captures) != set(first.captures):
                raise ArgumentError(
                    f"asked for a rule for {first.text!r} and {other.text!r}",
                    f"the one has the captures {_listed(first)}, the other {_listed(other)}",
                    "the same {names} and stars in all patterns of a rule",
                )

    @cached_property
    def files(self) -> tuple[Template, ...]:
        """The patterns of the file's side."""
        return tuple(map(Template, self.file if isinstance(self.file, tuple) else (self.file,)))

    @cached_property
    def paths(self) -> tuple[Template, ...]:
        """The patterns of the tree's side."""
        path = () if self.path is None else self.path
        return tuple(map(Template, path if isinstance(path, tuple) else (path,)))


def _listed(template: Template) -> str:
    return ", ".join(f"{name}" for name in sorted(template.captures)) or "none"


class Conversion(NamedTuple):
    """Names in a file and in a tree whose arrays belong together: a rule that was filled in."""

    files: tuple[str, ...]
    names: tuple[str, ...]
    rule: Rule | None

    @property
    def load(self) -> Callable[..., Any] | None:
        """Makes the tree's arrays of the file's, if they differ."""
        return None if self.rule is None else self.rule.load

    @property
    def save(self) -> Callable[..., Any] | None:
        """Makes the file's arrays of the tree's, if they differ."""
        return None if self.rule is None else self.rule.save


def rules_of(rename: Rename) -> tuple[Rule, ...]:
    """Reads rules in the forms in which people may give them."""
    if rename is None:
        return ()
    if isinstance(rename, Rule):
        return (rename,)
    if isinstance(rename, Mapping):
        given: Mapping[Any, Any] = rename
        return tuple(Rule(file, path) for file, path in given.items())
    rules = tuple(rename) if isinstance(rename, Iterable) else (rename,)
    for rule in rules:
        if not isinstance(rule, Rule):
            raise ArgumentTypeError(
                f"asked for rename={rename!r:.80}",
                f"{rule!r:.80} is a {type(rule).__name__}, and no rule",
                "{'name in the file': 'path in the tree'}",
                "a list of checkpoint.Rule(file, path, load=..., save=...)",
            )
    return rules


Side: TypeAlias = Callable[[Rule], tuple[Template, ...]]


def of_file(rule: Rule) -> tuple[Template, ...]:
    """The side of the file."""
    return rule.files


def of_path(rule: Rule) -> tuple[Template, ...]:
    """The side of the tree."""
    return rule.paths


def by_file(rules: tuple[Rule, ...], names: Iterable[str]) -> list[Conversion]:
    """Says where the arrays of a file go; the first rule that matches a name holds for it."""
    return _conversions(rules, names, of_file)


def by_path(rules: tuple[Rule, ...], names: Iterable[str]) -> list[Conversion]:
    """Says what the arrays of a tree are called; the first rule that matches holds."""
    return _conversions(rules, names, of_path)


class UnusedRule(NamedTuple):
    """A rule that was given, and that no name was left for.

    Attributes:
        rule: The rule.
        why: An earlier rule that has taken its names, or the names that are there.
    """

    rule: Rule
    why: str

    def __str__(self) -> str:
        return f"{self.rule.file!r} -> {self.rule.path!r}: {self.why}"


def unused(
    rules: tuple[Rule, ...],
    conversions: Iterable[Conversion],
    names: Iterable[str],
    side: Side,
) -> tuple[UnusedRule, ...]:
    """Lists the rules that hold for no name on a side, and says why.

    One that narrower rules have left nothing is for all the others, of which there are none.
    """
    used = {id(conversion.rule) for conversion in conversions}
    left = [rule for rule in rules if id(rule) not in used]
    names = list(names) if left else []
    is_compared = len(left) * len(names) <= _MOST_COMPARED
    found: list[UnusedRule] = []
    for rule in left:
        takers = {
            name: rules[_first_match(rules, name, side)[0]]
            for name in names
            if _matches(rule, name, side)
        }
        if not takers:
            found.append(UnusedRule(rule, _no_match(rule, names if is_compared else [], side)))
        for name, taker in takers.items():
            if not _is_narrower(taker, rule, side):
                texts = ", ".join(repr(template.text) for template in side(taker))
                why = f"{name!r} is taken by an earlier rule; put it before that for {texts}"
                found.append(UnusedRule(rule, why))
                break
    return tuple(found)


_MOST_COMPARED = 10_000


def _matches(rule: Rule, name: str, side: Side) -> bool:
    return any(template.match(name) is not None for template in side(rule))


def _is_narrower(one: Rule, other: Rule, side: Side) -> bool:
    def covers(wide: Rule, narrow: Rule) -> bool:
        # A pattern's text is a name like those that it matches.
        return all(_matches(wide, template.text, side) for template in side(narrow))

    return covers(other, one) and not covers(one, other)


def _no_match(rule: Rule, names: list[str], side: Side) -> str:
    near = [name for template in side(rule) for name in closest_names(template.text, names)]
    shown = ", ".join(map(repr, dict.fromkeys(near or names[:3])))
    known = f"; the {'closest names' if near else 'names'} are {shown}" if shown else ""
    return f"no name matches{known}"


def _conversions(rules: tuple[Rule, ...], names: Iterable[str], side: Side) -> list[Conversion]:
    found: dict[Any, Conversion] = {}
    for name in names:
        number, captures = _first_match(rules, name, side)
        if captures is None:
            found[name] = Conversion((name,), (name,), None)
            continue
        key = (number, tuple(sorted(captures.items())))
        if key not in found:
            rule = rules[number]
            files = tuple(template.fill(captures) for template in rule.files)
            paths = tuple(template.fill(captures) for template in rule.paths)
            found[key] = Conversion(files, paths, rule)
    return list(found.values())


def _first_match(
    rules: tuple[Rule, ...], name: str, side: Side
) -> tuple[int, dict[str, str] | None]:
    for number, rule in enumerate(rules):
        for template in side(rule):
            captures = template.match(name)
            if captures is not None:
                return number, captures
    return -1, None
