"""A small network, by a list of layers and by states."""

from typing import Any

import jax
import jax.numpy as jnp

import statelens as sl


def layers() -> list[dict[str, jax.Array]]:
    """Makes the parameters of a small network."""
    return [
        {"bias": jnp.full(m, 0.1, float), "weight": jnp.linspace(-1.0, 1.0, n * m).reshape(n, m)}
        for n, m in ((3, 5), (5, 4), (4, 3))
    ]


def forward(layers: Any, x: jax.Array) -> jax.Array:
    for layer in layers:
        x = jnp.tanh(x @ layer["weight"] + layer["bias"])
    return x


def loss(layers: Any, x: jax.Array) -> jax.Array:
    return jnp.mean(forward(layers, x) ** 2)


class Linear(sl.nn.Module):
    def __init__(self, bias, weight):
        super().__init__()
        self.bias = sl.ParamState(bias)
        self.weight = sl.ParamState(weight)

    def __call__(self, x):
        return x @ self.weight.value + self.bias.value


class Net(sl.nn.Module):
    """The network by states."""

    def __init__(self):
        super().__init__()
        self.layers = [Linear(**layer) for layer in layers()]

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x

    def loss(self, x):
        return jnp.mean(self(x) ** 2)


class CountingNet(Net):
    """The network by states, which counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = sl.State(0)

    def __call__(self, x):
        self.calls.value += 1
        return super().__call__(x)

    def is_small(self, x):
        return jnp.sum(x) < 9

    def grow(self, x):
        return jnp.abs(self(x)) + x + 1

    def step(self, carry, x):
        return self(carry) + x, carry
