"""Samplers with the arguments that NumPy gives them, since ported programs pass these.

JAX computes the numbers of these too. Each is written as a pure function of a key, and is a
method that takes no key: the state splits one off.
"""
# ruff: noqa: N805 (their first argument is the key)

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from .._errors import ArgumentError
from ._sampler import ByShape, Draw, DType, Numbers, Options, Size, as_shape, draws

_jax: Any = jax.random
"""What JAX draws by, asked at run time which options a sampler takes."""


class OfJax(ByShape, total=False):
    """What the samplers of JAX take."""

    mode: str
    method: str
    out_sharding: Any


class Common(OfJax, total=False):
    """What most of them take."""

    dtype: DType


def _extent(size: Any, **parameters: Any) -> tuple[Any, ...]:
    """Returns the shape of the samples: `size`, or that of the parameters together."""
    shapes = {name: jnp.shape(value) for name, value in parameters.items()}
    try:
        joint = jnp.broadcast_shapes(*shapes.values())
        shape = joint if size is None else size
        if jnp.broadcast_shapes(shape, joint) == shape:
            return shape
    except ValueError:
        joint = None
    raise ArgumentError(
        f"asked for samples of size={size}",
        ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items()),
        "parameters of shapes that broadcast to each other"
        if joint is None
        else f"a size that they broadcast to, such as size={joint}",
    )


def _affine(samples: Array, loc: Any, scale: Any, dtype: DType) -> Array:
    # A step that would change nothing is one more call when it isn't compiled.
    if not (isinstance(scale, (int, float)) and scale == 1):
        samples = samples * scale
    if not (isinstance(loc, (int, float)) and loc == 0):
        samples = samples + loc
    return samples if dtype is None else samples.astype(dtype)


def _located(standard: Draw, key: Any, loc: Any, scale: Any, size: Any, kw: Common) -> Array:
    samples = standard(key, _extent(size, loc=loc, scale=scale), **kw)
    return _affine(samples, loc, scale, kw.get("dtype"))


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
    if dtype is None and jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        dtype = jnp.result_type(x)
    return standard(key, jnp.shape(x), dtype)


class NumPySamplers:
    """The samplers, as methods of a state that has a key."""

    __slots__ = ()

    @draws
    def exponential(key, /, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[Common]) -> Array:
        """Draws from the exponential distribution of mean `scale`."""
        samples = _jax.exponential(key, _extent(size, scale=scale), **kw)
        return _affine(samples, 0.0, scale, kw.get("dtype"))

    @draws
    def gamma(
        key, /, a: Numbers, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[Common]
    ) -> Array:
        """Draws from the gamma distribution of mean ``a * scale``; NumPy calls `a` the shape."""
        samples = _jax.gamma(key, a, _extent(size, a=a, scale=scale), **kw)
        return _affine(samples, 0.0, scale, kw.get("dtype"))

    @draws
    def gumbel(
        key, /, loc: Numbers = 0.0, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[Common]
    ) -> Array:
        """Draws from the gumbel distribution: ``loc + scale * jax.random.gumbel``."""
        return _located(_jax.gumbel, key, loc, scale, size, kw)

    @draws
    def laplace(
        key, /, loc: Numbers = 0.0, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[Common]
    ) -> Array:
        """Draws from the laplace distribution: ``loc + scale * jax.random.laplace``."""
        return _located(_jax.laplace, key, loc, scale, size, kw)

    @draws
    def logistic(
        key, /, loc: Numbers = 0.0, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[Common]
    ) -> Array:
        """Draws from the logistic distribution: ``loc + scale * jax.random.logistic``."""
        return _located(_jax.logistic, key, loc, scale, size, kw)

    @draws
    def lognormal(
        key, /, mean: Numbers = 0.0, sigma: Numbers = 1.0, size: Size = None, **kw: Unpack[Common]
    ) -> Array:
        """Draws numbers whose logarithm is normal, of this mean and deviation."""
        samples = _jax.normal(key, _extent(size, mean=mean, sigma=sigma), **kw)
        return jnp.exp(_affine(samples, mean, sigma, kw.get("dtype")))

    @draws
    def normal(
        key, /, loc: Numbers = 0.0, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[Common]
    ) -> Array:
        """Draws from the normal distribution: ``loc + scale * jax.random.normal``."""
        return _located(_jax.normal, key, loc, scale, size, kw)

    @draws
    def rand(
        key, /, *lengths: int, size: Size = None, dtype: DType = None, **kw: Unpack[ByShape]
    ) -> Array:
        """Draws from the standard uniform distribution, given one length for each axis."""
        return _of_lengths(_jax.uniform, key, lengths, size, dtype)

    @draws
    def rand_like(key, /, x: Numbers, *, dtype: DType = None, **kw: Unpack[Options]) -> Array:
        """Draws from the standard uniform distribution, in the shape and dtype of `x`."""
        return _like(_jax.uniform, key, x, dtype)

    @draws
    def randint(
        key,
        /,
        low: Numbers,
        high: Numbers | None = None,
        size: Size = None,
        dtype: DType = None,
        **kw: Unpack[OfJax],
    ) -> Array:
        """Draws integers from `low` to below `high`; without it, from 0 to below `low`."""
        lower, upper = (0, low) if high is None else (low, high)
        return _jax.randint(key, _extent(size, low=lower, high=upper), lower, upper, dtype, **kw)

    @draws
    def randn(
        key, /, *lengths: int, size: Size = None, dtype: DType = None, **kw: Unpack[ByShape]
    ) -> Array:
        """Draws from the standard normal distribution, given one length for each axis."""
        return _of_lengths(_jax.normal, key, lengths, size, dtype)

    @draws
    def randn_like(key, /, x: Numbers, *, dtype: DType = None, **kw: Unpack[Options]) -> Array:
        """Draws from the standard normal distribution, in the shape and dtype of `x`."""
        return _like(_jax.normal, key, x, dtype)

    @draws
    def shuffle(key, /, x: Numbers, axis: int = 0, **kw: Any) -> Array:
        """Returns the array in random order; arrays are immutable, so that `x` stays as it is."""
        return _jax.permutation(key, x, axis, **kw)

    @draws
    def truncated_normal(
        key,
        /,
        lower: Numbers,
        upper: Numbers,
        size: Size = None,
        loc: Numbers = 0.0,
        scale: Numbers = 1.0,
        **kw: Unpack[Common],
    ) -> Array:
        """Draws from the normal distribution of `loc` and `scale`, cut at two bounds."""
        shape = _extent(size, lower=lower, upper=upper, loc=loc, scale=scale)
        bounds: Any = lower, upper
        low, high = ((bound - loc) / scale for bound in bounds)
        samples = _jax.truncated_normal(key, low, high, shape, **kw)
        # Moved and stretched, a sample next to a bound may be rounded to what lies beyond it.
        return jnp.clip(_affine(samples, loc, scale, None), *bounds).astype(samples.dtype)

    @draws
    def uniform(
        key, /, low: Numbers = 0.0, high: Numbers = 1.0, size: Size = None, **kw: Unpack[Common]
    ) -> Array:
        """Draws numbers between `low`, included, and `high`, excluded."""
        shape = _extent(size, low=low, high=high)
        return _jax.uniform(key, shape, minval=low, maxval=high, **kw)
