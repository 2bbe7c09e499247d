"""A small perceptron, immutable and in a module with states, and its loss."""

import equinox as eqx
import jax
import jax.numpy as jnp

import statelens as sl


def mlp():
    return eqx.nn.MLP(3, 2, 4, 2, key=jax.random.key(0))


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = mlp()
        self.calls = sl.State(jnp.zeros((), int))

    def __call__(self, x):
        self.calls.value += 1
        return jax.vmap(self.mlp)(x)


def of_model(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def of_net(net):
    return lambda x, y: jnp.mean((net(x) - y) ** 2)
