"""Random numbers: those of jax.random with keys that are threaded by hand."""

import copy
import functools
import inspect
import pickle
import subprocess
import sys
import threading
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from statelens import random
from statelens.random import RandomState
from tests.helpers import close

close = functools.partial(close, rtol=2e-6, atol=1e-6)


@pytest.fixture(autouse=True)
def the_shared_key_comes_back():
    before = random.get_key()
    yield
    random.DEFAULT.value = before


def same(one, other):
    assert one.dtype == other.dtype
    if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    np.testing.assert_array_equal(one, other)


LOC = jnp.array([[0.0], [10.0]])
SCALE = jnp.array([1.0, 2.0, 3.0])
MODE = LOC / 10.0
X = jnp.arange(12.0).reshape(4, 3)


# Every sampler of jax.random, with arguments that both take as they are.

MIRRORED = {
    "ball": ((3,), {"shape": (2,)}),
    "beta": ((2.0, SCALE), {}),
    "bits": (((2,),), {"dtype": jnp.uint8}),
    "categorical": ((X,), {"axis": 0}),
    "cauchy": (((2, 3),), {}),
    "choice": ((5, (3,)), {"replace": False}),
    "dirichlet": ((SCALE, (2,)), {}),
    "double_sided_maxwell": ((0.5, 2.0, (3,)), {}),
    "f": ((4.0, 5.0, (3,)), {}),
    "generalized_normal": ((1.5, (3,)), {}),
    "loggamma": ((SCALE,), {}),
    "maxwell": (((3,),), {}),
    "orthogonal": ((3,), {}),
    "permutation": ((X, 1), {"independent": True}),
    "poisson": ((SCALE,), {}),
    "rademacher": (((3,),), {"dtype": jnp.int8}),
    "rayleigh": ((SCALE,), {}),
    "t": ((4.0, (3,)), {}),
}

# Those that have NumPy's arguments, and what they are in plain JAX.

