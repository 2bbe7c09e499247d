"""What the parameters of samplers may be: in NumPy's order, in their ranges, with units."""

import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from statelens.random import RandomState
from tests.helpers import close

KEY = jax.random.key(3)


# The values right of these came from NumPy's means and from what the names mean there.


def test_pareto_begins_at_zero():
    samples = RandomState(0).pareto(5.0, 4000)
    assert float(samples.min()) < 0.01
    close(samples.mean(), jnp.float32(1 / 4), rtol=0.1)


def test_weibull_s_exponent_is_first():
    close(RandomState(0).weibull_min(1.0, 3.0, 4000).mean(), jnp.float32(3.0), rtol=0.1)
    close(RandomState(0).weibull_min(2.0, size=4000).mean(), jnp.float32(0.886), rtol=0.05)


def test_the_last_outcome_has_what_the_others_leave():
    counts = RandomState(0).multinomial(1000, [0.2, 0.3, 0.1])
    close(counts / 1000, jnp.array([0.2, 0.3, 0.5]), rtol=0.2)
    assert int(counts.sum()) == 1000
    assert RandomState(0).multinomial(5, [0.5, 0.5], (3, 2)).shape == (3, 2, 2)


def test_wald_has_a_mean_and_a_scale():
    samples = RandomState(0).wald(1.0, 2, 4000)
    assert samples.shape == (4000,)
    close(samples.mean(), jnp.float32(1.0), rtol=0.1)
    close(samples.var(), jnp.float32(1 / 2), rtol=0.2)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_key_has_its_place_after_the_size(compiled):
    rng = RandomState(0)

    def draw(key):
        return (
            rng.normal(0.0, 1.0, (2,), key),
            rng.choice(10, (2,), True, None, key),
            rng.permutation(6, 0, False, key),
            rng.bits((2,), key, jnp.uint8),
            rng.poisson(4.0, (2,), key),
        )

    expected = (
        jax.random.normal(KEY, (2,)),
        jax.random.choice(KEY, 10, (2,)),
        jax.random.permutation(KEY, 6),
        jax.random.bits(KEY, (2,), jnp.uint8),
        jax.random.poisson(KEY, 4.0, (2,)),
    )
    close((sl.jit(draw) if compiled else draw)(KEY), expected)
    assert bool(rng.value == jax.random.key(0))
    close(
        rng.choice(jnp.eye(3), (2,), axis=1, key=3),
        jax.random.choice(KEY, jnp.eye(3), (2,), axis=1),
    )


# Values of no distribution.

