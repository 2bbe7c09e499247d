"""What it means that a value is what it was, and not merely equal to that."""

from typing import Any

import numpy as np

_PLAIN = (str, bytes, int, float, complex, np.generic)


def is_same(one: Any, other: Any) -> bool:
    """Says whether two values are one object, or plain values, or tuples of these, that are alike.

    1, 1.0 and True are three values, 0.0 and -0.0 two, and nan is what it was.
    """
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, _PLAIN) and repr(one) == repr(other)
