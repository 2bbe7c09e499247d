"""One module for each library, with a function for each work that the library can do.

``steps(problem, donate=False)``
    A jitted step of gradient descent; a call gives the loss.
``evaluations(problem)``
    A jitted prediction.
``trainings(problem)``
    A `Training` by Optax's Adam, jitted.
``gradients(problem)``
    The value and the gradient, eagerly; a call gives ``(value, gradients)``.
``first_calls(problem)``
    A `FirstCall` of a jitted step.
``derivatives(problem, compiled)``
    Calls by the derivative's name: ``jacrev`` of the prediction, ``vjp`` at its output,
    ``hessian`` of the loss, ``hvp`` at the parameters themselves.

Each takes a `Problem` and gives calls by name, since a library may have several ways; all start
at the same values. Parameters come as layers of a bias and a weight in all of them, so that
what they give has the same leaves in the same order.
"""

import importlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from ..calls import Call, checked
from ..settings import Settings

BASELINE = "jax.jit, flat list"
OURS = ("jax_flat", "facade", "functional")
PEERS = {
    "equinox_": "Equinox",
    "nnx": "NNX",
    "brainstate_": "brainstate",
    "penzai_": "Penzai",
}


def asked(work: str, *args: Any, settings: Settings, **options: Any) -> dict[str, Any]:
    """Asks every library that is installed for a work; what they give is by name."""
    return _answers(adapters(settings), work, *args, **options)


def remade(work: str, *args: Any, **options: Any) -> Iterator[dict[str, Call]]:
    """Makes states' calls again, and those by hand; now the one first, and now the other."""
    pair = list(_installed(("jax_flat", "facade")))
    while True:
        yield checked(_answers(pair, work, *args, **options))
        pair.reverse()


def adapters(settings: Settings) -> Iterator[ModuleType]:
    return _installed((*OURS, *PEERS) if settings.peers else OURS)


def not_installed() -> list[str]:
    """Gives the names of the libraries that aren't there."""
    found = {adapter.__name__.rpartition(".")[2] for adapter in _installed(PEERS)}
    return [name for module, name in PEERS.items() if module not in found]


def _answers(adapters: Iterable[ModuleType], work: str, *args: Any, **options: Any) -> dict:
    answers: dict[str, Any] = {}
    for adapter in adapters:
        if hasattr(adapter, work):
            answers |= getattr(adapter, work)(*args, **options)
    return answers


def _installed(names: Iterable[str]) -> Iterator[ModuleType]:
    for name in names:
        try:
            yield importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("statelens", "benchmarks"):
                raise
