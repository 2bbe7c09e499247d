"""Models small enough that every library writes them in a few lines, with data and a loss."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

Layer = Callable[[Any], Any]

ADAM = optax.adam(1e-3)


class Problem(NamedTuple):
    """A model, data and a loss.

    Attributes:
        layers: The bias and the weight of each layer.
        forward: The prediction, given the layers as functions, and the input.
        x: The input.
        y: What should be predicted.
        loss: A scalar, given the prediction and `y`.
        rate: How far a step of gradient descent goes.
    """

    layers: list[tuple[np.ndarray, np.ndarray]]
    forward: Callable[[Sequence[Layer], Any], Any]
    x: Any
    y: Any
    loss: Callable[[Any, Any], Any]
    rate: float = 0.01


def small_parameters(count: int) -> Problem:
    """So many parameters of four numbers, each used once.

    The loss is linear: of another one XLA would compute the whole sum again for each gradient,
    and there should be next to nothing to compute, so that overhead shows.
    """
    random = np.random.default_rng(0)
    layers = [(_normal(random, 4), _normal(random, 4)) for _ in range(count // 2)]
    x, y = jnp.asarray(_normal(random, 4)), jnp.asarray(_normal(random, 4))
    return Problem(layers, total, x, y, product)


def perceptron(*widths: int, examples: int = 8) -> Problem:
    """A multi-layer perceptron; with two widths it is linear regression."""
    random = np.random.default_rng(0)
    layers = [
        (np.zeros(n_out, np.float32), _normal(random, n_in, n_out) / np.float32(n_in) ** 0.5)
        for n_in, n_out in itertools.pairwise(widths)
    ]
    x, y = _normal(random, examples, widths[0]), _normal(random, examples, widths[-1])
    return Problem(layers, chain, jnp.asarray(x), jnp.asarray(y), squared_error)


def affine(bias: Any, weight: Any, x: Any) -> Any:
    """What a layer does: by element, or by matrix."""
    return (x * weight if weight.ndim == 1 else x @ weight) + bias


def total(layers: Sequence[Layer], x: Any) -> Any:
    return sum(layer(x) for layer in layers)


def chain(layers: Sequence[Layer], x: Any) -> Any:
    *hidden, last = layers
    for layer in hidden:
        x = jnp.tanh(layer(x))
    return last(x)


def squared_error(prediction: Any, y: Any) -> Any:
    return jnp.mean((prediction - y) ** 2)


def product(prediction: Any, y: Any) -> Any:
    return jnp.sum(prediction * y)


def _normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)
