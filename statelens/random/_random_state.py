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

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Concatenate, Final, ParamSpec, Self, overload

import jax

from .._errors import user_facing
from ..state import State
from ._jax_samplers import JaxSamplers
from ._key import SeedOrKey, as_count, as_key, no_key
from ._numpy_samplers import NumPySamplers
from ._sampler import present, without_self

P = ParamSpec("P")

# Two threads that read the same key before either writes the next would draw the same numbers.
_splitting = threading.RLock()

_LATER: Any = object()
"""A seed for `DEFAULT`: importing the library must not start a JAX backend."""


class RandomState(NumPySamplers, JaxSamplers, State[jax.Array]):
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
        """Starts again from a seed or a key.

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
            raise no_key(key)
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
"""The state that the functions of this module draw from.

Its first key comes from the entropy of the operating system, so that a program draws other
numbers each time until it calls `seed`.
"""


def _default() -> RandomState:
    # By the face, where a program may have put a state of its own.
    from . import DEFAULT

    return DEFAULT


@user_facing
def seed(seed_or_key: SeedOrKey | None = None) -> None:
    """Starts `DEFAULT` again from a seed or a key. NumPy's own generator isn't touched.

    Args:
        seed_or_key: As for `RandomState`.

    Example:
        >>> from statelens import random
        >>> before = random.get_key()
        >>> random.seed(42)
        >>> random.seed(before)
    """
    _default().seed(seed_or_key)


@user_facing
def split_key(n: int | None = None) -> jax.Array:
    """Splits the key of `DEFAULT`, as `RandomState.split_key` does."""
    return _default().split_key(n)


@user_facing
def split_keys(n: int) -> jax.Array:
    """Splits `n` keys off the key of `DEFAULT`, as `split_key` with `n` does."""
    return _default().split_keys(n)


@user_facing
def get_key() -> jax.Array:
    """Returns the key of `DEFAULT` as it is now, for `set_key` to go back to."""
    return _default().value


@user_facing
def set_key(key: SeedOrKey) -> None:
    """Sets the key of `DEFAULT`, as `RandomState.set_key` does."""
    _default().set_key(key)


@overload
def fork(n: None = None) -> RandomState: ...


@overload
def fork(n: int) -> list[RandomState]: ...


@user_facing
def fork(n: int | None = None) -> Any:
    """Returns one new state or `n`, split off from `DEFAULT` as by `RandomState.fork`."""
    return _default().fork(n)


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
    return _default().clone() if clone else _default()


@user_facing
def default_rng(seed_or_key: SeedOrKey | None = None) -> RandomState:
    """Returns a new state, or `DEFAULT` itself.

    Unlike NumPy's function without a seed, it gives a state that `seed` determines.

    Args:
        seed_or_key: What to start from; None for `DEFAULT`.

    Returns:
        The state.
    """
    return _default() if seed_or_key is None else RandomState(seed_or_key)


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
    return _with_key(_default(), as_key(seed_or_key))


@contextmanager
def _with_key(state: RandomState, key: jax.Array) -> Iterator[RandomState]:
    before = state.value
    state.value = key
    try:
        yield state
    finally:
        state.value = before


def _of_default(method: Callable[Concatenate[Any, P], jax.Array]) -> Callable[P, jax.Array]:
    """Makes a sampler a function that draws from `DEFAULT`."""

    @functools.wraps(method)
    def function(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
        return method(_default(), *args, **kwargs)

    return present(function, method.__name__, without_self(method), method.__doc__)


ball: Final = _of_default(RandomState.ball)
bernoulli: Final = _of_default(RandomState.bernoulli)
beta: Final = _of_default(RandomState.beta)
binomial: Final = _of_default(RandomState.binomial)
bits: Final = _of_default(RandomState.bits)
categorical: Final = _of_default(RandomState.categorical)
cauchy: Final = _of_default(RandomState.cauchy)
chisquare: Final = _of_default(RandomState.chisquare)
choice: Final = _of_default(RandomState.choice)
dirichlet: Final = _of_default(RandomState.dirichlet)
double_sided_maxwell: Final = _of_default(RandomState.double_sided_maxwell)
exponential: Final = _of_default(RandomState.exponential)
f: Final = _of_default(RandomState.f)
gamma: Final = _of_default(RandomState.gamma)
generalized_normal: Final = _of_default(RandomState.generalized_normal)
geometric: Final = _of_default(RandomState.geometric)
gumbel: Final = _of_default(RandomState.gumbel)
laplace: Final = _of_default(RandomState.laplace)
loggamma: Final = _of_default(RandomState.loggamma)
logistic: Final = _of_default(RandomState.logistic)
lognormal: Final = _of_default(RandomState.lognormal)
maxwell: Final = _of_default(RandomState.maxwell)
multinomial: Final = _of_default(RandomState.multinomial)
multivariate_normal: Final = _of_default(RandomState.multivariate_normal)
normal: Final = _of_default(RandomState.normal)
orthogonal: Final = _of_default(RandomState.orthogonal)
pareto: Final = _of_default(RandomState.pareto)
permutation: Final = _of_default(RandomState.permutation)
poisson: Final = _of_default(RandomState.poisson)
rademacher: Final = _of_default(RandomState.rademacher)
rand: Final = _of_default(RandomState.rand)
rand_like: Final = _of_default(RandomState.rand_like)
randint: Final = _of_default(RandomState.randint)
randn: Final = _of_default(RandomState.randn)
randn_like: Final = _of_default(RandomState.randn_like)
random: Final = _of_default(RandomState.random)
random_sample: Final = _of_default(RandomState.random_sample)
ranf: Final = _of_default(RandomState.ranf)
rayleigh: Final = _of_default(RandomState.rayleigh)
sample: Final = _of_default(RandomState.sample)
shuffle: Final = _of_default(RandomState.shuffle)
standard_cauchy: Final = _of_default(RandomState.standard_cauchy)
standard_exponential: Final = _of_default(RandomState.standard_exponential)
standard_gamma: Final = _of_default(RandomState.standard_gamma)
standard_normal: Final = _of_default(RandomState.standard_normal)
standard_t: Final = _of_default(RandomState.standard_t)
t: Final = _of_default(RandomState.t)
triangular: Final = _of_default(RandomState.triangular)
truncated_normal: Final = _of_default(RandomState.truncated_normal)
uniform: Final = _of_default(RandomState.uniform)
wald: Final = _of_default(RandomState.wald)
weibull_min: Final = _of_default(RandomState.weibull_min)
