"""Lenses on large trees."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np

import statelens as sl

from ..compare import compare
from ..rows import Row
from ..settings import Settings

TITLE = "a lens on a tree of so many leaves, to jax.tree.flatten and unflatten"

BASELINE = "flatten, unflatten"


def rows(settings: Settings) -> Iterator[Row]:
    for size in (1_000, 10_000) if settings.quick else (10_000, 100_000):
        for work, calls in _works(_tree(size)).items():
            yield from compare("lenses", work, calls, BASELINE, settings=settings, size=size)


def _tree(size: int) -> Any:
    pairs = np.zeros((size // 2, 2, 1), np.float32)
    return {"layers": [{"bias": bias, "weight": weight} for bias, weight in pairs]}


def _works(tree: Any) -> dict[str, dict[str, Callable[[], Any]]]:
    weights = sl.lens("layers[*].weight")
    values = weights.get(tree)
    halves = weights.partition(tree)
    is_weight = weights.mask(tree)
    numbers = itertools.count()

    def new_lens() -> Any:
        """Selects by a pattern that wasn't used before."""
        return sl.lens(f"layers[*].{{weight,other{next(numbers)}}}").partition(tree)

    def flattened() -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return jax.tree.unflatten(structure, leaves)

    works: dict[str, dict[str, Callable[[], Any]]] = {
        "first use": {"statelens": new_lens},
        "partition": {
            "statelens": lambda: weights.partition(tree),
            "Equinox": lambda: eqx.partition(tree, is_weight),
        },
        "combine": {
            "statelens": lambda: sl.combine(*halves),
            "Equinox": lambda: eqx.combine(*halves),
        },
        "get": {"statelens": lambda: weights.get(tree)},
        "set": {"statelens": lambda: weights.set(tree, values)},
        "update": {"statelens": lambda: weights.update(tree, lambda value: value)},
    }
    return {
        work: {name: _dropped(call) for name, call in {BASELINE: flattened, **calls}.items()}
        for work, calls in works.items()
    }


def _dropped(call: Callable[[], Any]) -> Callable[[], None]:
    """Makes a call give nothing: to look for arrays to wait for would cost more than the call."""

    def dropped() -> None:
        call()

    return dropped
