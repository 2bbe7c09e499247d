"""Keys that are seeded while a transform runs: what is drawn, and what the state holds then."""

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from statelens import random
from statelens.random import RandomState

T = sl.transform
N = 3
XS = jnp.arange(3)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert jnp.all(one == other)


def drawn(key):
    """A number from a key, and the key after it."""
    key, used = jax.random.split(key)
    return jax.random.uniform(used), key


@pytest.fixture(params=["default", "own"])
def rng(request):
    """`DEFAULT` through the functions of the module, and a state of one's own."""
    if request.param == "own":
        yield RandomState(42)
        return
    before = random.get_key()
    random.seed(42)
    yield random.DEFAULT
    random.set_key(before)


START = jax.random.key(42)
LANES = jax.random.split(START, N + 1)
"""What comes after the lanes, and the key of each."""


# In lanes.


def test_one_seed_gives_all_lanes_the_same_numbers_and_is_the_state_s(rng):
    def fun(x):
        rng.seed(0)
        return x + rng.uniform()

    number, key = drawn(jax.random.key(0))
    for run in (T.vmap(fun), sl.jit(T.vmap(fun)), T.vmap(sl.jit(fun))):
        for _ in range(2):
            rng.value = START
            same(run(XS), XS + number)
            same(rng.value, key)


def test_one_seed_after_a_draw_is_the_state_s_all_the_same(rng):
    def fun(x):
        first = rng.uniform()
        rng.seed(0)
        return first, rng.uniform() + x

    number, key = drawn(jax.random.key(0))
    theirs = jax.vmap(lambda key: drawn(key)[0])(LANES[1:])
    for run in (T.vmap(fun), sl.jit(T.vmap(fun))):
        rng.value = START
        same(run(XS), (theirs, number + XS))
        same(rng.value, key)


@pytest.mark.parametrize("draws_first", [False, True])
def test_a_seed_for_each_lane_is_the_lane_s_own(rng, draws_first):
    def fun(seed):
        if draws_first:
            rng.uniform()
        rng.seed(seed)
        return rng.uniform()

    numbers = jax.vmap(lambda seed: drawn(jax.random.key(seed))[0])(XS)
    for run in (T.vmap(fun), sl.jit(T.vmap(fun)), T.vmap(fun, in_axes=0, axis_name="lanes")):
        rng.value = START
        same(run(XS), numbers)
        # As if the lanes had drawn from the keys that were split off for them.
        same(rng.value, LANES[0])


def test_lanes_may_set_keys_and_assign_them(rng):
    keys = jax.random.split(jax.random.key(7), N)
    numbers = jax.vmap(lambda key: drawn(key)[0])(keys)

    def assign(key):
        rng.value = key
        return rng.uniform()

    def put(key):
        rng.set_key(key)
        return rng.uniform()

    for fun in (assign, put):
        rng.value = START
        same(T.vmap(fun)(keys), numbers)
        same(rng.value, LANES[0])


def test_an_axis_keeps_what_each_lane_was_seeded_with():
    rng = RandomState(42)

    def fun(seed):
        rng.seed(seed)
        return rng.uniform()

    numbers, keys = jax.vmap(lambda seed: drawn(jax.random.key(seed)))(XS)
    for options in ({"out_states": rng}, {"in_states": rng, "out_states": rng}):
        rng.value = LANES[1:] if "in_states" in options else START
        same(T.vmap(fun, **options)(XS), numbers)
        same(rng.value, keys)


def test_an_axis_going_out_keeps_the_keys_that_were_dealt():
    rng = RandomState(42)
    draws = T.vmap(lambda x: rng.uniform() + x, out_states=rng)(XS)
    numbers, keys = jax.vmap(drawn)(LANES[1:])
    same(draws, numbers + XS)
    same(rng.value, keys)


