"""The facade's module: a mutable object that is a pytree all the same."""

from ._module import Module

__all__ = ["Module"]
