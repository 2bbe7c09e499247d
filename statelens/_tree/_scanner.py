"""A cursor over text whose errors point at the character."""

import re
from typing import NoReturn

from .._errors import PatternError


class Scanner:
    """Reads a text from left to right; `at` is the position of the next character."""

    def __init__(self, text: str, kind: str):
        self.text = text
        self.at = 0
        self._kind = kind

    @property
    def done(self) -> bool:
        """Whether all has been read."""
        return self.at >= len(self.text)

    @property
    def peek(self) -> str:
        """The next character, or the empty text at the end."""
        return self.text[self.at : self.at + 1]

    def take(self, literal: str) -> bool:
        """Reads `literal` if it comes next."""
        found = self.text.startswith(literal, self.at)
        self.at += len(literal) * found
        return found

    def lookahead(self, pattern: str) -> str | None:
        """Returns what a regular expression matches here, without reading it."""
        found = re.compile(pattern).match(self.text, self.at)
        return found.group() if found else None

    def match(self, pattern: str) -> str | None:
        """Reads what a regular expression matches here."""
        found = self.lookahead(pattern)
        self.at += len(found or "")
        return found

    def skip_space(self) -> None:
        """Reads white space."""
        self.match(r"\s*")

    def quoted(self) -> str:
        """Reads quoted text with its quotes."""
        found = self.match(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
        if found is None:
            self.fail("the quote that opens here is never closed", f"{self.peek} after the key")
        return found

    def enclosed(self) -> str:
        """Reads a bracket or brace with all inside it, and returns the inside."""
        start, opening = self.at, self.peek
        depth = 0
        while not self.done:
            if self.peek in "'\"":
                self.quoted()
                continue
            depth += (self.peek in "([{") - (self.peek in ")]}")
            self.at += 1
            if depth == 0:
                break
        closing = {"[": "]", "{": "}"}[opening]
        if depth or self.text[self.at - 1] != closing:
            problem = f"the {opening!r} that opens here is never closed"
            self.fail(problem, f"{closing!r} where it ends", at=start)
        return self.text[start + 1 : self.at - 1]

    def fail(self, problem: str, *remedies: str, at: int | None = None) -> NoReturn:
        """Raises an error that shows the text and points at a position in it."""
        at = self.at if at is None else at
        asked = f"could not read the {self._kind}:"
        found = f"  {self.text}\n  {' ' * at}^ {problem}"
        raise PatternError(asked, found, *remedies)
