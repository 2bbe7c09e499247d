"""What a random key is after lanes that draw, don't draw, or might draw."""

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform
XS = jnp.arange(3.0)
KEY = jax.random.key(7)
NEXT, *LANES = jax.random.split(KEY, 4)
W = sl.ParamState(jnp.ones(()))


def in_lanes(fun):
    return T.vmap(fun)


def in_examples(fun):
    return T.per_example_grad(lambda x: fun(x) * W.value, W)


@pytest.fixture(params=["eager", "compiled"])
def call(request):
    if request.param == "eager":
        return lambda fun, *args: fun(*args)
    return lambda fun, *args: sl.jit(lambda *args: fun(*args))(*args)


def restored(rng, x):
    before, noise = rng.value, rng.normal()
    rng.value = before
    return x + noise


def seeded(rng, seed, x):
    rng.seed(seed)
    return x


def overlaid(rng, x):
    with sl.overlay({rng: jax.random.key(3)}):
        return x + rng.normal()


AFTER = {
    "draws": (lambda rng, x: x + rng.normal(), NEXT),
    "draws twice": (lambda rng, x: rng.normal() + rng.normal(), NEXT),
    "only reads the key": (lambda rng, x: x + jax.random.normal(rng.value), NEXT),
    "puts the key back": (restored, NEXT),
    "might draw, in one lane": (
        lambda rng, x: T.cond(x > 1.0, lambda: rng.normal(), lambda: 0.0 * x),
        NEXT,
    ),
    "might draw, in none": (
        lambda rng, x: T.cond(x > 9.0, lambda: rng.normal(), lambda: 0.0 * x),
        NEXT,
    ),
    "might draw, in all or none": (
        lambda rng, x: x + T.cond(W.value > 9.0, lambda: rng.normal(), lambda: 0.0),
        NEXT,
    ),
    "might draw in a loop": (
        lambda rng, x: T.while_loop(lambda c: c < 0.0, lambda c: c + rng.uniform(), x),
        NEXT,
    ),
    "seeds differently": (lambda rng, x: seeded(rng, x.astype(int), x), NEXT),
    "seeds": (lambda rng, x: seeded(rng, 3, x), jax.random.key(3)),
    "doesn't draw": (lambda rng, x: x, KEY),
    "draws with another key": (lambda rng, x: x + rng.normal(key=3), KEY),
    "draws in an overlay": (overlaid, KEY),
}


@pytest.mark.parametrize("mapped", [in_lanes, in_examples])
@pytest.mark.parametrize("name", AFTER)
def test_the_key_after_lanes(name, mapped, call):
    rng = sl.random.RandomState(KEY)
    fun, expected = AFTER[name]
    call(mapped(lambda x: fun(rng, x)), XS)
    assert bool(rng.value == expected)


@pytest.mark.parametrize("many", [1, 3])
def test_lanes_that_might_draw_draw_with_the_keys_of_lanes_that_do(many, call):
    rng = sl.random.RandomState(KEY)

    def fun(x):
        return T.cond(x < many, lambda: rng.normal(), lambda: 0.0 * x)

    samples = [jax.random.normal(jax.random.split(key)[1]) for key in LANES]
    close(call(T.vmap(fun), XS), jnp.where(jnp.arange(3) < many, jnp.stack(samples), 0.0))


def test_the_key_after_lanes_that_draw_and_others_that_do_not(call):
    rng = sl.random.RandomState(KEY)

    def both(xs):
        draws = T.vmap(lambda x: x + rng.normal())(xs)
        return draws, T.per_example_grad(lambda x: x * W.value, W)(xs)

    for _ in range(2):
        following = jax.random.split(rng.value, 4)[0]
        call(both, XS)
        assert bool(rng.value == following)


@pytest.mark.parametrize("kind", ["plain", "compiled", "loop"])
def test_the_same_lanes_may_draw_in_one_call_and_not_in_the_next(kind, call):
    rng = sl.random.RandomState(KEY)
    draws = sl.nn.Module()

    def lane(x):
        return x + rng.normal() if draws.on else x * W.value

    fun = {"plain": lane, "compiled": sl.jit(lane), "loop": lane}[kind]
    mapped = T.vmap(fun)
    if kind == "loop":
        mapped = lambda xs: T.for_loop(lambda row: T.vmap(fun)(row), xs[None])  # noqa: E731
    key = KEY
    for on in (True, False, True, False):
        draws.on = on
        key = jax.random.split(key, 4)[0] if on else key
        call(mapped, XS)
        assert bool(rng.value == key)
        call(T.per_example_grad(lambda x: W.value * x, W), XS)
        assert bool(rng.value == key)


def test_a_compiled_function_draws_in_the_calls_in_which_it_does(call):
    rng = sl.random.RandomState(KEY)
    noisy = sl.jit(
        lambda x, draws: x * W.value + (rng.normal() if draws else 0.0), static_argnums=1
    )
    call(T.vmap(lambda x: noisy(x, True)), XS)
    assert bool(rng.value == NEXT)
    call(T.per_example_grad(lambda x: noisy(x, False), W), XS)
    assert bool(rng.value == NEXT)
    call(T.vmap(lambda x: noisy(x, True)), XS)
    assert bool(rng.value == jax.random.split(NEXT, 4)[0])
