"""The facade's module: a mutable object that is a pytree all the same."""

from ._init_states import init_all_states
from ._mode import inference_mode
from ._module import Module

__all__ = ["Module", "inference_mode", "init_all_states"]
