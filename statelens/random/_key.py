"""Keys: what one is made of, and how many are split off."""

import operator
import os
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import ArgumentError, ArgumentTypeError
from .._tree import is_key

SeedOrKey: TypeAlias = int | jax.Array | np.ndarray | np.integer
"""What a key is made of: a seed, a typed key, or the raw data of one."""


def as_key(seed_or_key: Any) -> jax.Array:
    """Returns a typed key of shape ``()``; None is a seed from the operating system."""
    if seed_or_key is None:
        high, low = np.frombuffer(os.urandom(8), np.uint32)
        return jax.random.fold_in(jax.random.key(high), low)
    if isinstance(seed_or_key, int) and not isinstance(seed_or_key, bool):
        if not -(2**63) <= seed_or_key < 2**63:
            raise ArgumentError(
                f"asked for the random key of the seed {seed_or_key}",
                "a seed has 64 bits",
                f"seed % 2**63, that is {seed_or_key % 2**63}",
            )
        return jax.random.key(seed_or_key)
    if not isinstance(seed_or_key, (jax.Array, np.ndarray, np.integer)):
        raise no_key(seed_or_key)
    if seed_or_key.ndim == 0 and jnp.issubdtype(seed_or_key.dtype, jnp.integer):
        return jax.random.key(seed_or_key)
    if seed_or_key.ndim == 1 and seed_or_key.dtype == np.uint32:
        try:
            return jax.random.wrap_key_data(jnp.asarray(seed_or_key))
        except TypeError:
            raise no_key(seed_or_key) from None
    if not is_key(seed_or_key):
        raise no_key(seed_or_key)
    if seed_or_key.ndim:
        raise ArgumentError(
            f"asked for a random state of keys of shape {seed_or_key.shape}",
            "a random state has one key",
            "one of them, as in keys[0]",
            "a state for each, as in [RandomState(key) for key in keys]",
        )
    return jnp.asarray(seed_or_key)


def no_key(value: Any) -> ArgumentTypeError:
    """Returns the error for what is neither a seed nor a key."""
    is_array = isinstance(value, (jax.Array, np.ndarray))
    shown = f"an array of {value.dtype}{list(value.shape)}" if is_array else repr(value)
    return ArgumentTypeError(
        f"asked for the random key of {shown}",
        "that is neither a seed nor a key",
        "an integer, as in RandomState(42)",
        "a key, as in RandomState(jax.random.key(42))",
        "a key of another state, as in RandomState(rng.split_key())",
    )


def as_count(n: Any) -> int:
    """Returns a number of keys, which is at least one."""
    asked, instead = f"asked to split a random key in n={n!r}", "a number of keys, as in n=3"
    try:
        count = operator.index(n)
    except TypeError as error:
        if isinstance(error, jax.errors.JAXTypeError):
            raise
        raise ArgumentTypeError(asked, "n is an integer", instead) from None
    if count < 1:
        raise ArgumentError(asked, "n is at least one", instead)
    return count
