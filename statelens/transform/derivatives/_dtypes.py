"""Which numbers have derivatives."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from ..._errors import ArgumentTypeError, DifferentiationError
from ..._tree import flatten_as_jax, format, from_jax, is_array


@functools.lru_cache(maxsize=256)
def field_of(dtype: Any) -> str | None:
    """Says what kind of numbers have derivatives: real ones, complex ones, or none."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return "complex"
    return "real" if jnp.issubdtype(dtype, jnp.inexact) else None


def fields_of(holomorphic: Any, allow_int: Any, real_only: bool) -> frozenset[str | None]:
    """Says by what numbers a function is differentiated; by real ones none is holomorphic."""
    if holomorphic:
        return frozenset(["complex"])
    fields = ["real"] if real_only else ["real", "complex"]
    return frozenset([*fields, None] if allow_int else fields)


def check_accumulator(dtype: Any, asked_by: str) -> None:
    """Refuses a dtype that isn't one of real floating-point numbers; None says nothing."""
    try:
        if dtype is None or field_of(jnp.dtype(dtype)) == "real":
            return
    except TypeError:
        pass
    raise ArgumentTypeError(
        f"asked {asked_by} for accumulator_dtype={dtype!r}",
        "that is no dtype of floating-point numbers",
        "accumulator_dtype=jnp.float32, or another floating-point dtype",
        "None, for the dtype of what is differentiated, but at least float32",
    )


def accumulator_of(dtype: Any, asked: Any = None) -> Any:
    """Gives the dtype in which to add up numbers of this one: as asked for, or float32 at least.

    Sums of bfloat16 stand still at 256.
    """
    if asked is None:
        return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
    return jnp.promote_types(asked, dtype) if field_of(dtype) == "complex" else jnp.dtype(asked)


def refuse_without_numbers(output: Any, asked_by: str) -> None:
    """Refuses an output in which there is nothing that has a derivative."""
    if not any(field_of(jnp.result_type(leaf)) for leaf in jax.tree.leaves(output)):
        raise DifferentiationError(
            f"asked {asked_by} for the derivative of a function's output",
            "it returned None" if output is None else "there is no floating-point number in it",
            "return floating-point numbers; is there a 'return'?",
        )


@dataclass(frozen=True)
class Differentiable:
    """Says which numbers may be differentiated by, where something asks for a derivative."""

    asked_by: str
    # What `field_of` says of them. None is for integers, whose derivatives are of dtype `float0`.
    fields: frozenset[str | None]
    # Arguments may be anything, as JAX has it for linear maps.
    any_argument: bool = False
    # The options that it has, of those that say by what numbers.
    options: frozenset[str] = frozenset()

    def check_all(self, label: Callable[[int], str], values: Iterable[Any]) -> None:
        """Refuses values that have no derivative; `label` names each by its number."""
        try:
            if {field_of(dtype) for dtype in {value.aval.dtype for value in values}} <= self.fields:
                return
        except AttributeError:  # not all of them are arrays of JAX
            pass
        for number, value in enumerate(values):
            self.check(partial(label, number), value)

    def check(self, label: Callable[[], str], value: Any) -> None:
        """Refuses a pytree with a leaf that has no derivative."""
        leaves = (
            [value] if is_array(value) else flatten_as_jax(value, name=lambda: repr(label()))[0]
        )
        for number, leaf in enumerate(leaves):
            dtype = None if isinstance(leaf, jax.Ref) else getattr(leaf, "dtype", None)
            if dtype is None and isinstance(leaf, (bool, int, float, complex)):
                dtype = jnp.result_type(leaf)
            field = None if dtype is None else field_of(dtype)
            if dtype is None:
                remedies = [_WITHOUT_IT]
            elif field in self.fields:
                continue
            elif field == "complex":
                remedies = [*self._if_taken("holomorphic"), _PULLED_BACK, _WITHOUT_IT]
            elif "real" not in self.fields:
                remedies = [_NOT_HOLOMORPHIC, _WITHOUT_IT]
            else:
                remedies = [_WITHOUT_IT, *self._if_taken("allow_int")]
                if type(leaf) is int:
                    remedies.insert(0, f"a floating-point number, as in {float(leaf)}")
            what = f"of dtype {dtype}" if dtype is not None else f"a {type(leaf).__name__}"
            lack = "which has none"
            if field == "complex":
                lack = f"by which {self.asked_by} differentiates holomorphic functions only"
            raise DifferentiationError(
                f"asked {self.asked_by} for the derivative by '{label()}'{_place(value, number)}",
                f"it is {what}, {lack}",
                *remedies,
            )

    def _if_taken(self, option: str) -> list[str]:
        return [_OPTIONS[option]] if option in self.options else []


_WITHOUT_IT = "lens & statelens.inexact, or model.states() & statelens.inexact, without it"
_OPTIONS = {
    "allow_int": "allow_int=True, if a derivative of dtype float0 is meant",
    "holomorphic": "holomorphic=True, if the function is holomorphic",
}
_PULLED_BACK = "grad, jacrev or hvp, which take complex numbers, as JAX does"
_NOT_HOLOMORPHIC = "no holomorphic=True, which is for functions of complex numbers"


def _place(tree: Any, number: int) -> str:
    """Says where a leaf lies in a tree, for a message."""
    keys, _ = jtu.tree_flatten_with_path(tree)[0][number]
    return f" at '{format(from_jax(keys)[0])}'" if keys else ""
