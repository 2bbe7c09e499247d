"""Equinox modules that compiled functions return: they are what JAX would make of them."""

import dataclasses
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import statelens as sl


class Node(eqx.Module):
    left: Any
    right: Any
    name: Any = eqx.field(static=True, default="node")


class Converted(eqx.Module):
    weight: jax.Array = eqx.field(converter=jnp.asarray)
    unset: jax.Array

    def __init__(self):
        self.weight = 2.0  # type: ignore[assignment]
        self.unset = jnp.ones(())

    @property
    def twice(self):
        return 2 * self.weight

    def __call__(self, x):
        return self.twice * x


class Slim(eqx.Module):
    __slots__ = ()
    scale: jax.Array


def key(seed=0):
    return jax.random.key(seed)


def normalisation():
    return eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="ema")


def linear():
    return eqx.nn.Linear(2, 3, key=key())


def shared():
    layer = linear()
    return Node(layer, [layer, {"again": layer}])


TREES = {
    "mlp": lambda: eqx.nn.MLP(2, 1, 4, 2, key=key()),
    "attention": lambda: eqx.nn.MultiheadAttention(2, 4, key=key()),
    "sequence": lambda: eqx.nn.Sequential([linear(), eqx.nn.Lambda(jnp.tanh), eqx.nn.Identity()]),
    "normalisation": normalisation,
    "converted": Converted,
    "slots": lambda: Slim(jnp.ones(2)),
    "bound method": lambda: Converted().__call__,
    "wrapped function": lambda: eqx.filter_jit(lambda x: x + 1),
    "partial": lambda: eqx.Partial(linear(), x=jnp.ones(2)),
    "partial of JAX": lambda: jax.tree_util.Partial(linear().__call__, jnp.ones(2)),
    "shared": shared,
    "empty": lambda: Node([], Node((), {}, name=("a", 1))),
    "no module": lambda: {"a": [jnp.ones(2), None], "b": "text"},
    "a state in it": lambda: Node(sl.State(linear()), None),
    "in a state": lambda: (sl.State({"layer": linear()}), linear()),
    "keys": lambda: Node(key(), (np.ones(2), 1.0, True)),
}


def nodes(tree):
    """Lists the modules in a tree, those in others too."""
    is_inside = lambda node: isinstance(node, eqx.Module) and node is not tree  # noqa: E731
    inner = [node for node in jax.tree.leaves(tree, is_leaf=is_inside) if is_inside(node)]
    own = [tree] if isinstance(tree, eqx.Module) else []
    return own + [found for node in inner for found in nodes(node)]


def check(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert leaf is other or (leaf == other).all()
    for node, other in zip(nodes(tree), nodes(expected), strict=True):
        assert type(node) is type(other)
        assert list(vars(node)) == list(vars(other))
        assert repr(node) == repr(other)


def passed_on(tree):
    """Gives what a compiled function makes of a tree in the first, second and third call."""
    same = sl.jit(lambda tree: tree)
    for _ in range(3):
        tree = same(tree)
        yield tree


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_out_as_jax_puts_it_together(name):
    tree = TREES[name]()
    leaves, treedef = jax.tree.flatten(tree)
    arrays = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in leaves]
    for out in passed_on(tree):
        check(out, treedef.unflatten(arrays))


leaves = st.sampled_from([jnp.ones(()), jnp.arange(2.0), None, "text", jnp.tanh])
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
        | st.builds(Node, inner, inner, st.sampled_from(["x", "y"]))
    ),
    max_leaves=8,
)


@given(trees)
def test_so_does_any_other(tree):
    for out in passed_on(tree):
        check(out, jax.tree.map(lambda leaf: leaf, tree))


@jax.tree_util.register_pytree_node_class
class Converting:
    """A node that makes an array of what it is given."""

    def __init__(self, x):
        self.x = jnp.asarray(x)

    def tree_flatten(self):
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Checking:
    x: Any

    def __post_init__(self):
        self.x = jnp.asarray(self.x)
        assert self.x.ndim < 2


