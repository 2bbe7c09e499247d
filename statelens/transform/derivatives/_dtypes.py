"""Which numbers have derivatives."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from ..._errors import DifferentiationError
from ..._tree import format, from_jax, is_array


@functools.lru_cache(maxsize=256)
def field_of(dtype: Any) -> str | None:
    """Says what kind of numbers have derivatives: real ones, complex ones, or none."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "complex"
    return "real" if jnp.issubdtype(dtype, jnp.inexact) else None


@dataclass(frozen=True)
class Differentiable:
    """Says which numbers may be differentiated by."""

    # Integers have derivatives of dtype `float0`.
    integers: bool = False
    complexes: bool = False
    # By real numbers no function is holomorphic.
    reals: bool = True
    # Arguments may be anything, as JAX has it for linear maps.
    any_argument: bool = False

    def check_all(self, label: Callable[[int], str], values: Iterable[Any], asked_by: str) -> None:
        """Refuses values that have no derivative; `label` names each by its number."""
        try:
            fields = {field_of(dtype) for dtype in {value.aval.dtype for value in values}}
            if fields == {"real"} and self.reals:
                return
        except AttributeError:  # not all of them are arrays of JAX
            pass
        for number, value in enumerate(values):
            self.check(partial(label, number), value, asked_by)

    def check(self, label: Callable[[], str], value: Any, asked_by: str) -> None:
        """Refuses a pytree with a leaf that has no derivative."""
        for number, leaf in enumerate([value] if is_array(value) else jax.tree.leaves(value)):
            dtype = None if isinstance(leaf, jax.Ref) else getattr(leaf, "dtype", None)
            if dtype is None and isinstance(leaf, (bool, int, float, complex)):
                dtype = jnp.result_type(leaf)
            field = None if dtype is None else field_of(dtype)
            if dtype is None:
                remedies = [_WITHOUT_IT]
            elif field != "complex" and not self.reals:
                remedies = [_NOT_HOLOMORPHIC, _WITHOUT_IT]
            elif field is None and not self.integers:
                remedies = [_WITHOUT_IT, _INTEGER]
            elif field == "complex" and not self.complexes:
                remedies = [_HOLOMORPHIC, _WITHOUT_IT]
            else:
                continue
            what = f"of dtype {dtype}" if dtype is not None else f"a {type(leaf).__name__}"
            raise DifferentiationError(
                f"asked {asked_by} for the derivative by '{label()}'{_place(value, number)}",
                f"it is {what}, which has none",
                *remedies,
            )


_WITHOUT_IT = "lens & statelens.inexact, or model.states() & statelens.inexact, without it"
_INTEGER = "allow_int=True, if a derivative of dtype float0 is meant"
_HOLOMORPHIC = "holomorphic=True, if the function is holomorphic"
_NOT_HOLOMORPHIC = "no holomorphic=True, which is for functions of complex numbers"


def _place(tree: Any, number: int) -> str:
    """Says where a leaf lies in a tree, for a message."""
    keys, _ = jtu.tree_flatten_with_path(tree)[0][number]
    return f" at '{format(from_jax(keys)[0])}'" if keys else ""
