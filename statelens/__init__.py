"""State-aware automatic differentiation for JAX."""

from . import nn, path, random, transform
from ._bound import BoundLens, View
from ._diff import diff
from ._errors import (
    ArgumentError,
    ArgumentTypeError,
    DifferentiationError,
    FrozenTreeError,
    MissingPackageError,
    NonFiniteError,
    PathError,
    PatternError,
    RetraceError,
    SelectionError,
    StateLensError,
    StateTypeError,
    StructureError,
    TracerLeakError,
    UntouchedStateError,
)
from ._groups import groups
from ._halves import combine
from ._predicates import arrays, at, dtype, inexact, name, ndim, size, tagged
from ._tie import tie
from .lens import Lens, lens, partition
from .state import BatchState, HiddenState, LongTermState, ParamState, ShortTermState, State, params
from .thread import functionalize, overlay, thread
from .transform import grad, jit, value_and_grad

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BatchState",
    "BoundLens",
    "DifferentiationError",
    "FrozenTreeError",
    "HiddenState",
    "Lens",
    "LongTermState",
    "MissingPackageError",
    "NonFiniteError",
    "ParamState",
    "PathError",
    "PatternError",
    "RetraceError",
    "SelectionError",
    "ShortTermState",
    "State",
    "StateLensError",
    "StateTypeError",
    "StructureError",
    "TracerLeakError",
    "UntouchedStateError",
    "View",
    "arrays",
    "at",
    "combine",
    "diff",
    "dtype",
    "functionalize",
    "grad",
    "groups",
    "inexact",
    "jit",
    "lens",
    "name",
    "ndim",
    "nn",
    "overlay",
    "params",
    "partition",
    "path",
    "random",
    "size",
    "tagged",
    "thread",
    "tie",
    "transform",
    "value_and_grad",
]