OWN = {
    "bernoulli": (
        lambda r: r.bernoulli(0.3, (2, 3)),
        lambda k: jax.random.bernoulli(k, 0.3, (2, 3)),
    ),
    "bernoulli by JAX's mode": (
        lambda r: r.bernoulli(0.3, 3, mode="high"),
        lambda k: jax.random.bernoulli(k, 0.3, (3,), mode="high"),
    ),
    "binomial": (
        lambda r: r.binomial(5, 0.5, (3,)),
        lambda k: jax.random.binomial(k, 5, 0.5, (3,)).astype(int),
    ),
    "chisquare": (lambda r: r.chisquare(SCALE), lambda k: jax.random.chisquare(k, SCALE)),
    "exponential": (
        lambda r: r.exponential(SCALE, (2, 3)),
        lambda k: SCALE * jax.random.exponential(k, (2, 3)),
    ),
    "gamma": (
        lambda r: r.gamma(SCALE, LOC + 1.0),
        lambda k: (LOC + 1.0) * jax.random.gamma(k, SCALE, (2, 3)),
    ),
    "geometric": (
        lambda r: r.geometric(0.5, 3),
        lambda k: jax.random.geometric(k, 0.5, (3,)),
    ),
    "gumbel": (
        lambda r: r.gumbel(LOC, SCALE),
        lambda k: LOC + SCALE * jax.random.gumbel(k, (2, 3)),
    ),
    "laplace": (
        lambda r: r.laplace(LOC, SCALE),
        lambda k: LOC + SCALE * jax.random.laplace(k, (2, 3)),
    ),
    "logistic": (
        lambda r: r.logistic(LOC, SCALE),
        lambda k: LOC + SCALE * jax.random.logistic(k, (2, 3)),
    ),
    "lognormal": (
        lambda r: r.lognormal(0.0, 0.5, (3,)),
        lambda k: jax.random.lognormal(k, 0.5, (3,)),
    ),
    "lognormal of arrays": (
        lambda r: r.lognormal(LOC, SCALE),
        lambda k: jnp.exp(LOC + SCALE * jax.random.normal(k, (2, 3))),
    ),
    "multinomial": (
        lambda r: r.multinomial(5, [0.2, 0.3, 0.1], (2,)),
        lambda k: jax.random.multinomial(k, 5, jnp.array([[0.2, 0.3, 0.5]] * 2)).astype(int),
    ),
    "multinomial of arrays": (
        lambda r: r.multinomial([5, 6], [[[0.2, 0.8]], [[0.4, 0.6]]]),
        lambda k: jax.random.multinomial(
            k, jnp.array([5, 6]), jnp.array([[[0.2, 0.8]] * 2, [[0.4, 0.6]] * 2])
        ).astype(int),
    ),
    "multivariate_normal": (
        lambda r: r.multivariate_normal(jnp.zeros(2), jnp.eye(2), (3,)),
        lambda k: jax.random.multivariate_normal(k, jnp.zeros(2), jnp.eye(2), (3,)),
    ),
    "normal": (
        lambda r: r.normal(LOC, SCALE),
        lambda k: LOC + SCALE * jax.random.normal(k, (2, 3)),
    ),
    "normal of lists": (
        lambda r: r.normal([0, 1], [[1.0], [2.0]]),
        lambda k: jnp.array([0, 1]) + jnp.array([[1.0], [2.0]]) * jax.random.normal(k, (2, 2)),
    ),
    "normal of None": (lambda r: r.normal(None, None, 3), lambda k: jax.random.normal(k, (3,))),
    "normal of halves": (
        lambda r: r.normal(size=3, dtype=jnp.bfloat16),
        lambda k: jax.random.normal(k, (3,), jnp.bfloat16),
    ),
    "pareto": (lambda r: r.pareto(SCALE), lambda k: jax.random.pareto(k, SCALE) - 1.0),
    "rand": (lambda r: r.rand(2, 3), lambda k: jax.random.uniform(k, (2, 3))),
    "rand of nothing": (lambda r: r.rand(), lambda k: jax.random.uniform(k)),
    "rand of a shape": (lambda r: r.rand(shape=(2,)), lambda k: jax.random.uniform(k, (2,))),
    "rand_like": (lambda r: r.rand_like(X), lambda k: jax.random.uniform(k, X.shape)),
    "randint": (lambda r: r.randint(3, 9, 4), lambda k: jax.random.randint(k, (4,), 3, 9)),
    "randint below": (lambda r: r.randint(9), lambda k: jax.random.randint(k, (), 0, 9)),
    "randint of arrays": (
        lambda r: r.randint([0, 5], [[6], [7]], dtype=jnp.uint8),
        lambda k: jax.random.randint(
            k, (2, 2), jnp.array([0, 5]), jnp.array([[6], [7]]), jnp.uint8
        ),
    ),
    "randn": (lambda r: r.randn(2, 3), lambda k: jax.random.normal(k, (2, 3))),
    "randn_like": (
        lambda r: r.randn_like(X.astype(jnp.float16)),
        lambda k: jax.random.normal(k, X.shape, jnp.float16),
    ),
    "randn_like of integers": (
        lambda r: r.randn_like([1, 2]),
        lambda k: jax.random.normal(k, (2,)),
    ),
    "random": (lambda r: r.random(3), lambda k: jax.random.uniform(k, (3,))),
    "random_sample": (lambda r: r.random_sample(3), lambda k: jax.random.uniform(k, (3,))),
    "ranf": (lambda r: r.ranf((3,)), lambda k: jax.random.uniform(k, (3,))),
    "sample": (lambda r: r.sample(None), lambda k: jax.random.uniform(k)),
    "shuffle": (lambda r: r.shuffle(X, 1), lambda k: jax.random.permutation(k, X, 1)),
    "standard_cauchy": (lambda r: r.standard_cauchy(3), lambda k: jax.random.cauchy(k, (3,))),
    "standard_exponential": (
        lambda r: r.standard_exponential(3),
        lambda k: jax.random.exponential(k, (3,)),
    ),
    "standard_gamma": (
        lambda r: r.standard_gamma(shape=2.0, size=3),
        lambda k: jax.random.gamma(k, 2.0, (3,)),
    ),
    "standard_normal": (lambda r: r.standard_normal(3), lambda k: jax.random.normal(k, (3,))),
    "standard_t": (lambda r: r.standard_t(4.0, 3), lambda k: jax.random.t(k, 4.0, (3,))),
    "triangular": (
        lambda r: r.triangular(),
        lambda k: jax.random.triangular(k, 0.0, 0.5, 1.0),
    ),
    "truncated_normal": (
        lambda r: r.truncated_normal(-1.0, 2.0, 3),
        lambda k: jax.random.truncated_normal(k, -1.0, 2.0, (3,)),
    ),
    "truncated_normal elsewhere": (
        lambda r: r.truncated_normal(-1.0, 2.0, (2, 3), MODE, SCALE),
        lambda k: (
            MODE
            + SCALE
            * jax.random.truncated_normal(k, (-1.0 - MODE) / SCALE, (2.0 - MODE) / SCALE, (2, 3))
        ).clip(-1.0, 2.0),
    ),
    "uniform": (
        lambda r: r.uniform(LOC, LOC + SCALE),
        lambda k: jax.random.uniform(k, (2, 3), minval=LOC, maxval=LOC + SCALE),
    ),
    "wald": (
        lambda r: r.wald(LOC + 1.0, SCALE),
        lambda k: SCALE * jax.random.wald(k, (LOC + 1.0) / SCALE, (2, 3)),
    ),
    "weibull_min": (
        lambda r: r.weibull_min(2.0, 3.0, (3,)),
        lambda k: jax.random.weibull_min(k, 3.0, 2.0, (3,)),
    ),
    "weibull_min by JAX's names": (
        lambda r: r.weibull_min(scale=3.0, concentration=2.0, shape=(3,)),
        lambda k: jax.random.weibull_min(k, 3.0, 2.0, (3,)),
    ),
}