@pytest.mark.parametrize("of_lane", [False, True])
def test_a_context_in_lanes_gives_back_each_lane_s_key(of_lane):
    before = random.get_key()
    random.seed(42)

    def fun(x):
        with random.seed_context(x if of_lane else 0):
            inside = random.uniform()
        return inside, random.uniform()

    seeds = XS if of_lane else jnp.zeros(N, int)
    inside = jax.vmap(lambda seed: drawn(jax.random.key(seed))[0])(seeds)
    outside = jax.vmap(lambda key: drawn(key)[0])(LANES[1:])
    try:
        same(T.vmap(fun)(XS), (inside, outside))
        same(random.get_key(), LANES[0])
    finally:
        random.set_key(before)


def test_one_call_that_seeds_and_one_that_does_not_are_each_as_they_are(rng):
    def fun(x, seeds):
        if seeds:
            rng.seed(0)
        return x + rng.uniform()

    number, key = drawn(jax.random.key(0))
    theirs = jax.vmap(lambda key: drawn(key)[0])(LANES[1:])
    for seeds in (False, True, False, True, True):
        rng.value = START
        same(T.vmap(lambda x: fun(x, seeds))(XS), XS + (number if seeds else theirs))  # noqa: B023
        same(rng.value, key if seeds else LANES[0])


@pytest.mark.slow
def test_nested_lanes_agree_as_far_as_they_do(rng):
    rows = jnp.zeros((2, N))

    def run(inner_seed):
        def outer(row, i):
            def inner(x, j):
                rng.seed(inner_seed(i, j))
                return x + rng.uniform()

            out = T.vmap(inner)(row, jnp.arange(N))
            return out, rng.value

        rng.value = START
        return T.vmap(outer)(rows, jnp.arange(2))

    keys_of = jax.vmap(lambda seed: drawn(jax.random.key(seed)))
    out, keys = run(lambda i, j: 5)
    number, key = drawn(jax.random.key(5))
    same((out, keys), (rows + number, jnp.stack([key, key])))
    same(rng.value, key)

    # One seed for each row: the row's own, and the key after them goes on.
    out, keys = run(lambda i, j: i)
    numbers, after = keys_of(jnp.arange(2))
    same((out, keys), (rows + numbers[:, None], after))
    same(rng.value, jax.random.split(START, 3)[0])

    out, keys = run(lambda i, j: j)
    numbers, _ = keys_of(jnp.arange(N))
    outer = jax.random.split(START, 3)
    after = jax.vmap(lambda key: jax.random.split(key, N + 1)[0])(outer[1:])
    same((out, keys), (rows + numbers, after))
    same(rng.value, outer[0])


@pytest.mark.slow
def test_a_chunk_of_map_seeds_as_one_by_one_does(rng):
    def fun(x):
        rng.seed(0)
        return x + rng.uniform()

    number, key = drawn(jax.random.key(0))
    for size in (None, 1, 2, 3):
        rng.value = START
        same(T.map(fun, XS, batch_size=size), XS + number)
        same(rng.value, key)


def test_a_failure_in_lanes_leaves_the_key(rng):
    def fun(x):
        rng.seed(x)
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap(fun)(XS)
    same(rng.value, START)


def test_new_states_are_drawn_after_a_seed(rng):
    def make(seed):
        rng.seed(seed)
        return sl.State(rng.uniform())

    numbers = jax.vmap(lambda seed: drawn(jax.random.key(seed))[0])(XS)
    same(T.vmap_new_states(make)(XS).value, numbers)
    same(rng.value, LANES[0])


# One after another.


@pytest.mark.slow
@pytest.mark.parametrize("seed", [lambda x: 0, lambda x: x], ids=["one", "each"])
@pytest.mark.parametrize("compiled", [False, True])
def test_loops_seed_in_each_step(rng, seed, compiled):
    def step(x):
        first = rng.uniform()
        rng.seed(seed(x))
        return first, rng.uniform()

    def by_hand(key, x):
        first, _ = drawn(key)
        second, key = drawn(jax.random.key(seed(x)))
        return key, (first, second)

    def while_body(carry):
        x, total = carry
        return x + 1, total + sum(step(x))

    key, theirs = jax.lax.scan(by_hand, START, XS)
    total = theirs[0].sum() + theirs[1].sum()
    loops = {
        "for_loop": lambda: T.for_loop(step, XS),
        "checkpointed_for_loop": lambda: T.checkpointed_for_loop(step, XS),
        "scan": lambda: T.scan(lambda c, x: (c, step(x)), 0.0, XS)[1],
        "while_loop": lambda: T.while_loop(lambda c: c[0] < 3, while_body, (0, 0.0))[1],
        "bounded_while_loop": lambda: T.bounded_while_loop(
            lambda c: c[0] < 3, while_body, (0, 0.0), max_steps=5
        )[1],
    }
    for name, loop in loops.items():
        rng.value = START
        out = sl.jit(loop)() if compiled else loop()
        if "while" in name:
            assert jnp.allclose(out, total), name
        else:
            same(out, theirs)
        same(rng.value, key)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("taken", [False, True])
