"""What can be drawn: one pure function of a key for each name.

`SAMPLERS` has every sampler of ``jax.random`` under its own name. A few have the arguments
that NumPy gives them, since that is what ported programs call; JAX computes the numbers of
these too. `statelens.random` lifts all of them over a state that holds the key.
"""

import functools
import inspect
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from .._errors import ArgumentError, explain
from ._sampler import Draw, Numbers, Sampler, as_numbers, as_shape

__all__ = ["SAMPLERS"]

_NOT_SAMPLERS = frozenset({"clone", "fold_in", "split"})
"""What takes a key as its first argument and gives keys."""

_RENAMED = {
    **dict.fromkeys(("random", "random_sample", "ranf", "sample"), "uniform"),
    "standard_cauchy": "cauchy",
    "standard_exponential": "exponential",
    "standard_gamma": "gamma",
    "standard_normal": "normal",
    "standard_t": "t",
}
"""NumPy's names of what JAX has under another one."""

_EXAMPLES = {
    "a": "2.0",
    "alpha": "[1.0, 2.0]",
    "b": "3.0",
    "choice.a": "5",
    "concentration": "2.0",
    "cov": "[[1.0, 0.0], [0.0, 1.0]]",
    "d": "3",
    "df": "4.0",
    "dfden": "5.0",
    "dfnum": "4.0",
    "lam": "4.0",
    "left": "0.0",
    "loc": "0.0",
    "logits": "[0.0, 1.0]",
    "low": "10",
    "lower": "-1.0",
    "mean": "1.0",
    "mode": "0.5",
    "multinomial.p": "[0.2, 0.8]",
    "multivariate_normal.mean": "[0.0, 1.0]",
    "n": "3",
    "p": "0.5",
    "right": "1.0",
    "scale": "1.0",
    "upper": "1.0",
    "x": "[1.0, 2.0]",
}
"""An argument for each parameter that has no default: the examples in the docstrings."""


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
        explain(
            f"asked for samples of size={size}",
            ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items()),
            "parameters of shapes that broadcast to each other"
            if joint is None
            else f"a size that they broadcast to, such as size={joint}",
        )
    )


def _affine(samples: jax.Array, loc: Numbers, scale: Numbers, dtype: Any) -> jax.Array:
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
        loc: Numbers = 0.0,
        scale: Numbers = 1.0,
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
    key: jax.Array, scale: Numbers = 1.0, size: Any = None, *, dtype: Any = None, **options: Any
) -> jax.Array:
    """Draws from the exponential distribution of mean `scale`."""
    samples = jax.random.exponential(key, _extent(size, scale=scale), dtype, **options)
    return _affine(samples, 0.0, scale, dtype)


def _gamma(
    key: jax.Array,
    a: Numbers,
    scale: Numbers = 1.0,
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
    mean: Numbers = 0.0,
    sigma: Numbers = 1.0,
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
    lower: Numbers,
    upper: Numbers,
    size: Any = None,
    loc: Numbers = 0.0,
    scale: Numbers = 1.0,
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
    low: Numbers = 0.0,
    high: Numbers = 1.0,
    size: Any = None,
    *,
    dtype: Any = None,
    **options: Any,
) -> jax.Array:
    """Draws numbers between `low`, included, and `high`, excluded."""
    return jax.random.uniform(key, _extent(size, low=low, high=high), dtype, low, high, **options)


def _randint(
    key: jax.Array,
    low: Numbers,
    high: Numbers | None = None,
    size: Any = None,
    dtype: Any = None,
    **options: Any,
) -> jax.Array:
    """Draws integers between `low`, included, and `high`, excluded; below `low` without `high`."""
    lower, upper = (0, low) if high is None else (low, as_numbers("high", high))
    shape = _extent(size, low=lower, high=upper)
    return jax.random.randint(key, shape, lower, upper, dtype, **options)


def _shuffle(key: jax.Array, x: Numbers, axis: int = 0, **options: Any) -> jax.Array:
    """Returns the array in random order; arrays are immutable, so that `x` stays as it is."""
    return jax.random.permutation(key, x, axis, **options)


def _by_lengths(name: str) -> Draw:
    standard: Draw = getattr(jax.random, name)

    def draw(key: jax.Array, *lengths: int, size: Any = None, dtype: Any = None) -> jax.Array:
        if lengths and size is not None:
            raise ArgumentError(
                explain(
                    f"asked for samples of lengths {lengths} and of size={size}",
                    "these say the same thing twice",
                    "one of them",
                )
            )
        return standard(key, as_shape("lengths", lengths) if size is None else size, dtype)

    draw.__doc__ = f"Draws from the standard {name} distribution, given one length for each axis."
    return draw