def names_of_jax():
    for name, value in vars(jax.random).items():
        if not name.startswith("_") and callable(value):
            first = next(iter(inspect.signature(value).parameters), None)
            if first == "key" and name not in ("clone", "fold_in", "split"):
                yield name


def test_every_sampler_of_jax_is_there_and_among_the_cases():
    names = set(names_of_jax())
    assert names - MIRRORED.keys() == names & OWN.keys()
    tested = MIRRORED.keys() | {name.split()[0] for name in OWN}
    others = {name for name in random.__all__ if name not in tested}
    assert others == {
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
    }
    assert len(random.__all__) == len(set(random.__all__))
    assert all(callable(getattr(RandomState, name)) for name in tested)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIRRORED)
def test_mirrors_have_the_numbers_of_keys_threaded_by_hand(name):
    args, kwargs = MIRRORED[name]
    first, second = jax.random.split(jax.random.key(7))
    expected = getattr(jax.random, name)(second, *args, **kwargs)
    rng = RandomState(7)
    same(getattr(rng, name)(*args, **kwargs), expected)
    same(rng.value, first)
    random.seed(7)
    same(getattr(random, name)(*args, **kwargs), expected)
    same(random.get_key(), first)
    same(getattr(random, name)(*args, **kwargs, key=second), expected)
    same(random.get_key(), first)


@pytest.mark.parametrize(
    "name",
    # It takes long to compile.
    [pytest.param(n, marks=pytest.mark.slow) if "multinomial" in n else n for n in OWN],
)
def test_numpy_s_arguments_have_the_numbers_of_jax(name):
    ours, plain = OWN[name]
    first, second = jax.random.split(jax.random.key(7))
    rng = RandomState(7)
    close(ours(rng), plain(second))
    same(rng.value, first)
    random.seed(7)
    close(ours(random), plain(second))
    same(random.get_key(), first)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", ["normal", "uniform", "truncated_normal", "rand"])
def test_dtypes_are_those_of_jax(name, x64):
    args = {"truncated_normal": (-1, 1), "rand": (3,)}.get(name, ())
    with jax.enable_x64(x64):
        draw = getattr(RandomState(0), name)
        assert draw(*args).dtype == (jnp.float64 if x64 else jnp.float32)
        assert draw(*args, dtype=jnp.float16).dtype == jnp.float16


# The arguments.


@pytest.mark.parametrize("name", ["normal", "pareto", "bits", "rand", "choice", "standard_cauchy"])
def test_size_and_shape_are_one(name):
    args = {"pareto": (2.0,), "choice": (5,)}.get(name, ())
    draw = getattr(random, name)
    samples = [draw(*args, **{n: s}, key=0) for n in ("size", "shape") for s in (3, [3], (3,))]
    for one in samples:
        same(one, samples[0])
    assert samples[0].shape == (3,)
    assert draw(*args, size=np.int64(3)).shape == draw(*args, shape=np.array([3])).shape == (3,)


