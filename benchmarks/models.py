"""Models of a size that people train, of Equinox layers, and their training step in each style."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax

import statelens as sl

from .cases import FACADE, FUNCTIONAL, HAND, Case, Cases


def step(
    model: Any,
    loss: Callable[..., jax.Array],
    batch: tuple[jax.Array, ...],
    optimizer: optax.GradientTransformation,
    spec: Any = sl.inexact,
) -> Cases:
    """Writes the training step of a model in each style.

    Args:
        model: A model of Equinox layers.
        loss: Its loss: a function of the model and a batch.
        batch: The batch.
        optimizer: By Optax.
        spec: What of the model to train, as a lens.

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

    return {
        HAND: Case(jax.jit(by_hand), (leaves, *batch)),
        FUNCTIONAL: Case(sl.jit(functional), (model, begin, *batch)),
        FACADE: Case(sl.jit(facade), batch, lambda: (holder.model, memory.value)),
    }


class Holder(sl.nn.Module):
    """A module by whose attribute a model is held."""

    def __init__(self, model):
        super().__init__()
        self.model = model
