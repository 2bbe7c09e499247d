"""Messages that many options share."""

from typing import Any

from ..._errors import ArgumentTypeError, explain
from ..._tree import a_leaf


def wrong_type(asked_by: str, option: str, value: Any, *instead: str) -> ArgumentTypeError:
    """Makes the error that an option is of a wrong type."""
    asked = f"asked {asked_by} for {option}={value!r}"
    return ArgumentTypeError(explain(asked, f"that is {a_leaf(value)}", *instead))
