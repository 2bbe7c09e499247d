"""Compilation: `jit`, with the states that a function touches as inputs of its program."""

from ._jit import jit
from ._jitted import JitFunction, TouchedStates
