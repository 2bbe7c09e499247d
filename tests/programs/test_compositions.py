"""Each transform inside each other one, on a function that reads, writes and draws.

Every transform has an adapter in the style of statelens, and one in plain JAX, where parameter,
counter and key are threaded by hand. Nested in the same order they have to give the same numbers,
leave the same key, and count the same number of runs.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

pytestmark = pytest.mark.slow

T = sl.transform


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    # What XLA makes faster would be run once.
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


W = jnp.array([0.6, -0.4])
X = jnp.array([0.3, -0.7])
SCALES = jnp.array([1.0, 0.5, -0.5])


def noise(key):
    """Two numbers below one that a key is made of: a sampler takes long to compile."""
    return jax.random.key_data(key) / 2.0**32


def formula(w, noise, x):
    return jnp.sin(w * x + 0.1 * noise) + w**3 * (1 + noise)


class Program:
    """Reads a parameter, counts its runs, draws a random number."""

    def __init__(self):
        self.w = sl.ParamState(W, name="w")
        self.calls = sl.State(jnp.zeros((), jnp.int32), name="calls")
        self.rng = sl.random.RandomState(0, name="rng")

    def __call__(self, x):
        self.calls.value += 1
        return formula(self.w.value, noise(self.rng.split_key()), x)

    @property
    def values(self):
        return self.w.value, self.calls.value, self.rng.value


def plain(state, x):
    w, calls, key = state
    key, drawn = jax.random.split(key)
    return formula(w, noise(drawn), x), (w, calls + 1, key)


START = (W, jnp.zeros((), jnp.int32), jax.random.key(0))


# Between two adapters: any array to one number, and to an array like x.


def total(y):
    return jnp.sum(jnp.ravel(y) * jnp.cos(jnp.arange(jnp.size(y))))


def fit(y):
    return jnp.tanh(total(y) * jnp.array([1.0, -0.5]))


# Each transform with states: of a function of x, and of the parameter.


def derivative(name):
    return lambda fun, w: getattr(T, name)(fun, w)


def ours_grad(fun, w):
    return sl.grad(lambda x: total(fun(x)), w)


def ours_hvp(fun, w):
    return lambda x: T.hvp(lambda x: total(fun(x)), w)(jnp.ones(2), x)


def ours_vmap(fun, w):
    return lambda x: T.vmap(fun)(jnp.stack([x, 0.5 * x]))


def ours_scan(fun, w):
    def run(x):
        def body(carry, scale):
            carry = carry + fit(fun(scale * x))
            return carry, jnp.sum(carry)

        carry, sums = T.scan(body, jnp.zeros(2), SCALES)
        return carry * jnp.sum(sums)

    return run


def ours_cond(fun, w):
    return lambda x: T.cond(x[0] < 2, lambda x: fit(fun(x)), lambda x: x, x)


def ours_while_loop(fun, w):
    def run(x):
        body = lambda carry: (carry[0] + 1, fit(fun(carry[1])))  # noqa: E731
        return T.while_loop(lambda carry: carry[0] < 2, body, (0, x))[1]

    return run


OURS = {
    "grad": ours_grad,
    "vector_grad": derivative("vector_grad"),
    "jacrev": derivative("jacrev"),
    "jacfwd": derivative("jacfwd"),
    "hvp": ours_hvp,
    "jit": lambda fun, w: sl.jit(fun),
    "vmap": ours_vmap,
    "scan": ours_scan,
    "cond": ours_cond,
    "while_loop": ours_while_loop,
    "checkpoint": lambda fun, w: T.checkpoint(fun),
}


# The same in plain JAX: of ``(state, x) -> (y, state)``.


def by_parameter(differentiate):
    """Makes an adapter of what differentiates ``w -> (y, aux)``, and gives it with aux."""

    def adapter(fun):
        def run(state, x):
            w, *others = state

            def of_w(w):
                y, (_, *after) = fun((w, *others), x)
                return y, tuple(after)

            slope, after = differentiate(of_w, w)
            return slope, (w, *after)

        return run

    return adapter


def scalar(of_w):
    def run(w):
        y, after = of_w(w)
        return total(y), after

    return run


def plain_vector_grad(of_w, w):
    y, pullback, after = jax.vjp(of_w, w, has_aux=True)
    return pullback(jnp.ones_like(y))[0], after


def plain_hvp(of_w, w):
    slope = jax.grad(scalar(of_w), has_aux=True)
    _, product, after = jax.jvp(slope, (w,), (jnp.ones(2),), has_aux=True)
    return product, after


def plain_vmap(fun):
    def run(state, x):
        w, calls, key = state
        keys = jax.random.split(key, 3)
        lanes = jax.vmap(fun, in_axes=((None, None, 0), 0), out_axes=(0, (None, None, 0)))
        y, (_, calls, _) = lanes((w, calls, keys[1:]), jnp.stack([x, 0.5 * x]))
        return y, (w, calls, keys[0])

    return run


def plain_scan(fun):
    def run(state, x):
        def body(carry, scale):
            state, carry = carry
            y, state = fun(state, scale * x)
            carry = carry + fit(y)
            return (state, carry), jnp.sum(carry)

        (state, carry), sums = jax.lax.scan(body, (state, jnp.zeros(2)), SCALES)
        return carry * jnp.sum(sums), state

    return run


def plain_cond(fun):
    def run(state, x):
        def taken(state, x):
            y, state = fun(state, x)
            return fit(y), state

        return jax.lax.cond(x[0] < 2, taken, lambda state, x: (x, state), state, x)

    return run


def plain_while_loop(fun):
    def run(state, x):
        def body(carry):
            count, state, x = carry
            y, state = fun(state, x)
            return count + 1, state, fit(y)

        _, state, x = jax.lax.while_loop(lambda carry: carry[0] < 2, body, (0, state, x))
        return x, state

    return run


PLAIN = {
    "grad": by_parameter(lambda of_w, w: jax.grad(scalar(of_w), has_aux=True)(w)),
    "vector_grad": by_parameter(plain_vector_grad),
    "jacrev": by_parameter(lambda of_w, w: jax.jacrev(of_w, has_aux=True)(w)),
    "jacfwd": by_parameter(lambda of_w, w: jax.jacfwd(of_w, has_aux=True)(w)),
    "hvp": by_parameter(plain_hvp),
    "jit": jax.jit,
    "vmap": plain_vmap,
    "scan": plain_scan,
    "cond": plain_cond,
    "while_loop": plain_while_loop,
    "checkpoint": jax.checkpoint,
}

# How often each runs the function; the others do it once. All lanes of `vmap` share the counter.
RUNS = {"scan": 3, "while_loop": 2}

# What JAX has no way to do: its error, and that of statelens.
NO_REVERSE = (ValueError, "Reverse-mode differentiation does not work for lax.while_loop")
PER_LANE = (ValueError, "out_axes")
NAMED = (sl.SelectionError, r"vmap to write State\(i32\[\], name='calls'\), which all lanes share")
FORBIDDEN = {
    ("grad", "while_loop"): (NO_REVERSE, NO_REVERSE),
    ("vector_grad", "while_loop"): (NO_REVERSE, NO_REVERSE),
    ("jacrev", "while_loop"): (NO_REVERSE, NO_REVERSE),
    ("hvp", "while_loop"): (NO_REVERSE, NO_REVERSE),
    # Which branch is taken differs from lane to lane, and so does the counter.
    ("vmap", "cond"): (PER_LANE, NAMED),
}


def nested(names, program):
    fun = program
    for name in reversed(names):
        fun = OURS[name](fun, program.w)
    return fun


def nested_plain(names):
    fun = plain
    for name in reversed(names):
        fun = PLAIN[name](fun)
    return fun


def check(names):
    program = Program()
    expected, (_, calls, key) = nested_plain(names)(START, X)
    runs = math.prod(RUNS.get(name, 1) for name in names)
    assert calls == runs
    result = nested(names, program)(X)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-5)
    assert program.w.value is W
    assert program.calls.value == runs
    assert program.calls.value.dtype == jnp.int32
    assert program.rng.value == key


def check_refused(names, theirs, ours):
    program = Program()
    before = program.values
    with pytest.raises(theirs[0], match=theirs[1]):
        nested_plain(names)(START, X)
    with pytest.raises(ours[0], match=ours[1]):
        nested(names, program)(X)
    assert all(a is b for a, b in zip(program.values, before, strict=True))


PAIRS = list(itertools.product(OURS, OURS))


def label(names):
    return "-of-".join(names)


@pytest.mark.parametrize("names", [p for p in PAIRS if p not in FORBIDDEN], ids=label)
def test_one_inside_another(names):
    check(names)


@pytest.mark.parametrize("names", FORBIDDEN, ids=label)
def test_what_jax_forbids_is_refused_and_changes_nothing(names):
    check_refused(names, *FORBIDDEN[names])


def test_there_are_as_many_pairs_as_can_be():
    assert len(OURS) == 11
    assert OURS.keys() == PLAIN.keys()
    assert len(PAIRS) == 121


@pytest.mark.parametrize(
    "names",
    [
        ("grad", "scan", "checkpoint"),
        ("jit", "vmap", "grad"),
        ("jacfwd", "jacrev", "jit"),
        ("jit", "jacfwd", "jacrev"),
        ("scan", "grad", "scan"),
        ("vmap", "scan", "grad"),
        ("while_loop", "cond", "grad"),
        ("grad", "vmap", "scan"),
        ("jit", "scan", "jit"),
        ("cond", "while_loop", "jacfwd"),
        ("hvp", "checkpoint", "scan"),
        ("jacrev", "cond", "vmap"),
        ("vmap", "vmap", "vmap"),
        ("scan", "vmap", "hvp"),
        ("grad", "grad", "grad"),
        ("jacfwd", "while_loop", "vmap"),
        ("checkpoint", "jit", "while_loop"),
        ("jit", "grad", "scan", "checkpoint", "vmap"),
    ],
    ids=label,
)
def test_deeper_nestings(names):
    check(names)


@pytest.mark.parametrize(
    ("names", "theirs", "ours"),
    [
        (("jit", "grad", "while_loop"), NO_REVERSE, NO_REVERSE),
        (("grad", "scan", "while_loop"), NO_REVERSE, NO_REVERSE),
        (("scan", "vmap", "cond"), PER_LANE, NAMED),
        (("vmap", "scan", "cond"), PER_LANE, NAMED),
        (("jit", "vmap", "cond"), PER_LANE, NAMED),
    ],
    ids=lambda value: label(value) if isinstance(value[0], str) else "",
)
def test_deeper_nestings_that_jax_forbids(names, theirs, ours):
    check_refused(names, theirs, ours)
