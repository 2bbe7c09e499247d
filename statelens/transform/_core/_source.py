"""Functions that are written for one case, as `dataclasses` writes methods.

What is done again and again in a loop, around a program that has emptied the caches, is done sooner
by one function without loops or calls than by one that goes through a table.
"""

import functools
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

from ..._errors import HIDDEN

# Functions are written again whenever a program is looked at again; those of large trees aren't.
_LONGEST_KEPT = 20_000


class Source:
    """What a function of one argument is written of.

    Args:
        name: What to call the function.
        names: What its lines may name.
    """

    def __init__(self, name: str, **names: Any):
        self._name = name
        self._names = names
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        """Writes a line."""
        self._lines.append(line)

    def unpack(self, name: str, names: Iterable[str]) -> None:
        """Writes that a tuple or list, of as many items, gets these names."""
        names = list(names)
        if names:
            self.add(f"{', '.join(names)}, = {name}")

    def name_for(self, value: Any) -> str:
        """Gives what lines may call a value."""
        name = f"value_{len(self._names)}"
        self._names[name] = value
        return name

    def function(self, parameter: str, result: str) -> Callable[[Any], Any]:
        """Makes the function of what is written.

        Args:
            parameter: What the lines call the argument.
            result: The expression of what it returns.
        """
        body = "\n    ".join([*self._lines, f"return {result}"])
        source = f"def {self._name}({parameter}):\n    {body}\n"
        make = _compiled if len(source) < _LONGEST_KEPT else _compiled.__wrapped__
        # As one of our files, so that tracebacks leave its frames out.
        exec(make(source, f"{HIDDEN[0]}<{self._name}>"), self._names)
        return self._names.pop(self._name)


def tuple_of(items: Iterable[str]) -> str:
    """Writes the tuple of what these expressions are."""
    return f"({''.join(f'{item}, ' for item in items)})"


@functools.lru_cache(64)
def _compiled(source: str, file: str) -> CodeType:
    return compile(source, file, "exec")
