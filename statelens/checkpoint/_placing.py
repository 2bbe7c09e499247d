"""Putting arrays that were read in the places of those that are there."""

from typing import Any

import jax
import jax.dtypes
import jax.numpy as jnp
import numpy as np

from .._tree import is_key
from ._encoding import NUMBERS, Spec, is_of_kind, spec_of


def misfit(leaf: Any, spec: Spec) -> tuple[str, str, str] | None:
    """Says in what an array of a file differs from the leaf whose place it takes, and how."""
    ours = spec_of(leaf)
    if spec.shape != ours.shape:
        return "shape", str(spec), str(ours)
    if type(leaf) in NUMBERS:
        fits = is_of_kind(spec, type(leaf))
        return None if fits else ("dtype", str(spec), f"a Python {type(leaf).__name__}")
    if spec.dtype != ours.dtype:
        return "dtype", str(spec), str(ours)
    if isinstance(leaf, (np.ndarray, np.generic)) or is_key(leaf):
        return None
    if jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        return "dtype", str(spec), f"{ours}, which JAX has with jax_enable_x64 only,"
    return None


def placed(leaf: Any, array: np.ndarray[Any, Any], *, copy: bool) -> Any:
    """Returns an array, or the data of keys, as what it takes the place of: where that lies."""
    if type(leaf) in NUMBERS:
        return type(leaf)(array.item())
    if isinstance(leaf, np.generic):
        return array.astype(leaf.dtype)[()]
    if isinstance(leaf, np.ndarray):
        return array.astype(leaf.dtype, copy=True)
    array = array.copy() if copy else array
    if is_key(leaf):
        impl = jax.random.key_impl(jnp.zeros((), leaf.dtype))
        new: Any = jax.random.wrap_key_data(jnp.array(array), impl=impl)
    elif leaf.weak_type:
        new = _weakly_typed(array)
    else:
        new = array
    # What isn't committed to its devices stays so. `device_put` takes NumPy's memory as it is.
    is_bound = getattr(leaf, "committed", True) and leaf.sharding is not None
    return jax.device_put(new, leaf.sharding if is_bound else None)


@jax.jit
def _weakly_typed(array: jax.Array) -> jax.Array:
    """Gives an array the weak type with which it sums with others and compiles as before."""
    # Compiled, this is the array alone: what is set is never made.
    weak = jnp.full(array.shape, np.zeros((), array.dtype).item())
    return weak.at[...].set(array) if weak.dtype == array.dtype else array
