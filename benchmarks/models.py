"""Models of a size that people train, of Equinox layers, and their training step in each style."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import statelens as sl

from .calls import Call, training
from .cases import FACADE, FUNCTIONAL, HAND, Case, Cases


class Model(NamedTuple):
    """Something to train: a model, its loss, a batch."""

    model: Any
    loss: Callable[..., jax.Array]
    batch: tuple[jax.Array, ...]


def mlp(small: bool) -> Model:
    width, depth = (16, 2) if small else (256, 4)
    model = eqx.nn.MLP(32, 8, width, depth, key=key(0))
    return Model(model, classification, (normal(1, 64, 32), labels(2, 8, 64)))


class ResidualBlock(eqx.Module):
    convs: list[eqx.nn.Conv2d]
    norms: list[eqx.nn.GroupNorm]
    shortcut: eqx.nn.Conv2d | eqx.nn.Identity

    def __init__(self, n_in: int, n_out: int, stride: int, key: jax.Array):
        first, second, third = jax.random.split(key, 3)
        conv = functools.partial(eqx.nn.Conv2d, padding="SAME", use_bias=False)
        self.convs = [
            conv(n_in, n_out, 3, stride, key=first),
            conv(n_out, n_out, 3, key=second),
        ]
        self.norms = [eqx.nn.GroupNorm(8, n_out), eqx.nn.GroupNorm(8, n_out)]
        is_same = (n_in, stride) == (n_out, 1)
        self.shortcut = eqx.nn.Identity() if is_same else conv(n_in, n_out, 1, stride, key=third)

    def __call__(self, x):
        y = jax.nn.relu(self.norms[0](self.convs[0](x)))
        return jax.nn.relu(self.norms[1](self.convs[1](y)) + self.shortcut(x))


class ResNet(eqx.Module):
    """ResNet-18 for small pictures, if it has two blocks in a stage; with group normalisation."""

    stem: eqx.nn.Conv2d
    blocks: list[ResidualBlock]
    head: eqx.nn.Linear

    def __init__(self, width: int, blocks: int, key: jax.Array):
        keys = iter(jax.random.split(key, 4 * blocks + 2))
        self.stem = eqx.nn.Conv2d(3, width, 3, padding="SAME", key=next(keys))
        sizes = [width, *(width * 2**stage for stage in range(4) for _ in range(blocks))]
        self.blocks = [
            ResidualBlock(n_in, n_out, 2 if n_out > n_in else 1, next(keys))
            for n_in, n_out in itertools.pairwise(sizes)
        ]
        self.head = eqx.nn.Linear(sizes[-1], 10, key=next(keys))

    def __call__(self, x):
        x = jax.nn.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


def resnet(small: bool) -> Model:
    width, blocks, examples, side = (8, 1, 1, 16) if small else (64, 2, 2, 32)
    batch = normal(1, examples, 3, side, side), labels(2, 10, examples)
    return Model(ResNet(width, blocks, key(0)), classification, batch)


class TransformerBlock(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    norms: list[eqx.nn.LayerNorm]

    def __init__(self, width: int, key: jax.Array):
        first, second = jax.random.split(key)
        self.attention = eqx.nn.MultiheadAttention(4, width, key=first)
        self.mlp = eqx.nn.MLP(width, width, 4 * width, 1, jax.nn.gelu, key=second)
        self.norms = [eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)]

    def __call__(self, x):
        is_past = jnp.tril(jnp.ones((len(x), len(x)), bool))
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y, mask=is_past)
        return x + jax.vmap(lambda y: self.mlp(self.norms[1](y)))(x)


class Transformer(eqx.Module):
    """A decoder, which predicts the next token."""

    embedding: eqx.nn.Embedding
    blocks: list[TransformerBlock]
    head: eqx.nn.Linear

    def __init__(self, tokens: int, width: int, depth: int, key: jax.Array):
        first, last, *keys = jax.random.split(key, depth + 2)
        self.embedding = eqx.nn.Embedding(tokens, width, key=first)
        self.blocks = [TransformerBlock(width, key) for key in keys]
        self.head = eqx.nn.Linear(width, tokens, key=last)

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.head)(x)


def transformer(small: bool) -> Model:
    width, depth, length = (16, 2, 8) if small else (64, 12, 32)
    tokens = labels(1, 64, 4, length + 1)
    batch = tokens[:, :-1], tokens[:, 1:]
    return Model(Transformer(64, width, depth, key(0)), classification, batch)


class Recurrent(eqx.Module):
    """A network with a gated recurrent unit, which predicts a number from a sequence."""

    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __init__(self, n_in: int, width: int, key: jax.Array):
        first, second = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(n_in, width, key=first)
        self.head = eqx.nn.Linear(width, 8, key=second)

    def __call__(self, xs):
        def step(hidden, x):
            return self.cell(x, hidden), None

        hidden, _ = jax.lax.scan(step, jnp.zeros(self.cell.hidden_size), xs)
        return self.head(hidden)


def recurrent(small: bool) -> Model:
    width, length = (8, 16) if small else (64, 256)
    batch = normal(1, 8, length, 4), labels(2, 8, 8)
    return Model(Recurrent(4, width, key(0)), classification, batch)


MODELS: dict[str, Callable[[bool], Model]] = {
    "MLP": mlp,
    "ResNet-18": resnet,
    "12-layer transformer": transformer,
    "256-step GRU": recurrent,
}


def classification(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    outputs = jax.vmap(model)(x)
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(outputs, y))


def key(seed: int) -> jax.Array:
    return jax.random.key(seed)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(key(seed), shape)


def labels(seed: int, most: int, *shape: int) -> jax.Array:
    return jax.random.randint(key(seed), shape, 0, most)


def step(
    model: Any,
    loss: Callable[..., jax.Array],
    batch: tuple[jax.Array, ...],
    optimizer: optax.GradientTransformation,
    spec: Any = sl.inexact,
    *,
    donate: bool = False,
) -> Cases:
    """Writes the training step of a model in each style.

    Args:
        model: A model of Equinox layers.
        loss: Its loss: a function of the model and a batch.
        batch: The batch.
        optimizer: By Optax.
        spec: What of the model to train, as a lens.
        donate: Whether the step may reuse the memory of the model and the optimizer.

    Returns:
        The step by hand, over flat lists of arrays; and by statelens, in both styles.
    """
    lens = sl.lens(spec)
    arrays, static = eqx.partition(model, eqx.is_array)
    mask = lens.mask(model)
    begin = optimizer.init(eqx.filter(model, mask))
    leaves, treedef = jax.tree.flatten((arrays, begin))

    def by_hand(leaves, *batch):
        arrays, memory = treedef.unflatten(leaves)
        focus, rest = eqx.partition(eqx.combine(arrays, static), mask)
        value, gradients = jax.value_and_grad(lambda f: loss(eqx.combine(f, rest), *batch))(focus)
        updates, memory = optimizer.update(gradients, memory, focus)
        arrays = eqx.filter(eqx.combine(eqx.apply_updates(focus, updates), rest), eqx.is_array)
        return value, jax.tree.leaves((arrays, memory))

    def functional(model, memory, *batch):
        gradients, value = sl.grad(loss, lens, return_value=True)(model, *batch)
        updates, memory = optimizer.update(gradients, memory, lens.partition(model)[0])
        return value, lens.apply_updates(model, updates), memory

    holder = Holder(model)
    params = holder.states(sl.lens("model") / lens)
    memory = sl.State(optimizer.init(params.values_dict()))

    def facade(*batch):
        objective = sl.grad(lambda: loss(holder.model, *batch), params, return_value=True)
        gradients, value = objective()
        values = params.values_dict()
        updates, memory.value = optimizer.update(gradients, memory.value, values)
        params.assign(optax.apply_updates(values, updates))
        return value

    jitted = (
        jax.jit(by_hand, donate_argnums=0 if donate else ()),
        sl.jit(functional, donate_argnums=(0, 1) if donate else ()),
        sl.jit(facade, donate_states=donate),
    )
    return {
        HAND: Case(jitted[0], (leaves, *batch)),
        FUNCTIONAL: Case(jitted[1], (model, begin, *batch)),
        FACADE: Case(jitted[2], batch, lambda: (holder.model, memory.value)),
    }


def train_steps(work: str, transformation: optax.GradientTransformation) -> dict[str, Call]:
    """Makes calls of a training step of a model: by hand, by `train_step`, and by Equinox."""
    model, loss, batch = MODELS[work](False)
    holder = Holder(model)
    params = holder.states(sl.trainable)
    stateful = sl.optim.Optimizer(transformation, params)
    of_states = sl.optim.train_step(
        lambda *batch: loss(holder.model, *batch), stateful, donate=False
    )
    functional = sl.optim.Optimizer(transformation, sl.trainable)
    of_tree = sl.optim.train_step(loss, functional, donate=False)

    @eqx.filter_jit
    def filtered(model, memory, *batch):
        value, gradients = eqx.filter_value_and_grad(loss)(model, *batch)
        arrays = eqx.filter(model, eqx.is_inexact_array)
        updates, memory = transformation.update(gradients, memory, arrays)
        return value, eqx.apply_updates(model, updates), memory

    def loss_first(model, memory, *batch):
        model, memory, value = of_tree(model, memory, *batch)
        return value, model, memory

    memory = transformation.init(eqx.filter(model, eqx.is_inexact_array))
    return {
        HAND: step(model, loss, batch, transformation)[HAND].stepper(),
        FUNCTIONAL: training(loss_first, loss, model, functional.init(model), *batch).step,
        FACADE: lambda: of_states(*batch),
        "Equinox, filter_jit": training(filtered, loss, model, memory, *batch).step,
    }


class Holder(sl.nn.Module):
    """A module by whose attribute a model is held."""

    def __init__(self, model):
        super().__init__()
        self.model = model
