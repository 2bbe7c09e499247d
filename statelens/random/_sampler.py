"""One sampler: a pure function of a key, and how the arguments that it is given are read."""

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from .._errors import ArgumentError, ArgumentTypeError, StateLensError, explain

Draw = Callable[..., jax.Array]

Numbers = jax.Array | float
"""The annotation of what a sampler computes with: a number, an array, or a list of numbers."""

KEY = inspect.Parameter(
    "key", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="int | jax.Array | None"
)


class Sampler(NamedTuple):
    """A pure function of a key, and how to call it.

    Attributes:
        name: What it is called.
        draw: The function, with the key first.
        signature: Its parameters without the key.
        sized: Which of them is the shape of the samples, if any.
        doc: Its docstring.
    """

    name: str
    draw: Draw
    signature: inspect.Signature
    sized: str | None
    doc: str

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """Returns the arguments by parameter, with the shape and all lists made fit for JAX.

        Args:
            args: Positional arguments, without the key.
            kwargs: Keyword arguments, without the key.

        Returns:
            What `draw` takes after the key.

        Raises:
            ArgumentTypeError: The arguments don't fit the signature.
            ArgumentError: The shape has a negative length.
        """
        try:
            bound = self.signature.bind(*args, **self._keywords(args, kwargs))
        except TypeError as error:
            raise ArgumentTypeError(
                explain(f"asked for random.{self.name}", str(error), self._usage())
            ) from None
        for name, value in bound.arguments.items():
            parameter = self.signature.parameters[name]
            if value is None and parameter.default is not parameter.empty:
                bound.arguments[name] = parameter.default
            elif name == self.sized:
                bound.arguments[name] = as_shape(name, value)
            elif parameter.annotation is Numbers or _is_list_of_numbers(parameter, value):
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
        bare = [p.replace(annotation=p.empty) for p in with_key(self.signature).parameters.values()]
        return f"random.{self.name}{inspect.Signature(bare)}"


def _is_list_of_numbers(parameter: inspect.Parameter, value: Any) -> bool:
    return isinstance(value, (list, tuple)) and parameter.kind is not parameter.VAR_POSITIONAL


def with_key(signature: inspect.Signature) -> inspect.Signature:
    """Returns the signature with a keyword ``key=None`` more."""
    parameters = list(signature.parameters.values())
    at = len(parameters)
    if at and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        at -= 1
    return signature.replace(parameters=[*parameters[:at], KEY, *parameters[at:]])


def as_shape(name: str, value: Any) -> tuple[Any, ...]:
    """Returns a size as a shape: one length or several.

    Args:
        name: What the argument is called.
        value: The argument.

    Returns:
        The shape. The symbolic lengths of `jax.export` stay what they are.

    Raises:
        ArgumentTypeError: The lengths aren't integers.
        ArgumentError: A length is negative.
    """
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
        raise ArgumentTypeError(explain(asked, found, instead)) from None
    if any(isinstance(n, int) and n < 0 for n in shape):
        raise ArgumentError(explain(asked, "the lengths of a shape aren't negative", instead))
    return shape


def as_numbers(name: str, value: Any) -> Any:
    """Returns what JAX computes with: a Python number as it is, anything else as an array.

    Args:
        name: What the argument is called.
        value: The argument.

    Returns:
        A number or an array.

    Raises:
        ArgumentTypeError: The argument isn't made of numbers.
    """
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
        explain(
            f"asked for samples with {name}={value!r}",
            f"{name} is a number, an array or a list of numbers",
        )
    )
