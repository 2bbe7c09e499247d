"""Random numbers: the key is the value of a state, and every draw replaces it."""

from typing import TYPE_CHECKING

from . import _random_state
from ._random_state import (
    DEFAULT,
    RandomState,
    as_key,
    clone_rng,
    default_rng,
    fork,
    get_key,
    seed,
    seed_context,
    set_key,
    split_key,
    split_keys,
)
from ._samplers import SAMPLERS

if TYPE_CHECKING:
    from ._random_state import __getattr__ as __getattr__

__all__ = [
    "DEFAULT",
    "RandomState",
    "as_key",
    "clone_rng",
    "default_rng",
    "fork",
    "get_key",
    "seed",
    "seed_context",
    "set_key",
    "split_key",
    "split_keys",
]
__all__ += SAMPLERS  # pyright: ignore[reportUnsupportedDunderAll]
globals().update({name: getattr(_random_state, name) for name in SAMPLERS})
