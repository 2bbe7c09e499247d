"""A unit that loops run, the same in plain JAX, and every kind of loop."""

import functools

import jax
import jax.numpy as jnp
import pytest

import statelens as sl

T = sl.transform
F32 = jnp.float32


class Cell(sl.nn.Module):
    """A leaky unit: `h` is written, `w` is only read, `steps` counts."""

    def __init__(self):
        super().__init__()
        self.h = sl.HiddenState(jnp.array([0.5, -0.5], F32), name="h")
        self.w = sl.ParamState(jnp.array([0.9, 0.3], F32), name="w")
        self.steps = sl.State(jnp.zeros((), jnp.int32), name="steps")

    def step(self, carry, x):
        self.h.value = jnp.sin(self.w.value * self.h.value) + x
        self.steps.value += 1
        return carry * 0.5 + x, self.h.value * carry

    def go(self, x):
        return self.step(1.0, x)[1]


def plain_step(w, carry, x):
    h, steps, c = carry
    h = jnp.sin(w * h) + x
    return (h, steps + 1, c * 0.5 + x), h * c


def values_of(cell):
    return cell.h.value, cell.steps.value


def lax_scan(cell, init, xs, **options):
    (h, steps, carry), ys = jax.lax.scan(
        functools.partial(plain_step, cell.w.value), (*values_of(cell), init), xs, **options
    )
    return (carry, ys), (h, steps)


INIT = jnp.array(1.0, F32)
XS = jnp.array([0.5, -1.0, 2.0], F32)
LOOPS = {
    "scan": lambda body, xs: T.scan(lambda c, x: (c, body(x)), 0.0, xs),
    "for_loop": lambda body, xs: T.for_loop(body, xs),
    "checkpointed_scan": lambda body, xs: T.checkpointed_scan(lambda c, x: (c, body(x)), 0.0, xs),
    "checkpointed_for_loop": lambda body, xs: T.checkpointed_for_loop(body, xs),
    "while_loop": lambda body, xs: T.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, body(c[1])), (0, xs[0])
    ),
    "bounded_while_loop": lambda body, xs: T.bounded_while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, body(c[1])), (0, xs[0]), max_steps=4
    ),
}


every_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


class Multiply:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor

    def method(self, x):
        return x * self.factor
