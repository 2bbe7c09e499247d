"""Samplers with the arguments that NumPy gives them, since ported programs pass these.

JAX computes the numbers of these too: each method draws by the pure function above.
"""

from typing import Any, TypeAlias, Unpack

import jax
import jax.numpy as jnp
from jax import Array

from .._errors import ArgumentError
from ._sampler import Draw, DType, Key, Numbers, Options, Size, as_shape, draws

Number: TypeAlias = jax.Array | float


def _extent(size: tuple[Any, ...] | None, **parameters: Any) -> tuple[Any, ...]:
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


def _affine(samples: jax.Array, loc: Number, scale: Number, dtype: Any) -> jax.Array:
    # A step that would change nothing is one more call when it isn't compiled.
    if not (isinstance(scale, (int, float)) and scale == 1):
        samples = samples * scale
    if not (isinstance(loc, (int, float)) and loc == 0):
        samples = samples + loc
    return samples if dtype is None else samples.astype(dtype)


def _located(name: str) -> Draw:
    standard: Draw = getattr(jax.random, name)

    def draw(
        key: jax.Array,
        loc: Number = 0.0,
        scale: Number = 1.0,
        size: Any = None,
        *,
        dtype: Any = None,
        **options: Any,
    ) -> jax.Array:
        samples = standard(key, _extent(size, loc=loc, scale=scale), dtype, **options)
        return _affine(samples, loc, scale, dtype)

    draw.__doc__ = f"Draws from the {name} distribution: ``loc + scale * jax.random.{name}``."
    return draw


def _exponential(
    key: jax.Array, scale: Number = 1.0, size: Any = None, *, dtype: Any = None, **options: Any
) -> jax.Array:
    """Draws from the exponential distribution of mean `scale`."""
    samples = jax.random.exponential(key, _extent(size, scale=scale), dtype, **options)
    return _affine(samples, 0.0, scale, dtype)


def _gamma(
    key: jax.Array,
    a: Number,
    scale: Number = 1.0,
    size: Any = None,
    *,
    dtype: Any = None,
    **options: Any,
) -> jax.Array:
    """Draws from the gamma distribution of mean ``a * scale``; NumPy calls `a` the shape."""
    samples = jax.random.gamma(key, a, _extent(size, a=a, scale=scale), dtype, **options)
    return _affine(samples, 0.0, scale, dtype)


def _lognormal(
    key: jax.Array,
    mean: Number = 0.0,
    sigma: Number = 1.0,
    size: Any = None,
    *,
    dtype: Any = None,
    **options: Any,
) -> jax.Array:
    """Draws numbers whose logarithm is normal, of this mean and deviation."""
    samples = jax.random.normal(key, _extent(size, mean=mean, sigma=sigma), dtype, **options)
    return jnp.exp(_affine(samples, mean, sigma, dtype))


def _truncated_normal(
    key: jax.Array,
    lower: Number,
    upper: Number,
    size: Any = None,
    loc: Number = 0.0,
    scale: Number = 1.0,
    *,
    dtype: Any = None,
    **options: Any,
) -> jax.Array:
    """Draws from the normal distribution of `loc` and `scale`, cut at two bounds."""
    shape = _extent(size, lower=lower, upper=upper, loc=loc, scale=scale)
    low, high = (lower - loc) / scale, (upper - loc) / scale
    samples = jax.random.truncated_normal(key, low, high, shape, dtype, **options)
    # Moved and stretched, a sample next to a bound may be rounded to what lies beyond it.
    return jnp.clip(_affine(samples, loc, scale, None), lower, upper).astype(samples.dtype)


def _uniform(
    key: jax.Array,
    low: Number = 0.0,
    high: Number = 1.0,
    size: Any = None,
    *,
    dtype: Any = None,
    **options: Any,
) -> jax.Array:
    """Draws numbers between `low`, included, and `high`, excluded."""
    return jax.random.uniform(key, _extent(size, low=low, high=high), dtype, low, high, **options)


def _randint(
    key: jax.Array,
    low: Number,
    high: Number | None = None,
    size: Any = None,
    dtype: Any = None,
    **options: Any,
) -> jax.Array:
    """Draws integers between `low`, included, and `high`, excluded; below `low` without `high`."""
    lower, upper = (0, low) if high is None else (low, high)
    shape = _extent(size, low=lower, high=upper)
    return jax.random.randint(key, shape, lower, upper, dtype, **options)


