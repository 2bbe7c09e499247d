"""Samplers of numbers along a line, with the parameters that NumPy gives them.

JAX computes the numbers of these too. A sampler is written as a method that gets a key in any case:
the state splits one off where the caller passes none. Ported programs pass these parameters by
position, in NumPy's order, and then the key and the dtype.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from .._errors import ArgumentError
from ._parameters import extent, require
from ._quantities import numbers_of
from ._sampler import (
    ByShape,
    Draw,
    DType,
    Key,
    Measured,
    Numbers,
    OfJax,
    Placed,
    Size,
    Squared,
    Template,
    as_numbers,
    as_shape,
    draws,
)

_jax: Any = jax.random
"""What JAX draws by, asked at run time which options a sampler takes."""


def _affine(samples: Array, loc: Any, scale: Any, dtype: DType) -> Array:
    # A step that would change nothing is one more call when it isn't compiled.
    if not (isinstance(scale, (int, float)) and scale == 1):
        samples = samples * scale
    if not (isinstance(loc, (int, float)) and loc == 0):
        samples = samples + loc
    return samples if dtype is None else samples.astype(dtype)


def _located(
    standard: Draw, key: Any, loc: Any, scale: Any, size: Any, dtype: DType, kw: Any
) -> Array:
    samples = standard(key, extent(size, loc=loc, scale=scale), dtype, **kw)
    return _affine(samples, loc, scale, dtype)


def _of_lengths(
    standard: Draw, key: Any, lengths: tuple[int, ...], size: Any, dtype: DType
) -> Array:
    if lengths and size is not None:
        raise ArgumentError(
            f"asked for samples of lengths {lengths} and of size={size}",
            "these say the same thing twice",
            "one of them",
        )
    return standard(key, as_shape("lengths", lengths) if size is None else size, dtype)


def _like(standard: Draw, key: Any, x: Any, dtype: DType) -> Array:
    x = jnp.asarray(as_numbers("x", numbers_of(x)))
    if dtype is None and jnp.issubdtype(x.dtype, jnp.inexact):
        dtype = x.dtype
    return standard(key, x.shape, dtype)


class NumPySamplers:
    """The samplers, as methods of a state that has a key."""

    __slots__ = ()

    @draws
    def chisquare(
        self,
        df: Numbers,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        check_valid: bool = True,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws from the chi-squared distribution of `df` degrees of freedom."""
        if check_valid:
            require(lambda df: df > 0, "df is more than 0", df=df)
        return _jax.chisquare(key, df, extent(size, df=df), dtype, **kw)

    @draws
    def exponential(
        self,
        scale: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws from the exponential distribution of mean `scale`."""
        samples = _jax.exponential(key, extent(size, scale=scale), dtype, **kw)
        return _affine(samples, 0.0, scale, dtype)

    @draws
    def gamma(
        self,
        a: Numbers,
        scale: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws from the gamma distribution of mean ``a * scale``; NumPy calls `a` the shape."""
        samples = _jax.gamma(key, a, extent(size, a=a, scale=scale), dtype, **kw)
        return _affine(samples, 0.0, scale, dtype)

    @draws
    def gumbel(
        self,
        loc: Measured = 0.0,
        scale: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws from the gumbel distribution: ``loc + scale * jax.random.gumbel``."""
        return _located(_jax.gumbel, key, loc, scale, size, dtype, kw)

    @draws
    def laplace(
        self,
        loc: Measured = 0.0,
        scale: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws from the laplace distribution: ``loc + scale * jax.random.laplace``."""
        return _located(_jax.laplace, key, loc, scale, size, dtype, kw)

    @draws
    def logistic(
        self,
        loc: Measured = 0.0,
        scale: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws from the logistic distribution: ``loc + scale * jax.random.logistic``."""
        return _located(_jax.logistic, key, loc, scale, size, dtype, kw)

    @draws
    def lognormal(
        self,
        mean: Numbers = 0.0,
        sigma: Numbers = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws numbers whose logarithm is normal, of this mean and deviation."""
        samples = _jax.normal(key, extent(size, mean=mean, sigma=sigma), dtype, **kw)
        return jnp.exp(_affine(samples, mean, sigma, dtype))

    @draws
    def multivariate_normal(
        self,
        mean: Measured,
        cov: Squared,
        size: Size = None,
        method: str = "cholesky",
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Placed],
    ) -> Array:
        """Draws vectors from the normal distribution of this mean and covariance."""
        return _jax.multivariate_normal(key, mean, cov, size, dtype, method, **kw)

    @draws
    def normal(
        self,
        loc: Measured = 0.0,
        scale: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws from the normal distribution: ``loc + scale * jax.random.normal``."""
        return _located(_jax.normal, key, loc, scale, size, dtype, kw)

    @draws
    def pareto(
        self,
        a: Numbers,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Placed],
    ) -> Array:
        """Draws from the Pareto distribution that begins at 0: ``jax.random.pareto`` less 1."""
        return _jax.pareto(key, a, extent(size, a=a), dtype, **kw) - 1

    @draws
    def rand(
        self,
        *lengths: int,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[ByShape],
    ) -> Array:
        """Draws from the standard uniform distribution, given one length for each axis."""
        return _of_lengths(_jax.uniform, key, lengths, size, dtype)

    @draws
    def rand_like(self, x: Template, *, dtype: DType = None, key: Key = None) -> Array:
        """Draws from the standard uniform distribution, in the shape and dtype of `x`."""
        return _like(_jax.uniform, key, x, dtype)

    @draws
    def randn(
        self,
        *lengths: int,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[ByShape],
    ) -> Array:
        """Draws from the standard normal distribution, given one length for each axis."""
        return _of_lengths(_jax.normal, key, lengths, size, dtype)

    @draws
    def randn_like(self, x: Template, *, dtype: DType = None, key: Key = None) -> Array:
        """Draws from the standard normal distribution, in the shape and dtype of `x`."""
        return _like(_jax.normal, key, x, dtype)

    @draws
    def shuffle(self, x: Measured, axis: int = 0, key: Key = None, **kw: Any) -> Array:
        """Returns the array in random order; arrays are immutable, so that `x` stays as it is."""
        return _jax.permutation(key, x, axis, **kw)

    @draws
    def triangular(
        self,
        left: Measured = 0.0,
        mode: Measured = 0.5,
        right: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Placed],
    ) -> Array:
        """Draws from the triangular distribution between two bounds, highest at `mode`."""
        shape = extent(size, left=left, mode=mode, right=right)
        return _jax.triangular(key, left, mode, right, shape, dtype, **kw)

    @draws
    def truncated_normal(
        self,
        lower: Measured,
        upper: Measured,
        size: Size = None,
        loc: Measured = 0.0,
        scale: Measured = 1.0,
        key: Key = None,
        dtype: DType = None,
        check_valid: bool = True,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws from the normal distribution of `loc` and `scale`, cut at two bounds."""
        shape = extent(size, lower=lower, upper=upper, loc=loc, scale=scale)
        bounds: Any = lower, upper
        low, high = ((bound - loc) / scale for bound in bounds)
        if check_valid:
            require(
                # Further out the numbers that JAX draws have few digits, or none.
                lambda a, b, loc, scale: (a - 2 * scale <= loc) & (loc <= b + 2 * scale),
                "loc is at most two scales beyond lower and upper",
                lower=lower,
                upper=upper,
                loc=loc,
                scale=scale,
            )
        samples = _jax.truncated_normal(key, low, high, shape, dtype, **kw)
        # Moved and stretched, a sample next to a bound may be rounded to what lies beyond it.
        return jnp.clip(_affine(samples, loc, scale, None), *bounds).astype(samples.dtype)

    @draws
    def uniform(
        self,
        low: Measured = 0.0,
        high: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Placed],
    ) -> Array:
        """Draws numbers between `low`, included, and `high`, excluded."""
        shape = extent(size, low=low, high=high)
        return _jax.uniform(key, shape, dtype, minval=low, maxval=high, **kw)

    @draws
    def wald(
        self,
        mean: Measured,
        scale: Measured,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Placed],
    ) -> Array:
        """Draws from the Wald distribution: ``scale * jax.random.wald`` of ``mean / scale``."""
        shape = extent(size, mean=mean, scale=scale)
        mean_of_one: Any = jnp.divide(mean, scale)  # type: ignore[arg-type]
        return _affine(_jax.wald(key, mean_of_one, shape, dtype, **kw), 0.0, scale, dtype)

    @draws
    def weibull_min(
        self,
        a: Numbers,
        scale: Measured = 1.0,
        size: Size = None,
        key: Key = None,
        dtype: DType = None,
        **kw: Unpack[Placed],
    ) -> Array:
        """Draws from the Weibull distribution of exponent `a`; JAX calls it the concentration."""
        return _jax.weibull_min(key, scale, a, extent(size, a=a, scale=scale), dtype, **kw)
