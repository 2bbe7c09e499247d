"""Names that only ported programs use, each made of what the other rooms offer."""

from ._state_finder import StateFinder
from ._stateful_function import StatefulFunction

__all__ = ["StateFinder", "StatefulFunction"]
