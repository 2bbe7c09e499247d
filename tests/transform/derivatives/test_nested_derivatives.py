"""Derivatives of derivatives."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close
from tests.transform.derivatives.by_hand import (
    W,
    ours,
)

T = sl.transform


# Derivatives of derivatives, of functions that write.


class Cell:
    """A state that is read and written, and the same in plain JAX."""

    def __init__(self):
        self.w, self.trace = sl.ParamState(W), sl.State(jnp.zeros(2))

    def loss(self, x):
        out = jnp.sum(jnp.sin(self.w.value) ** 2 * x) + jnp.prod(self.w.value) * x**3
        self.trace.value = self.trace.value + self.w.value * x
        return out + jnp.sum(self.trace.value**2)

    @staticmethod
    def plain(w, x):
        out = jnp.sum(jnp.sin(w) ** 2 * x) + jnp.prod(w) * x**3
        return out + jnp.sum((w * x) ** 2)


V = jnp.array([0.3, -0.7])
NESTED = {
    "grad of grad": (
        lambda f, w: sl.grad(lambda x: jnp.sum(sl.grad(f, w)(x) * V), w, 0),
        lambda f: jax.grad(lambda w, x: jnp.sum(jax.grad(f)(w, x) * V), (0, 1)),
    ),
    "grad by x of grad by w": (
        lambda f, w: T.jacfwd(sl.grad(f, w)),
        lambda f: jax.jacfwd(jax.grad(f), 1),
    ),
    "jacfwd of jacrev": (
        lambda f, w: T.jacfwd(T.jacrev(f, w), w),
        lambda f: jax.jacfwd(jax.jacrev(f)),
    ),
    "jacrev of jacfwd": (
        lambda f, w: T.jacrev(T.jacfwd(f, w), w, chunk_size=1),
        lambda f: jax.jacrev(jax.jacfwd(f)),
    ),
    "hvp of grad": (
        lambda f, w: lambda x: T.hvp(lambda x: jnp.sum(sl.grad(f, w)(x) ** 2), w)(V, x),
        lambda f: lambda w, x: jax.hessian(lambda w: jnp.sum(jax.grad(f)(w, x) ** 2))(w) @ V,
    ),
    "grad of hvp": (
        lambda f, w: sl.grad(lambda x: jnp.sum(T.hvp(f, w)(V, x) ** 2), w, 0),
        lambda f: jax.grad(lambda w, x: jnp.sum((jax.hessian(f)(w, x) @ V) ** 2), (0, 1)),
    ),
    "jit of grad of jit of grad": (
        lambda f, w: sl.jit(sl.grad(sl.jit(lambda x: jnp.sum(sl.grad(f, w)(x) * V)), w, 0)),
        lambda f: jax.grad(lambda w, x: jnp.sum(jax.grad(f)(w, x) * V), (0, 1)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NESTED)
def test_nested_derivatives_of_a_function_that_writes(name):
    cell = Cell()
    nest, plain = NESTED[name]
    close(nest(cell.loss, cell.w)(0.6), plain(cell.plain)(W, 0.6), rtol=2e-4)
    # The function has run once, and that is what is committed.
    close(cell.trace.value, W * 0.6)
    assert cell.w.value is W or cell.w.value.tolist() == W.tolist()


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_a_jacobian_of_scan(name):
    w, h, count = sl.ParamState(W), sl.State(jnp.ones(2)), sl.State(0)
    xs = jnp.array([0.1, 0.5, -0.4])

    def step(carry, x):
        count.value = count.value + 1
        h.value = jnp.tanh(w.value * h.value + x)
        return carry + h.value[0] * x, h.value

    def fun(xs):
        carry, ys = T.scan(step, jnp.zeros(()), xs)
        return {"carry": carry, "last": ys[-1]}

    def plain(v):
        def body(carry, x):
            total, h = carry
            h = jnp.tanh(v["w"] * h + x)
            return (total + h[0] * x, h), h

        (total, _), ys = jax.lax.scan(body, (jnp.zeros(()), v["h"]), xs)
        return {"carry": total, "last": ys[-1]}

    values = {"w": W, "h": h.value}
    close(ours(name, fun, {"w": w, "h": h})(xs), getattr(jax, name)(plain)(values))
    assert count.value == 3
    close(h.value, plain(values)["last"])


def test_a_hessian_of_scan_and_while_loops():
    w = sl.ParamState(W)
    body = lambda c, x: (c * jnp.sin(w.value) + x, None)  # noqa: E731
    fun = lambda: jnp.sum(T.scan(body, jnp.ones(2), jnp.arange(3.0))[0])  # noqa: E731

    def plain(w):
        return jnp.sum(
            jax.lax.scan(lambda c, x: (c * jnp.sin(w) + x, None), jnp.ones(2), jnp.arange(3.0))[0]
        )

    close(T.hessian(fun, w)(), jax.hessian(plain)(W))
    close(T.hvp(fun, w)(V), jax.hessian(plain)(W) @ V)


# Perturbation confusion: each derivative is by its own level's variable.


def test_the_inner_derivative_is_by_the_inner_variable():
    # d/dx x (d/dy (x + y)) = 1
    assert sl.grad(lambda x: x * sl.grad(lambda y: x + y)(1.0))(1.0) == 1.0
    assert T.jacfwd(lambda x: x * T.jacfwd(lambda y: x + y)(1.0))(1.0) == 1.0
    nested_jvp = lambda x: x * T.jvp(lambda y: x + y, (1.0,), (1.0,))[1]  # noqa: E731
    assert T.jvp(nested_jvp, (1.0,), (1.0,)) == (1.0, 1.0)


TAKEN = {
    "grad": lambda f, s: sl.grad(f, s)(),
    "jacfwd": lambda f, s: T.jacfwd(f, s)(),
    "jvp": lambda f, s: T.jvp(f, (), grad_states=s, state_tangents=jnp.ones(()))[1],
    "vjp": lambda f, s: T.vjp(f, grad_states=s)[1](jnp.ones(())),
}
by_level = pytest.mark.parametrize(("outer", "inner"), [(a, b) for a in TAKEN for b in TAKEN])


@by_level
def test_an_inner_function_that_reads_the_outer_state(outer, inner):
    x, y = sl.ParamState(jnp.asarray(2.0)), sl.ParamState(jnp.asarray(1.0))
    # d/dx x (d/dy (x y^2 + x)) = d/dx 2 x^2 y = 4 x y
    fun = lambda: x.value * TAKEN[inner](lambda: x.value * y.value**2 + x.value, y)  # noqa: E731
    assert TAKEN[outer](fun, x) == 8.0
    # And by y, which the inner one is by as well: d/dy 2 x^2 y = 2 x^2
    assert TAKEN[outer](fun, y) == 8.0


@by_level
def test_the_same_state_at_both_levels(outer, inner):
    x = sl.ParamState(jnp.asarray(2.0))
    # d/dx x (d/dx x^3) = d/dx 3 x^3 = 9 x^2
    fun = lambda: x.value * TAKEN[inner](lambda: x.value**3, x)  # noqa: E731
    assert TAKEN[outer](fun, x) == 36.0


@by_level
def test_a_state_that_is_written_between_the_levels(outer, inner):
    x, y = sl.ParamState(jnp.asarray(2.0)), sl.State(jnp.asarray(1.0))

    def fun():
        y.value = x.value**2
        # y follows x in the outer derivative, and stands still in the inner one.
        return TAKEN[inner](lambda: x.value * y.value, x) + TAKEN[inner](lambda: y.value**2, y)

    # d/dx (x^2 + 2 x^2) = 6 x
    assert TAKEN[outer](fun, x) == 12.0
    assert y.value == 4.0


def test_what_an_inner_derivative_writes_carries_the_outer_one():
    x, y = sl.ParamState(jnp.asarray(2.0)), sl.State(jnp.asarray(0.0))

    def inner():
        y.value = x.value**3
        return x.value**2

    def outer():
        return sl.grad(inner, x)() + y.value

    # d/dx (2 x + x^3) = 2 + 3 x^2
    assert sl.grad(outer, x)() == 14.0
    assert T.jacfwd(outer, x)() == 14.0
    assert y.value == 8.0
