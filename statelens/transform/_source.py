"""Functions that are written for one case, as `dataclasses` writes methods.

What is done again and again in a loop, around a program that has emptied the caches, is done sooner
by one function without loops or calls than by one that goes through a table.
"""

import functools
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any


class Source:
    """What a function is written of.

    Args:
        title: What to call it in tracebacks.
        names: What its lines may name.
    """

    def __init__(self, title: str, **names: Any):
        self._title = title
        self._lines: list[str] = []
        self._names = names

    def add(self, line: str) -> None:
        """Writes a line."""
        self._lines.append(line)

    def unpack(self, name: str, names: Iterable[str]) -> None:
        """Writes that a tuple or list, of as many items, gets these names."""
        names = list(names)
        if names:
            self.add(f"{', '.join(names)}, = {name}")

    def named(self, value: Any) -> str:
        """Gives a name for a value."""
        name = f"value_{len(self._names)}"
        self._names[name] = value
        return name

    def function(self, parameter: str, result: str) -> Callable[[Any], Any]:
        """Makes the function, of one argument, of what is written.

        Args:
            parameter: What the lines call the argument.
            result: The expression of what it returns.
        """
        body = "\n    ".join([*self._lines, f"return {result}"])
        source = f"def function({parameter}):\n    {body}\n"
        exec(_compiled(source, f"<statelens {self._title}>"), self._names)
        return self._names.pop("function")


def tuple_of(items: Iterable[str]) -> str:
    """Writes the tuple of what these expressions are."""
    return f"({''.join(f'{item}, ' for item in items)})"


@functools.lru_cache(64)
def _compiled(source: str, file: str) -> CodeType:
    return compile(source, file, "exec")