def _shuffle(key: jax.Array, x: Number, axis: int = 0, **options: Any) -> jax.Array:
    """Returns the array in random order; arrays are immutable, so that `x` stays as it is."""
    return jax.random.permutation(key, x, axis, **options)


def _by_lengths(name: str) -> Draw:
    standard: Draw = getattr(jax.random, name)

    def draw(key: jax.Array, *lengths: int, size: Any = None, dtype: Any = None) -> jax.Array:
        if lengths and size is not None:
            raise ArgumentError(
                f"asked for samples of lengths {lengths} and of size={size}",
                "these say the same thing twice",
                "one of them",
            )
        return standard(key, as_shape("lengths", lengths) if size is None else size, dtype)

    draw.__doc__ = f"Draws from the standard {name} distribution, given one length for each axis."
    return draw


def _like(name: str) -> Draw:
    standard: Draw = getattr(jax.random, name)

    def draw(key: jax.Array, x: Number, *, dtype: Any = None) -> jax.Array:
        if dtype is None and jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            dtype = jnp.result_type(x)
        return standard(key, jnp.shape(x), dtype)

    draw.__doc__ = f"Draws from the standard {name} distribution, in the shape and dtype of `x`."
    return draw


class ByShape(Options, total=False):
    """The other name of ``size``, and what the samplers of JAX take."""

    shape: Size
    mode: str
    method: str
    out_sharding: Any


class NumPyLike(ByShape, total=False):
    """What most of them take."""

    dtype: DType


class NumPySamplers:
    """The samplers, as methods of a state that has a key."""

    __slots__ = ()

    @draws(_exponential)
    def exponential(
        self, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[NumPyLike]
    ) -> Array: ...

    @draws(_gamma)
    def gamma(
        self, a: Numbers, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[NumPyLike]
    ) -> Array: ...

    @draws(_located("gumbel"))
    def gumbel(
        self, loc: Numbers = 0.0, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[NumPyLike]
    ) -> Array: ...

    @draws(_located("laplace"))
    def laplace(
        self, loc: Numbers = 0.0, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[NumPyLike]
    ) -> Array: ...

    @draws(_located("logistic"))
    def logistic(
        self, loc: Numbers = 0.0, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[NumPyLike]
    ) -> Array: ...

    @draws(_lognormal)
    def lognormal(
        self, mean: Numbers = 0.0, sigma: Numbers = 1.0, size: Size = None, **kw: Unpack[NumPyLike]
    ) -> Array: ...

    @draws(_located("normal"))
    def normal(
        self, loc: Numbers = 0.0, scale: Numbers = 1.0, size: Size = None, **kw: Unpack[NumPyLike]
    ) -> Array: ...

    @draws(_by_lengths("uniform"))
    def rand(self, *lengths: int, size: Size = None, **kw: Unpack[NumPyLike]) -> Array: ...

    @draws(_like("uniform"))
    def rand_like(self, x: Numbers, *, dtype: DType = None, key: Key = None) -> Array: ...

    @draws(_randint)
    def randint(
        self,
        low: Numbers,
        high: Numbers | None = None,
        size: Size = None,
        dtype: DType = None,
        **kw: Unpack[ByShape],
    ) -> Array: ...

    @draws(_by_lengths("normal"))
    def randn(self, *lengths: int, size: Size = None, **kw: Unpack[NumPyLike]) -> Array: ...

    @draws(_like("normal"))
    def randn_like(self, x: Numbers, *, dtype: DType = None, key: Key = None) -> Array: ...

    @draws(_shuffle)
    def shuffle(self, x: Numbers, axis: int = 0, *, key: Key = None, **options: Any) -> Array: ...

    @draws(_truncated_normal)
    def truncated_normal(
        self,
        lower: Numbers,
        upper: Numbers,
        size: Size = None,
        loc: Numbers = 0.0,
        scale: Numbers = 1.0,
        **kw: Unpack[NumPyLike],
    ) -> Array: ...

    @draws(_uniform)
    def uniform(
        self, low: Numbers = 0.0, high: Numbers = 1.0, size: Size = None, **kw: Unpack[NumPyLike]
    ) -> Array: ...
