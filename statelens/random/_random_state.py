"""Random numbers: the key is the value of a state, and every draw replaces it.

A `RandomState` is a state like any other: transforms take its key in and its next key out,
so that a compiled function draws other numbers in each call, and a transformed function that
raises leaves the key as it was. Each sampler of ``jax.random`` is a method, without the key,
and those that NumPy has too take NumPy's arguments. The functions of this module are the
methods of `DEFAULT`, the state that programs share.

    >>> from statelens import random
    >>> rng = random.RandomState(42)
    >>> rng.normal(size=2).shape
    (2,)
    >>> rng.choice(10, shape=(3,), replace=False).shape
    (3,)

`DEFAULT` starts anywhere; `seed` makes a program draw the same numbers each time:

    >>> with random.seed_context(0):
    ...     first = random.uniform()
    >>> with random.seed_context(0):
    ...     again = random.uniform()
    >>> bool(first == again)
    True

A function may seed while a transform runs it. In a loop it does so in each step, and a branch
does if it is taken. In the lanes of `vmap` a seed that is the same for all is the state's, as if
there were one lane; else each lane draws from its own, and the state goes on with the key that
comes after those that were split off for the lanes.
"""

import inspect
import operator
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Self, overload

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import ArgumentError, ArgumentTypeError, explain, user_facing
from ..state import State
from ._sampler import Sampler, with_key
from ._samplers import SAMPLERS

__all__ = [
    "DEFAULT",
    "RandomState",
    "clone_rng",
    "default_rng",
    "fork",
    "get_key",
    "seed",
    "seed_context",
    "set_key",
    "split_key",
    "split_keys",
]
__all__ += SAMPLERS  # pyright: ignore[reportUnsupportedDunderAll]

SeedOrKey = int | jax.Array | np.ndarray | np.integer
"""What a key is made of: a seed, a typed key, or the raw data of one."""

# Two threads that read the same key before either writes the next would draw the same numbers.
_splitting = threading.RLock()

_LATER: Any = object()
"""A seed for `DEFAULT`: importing the library must not start a JAX backend."""


