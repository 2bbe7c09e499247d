"""One sampler: a pure function of a key, as a method that takes the key from a state."""

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec, SupportsIndex, TypeAlias, TypedDict, Unpack

import jax
import jax.export
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from .._errors import (
    ArgumentError,
    ArgumentTypeError,
    StateLensError,
    user_facing,
)
from ._docs import docstring
from ._key import SeedOrKey, as_key

P = ParamSpec("P")

Draw: TypeAlias = Callable[..., Array]
"""A pure function of a key, which is its first argument."""

Numbers: TypeAlias = ArrayLike | list[Any] | tuple[Any, ...]
"""The annotation of what a sampler computes with: a number, an array, or a list of numbers."""

Size: TypeAlias = SupportsIndex | Iterable[SupportsIndex] | None
"""The annotation of the shape of the samples: one length or several."""

DType: TypeAlias = DTypeLike | None
Key: TypeAlias = SeedOrKey | None


class Options(TypedDict, total=False):
    """What every sampler takes: a key to draw with instead of the state's."""

    key: Key


class ByShape(Options, total=False):
    """The other name of ``size`` too."""

    shape: Size


_READ_BEFORE = (Unpack[Options], Unpack[ByShape])
"""Annotations of keywords that a sampler never gets: they are read before it is called."""


_KEY = inspect.Parameter(
    "key", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="int | jax.Array | None"
)


def draws(draw: Callable[Concatenate[Any, P], Array]) -> Callable[Concatenate[Any, P], Array]:
    """Makes a pure function of a key a method, which has the state split a key off."""
    return _method(draw, declared=draw)


def mirrors(draw: Draw) -> Callable[[Callable[P, Array]], Callable[P, Array]]:
    """Makes a method that is only declared draw by a function of JAX."""
    return functools.partial(_method, draw)


def _method(draw: Draw, declared: Callable[..., Any]) -> Callable[..., Any]:
    sampler = _Sampler(draw, declared)

    def method(self: Any, *args: Any, key: Any = None, **kwargs: Any) -> Array:
        bound = sampler.bind(args, kwargs)
        used = self.split_key() if key is None else as_key(key)
        return draw(used, *bound.args, **bound.kwargs)

    if declared is not draw:
        method.__wrapped__ = declared  # type: ignore[attr-defined]
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [itself, *sampler.with_key.parameters.values()]
    signature = sampler.with_key.replace(parameters=parameters)
    doc = docstring(sampler.name, draw, sampler.signature, sampler.sized)
    return present(method, f"RandomState.{sampler.name}", signature, doc)


def present(
    function: Callable[..., Any], name: str, signature: inspect.Signature, doc: str | None
) -> Callable[..., Any]:
    """Makes a function of this room look like what it is to users."""
    function.__module__ = __package__
    function.__qualname__ = name
    function.__name__ = name.rpartition(".")[-1]
    function.__doc__ = doc
    function.__signature__ = signature  # type: ignore[attr-defined]
    return user_facing(function)


def without_self(method: Callable[..., Any]) -> inspect.Signature:
    """Returns the signature of a method as one calls it."""
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


class _Sampler:
    """How the arguments of a sampler are read."""

    def __init__(self, draw: Draw, declared: Callable[..., Any]):
        _, *parameters = inspect.signature(draw).parameters.values()
        if parameters[-1].annotation in _READ_BEFORE:
            parameters.pop()
        self.name = declared.__name__
        self.signature = inspect.Signature(parameters, return_annotation=jax.Array)
        # Which parameter is the shape of the samples, if any.
        self.sized = next((p.name for p in parameters if p.name in ("size", "shape")), None)
        kinds = declared.__annotations__.items()
        self._numbers = {name for name, kind in kinds if kind in (Numbers, Numbers | None)}

    @property
    def with_key(self) -> inspect.Signature:
        """The signature with a keyword ``key=None`` more."""
        parameters = list(self.signature.parameters.values())
        has_options = parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        parameters.insert(len(parameters) - bool(has_options), _KEY)
        return self.signature.replace(parameters=parameters)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Returns the arguments by parameter, with the shape and all numbers made fit for JAX."""
        try:
            bound = self.signature.bind(*args, **self._keywords(args, kwargs))
        except TypeError as error:
            raise ArgumentTypeError(
                f"asked for random.{self.name}", str(error), self._usage()
            ) from None
        for name, value in bound.arguments.items():
            parameter = self.signature.parameters[name]
            if value is None and parameter.default is not parameter.empty:
                bound.arguments[name] = parameter.default
            elif name == self.sized:
                bound.arguments[name] = as_shape(name, value)
            elif name in self._numbers:
                bound.arguments[name] = as_numbers(name, value)
        return bound

    def _keywords(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(kwargs)
        # What NumPy calls the shape of a gamma distribution isn't the shape of the samples.
        is_gamma = self.name in ("gamma", "standard_gamma")
        if is_gamma and "shape" in given and "a" not in given and not args:
            given["a"] = given.pop("shape")
        other = {"size": "shape", "shape": "size"}.get(self.sized or "")
        if other in given:
            if self.sized in given:
                raise TypeError("it takes 'size' or 'shape', two names for one thing, not both")
            given[self.sized or other] = given.pop(other)
        return given

    def _usage(self) -> str:
        bare = [p.replace(annotation=p.empty) for p in self.with_key.parameters.values()]
        return f"random.{self.name}{inspect.Signature(bare)}"


def as_shape(name: str, value: Any) -> tuple[Any, ...]:
    """Returns a size as a shape; the symbolic lengths of `jax.export` stay what they are."""
    asked, instead = f"asked for samples of {name}={value!r}", f"{name}=3, or {name}=(2, 3)"
    is_one = not isinstance(value, Iterable) or getattr(value, "ndim", None) == 0
    lengths: Any = (value,) if is_one else value
    try:
        shape = tuple(n if jax.export.is_symbolic_dim(n) else operator.index(n) for n in lengths)
    except TypeError as error:
        # That a traced number is no length, JAX explains better.
        if isinstance(error, jax.errors.JAXTypeError):
            raise
        found = "the lengths of a shape are integers"
        raise ArgumentTypeError(asked, found, instead) from None
    if any(isinstance(n, int) and n < 0 for n in shape):
        raise ArgumentError(asked, "the lengths of a shape aren't negative", instead)
    return shape


def as_numbers(name: str, value: Any) -> Any:
    """Returns what JAX computes with: a Python number as it is, anything else as an array."""
    if isinstance(value, (int, float, complex, jax.Array)):
        return value
    try:
        # Some versions of JAX take a text for the name of a dtype.
        if not any(isinstance(leaf, str) for leaf in jax.tree.leaves(value)):
            return jnp.asarray(value)
    except StateLensError as error:
        # A state's own refusal, without the frames of JAX through which it came.
        raise error.with_traceback(None) from None
    except (TypeError, ValueError):
        pass
    raise ArgumentTypeError(
        f"asked for samples with {name}={value!r}",
        f"{name} is a number, an array or a list of numbers",
    )
