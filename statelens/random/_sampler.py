"""One sampler: a pure function of a key, as a method that takes the key from a state."""

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import (
    Annotated,
    Any,
    Concatenate,
    ParamSpec,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    Unpack,
)

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
from ._quantities import Quantity, take_units, with_unit

P = ParamSpec("P")

Draw: TypeAlias = Callable[..., Array]
"""A pure function of a key."""

Numbers: TypeAlias = ArrayLike | list[Any] | tuple[Any, ...]
"""The annotation of what a sampler computes with: a number, an array, or a list of numbers."""

Measured: TypeAlias = Numbers | Quantity
"""The annotation of numbers that may carry the unit which the samples then have."""

Squared: TypeAlias = Annotated[Measured, "squared"]
"""The annotation of numbers that may carry the square of that unit."""

Template: TypeAlias = Annotated[Measured, "template"]
"""The annotation of an array of which only the shape and the dtype are looked at."""

Size: TypeAlias = SupportsIndex | Iterable[SupportsIndex] | None
"""The annotation of the shape of the samples: one length or several."""

DType: TypeAlias = DTypeLike | None

Key: TypeAlias = SeedOrKey | None
"""The annotation of a key to draw with instead of the state's."""


class ByShape(TypedDict, total=False):
    """The other name of ``size``."""

    shape: Size


class Placed(ByShape, total=False):
    """Where the samples shall lie."""

    out_sharding: Any


class OfJax(Placed, total=False):
    """What some samplers of JAX take by name, in some versions."""

    mode: str
    method: str


_READ_BEFORE = Unpack[ByShape]
"""The annotation of keywords that a sampler never gets: they are read before it is called."""

_POWERS = {Numbers: 0, Measured: 1, Squared: 2}
"""Of which power of the samples' unit the unit of a parameter is."""

_OTHER_NAMES = {
    "gamma": {"shape": "a"},
    "multinomial": {"p": "pvals"},
    "pareto": {"b": "a"},
    "rand_like": {"input": "x"},
    "randn_like": {"input": "x"},
    "standard_gamma": {"shape": "a"},
    "weibull_min": {"concentration": "a"},
}
"""What a parameter is called too, by NumPy, by JAX or by brainstate."""


def draws(draw: Callable[Concatenate[Any, P], Array]) -> Callable[Concatenate[Any, P], Array]:
    """Makes a method draw by the state: where it is called without a key, it gets one."""
    _, *parameters = inspect.signature(draw).parameters.values()
    if parameters[-1].annotation == _READ_BEFORE:
        parameters.pop()
    sampler = _Sampler(draw.__name__, parameters, draw.__annotations__)

    def call(state: Any, bound: inspect.BoundArguments) -> Array:
        return draw(state, *bound.args, **bound.kwargs)

    return _method(sampler, call, docstring(sampler.signature, sampler.sized, draw))


def mirrors(draw: Draw) -> Callable[[Callable[P, Array]], Callable[P, Array]]:
    """Makes a method that is only declared draw by a function of JAX."""
    return functools.partial(_mirror, draw)


def _mirror(draw: Draw, declared: Callable[..., Any]) -> Callable[..., Any]:
    # What is declared has a position. What else this version of JAX takes has a name only.
    of_jax = dict(inspect.signature(draw).parameters)
    del of_jax["key"]
    parameters = []
    for ours in list(inspect.signature(declared).parameters.values())[1:]:
        if ours.kind is ours.POSITIONAL_OR_KEYWORD:
            theirs = of_jax.pop(ours.name, ours)
            has_default = theirs.default is not theirs.empty
            parameters.append(ours.replace(default=theirs.default) if has_default else ours)
    parameters += [p.replace(kind=p.KEYWORD_ONLY) for p in of_jax.values()]
    sampler = _Sampler(declared.__name__, parameters, declared.__annotations__)

    def call(state: Any, bound: inspect.BoundArguments) -> Array:
        return draw(**bound.arguments)

    doc = docstring(sampler.signature, sampler.sized, declared, draw.__name__)
    method = _method(sampler, call, doc)
    method.__wrapped__ = declared  # type: ignore[attr-defined]
    return method