INVALID = {
    "bernoulli": (lambda r, p, **kw: r.bernoulli(p, **kw), 1.5, r"p=1\.5(.|\n)*between 0 and 1"),
    "bernoulli of an array": (
        lambda r, p, **kw: r.bernoulli(p, **kw),
        jnp.array([0.5, jnp.nan]),
        "between 0 and 1",
    ),
    "binomial": (lambda r, p, **kw: r.binomial(3, p, **kw), -0.1, r"p=-0\.1"),
    "chisquare": (lambda r, df, **kw: r.chisquare(df, **kw), 0.0, r"df=0\.0(.|\n)*more than 0"),
    "geometric": (lambda r, p, **kw: r.geometric(p, **kw), 0.0, r"p=0\.0(.|\n)*at most 1"),
    "multinomial": (
        lambda r, p, **kw: r.multinomial(3, p, **kw),
        jnp.array([0.8, 0.4, 0.0]),
        "add up to at most 1",
    ),
    "truncated_normal": (
        lambda r, loc, **kw: r.truncated_normal(-1.0, 1.0, loc=loc, **kw),
        4.0,
        r"loc=4\.0(.|\n)*two scales",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_values_of_no_distribution_are_refused_where_they_are_known(name):
    draw, value, message = INVALID[name]
    rng = RandomState(0)
    with pytest.raises(sl.ArgumentError, match=message) as caught:
        draw(rng, value)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__
    with pytest.raises(sl.ArgumentError, match="check_valid=False"):
        sl.jit(lambda: draw(rng, value))()
    # What isn't known or isn't checked is drawn as JAX draws it.
    sl.jit(lambda value: draw(rng, value))(value)
    draw(rng, value, check_valid=False)


def test_probabilities_that_add_up_to_one_but_for_rounding_are_taken():
    RandomState(0).multinomial(3, jnp.array([0.1] * 10 + [0.0]))


def test_jax_s_mode_in_the_place_of_check_valid_is_refused():
    with pytest.raises(sl.ArgumentTypeError, match=r"check_valid='high'(.|\n)*check_valid=True"):
        RandomState(0).bernoulli(0.5, (2,), 0, "high")


# A shape in the place of numbers.


@pytest.mark.parametrize(
    "name",
    [
        "bernoulli",
        "exponential",
        "gumbel",
        "laplace",
        "logistic",
        "lognormal",
        "normal",
        "poisson",
        "rayleigh",
        "triangular",
        "uniform",
    ],
)
def test_a_shape_where_numbers_may_be_left_out_is_refused(name):
    draw = getattr(RandomState(0), name)
    for shape in [(2, 3), (2,), ()]:
        with pytest.raises(sl.ArgumentTypeError) as caught:
            draw(shape)
        assert f"size={shape}" in str(caught.value)
        assert f"={list(shape)}" in str(caught.value)
        assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__
        with pytest.raises(sl.ArgumentTypeError, match="looks like the shape"):
            draw(shape, key=0)
        assert draw(size=shape).shape == shape


def test_tuples_that_can_only_be_numbers_are_numbers():
    rng = RandomState(0)
    assert rng.normal((1.0, 2.0)).shape == rng.normal([1, 2]).shape == (2,)
    assert rng.normal((1, 2), 0.5).shape == rng.normal(loc=(1, 2)).shape == (2,)
    assert rng.normal((1, 2), size=(3, 2)).shape == (3, 2)
    assert rng.randint((3, 4)).shape == (2,)


# Quantities.


@pytest.fixture
def units():
    return pytest.importorskip("saiunit", reason="the package of units isn't installed")


MEASURED = {
    "normal": lambda r, mV, V: r.normal(0 * mV, 0.001 * V, (2,)),
    "normal of one": lambda r, mV, V: r.normal(0.0, 1.0 * mV, (2,)),
    "normal of lists": lambda r, mV, V: r.normal([0 * mV, 0.0 * V], 1.0),
    "gumbel": lambda r, mV, V: r.gumbel(0.0 * mV, 1.0, (2,)),
    "laplace": lambda r, mV, V: r.laplace(0.0 * mV, 1.0, (2,)),
    "logistic": lambda r, mV, V: r.logistic(0.0 * mV, 1.0, (2,)),
    "exponential": lambda r, mV, V: r.exponential(1.0 * mV, (2,)),
    "gamma": lambda r, mV, V: r.gamma(2.0, 1.0 * mV, (2,)),
    "rayleigh": lambda r, mV, V: r.rayleigh(1.0 * mV, (2,)),
    "uniform": lambda r, mV, V: r.uniform(0.0 * mV, 0.001 * V, (2,)),
    "triangular": lambda r, mV, V: r.triangular(0.0 * mV, 0.5 * mV, 0.001 * V, (2,)),
    "truncated_normal": lambda r, mV, V: r.truncated_normal(-1 * mV, 0.001 * V, (2,)),
    "wald": lambda r, mV, V: r.wald(1.0 * mV, 2.0 * mV, (2,)),
    "weibull_min": lambda r, mV, V: r.weibull_min(2.0, 1.0 * mV, (2,)),
    "multivariate_normal": lambda r, mV, V: r.multivariate_normal(
        np.zeros(2) * mV, np.eye(2) * mV * mV
    ),
    "double_sided_maxwell": lambda r, mV, V: r.double_sided_maxwell(0.0 * mV, 1.0 * mV, (2,)),
    "choice": lambda r, mV, V: r.choice(np.arange(3.0) * mV, (2,)),
    "permutation": lambda r, mV, V: r.permutation(np.arange(2.0) * mV),
    "shuffle": lambda r, mV, V: r.shuffle(np.arange(2.0) * mV),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", MEASURED)
def test_quantities_are_drawn_in_the_unit_of_the_first(units, name, compiled):
    def draw():
        return MEASURED[name](rng, units.mV, units.volt)

    rng = RandomState(0)
    samples = (sl.jit(draw) if compiled else draw)()
    rng = RandomState(0)
    numbers = MEASURED[name](rng, 1.0, 1000.0)
    assert isinstance(samples, units.Quantity)
    assert samples.unit == units.mV
    close(samples.mantissa, numbers)


def test_the_shape_alone_of_a_quantity_is_looked_at(units):
    samples = RandomState(0).rand_like(np.zeros((2, 3), np.float16) * units.mV)
    assert isinstance(samples, jax.Array)
    assert (samples.shape, samples.dtype) == ((2, 3), jnp.float16)
    assert isinstance(RandomState(0).randn_like([0.0 * units.mV, 1.0 * units.mV]), jax.Array)


def test_quantities_without_a_unit_are_numbers(units):
    p = units.Quantity(0.5)
    assert isinstance(RandomState(0).bernoulli(p, 3), jax.Array)
    assert isinstance(RandomState(0).normal(units.Quantity(0.0), 1.0), jax.Array)


MISMEASURED = {
    "units that don't fit": (
        lambda r, u: r.normal(0.0 * u.mV, 1.0 * u.second),
        r"scale has the unit s, and what is in mV would fit",
    ),
    "a probability": (
        lambda r, u: r.bernoulli(0.5 * u.mV),
        r"p has the unit mV, and is a number without a unit here\nInstead: .*to_decimal\(unit\)",
    ),
    "a covariance": (
        lambda r, u: r.multivariate_normal(np.zeros(2) * u.mV, np.eye(2) * u.mV),
        "cov has the unit mV, and what is in mV(.*)2 would fit",
    ),
    "a covariance alone": (
        lambda r, u: r.multivariate_normal(np.zeros(2), np.eye(2) * u.mV),
        "cov has the unit mV, and nothing with a unit would fit",
    ),
}


@pytest.mark.parametrize("case", MISMEASURED)
def test_units_that_mean_nothing_are_refused(units, case):
    draw, message = MISMEASURED[case]
    with pytest.raises(sl.ArgumentTypeError, match=message) as caught:
        draw(RandomState(0), units)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__
