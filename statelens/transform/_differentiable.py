"""Which numbers have derivatives."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._errors import DifferentiationError, explain
from .._units import is_array


@functools.cache
def field_of(dtype: Any) -> str | None:
    """Says what kind of numbers have derivatives: real ones, complex ones, or none."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "complex"
    return "real" if jnp.issubdtype(dtype, jnp.inexact) else None


@dataclass(frozen=True)
class Differentiable:
    """Says which numbers have derivatives.

    Attributes:
        integers: Whether integers are allowed, with derivatives of dtype `float0`.
        complexes: Whether complex numbers are allowed, as of a holomorphic function.
        reals: Whether real numbers are allowed, which a holomorphic function isn't one of.
        any_argument: Whether arguments may be anything, as JAX has it for linear maps.
    """

    integers: bool = False
    complexes: bool = False
    reals: bool = True
    any_argument: bool = False

    def check_all(self, label: Callable[[int], str], values: Iterable[Any], asked_by: str) -> None:
        """Refuses values that have no derivative.

        Args:
            label: Gives what to call each, by its number.
            values: Pytrees of arrays.
            asked_by: The transform, for the message.

        Raises:
            DifferentiationError: As for `check`.
        """
        try:
            fields = {field_of(dtype) for dtype in {value.aval.dtype for value in values}}
            if fields == {"real"} and self.reals:
                return
        except AttributeError:  # not all of them are arrays of JAX
            pass
        for number, value in enumerate(values):
            self.check(partial(label, number), value, asked_by)

    def check(self, label: Callable[[], str], value: Any, asked_by: str) -> None:
        """Refuses a value that has no derivative.

        Args:
            label: Gives what to call it.
            value: A pytree of arrays.
            asked_by: The transform, for the message.

        Raises:
            DifferentiationError: A leaf is an integer, a boolean, complex, or no number.
        """
        for leaf in [value] if is_array(value) else jax.tree.leaves(value):
            dtype = getattr(leaf, "dtype", None)
            if dtype is None and isinstance(leaf, (bool, int, float)):
                dtype = jnp.result_type(leaf)
            field = None if dtype is None else field_of(dtype)
            if field is None:
                if not self.integers:
                    self._refuse(label(), dtype or type(leaf).__name__, asked_by)
            elif field == "complex" and not self.complexes:
                self._refuse(label(), dtype, asked_by, _HOLOMORPHIC)
            elif field == "real" and not self.reals:
                self._refuse(label(), dtype, asked_by, _NOT_HOLOMORPHIC)

    @staticmethod
    def _refuse(label: str, dtype: Any, asked_by: str, remedy: str | None = None) -> None:
        remedies = [remedy] if remedy else []
        remedies.append("leave it out, as in lens & statelens.inexact")
        if not remedy:
            remedies.append("allow_int=True, if a derivative of dtype float0 is meant")
        raise DifferentiationError(
            explain(
                f"asked {asked_by} for the derivative by '{label}'",
                f"it is of dtype {dtype}, which has none"
                + (" as of a holomorphic function" if remedy is _NOT_HOLOMORPHIC else ""),
                *remedies,
            )
        )


_HOLOMORPHIC = "holomorphic=True, if the function is holomorphic"
_NOT_HOLOMORPHIC = "no holomorphic=True, if it is one of real numbers"