def _like(name: str) -> Draw:
    standard: Draw = getattr(jax.random, name)

    def draw(key: jax.Array, x: Numbers, *, dtype: Any = None) -> jax.Array:
        if dtype is None and jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            dtype = jnp.result_type(x)
        return standard(key, jnp.shape(x), dtype)

    draw.__doc__ = f"Draws from the standard {name} distribution, in the shape and dtype of `x`."
    return draw


_OWN: dict[str, Draw] = {
    **{name: _located(name) for name in ("gumbel", "laplace", "logistic", "normal")},
    "exponential": _exponential,
    "gamma": _gamma,
    "lognormal": _lognormal,
    "rand": _by_lengths("uniform"),
    "rand_like": _like("uniform"),
    "randint": _randint,
    "randn": _by_lengths("normal"),
    "randn_like": _like("normal"),
    "shuffle": _shuffle,
    "truncated_normal": _truncated_normal,
    "uniform": _uniform,
}
"""Those with the arguments that NumPy gives them, or that only NumPy has."""

_MEANINGS = {
    "a": "The concentration.",
    "axis": "Along which axis.",
    "dtype": "The dtype of the samples.",
    "high": "The upper bound.",
    "lengths": "The shape of the samples, one number for each axis.",
    "loc": "Where the distribution lies.",
    "low": "The lower bound.",
    "lower": "The lower bound of the samples.",
    "mean": "The mean of the logarithm.",
    "options": "What else the sampler of ``jax.random`` takes.",
    "scale": "How wide the distribution is.",
    "shape": "The shape of the samples; also as ``size=``.",
    "sigma": "The standard deviation of the logarithm.",
    "size": "The shape of the samples; by default that of the parameters together. Also "
    "as ``shape=``.",
    "upper": "The upper bound of the samples.",
    "x": "An array.",
}
"""What to say of the parameters."""


# That of each is asked for twice or more, at import.
_signature_of = functools.cache(inspect.signature)


def _samplers_of_jax() -> dict[str, Any]:
    """Returns the public functions of ``jax.random`` that take a key and give samples."""
    public = {name: value for name, value in vars(jax.random).items() if name[0] != "_"}
    return {
        name: value
        for name, value in public.items()
        if callable(value)
        and name not in _NOT_SAMPLERS
        and next(iter(_signature_of(value).parameters), None) == "key"
    }


def _sampler(name: str, draw: Draw, mirrored: str | None = None) -> Sampler:
    _, *parameters = _signature_of(draw).parameters.values()
    sized = next((p.name for p in parameters if p.name in ("size", "shape")), None)
    summary = draw.__doc__
    if mirrored is not None:
        summary = f"Mirrors ``jax.random.{mirrored}``, with a key from the state."
    lines = [summary, "", "Args:"]
    for parameter in parameters:
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        shown = stars.get(parameter.kind, "") + parameter.name
        meaning = f"As in ``jax.random.{mirrored}``."
        if mirrored is None or parameter.name == sized:
            meaning = _MEANINGS[parameter.name]
        lines.append(f"    {shown}: {meaning}")
    lines.append("    key: A key or a seed to draw with instead; the state stays as it is.")
    lines += ["", "Returns:", "    The samples.", *_example(name, mirrored, parameters)]
    signature = inspect.Signature(parameters, return_annotation=jax.Array)
    return Sampler(name, draw, signature, sized, "\n".join(map(str, lines)))


def _example(name: str, mirrored: str | None, parameters: list[inspect.Parameter]) -> list[str]:
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    shown = [_EXAMPLES.get(f"{mirrored}.{n}", _EXAMPLES.get(n)) for n in needed]
    if None in shown:
        return []
    return [
        "",
        "Example:",
        "    >>> from statelens.random import RandomState",
        f"    >>> samples = RandomState(0).{name}({', '.join(map(str, shown))})",
    ]


def _all_samplers() -> dict[str, Sampler]:
    of_jax = _samplers_of_jax()
    mirrored = {name: name for name in of_jax} | _RENAMED
    samplers = {name: _sampler(name, of_jax[source], source) for name, source in mirrored.items()}
    samplers |= {name: _sampler(name, draw) for name, draw in _OWN.items()}
    return dict(sorted(samplers.items()))


SAMPLERS: dict[str, Sampler] = _all_samplers()
"""All samplers by name."""
