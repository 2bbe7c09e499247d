"""Checks under `vmap` and its kin, and checks of what nothing depends on."""

import jax
import jax.numpy as jnp
import pytest

import statelens as sl

T = sl.transform

GOOD, LARGE, NEGATIVE = jnp.arange(3.0), jnp.array([1.0, 7.0, 2.0]), jnp.array([1.0, -1.0, 2.0])


def checked(x):
    T.jit_error_if(x > 5, "x is {}", x)
    return 2 * T.error_if(x, x < 0, "x is negative")


RUNS = {
    "vmap": lambda xs: T.vmap(checked)(xs),
    "jax.vmap": lambda xs: jax.vmap(checked)(xs),
    "vmap in jit": lambda xs: sl.jit(T.vmap(checked))(xs),
    "vmap in jax.jit": lambda xs: jax.jit(jax.vmap(checked))(xs),
    "jit in vmap": lambda xs: T.vmap(sl.jit(checked))(xs),
    "vmap in vmap": lambda xs: T.vmap(T.vmap(checked))(xs[None])[0],
    "a loop in vmap": lambda xs: T.vmap(lambda x: T.for_loop(checked, x[None])[0])(xs),
    "vmap in a loop": lambda xs: T.for_loop(T.vmap(checked), xs[None])[0],
    "vmap in grad": lambda xs: sl.grad(lambda xs: jnp.sum(T.vmap(checked)(xs) ** 2) / 4)(xs),
    "grad in vmap": lambda xs: T.vmap(sl.grad(lambda x: checked(x) ** 2 / 4))(xs),
    "per_example_grad": lambda xs: T.per_example_grad(lambda x: checked(x) ** 2 / 4)(xs),
    "cond in vmap": lambda xs: T.vmap(lambda x: T.cond(x > -10, checked, lambda x: x, x))(xs),
    "map in chunks": lambda xs: T.map(checked, xs, batch_size=2),
    "vmap_new_states": lambda xs: T.vmap_new_states(lambda x: sl.State(checked(x)))(xs).value,
    "vmap in checkpoint": lambda xs: T.checkpoint(T.vmap(checked))(xs),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_check_looks_at_each_lane(name):
    run = RUNS[name]
    assert run(GOOD).tolist() == (2 * GOOD).tolist()
    with pytest.raises((ValueError, RuntimeError), match=r"x is 7\.0"):
        jax.block_until_ready(run(LARGE))
    with pytest.raises(RuntimeError, match="x is negative"):
        jax.block_until_ready(run(NEGATIVE))


@pytest.mark.parametrize("name", ["vmap", "vmap in jit", "jit in vmap", "vmap in a loop"])
def test_a_check_in_a_lane_raises_its_own_error(name):
    with pytest.raises(ValueError, match=r"^x is 7\.0(\n|$)"):
        RUNS[name](LARGE)


def test_the_text_has_the_values_of_the_lane_that_fails():
    def step(x, y):
        T.jit_error_if(x + y > 5, "{} and {name}", x, name=y)
        return x

    xs, ys = jnp.arange(3.0), jnp.array([0.0, 5.0, 0.0])
    for run in (T.vmap(step), sl.jit(T.vmap(step))):
        with pytest.raises(ValueError, match=r"^1\.0 and 5\.0(\n|$)"):
            run(xs, ys)


INDEXED = {
    "a number": lambda i: jnp.ones((1, 2))[i],
    "nothing": lambda i: jnp.zeros(2),
    "nothing that matters": lambda i: 0 * i,
}
LOOPS = {
    "scan": lambda at: T.scan(lambda i, _: (i + 1, at(i)), 0, None, length=3),
    "jit": lambda at: sl.jit(at)(2),
    "jax.jit": lambda at: jax.block_until_ready(jax.jit(at)(2)),
    "while_loop": lambda at: T.while_loop(lambda i: i < 3, lambda i: (at(i), i + 1)[1], 0),
    "cond": lambda at: T.cond(True, at, at, 2),
}


@pytest.mark.parametrize("run", LOOPS)
@pytest.mark.parametrize("use", INDEXED)
def test_an_error_is_raised_whatever_the_compiler_makes_of_its_value(use, run):
    def at(i):
        return INDEXED[use](T.error_if(i, i >= 1, "out of bounds"))

    with pytest.raises(RuntimeError, match="out of bounds"):
        LOOPS[run](at)
