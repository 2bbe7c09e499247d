"""Calls with one thing wrong each: what they are made of, and what has to come of them."""

import pathlib
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

import statelens as sl

T = sl.transform
A, B, C, D, E = (
    sl.ArgumentError,
    sl.ArgumentTypeError,
    sl.StructureError,
    sl.SelectionError,
    sl.StateTypeError,
)
BUILTINS = (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError, AttributeError)


KEY = jax.random.key(0)


class World(sl.nn.Module):
    """A parameter, a counter and a key, and functions of them."""

    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.ones(2), name="w")
        self.other = sl.ParamState(jnp.ones(3), name="other")
        self.calls = sl.State(jnp.zeros((), jnp.int32), name="calls")
        self.rng = sl.random.RandomState(0, name="rng")

    def touch(self):
        self.calls.value += 1
        return self.rng.uniform()

    def loss(self, x=1.0):
        return jnp.sum(self.w.value * x) ** 2 + self.touch()

    def vector(self, x=1.0):
        return self.w.value * x + self.touch()

    def out(self, value):
        """Makes a function that touches all states, and returns a value."""

        def fun(*args):
            self.touch()
            return value

        return fun

    def grow(self, *args):
        """Leaves the parameter with another shape."""
        self.touch()
        self.w.value = jnp.ones(5)
        return args[0] if args else 0.0


class Net(eqx.Module):
    """The same in the functional style: an immutable tree that holds a layer and a counter."""

    layer: eqx.nn.Linear
    scale: jax.Array
    calls: sl.State

    def __init__(self):
        self.layer = eqx.nn.Linear(2, 2, key=KEY)
        self.scale = jnp.ones(2)
        self.calls = sl.State(jnp.zeros((), jnp.int32), name="calls")

    def __call__(self, x):
        return self.layer(x) * self.scale


def loss(net, x=1.0):
    """Reads a tree, and leaves its states as they are."""
    return jnp.sum(net.scale * x) ** 2


def touch(net, x=1.0):
    """Writes a state of its tree, so that it has to be threaded."""
    net.calls.value += 1
    return loss(net, x)


X, XS = jnp.ones(2), jnp.ones((3, 2))
NO = lambda x: x  # noqa: E731
MESH = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
P = PartitionSpec


class Rows(list):
    """A table of calls, each with its name, its error, and what the message says."""

    def __call__(self, name, call, error, match):
        self.append(pytest.param(call, error, match, id=name))


def check_refused(call, error, match, make=World):
    """The call raises what it has to, at the user's line, and leaves all states as they were."""
    world = make()
    cells = sl.lens(sl.State).get(world).values()
    before = [cell.value for cell in cells]
    with pytest.raises(error, match="(?s)" + match) as caught:
        call(world)
    is_ours = isinstance(error, type) and issubclass(error, sl.StateLensError)
    assert is_ours == isinstance(caught.value, sl.StateLensError)
    if is_ours:
        assert isinstance(caught.value, BUILTINS)
        assert re.match(r"(?s)(asked|could not read) .+?\n.+\nInstead", str(caught.value))
    assert_is_told_at_the_users_line(caught)
    assert all(cell.value is value for cell, value in zip(cells, before, strict=True))


PACKAGE = pathlib.Path(sl.__file__).parent


def assert_is_told_at_the_users_line(caught):
    """The traceback goes through none of our files, and ends in one of the user's."""
    files = [pathlib.Path(str(entry.path)) for entry in caught.traceback]
    assert not [file for file in files if PACKAGE in file.parents]
    assert files[-1].parent.name != "jax"
    assert "tests" in files[-1].parts