def test_the_shape_of_a_gamma_distribution_is_its_concentration_when_it_stands_alone():
    expected = jax.random.gamma(jax.random.key(0), 2.0, (3,))
    for draw in (random.gamma, random.standard_gamma):
        same(draw(shape=2.0, size=(3,), key=0), expected)
        same(draw(2.0, shape=(3,), key=0), expected)
        same(draw(a=2.0, shape=(3,), key=0), expected)


def test_what_jax_takes_beyond_numpy_goes_through():
    key = jax.random.key(1)
    same(
        random.gumbel(size=3, mode="high", key=key),
        jax.random.gumbel(key, (3,), mode="high"),
    )


@pytest.mark.parametrize(
    "key",
    [3, np.int32(3), jnp.uint32(3), jax.random.key(3), jax.random.PRNGKey(3)],
    ids=["int", "numpy", "jax", "typed", "raw"],
)
def test_a_key_may_be_a_seed_a_typed_key_or_raw_data(key):
    expected = jax.random.key(3)
    same(RandomState(key).value, expected)
    rng = RandomState(0)
    rng.seed(key)
    same(rng.value, expected)
    rng.set_key(key)
    same(rng.value, expected)
    same(rng.normal(key=key), jax.random.normal(expected))
    same(rng.value, expected)


def test_samples_stay_between_the_bounds_however_they_are_moved():
    draws = random.truncated_normal(3.0, 3.0000005, 1000, 3.0, 1e-3, key=0)
    assert float(draws.min()) >= 3.0
    assert float(draws.max()) <= np.float32(3.0000005)


def test_shuffle_returns_the_array_and_leaves_the_argument():
    x = jnp.arange(20)
    shuffled = random.shuffle(x, key=0)
    assert x.tolist() == list(range(20))
    assert shuffled.tolist() != x.tolist()
    assert sorted(shuffled.tolist()) == x.tolist()


def test_shapes_may_be_symbolic():
    def draw(x):
        return x + random.normal(size=x.shape, key=0) + random.beta(2.0, 2.0, x.shape, key=0)

    (n,) = jax.export.symbolic_shape("n")
    exported = jax.export.export(jax.jit(draw))(jax.ShapeDtypeStruct((n, 2), jnp.float32))
    assert exported.call(jnp.zeros((3, 2))).shape == (3, 2)


@pytest.mark.parametrize("name", ["beta", "gamma", "rand", "shuffle"])
def test_samplers_are_documented_and_show_their_arguments(name):
    for draw in (getattr(random, name), getattr(RandomState, name)):
        signature = inspect.signature(draw)
        assert signature.parameters["key"].default is None
        assert draw.__name__ == name
        assert draw.__module__ == "statelens.random"
        for part in ("Args:\n", "    key: ", "Returns:\n", ">>> "):
            assert part in draw.__doc__
    assert list(inspect.signature(random.beta).parameters)[:5] == [
        "a",
        "b",
        "shape",
        "key",
        "dtype",
    ]


SAMPLERS = sorted(MIRRORED.keys() | {name.split()[0] for name in OWN})


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_type_checkers_see_of_a_sampler_is_what_it_takes(name):
    def by_position(signature):
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        found = [p for p in signature.parameters.values() if p.kind in kinds]
        return [(p.name, p.kind, p.default is p.empty) for p in found]

    draw = getattr(RandomState, name)
    declared = inspect.signature(inspect.unwrap(draw))
    assert by_position(declared) == by_position(inspect.signature(draw))
    assert by_position(declared)[1:] == by_position(inspect.signature(getattr(random, name)))


# The state.


def test_split_key_keeps_the_first_part():
    first, second = jax.random.split(jax.random.key(0))
    rng = RandomState(0)
    same(rng.split_key(), second)
    same(rng.value, first)
    keys = jax.random.split(first, 4)
    same(rng.split_key(3), keys[1:])
    same(rng.value, keys[0])
    keys = jax.random.split(keys[0], 2)
    same(rng.split_keys(1), keys[1:])
    same(rng.value, keys[0])


