"""The functions that draw from `DEFAULT`: its methods, and some that have to do with it alone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import jax

from .._errors import user_facing
from ._key import SeedOrKey, as_key
from ._random_state import DEFAULT, RandomState
from ._sampler import present, without_self

__all__ = [
    "DEFAULT",
    "RandomState",
    "ball",
    "bernoulli",
    "beta",
    "binomial",
    "bits",
    "categorical",
    "cauchy",
    "chisquare",
    "choice",
    "clone_rng",
    "default_rng",
    "dirichlet",
    "double_sided_maxwell",
    "exponential",
    "f",
    "fork",
    "gamma",
    "generalized_normal",
    "geometric",
    "get_key",
    "gumbel",
    "laplace",
    "loggamma",
    "logistic",
    "lognormal",
    "maxwell",
    "multinomial",
    "multivariate_normal",
    "normal",
    "orthogonal",
    "pareto",
    "permutation",
    "poisson",
    "rademacher",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "random",
    "random_sample",
    "ranf",
    "rayleigh",
    "sample",
    "seed",
    "seed_context",
    "set_key",
    "shuffle",
    "split_key",
    "split_keys",
    "standard_cauchy",
    "standard_exponential",
    "standard_gamma",
    "standard_normal",
    "standard_t",
    "t",
    "triangular",
    "truncated_normal",
    "uniform",
    "wald",
    "weibull_min",
]

P = ParamSpec("P")
R = TypeVar("R")


def _default() -> RandomState:
    # By the face, where a program may have put a state of its own.
    from . import DEFAULT

    return DEFAULT


@user_facing
def get_key() -> jax.Array:
    """Returns the key of `DEFAULT` as it is now, for `set_key` to go back to."""
    return _default().value


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


def _of_default(method: Callable[Concatenate[Any, P], R]) -> Callable[P, R]:
    """Makes a method a function that calls it of `DEFAULT`."""

    def function(*args: P.args, **kwargs: P.kwargs) -> R:
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
fork: Final = _of_default(RandomState.fork)
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
seed: Final = _of_default(RandomState.seed)
set_key: Final = _of_default(RandomState.set_key)
shuffle: Final = _of_default(RandomState.shuffle)
split_key: Final = _of_default(RandomState.split_key)
split_keys: Final = _of_default(RandomState.split_keys)
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
