"""Trees to look into: an Equinox model in containers, and states."""

import equinox as eqx
import jax
import jax.numpy as jnp

import statelens as sl
from tests.strategies import Point


class Block(eqx.Module):
    linear: eqx.nn.Linear
    scale: jax.Array
    activation: object = jax.nn.relu

    def __init__(self, key):
        self.linear = eqx.nn.Linear(2, 2, key=key)
        self.scale = jnp.ones(2)


def model():
    """An Equinox model inside plain containers, with everything that a pattern can ask for."""
    return {
        "encoder": {"layers": [Block(jax.random.key(i)) for i in range(3)], "norm": jnp.ones(2)},
        "head": Point(jnp.zeros((2, 3)), jnp.zeros(3)),
        "a b": {"w": jnp.arange(3)},
        "steps": 10,
        "unused": None,
    }


def stateful():
    """A tree with states: one array, a dictionary, a shared one."""
    shared = sl.ParamState(jnp.ones((2, 2)), tag="slow")
    return {
        "embed": shared,
        "head": shared,
        "layer": sl.ParamState({"weight": jnp.ones((2, 3)), "bias": jnp.zeros(3)}),
        "count": sl.State(jnp.array(0), tag=("slow", "count")),
        "plain": jnp.zeros(2),
    }


def written(lens, tree):
    return [sl.path.format(path) for path in sl.lens(lens).paths(tree)]
