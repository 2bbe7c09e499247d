"""`fwd_grad`: estimates by forward differentiation."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close
from tests.transform.derivatives.by_hand import (
    W,
)

T = sl.transform


def test_fwd_grad_is_unbiased_on_a_quadratic():
    w = sl.ParamState(jnp.array([1.0, -2.0, 0.5]))
    matrix = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]])
    loss = lambda: 0.5 * w.value @ matrix @ w.value  # noqa: E731
    count = 4_000
    each = jax.vmap(lambda key: T.fwd_grad(loss, w, key=key)())(
        jax.random.split(jax.random.key(1), count)
    )
    exact = matrix @ w.value
    errors = (jnp.mean(each, axis=0) - exact) / (jnp.std(each, axis=0) / jnp.sqrt(count))
    assert jnp.all(jnp.abs(errors) < 5)
    averaged = T.fwd_grad(loss, w, key=1, tangent_size=count)()
    np.testing.assert_allclose(averaged, jnp.mean(each, axis=0), rtol=1e-4)


@pytest.mark.parametrize("tangent_size", [None, 50])
def test_a_directional_derivative_can_be_clipped(tangent_size):
    def run(scale, limit):
        loss = lambda x: jnp.sum(scale * x)  # noqa: E731
        options = {"key": 3, "tangent_size": tangent_size, "drct_der_clip": limit}
        return T.fwd_grad(loss, **options)(jnp.ones(4))

    np.testing.assert_allclose(run(100.0, 1e6), run(100.0, None))
    clipped = run(100.0, 0.5)
    assert np.linalg.norm(clipped) < 0.1 * np.linalg.norm(run(100.0, None))
    # Its size no longer depends on that of the loss.
    np.testing.assert_allclose(run(1000.0, 0.5), clipped)


def test_the_key_of_fwd_grad_may_be_an_integer_typed_or_raw():
    w = sl.ParamState(W)
    keys = [7, jax.random.key(7), jax.random.key_data(jax.random.key(7))]
    one, *others = (T.fwd_grad(lambda: jnp.sum(w.value**2), w, key=key)() for key in keys)
    for other in others:
        close(one, other)


def test_fwd_grad_draws_another_tangent_each_time_from_the_default_key():
    fun = T.fwd_grad(lambda x: jnp.sum(x**2))
    with sl.random.seed_context(3):
        first, second = fun(W), fun(W)
    with sl.random.seed_context(3):
        again = fun(W)
        compiled = sl.jit(fun)
    assert not np.allclose(first, second)
    close(first, again)
    with sl.random.seed_context(3):
        close((compiled(W), compiled(W)), (first, second))


def test_fwd_grad_takes_a_whole_number_of_tangents_a_key_and_a_scalar():
    with pytest.raises(sl.ArgumentError, match="asked fwd_grad for tangent_size=0"):
        T.fwd_grad(jnp.sum, tangent_size=0)
    with pytest.raises(sl.ArgumentTypeError, match="asked fwd_grad for key='a'"):
        T.fwd_grad(jnp.sum, key="a")
    with pytest.raises(sl.DifferentiationError, match=r"an array of shape \(2,\)"):
        T.fwd_grad(jnp.sin)(W)


def test_a_failure_leaves_the_default_key_as_it_was():
    w = sl.ParamState(W)

    def fun():
        raise ZeroDivisionError("in the function")

    with sl.random.seed_context(3):
        key = sl.random.DEFAULT.value
        with pytest.raises(ZeroDivisionError, match="in the function"):
            T.fwd_grad(fun, w)()
        assert sl.random.DEFAULT.value == key


@pytest.mark.parametrize("key", [np.int64(7), np.asarray([0, 7], np.uint32)])
def test_the_key_of_fwd_grad_may_be_of_numpy_as_that_of_a_random_state(key):
    loss = lambda x: jnp.sum(x**2)  # noqa: E731
    close(T.fwd_grad(loss, key=key)(W), T.fwd_grad(loss, key=7)(W))
