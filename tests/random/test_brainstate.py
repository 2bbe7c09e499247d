"""Samplers against those of brainstate: names, positions, defaults, dtypes and numbers."""

import functools
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from statelens import random
from tests.helpers import close

close = functools.partial(close, rtol=2e-5, atol=2e-5)

LOC = jnp.array([[0.0], [10.0]])
SCALE = jnp.array([1.0, 2.0, 3.0])
X = jnp.arange(12.0).reshape(4, 3)


@pytest.fixture(scope="module")
def peer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("brainstate", reason="brainstate isn't installed").random
    numpy_before, before = np.random.get_state(), module.get_key()
    yield module
    module.set_key(before)
    np.random.set_state(numpy_before)


@pytest.fixture(autouse=True)
def the_shared_key_comes_back():
    with random.seed_context(0):
        yield


# Every sampler of brainstate's: what it is called with, besides a size and a key.

SAMPLERS = {
    "bernoulli": {},
    "beta": {"a": 2.0, "b": 3.0},
    "binomial": {"n": 10, "p": 0.3},
    "categorical": {"logits": [0.1, 1.0, 0.3]},
    "chisquare": {"df": 3.0},
    "choice": {"a": 5},
    "dirichlet": {"alpha": [1.0, 2.0]},
    "exponential": {},
    "f": {"dfnum": 4.0, "dfden": 10.0},
    "gamma": {"shape": 2.0},
    "geometric": {"p": 0.3},
    "gumbel": {},
    "laplace": {},
    "loggamma": {"a": 2.0},
    "logistic": {},
    "lognormal": {},
    "maxwell": {},
    "multinomial": {"n": 100, "pvals": [0.2, 0.3, 0.1]},
    "multivariate_normal": {"mean": [0.0, 1.0], "cov": [[1.0, 0.5], [0.5, 2.0]]},
    "normal": {},
    "orthogonal": {"n": 3},
    "pareto": {"a": 5.0},
    "permutation": {"x": 6},
    "poisson": {},
    "rand": {},
    "rand_like": {"input": X},
    "randint": {"low": 9},
    "randn": {},
    "randn_like": {"input": X},
    "random": {},
    "random_sample": {},
    "ranf": {},
    "rayleigh": {},
    "sample": {},
    "shuffle": {"x": X},
    "standard_cauchy": {},
    "standard_exponential": {},
    "standard_gamma": {"shape": 2.0},
    "standard_normal": {},
    "standard_t": {"df": 4.0},
    "t": {"df": 4.0},
    "triangular": {},
    "truncated_normal": {"lower": -1.0, "upper": 2.0},
    "uniform": {},
    "wald": {"mean": 1.0, "scale": 2.0},
    "weibull_min": {"a": 2.0},
}

OTHERS = {
    "hypergeometric",
    "logseries",
    "negative_binomial",
    "noncentral_chisquare",
    "noncentral_f",
    "power",
    "randint_like",
    "random_integers",
    "vonmises",
    "weibull",
    "zipf",
}
"""Samplers that aren't here: docs/porting_from_brainstate.md says what to write for them."""

OTHER_NUMBERS = {"f", "geometric", "multinomial"}
"""Samplers that draw from the same distribution in JAX's way."""

TWO_KEYS = {"t"}
"""Samplers that take two keys from the state there and one here."""


def samples_of(sampler, *args, **kwargs):
    samples = sampler(*args, **kwargs)
    assert isinstance(samples, jax.Array)
    return samples


def agree(name, ours, theirs):
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if name not in OTHER_NUMBERS:
        close(ours, theirs)


def test_every_sampler_is_compared_or_known_not_to_be_here(peer):
    takes_a_key = {
        name
        for name in peer.__all__
        if callable(getattr(peer, name))
        and "key" in inspect.signature(getattr(peer, name)).parameters
    }
    assert takes_a_key == SAMPLERS.keys() | OTHERS
    assert not [name for name in OTHERS if hasattr(random, name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_take_the_names_positions_and_defaults_of_brainstate(peer, name):
    ours, theirs = getattr(random, name), getattr(peer, name)
    key = jax.random.key(3)
    given = dict(SAMPLERS[name], key=key)
    agree(name, samples_of(ours, **given), samples_of(theirs, **given))

    parameters = inspect.signature(theirs).parameters.values()
    if "size" in inspect.signature(theirs).parameters:
        given["size"] = (2, 2)
        agree(name, samples_of(ours, **given), samples_of(theirs, **given))
    placed = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if "key" in [p.name for p in placed]:
        args = [given.get(p.name, p.default) for p in placed]
        agree(name, samples_of(ours, *args), samples_of(theirs, *args))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - OTHER_NUMBERS - TWO_KEYS))
def test_samplers_draw_what_brainstate_draws_after_the_same_seed(peer, name):
    peer.seed(42)
    random.seed(42)
    for _ in range(2):
        agree(name, getattr(random, name)(**SAMPLERS[name]), getattr(peer, name)(**SAMPLERS[name]))
    assert (jax.random.key_data(random.get_key()) == jax.random.key_data(peer.get_key())).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OTHER_NUMBERS))
def test_samplers_of_other_numbers_have_the_same_distribution(peer, name):
    given = dict(SAMPLERS[name], size=(4000,), key=jax.random.key(3))
    ours, theirs = getattr(random, name)(**given), getattr(peer, name)(**given)
    close(ours.mean(0), theirs.mean(0), rtol=0.05)
    close(jnp.median(ours, 0), jnp.median(theirs, 0), rtol=0.05)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", ["bernoulli", "binomial", "geometric", "multinomial", "poisson"])