def test_split_lanes_is_pure():
    rng = RandomState(0)
    keys = jax.random.split(jax.random.key(1), 4)
    lanes, after = rng.split_lanes(jax.random.key(1), 3)
    same(lanes, keys[1:])
    same(after, keys[0])
    same(rng.value, jax.random.key(0))


def test_clone_and_fork_split_off_states_of_the_same_kind():
    class Noise(RandomState):
        pass

    rng = Noise(0, name="noise", tag="dropout")
    key, second = jax.random.split(jax.random.key(0))
    clone = rng.clone()
    same(clone.value, second)
    key, second = jax.random.split(key)
    same(rng.fork().value, second)
    keys = jax.random.split(key, 3)
    one, two = rng.fork(2)
    same(one.value, keys[1])
    same(two.value, keys[2])
    same(rng.value, keys[0])
    for state in (clone, one):
        assert type(state) is Noise
        assert (state.name, state.tag) == ("noise", {"dropout"})


@pytest.mark.parametrize(
    "duplicate",
    [RandomState.copy, copy.copy, copy.deepcopy, lambda rng: pickle.loads(pickle.dumps(rng))],
    ids=["copy method", "copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_copy_draws_the_same_numbers_on_its_own(duplicate, impl):
    rng = RandomState(jax.random.key(3, impl=impl), name="noise", tag="dropout")
    again = duplicate(rng)
    assert repr(again) == repr(rng)
    before = rng.value
    samples = again.normal(size=3)
    same(rng.value, before)
    same(rng.normal(size=3), samples)


def test_it_is_a_pytree_of_its_key():
    rng = RandomState(0, name="noise")
    (key,), treedef = jax.tree.flatten(rng)
    same(key, jax.random.key(0))
    again = treedef.unflatten([jax.random.key(1)])
    assert type(again) is RandomState
    same(again.with_value(key).value, key)
    out = jax.jit(lambda r: (r.value, r))(rng)
    same(out[0], key)
    assert repr(out[1]) == repr(rng) == "RandomState(key<fry>[], name='noise')"


def test_without_a_seed_no_two_are_alike():
    keys = {tuple(jax.random.key_data(RandomState().value).tolist()) for _ in range(20)}
    assert len(keys) == 20
    rng = RandomState(0)
    rng.seed()
    assert bool(rng.value != jax.random.key(0))


def test_the_shared_key_is_made_when_it_is_first_read():
    # In a process of its own, since this one has read the key already.
    code = """
import jax
from statelens import random

try:
    object.__getattribute__(random.DEFAULT, "_value")
except AttributeError:
    print("no key")
key = jax.jit(lambda: random.DEFAULT.value)()
print(bool(random.get_key() == key))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == ["no key", "True"]


def test_threads_draw_different_numbers():
    rng = RandomState(0)
    keys = []

    def draw():
        keys.extend(tuple(jax.random.key_data(rng.split_key()).tolist()) for _ in range(50))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 200


# The module's own state.


def test_the_functions_draw_from_what_default_is_now(monkeypatch):
    mine = RandomState(5)
    monkeypatch.setattr(random, "DEFAULT", mine)
    samples = random.normal(size=2)
    same(samples, RandomState(5).normal(size=2))
    same(random.get_key(), mine.value)
    assert random.default_rng() is mine


def test_seed_context_restores_the_key():
    random.seed(1)
    with random.seed_context(9) as state:
        assert state is random.DEFAULT
        same(random.normal(), RandomState(9).normal())
    same(random.get_key(), jax.random.key(1))

    @random.seed_context(9)
    def draw():
        return random.normal()

    same(draw(), draw())
    same(random.get_key(), jax.random.key(1))


def test_seed_context_restores_the_key_after_an_error():
    random.seed(1)

    @random.seed_context(9)
    def draw():
        random.normal()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        draw()
    same(random.get_key(), jax.random.key(1))


def test_get_and_set_key_rewind():
    before = random.get_key()
    samples = random.randn(3)
    random.set_key(before)
    same(random.randn(3), samples)


def test_new_states_from_the_shared_one():
    random.seed(0)
    key, second = jax.random.split(jax.random.key(0))
    same(random.clone_rng().value, second)
    same(random.get_key(), key)
    key, second = jax.random.split(key)
    same(random.fork().value, second)
    assert [type(state) for state in random.fork(2)] == [RandomState] * 2
    same(random.get_key(), jax.random.split(key, 3)[0])
    assert random.clone_rng(clone=False) is random.default_rng() is random.DEFAULT
    same(random.clone_rng(3).value, random.default_rng(3).value)


# Threading.


def test_functionalize_threads_the_key_under_jit():
    rng = RandomState(0)
    pure = jax.jit(sl.functionalize(lambda scale: rng.normal(0.0, scale, 3), rng))
    key = rng.value
    for _ in range(2):
        following, second = jax.random.split(key)
        samples, key = pure(key, 2.0)
        close(samples, 2.0 * jax.random.normal(second, (3,)))
        same(key, following)
    same(rng.value, jax.random.key(0))


def test_functionalize_threads_the_key_under_vmap_and_scan():
    rng = RandomState(0)
    pure = sl.functionalize(lambda _: rng.uniform(size=2), rng)
    lanes, after = rng.split_lanes(rng.value, 3)
    samples, _ = jax.vmap(pure, (0, None))(lanes, None)
    assert len(np.unique(samples)) == 6
    _, samples = jax.lax.scan(lambda k, _: pure(k, None)[::-1], after, length=3)
    rng.value = after
    close(samples, jnp.stack([rng.uniform(size=2) for _ in range(3)]))


def test_grad_writes_the_next_key_once():
    rng = RandomState(0)
    weight = sl.ParamState(jnp.ones(3))

    @sl.grad(grad_states=weight)
    def loss():
        return jnp.sum(weight.value * rng.normal(size=3))

    key = rng.value
    for _ in range(2):
        key, second = jax.random.split(key)
        close(loss(), jax.random.normal(second, (3,)))
        same(rng.value, key)


def test_grad_of_a_loss_that_raises_writes_nothing():
    rng = RandomState(0)
    weight = sl.ParamState(jnp.ones(3))

    @sl.grad(grad_states=weight)
    def loss():
        jnp.sum(weight.value * rng.normal(size=3))
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        loss()
    same(rng.value, jax.random.key(0))


def test_gradients_flow_through_the_parameters():
    rng = RandomState(0)
    loc = sl.ParamState(jnp.zeros(()))
    gradient = sl.grad(lambda: jnp.sum(rng.normal(loc.value, size=4)), loc)()
    assert float(gradient) == 4.0


def test_the_key_in_a_module_and_in_an_overlay():
    class Dropout(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.rng = RandomState(0)

        def __call__(self, x):
            return x * self.rng.bernoulli(0.5, x.shape)

    model = Dropout()
    assert list(model.states(RandomState)) == [("rng",)]
    with sl.overlay({model.rng: jax.random.key(1)}) as overlay:
        inside = model(jnp.ones(8))
        assert list(overlay.writes) == [model.rng]
    same(model.rng.value, jax.random.key(0))
    model.rng.seed(1)
    same(model(jnp.ones(8)), inside)


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_a_plain_jit_over_it_is_refused():
    rng = RandomState(0)
    with pytest.raises(sl.TracerLeakError, match=r"statelens\.functionalize"):
        jax.jit(lambda: rng.normal())()
    same(rng.value, jax.random.key(0))


def test_a_seed_may_be_traced():
    def draw(seed):
        return RandomState(seed).normal(size=2)

    same(jax.jit(draw)(3), RandomState(3).normal(size=2))


# What is refused.

KEYS = jax.random.split(jax.random.key(0), 2)
REFUSED = {
    "a text": (
        lambda r: RandomState("a"),
        sl.ArgumentTypeError,
        r"key of 'a'(.|\n)*1\. an integer",
    ),
    "a float": (lambda r: r.seed(1.5), sl.ArgumentTypeError, r"key of 1\.5"),
    "a truth value": (lambda r: r.seed(True), sl.ArgumentTypeError, "key of True"),
    "a float array": (lambda r: r.set_key(X), sl.ArgumentTypeError, r"float32\[4, 3\]"),
    "no key": (lambda r: r.set_key(None), sl.ArgumentTypeError, "key of None"),
    "raw data of a wrong length": (
        lambda r: r.set_key(jnp.zeros(3, jnp.uint32)),
        sl.ArgumentTypeError,
        r"uint32\[3\]",
    ),
    "a state": (lambda r: RandomState(r), sl.ArgumentTypeError, r"rng\.split_key\(\)"),
    "several keys": (
        lambda r: RandomState(KEYS),
        sl.ArgumentError,
        r"shape \(2,\)(.|\n)*keys\[0\]",
    ),
    "a seed of 70 bits": (lambda r: r.seed(2**70), sl.ArgumentError, "64 bits"),
    "key=": (lambda r: r.normal(key="a"), sl.ArgumentTypeError, "key='a'"),
    "a dtype in the place of the key": (
        lambda r: r.beta(1.0, 2.0, (3,), jnp.float16),
        sl.ArgumentTypeError,
        r"random\.beta with key=(.|\n)*float16(.|\n)*shape=None, key=None, dtype=None",
    ),
    "no keys": (lambda r: r.split_key(0), sl.ArgumentError, "n=0(.|\n)*at least one"),
    "half a key": (lambda r: r.fork(0.5), sl.ArgumentTypeError, r"n=0\.5(.|\n)*an integer"),
    "a negative size": (lambda r: r.normal(size=(2, -1)), sl.ArgumentError, r"size=\(2, -1\)"),
    "a negative shape": (lambda r: r.bits((-1,)), sl.ArgumentError, r"shape=\(-1,\)"),
    "a negative length": (lambda r: r.rand(2, -1), sl.ArgumentError, "lengths"),
    "a size of floats": (lambda r: r.beta(1.0, 1.0, size=2.0), sl.ArgumentTypeError, r"=2\.0"),
    "a text as size": (lambda r: r.random("ab"), sl.ArgumentTypeError, "shape='ab'"),
    "a tuple as length": (lambda r: r.rand((2, 3)), sl.ArgumentTypeError, r"\(\(2, 3\),\)"),
    "lengths and size": (lambda r: r.randn(2, size=3), sl.ArgumentError, "the same thing twice"),
    "size and shape": (lambda r: r.normal(size=2, shape=2), sl.ArgumentTypeError, "not both"),
    "a size too small": (
        lambda r: r.normal(LOC, size=(2,)),
        sl.ArgumentError,
        r"size=\(2,\)\nloc has shape \(2, 1\), scale has shape \(\)\n.*size=\(2, 1\)",
    ),
    "parameters that don't fit": (
        lambda r: r.uniform(jnp.zeros(2), jnp.ones(3)),
        sl.ArgumentError,
        r"low has shape \(2,\), high has shape \(3,\)",
    ),
    "a text as number": (lambda r: r.normal("a"), sl.ArgumentTypeError, "loc='a'"),
    "texts as numbers": (lambda r: r.beta(["a"], 1.0), sl.ArgumentTypeError, r"a=\['a'\]"),
    "an object": (lambda r: r.normal(object()), sl.ArgumentTypeError, "loc=<object"),
    "a state as number": (
        lambda r: r.normal(sl.State(1.0, name="w")),
        sl.StateTypeError,
        r"name='w'(.|\n)*write \.value",
    ),
    "a missing argument": (
        lambda r: r.gamma(),
        sl.ArgumentTypeError,
        r"random\.gamma\n.*'a'\nInstead: random\.gamma\(a, scale=1\.0",
    ),
    "too many arguments": (
        lambda r: r.randint(1, 2, 3, 4, int, 5),
        sl.ArgumentTypeError,
        "too many",
    ),
    "an unknown argument": (lambda r: r.beta(1.0, 1.0, c=1), sl.ArgumentTypeError, "'c'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_where_it_was_written(case):
    use, kind, message = REFUSED[case]
    rng = RandomState(0)
    with pytest.raises(kind, match=message) as caught:
        use(rng)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__


def test_a_traced_size_is_jax_s_to_refuse():
    with pytest.raises(jax.errors.TracerIntegerConversionError, match="traced"):
        jax.jit(lambda n: random.normal(size=n, key=0))(3)
    with pytest.raises(sl.ArgumentTypeError, match="key of 'a'"):
        random.seed_context("a")
