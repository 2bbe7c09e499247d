"""Models in NNX's idiom and in ours, with the same numbers."""

import functools

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close

close = functools.partial(close, rtol=2e-6)

nnx = pytest.importorskip("flax.nnx", reason="the peer flax isn't installed")

X = jnp.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [0.1, 0.2, 0.3], [2.0, -2.0, 1.0]])
Y = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [-1.0, 1.0]])
KERNELS = [jnp.sin(jnp.arange(12.0)).reshape(3, 4), jnp.cos(jnp.arange(8.0)).reshape(4, 2)]


class Count(nnx.Variable):
    """How often a layer ran."""


class TheirLinear(nnx.Module):
    def __init__(self, kernel):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(kernel.shape[1]))
        self.count = Count(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count[...] += 1
        return x @ self.kernel[...] + self.bias[...]


class TheirMLP(nnx.Module):
    def __init__(self):
        self.first, self.last = map(TheirLinear, KERNELS)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


class OurLinear(sl.nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.kernel = sl.ParamState(kernel)
        self.bias = sl.ParamState(jnp.zeros(kernel.shape[1]))
        self.count = sl.LongTermState(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count.value += 1
        return x @ self.kernel.value + self.bias.value


class OurMLP(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = map(OurLinear, KERNELS)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def loss_of(model, x, y):
    return jnp.mean((model(x) - y) ** 2)


def flat_theirs(state):
    """Values by path, whatever NNX keeps them in."""
    return {
        tuple(map(str, path)): jnp.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)
    }


def flat_ours(mapping):
    return {tuple(map(str, path)): getattr(leaf, "value", leaf) for path, leaf in mapping.items()}


def same_models(ours, theirs):
    close(flat_ours(ours.states()), flat_theirs(nnx.state(theirs)))


FILTERS = {
    "by class": (nnx.Param, sl.lens(sl.ParamState)),
    "by name": (nnx.PathContains("kernel"), sl.lens("**.kernel")),
    "by part of the path": (
        nnx.All(nnx.Param, nnx.PathContains("last")),
        sl.lens(sl.ParamState) & sl.lens("last.**"),
    ),
    "all but": (
        nnx.All(nnx.Param, nnx.Not(nnx.PathContains("bias"))),
        sl.lens(sl.ParamState) & ~sl.lens("**.bias"),
    ),
    "any of": (
        nnx.Any(
            nnx.All(nnx.PathContains("first"), nnx.PathContains("bias")),
            nnx.All(nnx.PathContains("last"), nnx.PathContains("kernel")),
        ),
        sl.lens("first.bias") | sl.lens("last.kernel"),
    ),
    "a predicate": (
        lambda path, value: path[0] == "first" and isinstance(value, nnx.Param),
        sl.lens(lambda path, unit: path[0] == "first" and isinstance(unit, sl.ParamState)),
    ),
}


class TheirCell(nnx.Module):
    def __init__(self):
        self.rate = nnx.Param(jnp.array(0.9))
        self.h = nnx.BatchStat(jnp.ones(3))
        self.count = Count(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count[...] += 1
        self.h[...] = jnp.tanh(self.rate[...] * self.h[...] + x)
        return self.h[...].sum()


class OurCell(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = sl.ParamState(jnp.array(0.9))
        self.h = sl.BatchState(jnp.ones(3))
        self.count = sl.LongTermState(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count.value += 1
        self.h.value = jnp.tanh(self.rate.value * self.h.value + x)
        return self.h.value.sum()