def test_a_branch_may_seed(rng, taken, compiled):
    def seeds(x):
        rng.seed(x)
        return rng.uniform()

    number, key = drawn(jax.random.key(5)) if taken else drawn(START)
    for other in (lambda x: rng.uniform(), lambda x: random.uniform(key=0)):
        for control in (
            lambda p, f=other: T.cond(p, seeds, f, 5),
            lambda p, f=other: T.switch(jnp.asarray(p, int), [f, seeds], 5),
            lambda p, f=other: T.ifelse([p, True], [lambda: seeds(5), lambda: f(5)]),
        ):
            rng.value = START
            out = sl.jit(control)(taken) if compiled else control(taken)
            if taken or rng.value != START:
                same((out, rng.value), (number, key))
            else:
                same(out, random.uniform(key=0))


def test_compiled_functions_seed_in_each_call(rng):
    @sl.jit
    def fun(seed):
        rng.seed(seed)
        return rng.uniform()

    for seed in (0, 1, 0):
        same((fun(seed), rng.value), drawn(jax.random.key(seed)))
    assert fun.states is not None


DERIVATIVES = {
    "grad": lambda fun, w: sl.grad(fun, w)(),
    "grad in jit": lambda fun, w: sl.jit(sl.grad(fun, w))(),
    "value_and_grad": lambda fun, w: sl.value_and_grad(fun, w)()[1],
    "jacrev": lambda fun, w: T.jacrev(fun, w)(),
    "jacfwd": lambda fun, w: T.jacfwd(fun, w)(),
    "vector_grad": lambda fun, w: T.vector_grad(fun, w)(),
    "checkpoint": lambda fun, w: sl.grad(T.checkpoint(fun), w)(),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_of_functions_that_seed(rng, name):
    w = sl.ParamState(jnp.asarray(2.0))

    def fun():
        rng.seed(1)
        return w.value * rng.uniform()

    number, key = drawn(jax.random.key(1))
    same(DERIVATIVES[name](fun, w), number)
    same(rng.value, key)


def test_gradients_of_lanes_that_seed_each_for_itself(rng):
    w = sl.ParamState(jnp.asarray(2.0))

    def loss(seeds):
        def one(seed):
            rng.seed(seed)
            return w.value * rng.uniform()

        return jnp.sum(T.vmap(one)(seeds))

    numbers = jax.vmap(lambda seed: drawn(jax.random.key(seed))[0])(XS)
    assert jnp.allclose(sl.grad(loss, w)(XS), numbers.sum())
    same(rng.value, LANES[0])


def test_a_state_that_deals_other_things_has_the_same_rule():
    class Deck(sl.State):
        def split_lanes(self, value, count):
            return {"n": value["n"] + 1 + jnp.arange(count)}, {"n": value["n"] + 1 + count}

    deck = Deck({"n": jnp.asarray(10)})

    def fun(x, reset):
        mine = deck.value["n"]
        deck.value = {"n": reset(x)}
        return mine

    same(T.vmap(lambda x: fun(x, lambda x: x))(XS), 11 + XS)
    same(deck.value, {"n": jnp.asarray(14)})
    same(T.vmap(lambda x: fun(x, lambda x: 0 * jnp.asarray(1)))(XS), 15 + XS)
    same(deck.value, {"n": jnp.asarray(0)})
    same(T.vmap(lambda x: fun(x, lambda x: 3))(XS), 1 + XS)
    assert deck.value == {"n": 3}
