"""A network of three states, and the same in plain JAX."""

import jax.numpy as jnp

import statelens as sl


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.linspace(-1.0, 1.0, 9).reshape(3, 3), name="w")
        self.b = sl.ParamState(jnp.full(3, 0.5, jnp.float32), name="b")
        self.calls = sl.State(jnp.zeros((), jnp.int32), name="calls")

    def __call__(self, x):
        self.calls.value += 1
        return jnp.tanh(x @ self.w.value + self.b.value)


def plain_net(values, x):
    w, b, calls = values
    return jnp.tanh(x @ w + b), (w, b, calls + 1)


def values_of(net):
    return net.w.value, net.b.value, net.calls.value


class Dropout(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.array(2.0))
        self.layers = [sl.ParamState(jnp.array(3.0))]
        self.training = True

    def __call__(self, x):
        for layer in self.layers:
            x = layer.value * x
        return self.w.value * x if self.training else x
