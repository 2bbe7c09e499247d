"""Samplers of counts and of yes and no, with the parameters that NumPy gives them.

JAX draws counts as floating-point numbers in part; these are integers. Probabilities beyond 0 and 1
are refused where their values are known, that is, outside of compiled code.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from ._parameters import extent, require
from ._sampler import ByShape, DType, Key, Numbers, OfJax, Size, draws

_jax: Any = jax.random
"""What JAX draws by, asked at run time which options a sampler takes."""


def _is_probability(p: Any) -> Any:
    return (p >= 0) & (p <= 1)


def _are_probabilities(pvals: Any) -> Any:
    others = pvals[..., :-1]
    return (others >= 0).all() & (others.sum(-1) <= 1 + 1e-6).all()


def _counts(samples: Array, dtype: DType) -> Array:
    return samples.astype(int if dtype is None else dtype)


class CountSamplers:
    """The samplers, as methods of a state that has a key."""

    __slots__ = ()

    @draws
    def bernoulli(
        self,
        p: Numbers = 0.5,
        size: Size = None,
        key: Key = None,
        check_valid: bool = True,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws True with probability `p`."""
        if check_valid:
            require(_is_probability, "p is between 0 and 1", p=p)
        return _jax.bernoulli(key, p, extent(size, p=p), **kw)

    @draws
    def binomial(
        self,
        n: Numbers,
        p: Numbers,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        check_valid: bool = True,
        **kw: Unpack[ByShape],
    ) -> Array:
        """Draws how many of `n` trials succeed, each with probability `p`."""
        if check_valid:
            require(_is_probability, "p is between 0 and 1", p=p)
        return _counts(_jax.binomial(key, n, p, extent(size, n=n, p=p)), dtype)

    @draws
    def geometric(
        self,
        p: Numbers,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        check_valid: bool = True,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws how many trials it takes to succeed once, each with probability `p`."""
        if check_valid:
            require(lambda p: (p > 0) & (p <= 1), "p is more than 0, and at most 1", p=p)
        return _jax.geometric(key, p, extent(size, p=p), dtype, **kw)

    @draws
    def multinomial(
        self,
        n: Numbers,
        pvals: Numbers,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        check_valid: bool = True,
        *,
        unroll: int | bool = 1,
        **kw: Unpack[ByShape],
    ) -> Array:
        """Draws how many of `n` trials have each outcome, along the last axis.

        As in NumPy, the last outcome has the probability that the others leave, whatever the last
        of `pvals` says.
        """
        others = jnp.asarray(pvals)[..., :-1]
        if check_valid:
            require(
                _are_probabilities,
                "pvals aren't negative, and without the last add up to at most 1",
                pvals=pvals,
            )
        p = jnp.concatenate([others, jnp.maximum(1 - others.sum(-1, keepdims=True), 0)], -1)
        # Versions of JAX differ in what its own `shape` means here.
        shape = extent(size, n=n, pvals=p[..., 0])
        p = jnp.broadcast_to(p, (*shape, p.shape[-1]))
        return _counts(_jax.multinomial(key, n, p, unroll=unroll), dtype)

    @draws
    def randint(
        self,
        low: Numbers,
        high: Numbers | None = None,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws integers from `low` to below `high`; without it, from 0 to below `low`."""
        lower, upper = (0, low) if high is None else (low, high)
        return _jax.randint(key, extent(size, low=lower, high=upper), lower, upper, dtype, **kw)
