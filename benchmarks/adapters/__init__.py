"""What every library is asked to do, and what came of asking.

An adapter is a module for one library, with a function for each work that the library can do:

``steps(problem, donate=False)``
    A jitted step of gradient descent; a call gives the loss.
``evaluations(problem)``
    A jitted prediction.
``gradients(problem)``
    The value and the gradient, eagerly; a call gives ``(value, gradients)``.
``first_calls(problem)``
    A jitted step that was never called; a call gives a new `FirstCall`.
``derivatives(problem, compiled)``
    Calls by the derivative's name: ``jacrev`` of the prediction, ``vjp`` at its output,
    ``hessian`` of the loss, ``hvp`` at the parameters themselves.

Each takes a `Problem` and gives calls by name, since a library may have several ways; all start
at the same values. Parameters come as layers of a bias and a weight in all of them, so that
what they give has the same leaves in the same order.
"""

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Call = Callable[[], Any]
Layer = Callable[[Any], Any]

BASELINE = "jax.jit, flat list"
ADAPTERS = {
    "jax_flat": BASELINE,
    "jax_dict": "jax.jit, nested dict",
    "statelens_facade": "statelens",
    "statelens_functional": "statelens, unbound lens",
    "equinox_": "Equinox",
    "nnx": "NNX",
    "brainstate_": "brainstate",
    "penzai_": "Penzai",
}


class Problem(NamedTuple):
    """A model, data and a loss.

    Attributes:
        layers: The bias and the weight of each layer.
        forward: The prediction, given the layers as functions, and the input.
        x: The input.
        y: What should be predicted.
        loss: A scalar, given the prediction and `y`.
        rate: How far a step goes.
    """

    layers: list[tuple[np.ndarray, np.ndarray]]
    forward: Callable[[Sequence[Layer], Any], Any]
    x: Any
    y: Any
    loss: Callable[[Any, Any], Any]
    rate: float = 0.01


class FirstCall(NamedTuple):
    """A jitted step that was never called.

    Attributes:
        lower: Traces and lowers it.
        run: Calls it; gives the loss.
    """

    lower: Call
    run: Call


def affine(bias: Any, weight: Any, x: Any) -> Any:
    """What a layer does: by element, or by matrix."""
    return (x * weight if weight.ndim == 1 else x @ weight) + bias


def total(layers: Sequence[Layer], x: Any) -> Any:
    return sum(layer(x) for layer in layers)


def chain(layers: Sequence[Layer], x: Any) -> Any:
    """A multi-layer perceptron."""
    *hidden, last = layers
    for layer in hidden:
        x = jnp.tanh(layer(x))
    return last(x)


def squared_error(prediction: Any, y: Any) -> Any:
    return jnp.mean((prediction - y) ** 2)


def product(prediction: Any, y: Any) -> Any:
    return jnp.sum(prediction * y)


def small_parameters(count: int) -> Problem:
    """So many parameters of four numbers, each used once.

    The loss is linear: of another one XLA would compute the whole sum anew for each gradient,
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


def _normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def threaded(step: Callable[..., Any], tree: Any, *batch: Any) -> Call:
    """Gives a call of ``step(tree, *batch) -> (loss, tree)`` that keeps the tree for the next."""

    def call() -> Any:
        nonlocal tree
        loss, tree = step(tree, *batch)
        return loss

    return call


def asked(
    work: str, *args: Any, of: Iterable[str] = tuple(ADAPTERS), **kwargs: Any
) -> dict[str, Any]:
    """Asks every library that is installed for a work; what they give is by name.

    Args:
        work: What the adapters call it.
        *args: What they take.
        of: The adapters, in the order in which they are asked.
        **kwargs: What they take by name.
    """
    answers: dict[str, Any] = {}
    for adapter in _installed(of):
        if hasattr(adapter, work):
            answers |= getattr(adapter, work)(*args, **kwargs)
    return answers


def remade(work: str, *args: Any, **kwargs: Any) -> Iterator[dict[str, Call]]:
    """Makes what is judged anew, and what it is compared with; now one first, and now the other."""
    order = "jax_flat", "statelens_facade"
    while True:
        yield checked(asked(work, *args, of=order, **kwargs))
        order = order[::-1]


def asked_by_name(work: str, *args: Any) -> dict[str, dict[str, Call]]:
    """As `asked`, for a work of several: first by the name of each, then by the library."""
    answers: dict[str, dict[str, Call]] = {}
    for adapter in _installed():
        if hasattr(adapter, work):
            for name, calls in getattr(adapter, work)(*args).items():
                answers[name] = answers.get(name, {}) | calls
    return answers


def not_installed() -> list[str]:
    """Gives the names of the libraries that aren't there."""
    found = {adapter.__name__.rpartition(".")[2] for adapter in _installed()}
    return [name for module, name in ADAPTERS.items() if module not in found]


def _installed(adapters: Iterable[str] = tuple(ADAPTERS)) -> Iterator[ModuleType]:
    for module in adapters:
        try:
            yield importlib.import_module(f"{__name__}.{module}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("statelens", "benchmarks"):
                raise


def checked(calls: dict[str, Call], repeats: int = 3) -> dict[str, Call]:
    """Gives calls as they are, once they have all given the same as the first."""
    results = {
        name: [jax.tree.leaves(call()) for _ in range(repeats)] for name, call in calls.items()
    }
    first, *others = results
    for other in others:
        for mine, theirs in zip(results[other], results[first], strict=True):
            if len(mine) != len(theirs):
                raise ValueError(f"{other} gives {len(mine)} arrays, and {first} {len(theirs)}")
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(a, b, 1e-4, 1e-6, err_msg=f"{other} and {first}")
    return calls
