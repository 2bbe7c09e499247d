"""Random numbers: the key is the value of a state, and every draw replaces it.

A `RandomState` is a state like any other: transforms take its key in and its next key out,
so that a compiled function draws other numbers in each call, and a transformed function that
raises leaves the key as it was. Each sampler of ``jax.random`` is a method, without the key;
where NumPy or brainstate have it too, it takes their parameters in their order, then a key, then a
dtype (``docs/porting_from_brainstate.md`` lists what differs). The functions of this room are the
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

The lanes of `vmap` draw different numbers: of ``n`` lanes, lane ``i`` has the key
``split(key, n + 1)[i + 1]``, and the state goes on with ``split(key, n + 1)[0]``, however often a
lane draws.

    >>> import jax, jax.numpy as jnp, statelens as sl
    >>> rng = random.RandomState(0)
    >>> first, *lanes = jax.random.split(rng.value, 4)
    >>> noise = sl.transform.vmap(lambda x: x + rng.normal())(jnp.zeros(3))
    >>> bool(rng.value == first)
    True
    >>> bool(jnp.allclose(noise[1], random.RandomState(lanes[1]).normal()))
    True

Whether lanes draw is known when the function is traced, in compiled code and outside of it alike:
- lanes that might draw, in a branch or in the body of a loop, are lanes that draw, also if none
  comes there; and so are lanes that only look at the key;
- lanes that don't draw, or only with a ``key`` of their own or against an overlay's, leave it as it
  was, whatever other lanes did before.

The same goes for what is built on `vmap`: `map` with batches, `per_example_grad`, `fisher_diag`.

A function may seed while a transform runs it. In a loop it does so in each step, and a branch
does if it is taken. In the lanes of `vmap` a seed that is the same for all is the state's, as if
there were one lane; else each lane draws from its own, and the state goes on with the key that
comes after those that were split off for the lanes.
"""

import threading
from collections.abc import Iterable
from typing import Any, Self, overload

import jax

from .._errors import user_facing
from ..state import State
from ._count_samplers import CountSamplers
from ._jax_samplers import JaxSamplers
from ._key import SeedOrKey, as_count, as_key, no_key
from ._numpy_samplers import NumPySamplers

# Two threads that read the same key before either writes the next would draw the same numbers.
_splitting = threading.RLock()

_LATER: Any = object()
"""A seed for `DEFAULT`: importing the library must not start a JAX backend."""


class RandomState(NumPySamplers, CountSamplers, JaxSamplers, State[jax.Array]):
    """A state whose value is a random key, with the samplers of ``jax.random`` as methods.

    A sampler splits the key, keeps the first half and draws with the second. All take a ``key``,
    a key or a seed to draw with instead, which leaves the state alone; and ``size=`` and
    ``shape=`` mean the same. Parameters may be quantities of `saiunit` (or of `brainunit`): then
    the samples are quantities, in the unit of the first that has one.

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
        super().__init__(_LATER if seed_or_key is _LATER else as_key(seed_or_key), name, tag)

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
        """Starts again from a seed or a key. NumPy's own generator isn't touched.

        Args:
            seed_or_key: As for the class; a traced integer too. None in a compiled function
                is one seed, drawn when the function is traced.

        Example:
            >>> from statelens import random
            >>> before = random.get_key()
            >>> random.seed(42)
            >>> random.seed(before)
        """
        self.value = as_key(seed_or_key)

    @user_facing
    def set_key(self, seed_or_key: SeedOrKey) -> None:
        """Sets the key.

        Args:
            seed_or_key: A key, typed or as raw data; or a seed.
        """
        if seed_or_key is None:
            raise no_key(seed_or_key)
        self.value = as_key(seed_or_key)

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
        count = None if n is None else as_count(n)
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


DEFAULT = RandomState(_LATER)
"""The state that the functions of this room draw from.

Its first key comes from the entropy of the operating system, so that a program draws other
numbers each time until it calls `seed`.
"""