@jax.tree_util.register_pytree_node_class
class Telling(Converting):
    """A node of which one leaf is made again each time that it is flattened."""

    def tree_flatten(self):
        return (self.x, self.__class__.__name__ + "!"), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(children[0])


@pytest.mark.parametrize("kind", [Converting, Checking, Telling])
def test_nodes_of_other_libraries_are_left_to_jax(kind):
    count = sl.State(jnp.array(0))

    @sl.jit
    def step(model):
        count.value += 1
        node = kind(model.left)
        return Node(model.left + 1, [node], name="next"), (node, "text"), node

    model = Node(jnp.ones(2), None)
    for number in range(1, 13):
        model, (node, text), other = step(model)
        assert (model.left[0], node.x[0], other.x[1], text) == (number + 1, number, number, "text")
        assert type(model.right[0]) is kind
        assert model.right[0].x[0] == number
    assert count.value == 12


def test_what_cannot_be_made_leaves_the_states_as_they_were():
    @jax.tree_util.register_pytree_node_class
    class Refusing(Converting):
        @classmethod
        def tree_unflatten(cls, aux, children):
            if isinstance(children[0], jax.Array) and not isinstance(children[0], jax.core.Tracer):
                raise ValueError("too concrete")
            node = object.__new__(cls)
            node.x = children[0]
            return node

    count = sl.State(jnp.array(0))

    @sl.jit
    def step():
        count.value += 1
        return Node(jnp.ones(1), Refusing(jnp.ones(1)))

    for _ in range(12):
        with pytest.raises(ValueError, match="too concrete"):
            step()
    assert count.value == 0


def test_each_call_gives_modules_of_its_own():
    add = sl.jit(lambda model: Node(model.left + 1, {"a": model.right["a"] * 2}))
    models = [Node(jnp.array(0), {"a": jnp.array(1)})]
    for _ in range(5):
        models.append(add(models[-1]))
    assert [int(model.left) for model in models] == [0, 1, 2, 3, 4, 5]
    assert [int(model.right["a"]) for model in models] == [1, 2, 4, 8, 16, 32]


def test_what_is_made_for_one_call_is_not_in_what_another_gives():
    same = sl.jit(lambda tree: tree)
    first = same(Node([jnp.zeros(())], {"a": []}))
    second = same(first)
    second.left[0] = jnp.ones(())
    second.right["a"].append(1)
    third = same(first)
    assert first.left == third.left == [0]
    assert first.right == third.right == {"a": []}


def test_modules_can_still_be_used_and_are_still_frozen():
    model = None
    for model in passed_on(eqx.nn.MLP(2, 1, 4, 2, key=key())):
        assert model(jnp.ones(2)).shape == (1,)
        with pytest.raises(AttributeError, match="cannot assign to field 'depth'"):
            model.depth = 3
    assert eqx.tree_at(lambda m: m.layers[0].bias, model, jnp.ones(4)).layers[0].bias[0] == 1


FUNCTIONAL = """
import collections, equinox as eqx, jax.numpy as jnp, optax, statelens as sl

seen = collections.Counter()

class Layer(eqx.Module):
    weight: object

    def __getattribute__(self, name):
        if name == "__dict__":
            seen["looked into"] += 1
        return super().__getattribute__(name)

optimizer = optax.adam(0.1)

@sl.jit
def step(model, memory):
    grads = sl.grad(lambda model: jnp.sum(model.weight**2), sl.inexact)(model)
    updates, memory = optimizer.update(grads, memory)
    return sl.inexact.apply_updates(model, updates), memory

model = Layer(jnp.ones(2))
memory = optimizer.init(model)
for _ in range(5):
    model, memory = step(model, memory)
seen.clear()
for _ in range(3):
    model, memory = step(model, memory)
print(seen["looked into"])
"""


def test_what_a_step_has_returned_is_not_flattened_again():
    # In a process where nothing else has told which classes are those of arrays.
    out = subprocess.run(
        [sys.executable, "-c", FUNCTIONAL], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["0"]