class RandomState(State):
    """A state whose value is a random key, with the samplers of ``jax.random`` as methods.

    A sampler splits the key, keeps the first half and draws with the second. All take a
    keyword ``key=``, a key or a seed to draw with instead, which leaves the state alone; and
    ``size=`` and ``shape=`` mean the same.

    Args:
        seed_or_key: An integer; or a key, typed or as raw data; or None, for a seed from the
            entropy of the operating system.
        name: What to call the state in messages.
        tag: A tag or several, for `tagged` to select by.

    Raises:
        ArgumentTypeError: `seed_or_key` is neither a seed nor a key.
        ArgumentError: It is several keys, or a seed of more than 64 bits.

    Example:
        >>> from statelens.random import RandomState
        >>> rng = RandomState(0, name="dropout")
        >>> rng
        RandomState(key<fry>[], name='dropout')
        >>> rng.bernoulli(0.5, (2, 3)).shape
        (2, 3)
    """

    @user_facing
    def __init__(
        self,
        seed_or_key: SeedOrKey | None = None,
        name: str | None = None,
        tag: str | Iterable[str] | None = None,
    ):
        super().__init__(seed_or_key if seed_or_key is _LATER else as_key(seed_or_key), name, tag)

    def store(self, value: Any) -> None:
        """Puts a key in the cell itself, past all frames; for frames to call."""
        if value is not _LATER:
            super().store(value)

    def __getattr__(self, name: str) -> Any:
        if name != "_value":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Reached only while nothing is stored. It may be in the middle of a trace, and the
        # key has to outlive that.
        with jax.ensure_compile_time_eval():
            self._value = as_key(None)
        return self._value

    @user_facing
    def seed(self, seed_or_key: SeedOrKey | None = None) -> None:
        """Starts anew from a seed or a key.

        Args:
            seed_or_key: As for the class; a traced integer too. None in a compiled function
                is one seed, drawn when the function is traced.
        """
        self.value = as_key(seed_or_key)

    @user_facing
    def set_key(self, key: SeedOrKey) -> None:
        """Sets the key.

        Args:
            key: A key, typed or as raw data; or a seed.
        """
        if key is None:
            raise _no_key(key)
        self.value = as_key(key)

    @user_facing
    def split_key(self, n: int | None = None) -> jax.Array:
        """Splits the key; the state keeps the first part.

        Args:
            n: How many keys to return as one array; None for one key that isn't in an array.

        Returns:
            The second half of the split; or, with `n`, all but the first of ``n + 1`` keys.

        Raises:
            ArgumentTypeError: `n` isn't an integer.
            ArgumentError: `n` is less than one.

        Example:
            >>> from statelens.random import RandomState
            >>> rng = RandomState(0)
            >>> rng.split_key().shape, rng.split_key(3).shape
            ((), (3,))
        """
        count = None if n is None else _as_count(n)
        with _splitting:
            if count is None:
                self.value, keys = jax.random.split(self.value)
            else:
                keys, self.value = self.split_lanes(self.value, count)
        return keys

    def split_keys(self, n: int) -> jax.Array:
        """Splits `n` keys off, as `split_key` with `n` does."""
        return self.split_key(n)

    def split_lanes(self, value: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        """Splits a key for lanes that run side by side, and leaves the state alone.

        Args:
            value: The key.
            count: The number of lanes.

        Returns:
            An array with a key for each lane, and the key that comes after them.
        """
        keys = jax.random.split(value, count + 1)
        return keys[1:], keys[0]

    @user_facing
    def clone(self) -> Self:
        """Returns a new state with a key that is split off from this one's.

        The two draw different numbers. `copy` gives a state that draws the same.

        Returns:
            A state of the same class, name and tags.
        """
        return self.with_value(self.split_key())

    @overload
    def fork(self, n: None = None) -> Self: ...

    @overload
    def fork(self, n: int) -> list[Self]: ...

    @user_facing
    def fork(self, n: int | None = None) -> Any:
        """Returns one new state or several, with keys that are split off from this one's.

        Args:
            n: How many; None for one that isn't in a list.

        Returns:
            A state like `clone`'s, or a list of `n` such states.
        """
        if n is None:
            return self.clone()
        return [self.with_value(key) for key in self.split_key(n)]


def as_key(seed_or_key: Any) -> jax.Array:
    """Returns a typed key, of the shape ``()``.

    Args:
        seed_or_key: A seed, a key, the raw data of a key, or None.

    Returns:
        The key.

    Raises:
        ArgumentTypeError: It is none of these.
        ArgumentError: It is several keys, or a seed of more than 64 bits.
    """
    if seed_or_key is None:
        high, low = np.frombuffer(os.urandom(8), np.uint32)
        return jax.random.fold_in(jax.random.key(high), low)
    if isinstance(seed_or_key, int) and not isinstance(seed_or_key, bool):
        if not -(2**63) <= seed_or_key < 2**63:
            raise ArgumentError(
                explain(
                    f"asked for the random key of the seed {seed_or_key}",
                    "a seed has 64 bits",
                    f"seed % 2**63, that is {seed_or_key % 2**63}",
                )
            )
        return jax.random.key(seed_or_key)
    if not isinstance(seed_or_key, (jax.Array, np.ndarray, np.integer)):
        raise _no_key(seed_or_key)
    if seed_or_key.ndim == 0 and jnp.issubdtype(seed_or_key.dtype, jnp.integer):
        return jax.random.key(seed_or_key)
    if seed_or_key.ndim == 1 and seed_or_key.dtype == np.uint32:
        try:
            return jax.random.wrap_key_data(jnp.asarray(seed_or_key))
        except TypeError:
            raise _no_key(seed_or_key) from None
    if not jnp.issubdtype(seed_or_key.dtype, jax.dtypes.prng_key):
        raise _no_key(seed_or_key)
    if seed_or_key.ndim:
        raise ArgumentError(
            explain(
                f"asked for a random state of keys of shape {seed_or_key.shape}",
                "a random state has one key",
                "one of them, as in keys[0]",
                "a state for each, as in [RandomState(key) for key in keys]",
            )
        )
    return jnp.asarray(seed_or_key)


def _no_key(value: Any) -> ArgumentTypeError:
    is_array = isinstance(value, (jax.Array, np.ndarray))
    shown = f"an array of {value.dtype}{list(value.shape)}" if is_array else repr(value)
    return ArgumentTypeError(
        explain(
            f"asked for the random key of {shown}",
            "that is neither a seed nor a key",
            "an integer, as in RandomState(42)",
            "a key, as in RandomState(jax.random.key(42))",
            "a key of another state, as in RandomState(rng.split_key())",
        )
    )


def _as_count(n: Any) -> int:
    asked, instead = f"asked to split a random key in n={n!r}", "a number of keys, as in n=3"
    try:
        count = operator.index(n)
    except TypeError as error:
        if isinstance(error, jax.errors.JAXTypeError):
            raise
        raise ArgumentTypeError(explain(asked, "n is an integer", instead)) from None
    if count < 1:
        raise ArgumentError(explain(asked, "n is at least one", instead))
    return count


def _method(sampler: Sampler) -> Callable[..., jax.Array]:
    """Returns the sampler as a method: the key comes from the state, or from ``key=``."""

    def method(self: RandomState, *args: Any, key: Any = None, **kwargs: Any) -> jax.Array:
        bound = sampler.bind(args, kwargs)
        used = self.split_key() if key is None else as_key(key)
        return sampler.draw(used, *bound.args, **bound.kwargs)

    signature = with_key(sampler.signature)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = signature.replace(parameters=[itself, *signature.parameters.values()])
    return _present(method, f"RandomState.{sampler.name}", signature, sampler.doc)


def _function(sampler: Sampler) -> Callable[..., jax.Array]:
    """Returns the sampler as a function that draws from `DEFAULT`."""
    draw = getattr(RandomState, sampler.name)

    def function(*args: Any, **kwargs: Any) -> jax.Array:
        return draw(DEFAULT, *args, **kwargs)

    return _present(function, sampler.name, with_key(sampler.signature), sampler.doc)


def _present(
    function: Callable[..., Any], name: str, signature: inspect.Signature, doc: str
) -> Callable[..., Any]:
    function.__qualname__ = name
    function.__name__ = name.rpartition(".")[-1]
    function.__doc__ = doc
    function.__signature__ = signature  # type: ignore[attr-defined]
    return user_facing(function)


for _sampler in SAMPLERS.values():
    setattr(RandomState, _sampler.name, _method(_sampler))
globals().update({name: _function(sampler) for name, sampler in SAMPLERS.items()})

if TYPE_CHECKING:
    # The samplers, which are added above.
    def __getattr__(name: str) -> Callable[..., jax.Array]: ...


DEFAULT = RandomState(_LATER)
"""The state that the functions of this module draw from.

Its first key comes from the entropy of the operating system, so that a program draws other
numbers each time until it calls `seed`.
"""


@user_facing
def seed(seed_or_key: SeedOrKey | None = None) -> None:
    """Starts `DEFAULT` anew from a seed or a key. NumPy's own generator isn't touched.

    Args:
        seed_or_key: As for `RandomState`.

    Example:
        >>> from statelens import random
        >>> before = random.get_key()
        >>> random.seed(42)
        >>> random.seed(before)
    """
    DEFAULT.seed(seed_or_key)


@user_facing
def split_key(n: int | None = None) -> jax.Array:
    """Splits the key of `DEFAULT`, as `RandomState.split_key` does."""
    return DEFAULT.split_key(n)


@user_facing
def split_keys(n: int) -> jax.Array:
    """Splits `n` keys off the key of `DEFAULT`, as `split_key` with `n` does."""
    return DEFAULT.split_keys(n)


@user_facing
def get_key() -> jax.Array:
    """Returns the key of `DEFAULT` as it is now, for `set_key` to go back to."""
    return DEFAULT.value


@user_facing
def set_key(key: SeedOrKey) -> None:
    """Sets the key of `DEFAULT`, as `RandomState.set_key` does."""
    DEFAULT.set_key(key)


@overload
def fork(n: None = None) -> RandomState: ...


@overload
def fork(n: int) -> list[RandomState]: ...


@user_facing
def fork(n: int | None = None) -> Any:
    """Returns one new state or `n`, split off from `DEFAULT` as by `RandomState.fork`."""
    return DEFAULT.fork(n)


@user_facing
def clone_rng(seed_or_key: SeedOrKey | None = None, clone: bool = True) -> RandomState:
    """Returns a state of one's own, or `DEFAULT`.

    Args:
        seed_or_key: What to start from; None for a key that is split off from `DEFAULT`'s.
        clone: Whether to split; without it, and without a seed, the result is `DEFAULT`.

    Returns:
        The state.
    """
    if seed_or_key is not None:
        return RandomState(seed_or_key)
    return DEFAULT.clone() if clone else DEFAULT


@user_facing
def default_rng(seed_or_key: SeedOrKey | None = None) -> RandomState:
    """Returns a new state, or `DEFAULT` itself.

    Unlike NumPy's function without a seed, it gives a state that `seed` determines.

    Args:
        seed_or_key: What to start from; None for `DEFAULT`.

    Returns:
        The state.
    """
    return DEFAULT if seed_or_key is None else RandomState(seed_or_key)


@user_facing
def seed_context(seed_or_key: SeedOrKey | None = None) -> AbstractContextManager[RandomState]:
    """Seeds `DEFAULT` for a ``with`` block; its key comes back at the end, also after errors.

    Args:
        seed_or_key: As for `RandomState`.

    Returns:
        A context manager, which gives `DEFAULT`. It decorates functions too.

    Example:
        >>> from statelens import random
        >>> before = random.get_key()
        >>> with random.seed_context(0):
        ...     numbers = random.randn(3)
        >>> bool(random.get_key() == before)
        True
    """
    return _with_key(DEFAULT, as_key(seed_or_key))


@contextmanager
def _with_key(state: RandomState, key: jax.Array) -> Iterator[RandomState]:
    before = state.value
    state.value = key
    try:
        yield state
    finally:
        state.value = before
