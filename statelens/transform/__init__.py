"""Transforms that know of states: each selects, threads and gives back; JAX computes."""

from ._grad import grad, value_and_grad
from ._gradient import GradientTransform

__all__ = ["GradientTransform", "grad", "value_and_grad"]