def _method(
    sampler: "_Sampler", call: Callable[[Any, inspect.BoundArguments], Array], doc: str
) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound, unit = sampler.bind(args, kwargs)
        if bound.arguments["key"] is None:
            bound.arguments["key"] = self.split_key()
        return with_unit(call(self, bound), unit)

    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [itself, *sampler.signature.parameters.values()]
    signature = sampler.signature.replace(parameters=parameters)
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

    def __init__(
        self, name: str, parameters: list[inspect.Parameter], annotations: Mapping[str, Any]
    ):
        self.name = name
        self.signature = inspect.Signature(parameters, return_annotation=jax.Array)
        # Which parameter is the shape of the samples, if any.
        self.sized = next((p.name for p in parameters if p.name in ("size", "shape")), None)
        self._names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        self._powers = {
            name: power
            for name, kind in annotations.items()
            for numbers, power in _POWERS.items()
            if kind in (numbers, numbers | None)
        }

    def bind(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[inspect.BoundArguments, Any]:
        """Returns the arguments by parameter, made fit for JAX, and the unit of the samples."""
        try:
            bound = self.signature.bind(*args, **self._keywords(args, kwargs))
        except TypeError as error:
            raise ArgumentTypeError(
                f"asked for random.{self.name}", str(error), self._usage()
            ) from None
        given = bound.arguments
        if len(args) == 1:
            self._refuse_shape(args[0], given)
        unit = take_units(given, self._powers)
        for name, value in given.items():
            parameter = self.signature.parameters[name]
            if value is None and parameter.default is not parameter.empty:
                given[name] = parameter.default
            elif name == self.sized:
                given[name] = as_shape(name, value)
            elif name in self._powers:
                given[name] = as_numbers(name, value)
            elif name == "key":
                given[name] = self._key(value)
            elif name == "check_valid" and not isinstance(value, bool):
                raise ArgumentTypeError(
                    f"asked for random.{self.name} with check_valid={value!r}",
                    "check_valid is True or False",
                    self._usage(),
                )
        bound.apply_defaults()
        return bound, unit

    def _key(self, value: Any) -> Array:
        try:
            return as_key(value)
        except ArgumentTypeError:
            raise ArgumentTypeError(
                f"asked for random.{self.name} with key={value!r}",
                "that is neither a seed nor a key",
                self._usage(),
            ) from None

    def _refuse_shape(self, value: Any, given: Mapping[str, Any]) -> None:
        """Refuses what is written as a shape in the place of numbers that one may leave out."""
        name = next(iter(given))
        optional = self.signature.parameters[name].default is not inspect.Parameter.empty
        if name not in self._powers or not optional or self.sized in given:
            return
        is_shape = isinstance(value, tuple) and all(type(n) is int for n in value)
        if is_shape and len(self._powers.keys() & given.keys()) == 1:
            raise ArgumentTypeError(
                f"asked for random.{self.name}({value})",
                f"the first argument is {name}, and {value} looks like the shape of the samples",
                f"a shape, as in size={value}",
                f"numbers, as in {name}={list(value)}",
            )

    def _keywords(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(kwargs)
        for other, name in _OTHER_NAMES.get(self.name, {}).items():
            # What NumPy calls the shape of a gamma distribution is the shape of the samples
            # where its concentration is there already.
            is_free = name not in given and self._names.index(name) >= len(args)
            if other in given and is_free:
                given[name] = given.pop(other)
        other = {"size": "shape", "shape": "size"}.get(self.sized or "")
        if other in given:
            if self.sized in given:
                raise TypeError("it takes 'size' or 'shape', two names for one thing, not both")
            given[self.sized or other] = given.pop(other)
        return given

    def _usage(self) -> str:
        bare = [p.replace(annotation=p.empty) for p in self.signature.parameters.values()]
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
