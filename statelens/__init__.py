"""State-aware automatic differentiation for JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from . import _jax_version, nn, path, random, transform
from ._errors import (
    ArgumentError,
    ArgumentTypeError,
    DifferentiationError,
    EndedFrameError,
    FrozenTreeError,
    MissingPackageError,
    NonFiniteError,
    PathError,
    PatternError,
    RetraceError,
    SelectionError,
    StaleStateWarning,
    StateLensError,
    StateTypeError,
    StructureError,
    TracerLeakError,
    UntouchedStateError,
)
from .lens import (
    BoundLens,
    Lens,
    View,
    arrays,
    at,
    combine,
    diff,
    dtype,
    groups,
    inexact,
    lens,
    name,
    ndim,
    partition,
    size,
    tagged,
    tie,
)
from .state import (
    BatchState,
    HiddenState,
    LongTermState,
    ParamState,
    ShortTermState,
    State,
    params,
    trainable,
)
from .thread import functionalize, overlay, thread
from .transform import grad, jit, value_and_grad

if TYPE_CHECKING:
    from . import optim

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports what needs Optax when it is asked for: that takes as long as all else."""
    if name == "optim":
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BatchState",
    "BoundLens",
    "DifferentiationError",
    "EndedFrameError",
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
    "StaleStateWarning",
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
    "optim",
    "overlay",
    "params",
    "partition",
    "path",
    "random",
    "size",
    "tagged",
    "thread",
    "tie",
    "trainable",
    "transform",
    "value_and_grad",
]
