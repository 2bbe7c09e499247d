"""Ready-made lenses: by accessor, by tag, and by what an array is.

>>> import jax.numpy as jnp, statelens as sl
>>> tree = {"b": jnp.ones(2), "n": jnp.arange(3), "w": jnp.ones((2, 2))}
>>> ((sl.ndim >= 2) | (sl.name == "b")).paths(tree)
(('b',), ('w',))
>>> sl.inexact.paths(tree)
(('b',), ('w',))
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .._errors import ArgumentError, ArgumentTypeError, check_callable, user_facing
from .._tree import a_leaf, is_array, is_inexact
from ._lens import Lens
from ._selectors import Accessed, Compared, OfArrays, Tagged, check_dtype


@user_facing
def at(accessor: Callable[[Any], Any]) -> Lens:
    """Makes a lens that selects what a function of the tree returns.

    Args:
        accessor: Returns a node or leaf of the tree, or several in a tuple; the selection
            that `equinox.tree_at` takes.

    Returns:
        The lens.

    Raises:
        ArgumentTypeError: `accessor` isn't callable.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> sl.at(lambda m: m["layers"][0]).paths({"layers": [jnp.ones(1), jnp.ones(1)]})
        (('layers', 0),)
    """
    return Lens(Accessed(check_callable(accessor, "accessor", "at")))


@user_facing
def tagged(tag: str) -> Lens:
    """Makes a lens that selects states by a tag.

    Args:
        tag: One of the tags that the state was given.

    Returns:
        The lens.

    Raises:
        ArgumentTypeError: `tag` isn't a text.

    Example:
        >>> import statelens as sl
        >>> sl.tagged("slow").paths({"a": sl.State(0.0, tag="slow"), "b": sl.State(0.0)})
        (('a',),)
    """
    if not isinstance(tag, str):
        raise ArgumentTypeError(
            f"asked for the states with the tag {tag!r}",
            f"that is {a_leaf(tag)}, and tags are texts",
            "tagged('a') | tagged('b') for any of several",
        )
    return Lens(Tagged(tag))


class Attribute:
    """Something of an array that lenses compare with a value, as in ``ndim >= 2``."""

    def __init__(self, attribute: str):
        self._attribute = attribute

    def _compared(self, comparison: Callable[[Any, Any], bool], value: Any) -> Lens:
        # NumPy's scalars are no text, and equal Python's.
        value = value.item() if isinstance(value, np.generic) else value
        if self._attribute == "dtype":
            value = check_dtype(value, "a lens")
        elif self._attribute != "name" and not isinstance(value, (int, float)):
            raise ArgumentTypeError(
                f"asked for a lens by {self._attribute}",
                f"it is compared with {a_leaf(value)}, {value!r:.80}, which is no number",
                f"a number, as in {self!r} >= 2",
            )
        return Lens(Compared(self._attribute, comparison, value))

    @user_facing
    def __eq__(self, value: object) -> Lens:  # type: ignore[override]
        return self._compared(operator.eq, value)

    @user_facing
    def __ne__(self, value: object) -> Lens:  # type: ignore[override]
        return ~self._compared(operator.eq, value)

    @user_facing
    def __lt__(self, value: Any) -> Lens:
        return self._compared(operator.lt, value)

    @user_facing
    def __le__(self, value: Any) -> Lens:
        return self._compared(operator.le, value)

    @user_facing
    def __gt__(self, value: Any) -> Lens:
        return self._compared(operator.gt, value)

    @user_facing
    def __ge__(self, value: Any) -> Lens:
        return self._compared(operator.ge, value)

    def __repr__(self) -> str:
        return f"statelens.{self._attribute}"

    @user_facing
    def __bool__(self) -> bool:
        raise ArgumentError(
            f"asked whether {self!r} is true",
            "it has no value of its own",
            f"a comparison, as in {self!r} == ...",
        )

    def __hash__(self) -> int:
        return object.__hash__(self)


ndim: Attribute = Attribute("ndim")
"""The number of dimensions of an array: ``ndim >= 2`` is a lens."""

size: Attribute = Attribute("size")
"""The number of scalars in an array: ``size < 1000`` is a lens."""

dtype: Attribute = Attribute("dtype")
"""The dtype of an array: ``dtype == jnp.bfloat16`` is a lens."""

name: Attribute = Attribute("name")
"""The last key of a path: ``name == "bias"`` is a lens."""

arrays: Lens = Lens(OfArrays("arrays", is_array))
"""All arrays, inside states or not."""

inexact: Lens = Lens(OfArrays("inexact", is_inexact))
"""All floating-point and complex arrays, inside states or not."""