def test_counts_are_integers_as_in_brainstate(name, x64):
    with jax.enable_x64(x64):
        samples = getattr(random, name)(**SAMPLERS[name])
        kind = bool if name == "bernoulli" else (jnp.int64 if x64 else jnp.int32)
        assert samples.dtype == kind
        if name != "bernoulli":
            assert getattr(random, name)(**SAMPLERS[name], dtype=jnp.int16).dtype == jnp.int16


# Quantities.

MEASURED = {
    "exponential": lambda r, u: r.exponential(2.0 * u.mV, 3),
    "gamma": lambda r, u: r.gamma(2.0, 3.0 * u.mV, (2,)),
    "gumbel": lambda r, u: r.gumbel(1.0 * u.mV, 2.0 * u.mV, 3),
    "laplace": lambda r, u: r.laplace(1.0, 2.0 * u.mV, 3),
    "logistic": lambda r, u: r.logistic(1.0 * u.mV, 2.0, 3),
    "multivariate_normal": lambda r, u: r.multivariate_normal(
        jnp.zeros(2) * u.mV, jnp.eye(2) * u.mV**2
    ),
    "normal": lambda r, u: r.normal(0.0 * u.mV, 0.001 * u.volt, (2,)),
    "permutation": lambda r, u: r.permutation(jnp.arange(3.0) * u.mV),
    "rayleigh": lambda r, u: r.rayleigh(2.0 * u.mV, 3),
    "triangular": lambda r, u: r.triangular(0.0 * u.mV, 0.5 * u.mV, 0.001 * u.volt, 3),
    "truncated_normal": lambda r, u: r.truncated_normal(-1.0 * u.mV, 2.0 * u.mV, (3,)),
    "uniform": lambda r, u: r.uniform(0.0 * u.mV, 2.0 * u.mV, 3),
    "wald": lambda r, u: r.wald(1.0 * u.mV, 2.0 * u.mV, (3,)),
    "weibull_min": lambda r, u: r.weibull_min(2.0, 3.0 * u.mV, (3,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("draw", MEASURED.values(), ids=MEASURED)
def test_quantities_are_those_of_brainstate(peer, draw):
    units = pytest.importorskip("brainunit", reason="brainunit isn't installed")
    peer.seed(42)
    random.seed(42)
    ours, theirs = draw(random, units), draw(peer, units)
    assert ours.unit == theirs.unit
    close(ours.mantissa, theirs.mantissa)


# More of their arguments.

PORTED = {
    "beta": lambda r: r.beta(2.0, jnp.array([1.0, 3.0]), (3, 2)),
    "bernoulli": lambda r: r.bernoulli(0.3, (2, 3)),
    "choice": lambda r: r.choice(5, 3, False),
    "choice with p": lambda r: r.choice(jnp.arange(3.0), (2,), p=[0.1, 0.2, 0.7]),
    "exponential": lambda r: r.exponential(2.0, 3),
    "gamma": lambda r: r.gamma(2.0, 3.0, (2,)),
    "gamma by shape": lambda r: r.gamma(shape=2.0, scale=3.0, size=2),
    "gumbel": lambda r: r.gumbel(1.0, 2.0, 3),
    "laplace": lambda r: r.laplace(1.0, 2.0, 3),
    "logistic": lambda r: r.logistic(LOC, SCALE),
    "lognormal": lambda r: r.lognormal(0.5, 0.2, 3),
    "normal": lambda r: r.normal(LOC, SCALE),
    "normal of size": lambda r: r.normal(1.0, 2.0, (2, 3)),
    "permutation": lambda r: r.permutation(6),
    "permutation of an axis": lambda r: r.permutation(X, 1, True),
    "poisson": lambda r: r.poisson(4.0, (2, 3)),
    "rand": lambda r: r.rand(2, 3),
    "rand_like": lambda r: r.rand_like(X),
    "randint": lambda r: r.randint(2, 9, (4,)),
    "randint below": lambda r: r.randint(9),
    "randn": lambda r: r.randn(4),
    "randn_like": lambda r: r.randn_like(X),
    "random": lambda r: r.random((2,)),
    "random_sample": lambda r: r.random_sample(2),
    "ranf": lambda r: r.ranf(2),
    "sample": lambda r: r.sample(2),
    "shuffle": lambda r: r.shuffle(X),
    "split_key": lambda r: jax.random.key_data(r.split_key()),
    "split_key of three": lambda r: jax.random.key_data(r.split_key(3)),
    "split_keys": lambda r: jax.random.key_data(r.split_keys(2)),
    "standard_exponential": lambda r: r.standard_exponential(3),
    "standard_gamma": lambda r: r.standard_gamma(2.0, 3),
    "standard_normal": lambda r: r.standard_normal((2, 3)),
    "truncated_normal": lambda r: r.truncated_normal(-1.0, 2.0, (3,), 0.5, 2.0),
    "uniform": lambda r: r.uniform(-1.0, 3.0, (2, 3)),
    "with a key": lambda r: r.normal(size=3, key=5),
}


@pytest.mark.parametrize("draw", PORTED.values(), ids=PORTED)
def test_ported_programs_draw_what_brainstate_draws(peer, draw):
    peer.seed(42)
    random.seed(42)
    for _ in range(2):
        close(draw(random), draw(peer))
