"""What lies in a cell itself, past all frames: its value, or what it is loaded from."""

from typing import Any


class _Ended:
    """Takes the place of a value that ended with the transform in which it was made."""


ENDED = _Ended()


class LazyValue:
    """Lies in a cell in place of a value that is put together when someone looks at it."""

    __slots__ = ()

    def load(self) -> Any:
        """Returns the value, the same object each time."""


def held_value(cell: Any) -> Any:
    """Returns the value in a cell itself, past all frames."""
    value = cell._value
    # Of the class: Equinox modules are slow to say what they aren't.
    return value.load() if issubclass(type(value), LazyValue) else value
