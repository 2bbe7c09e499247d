"""State-aware automatic differentiation for JAX.

The layers, from the bottom up; each file knows its own layer and those below it:

==================  =====================================================================
``_cell``           what lenses know of states (``_errors``: every error there is)
``_reads``          what a trace has read of mutable modules
``path``            paths: from JAX key paths, to text and back (``_scan``)
``_pattern``        which paths a written pattern matches
``_outline``        large trees of a known structure, flattened sooner (``_positions``: moved)
``_units``          what a tree is made of: cells, arrays, parts of arrays
``_picks``          how much of a unit is selected, and the algebra of that
``_select``         what a lens can select by (``_accessor``, ``_grammar``: and as text)
``_selection``      a selection in a whole tree, computed once for each structure
``_halves``         taking a tree apart, putting it together (``_values``: each value)
``_spec``           what may be written where a lens is meant (``_resolve``: its errors)
``_bound``          a lens with its live cells, views (``_given``: states given by hand)
``lens``            the lens and its operations
``_predicates``     ready-made lenses (``_groups``, ``_tie``, ``_diff``: built on lenses)
``state``           `State` and its kinds (``_trace``, ``_active``, ``_held``: its value, and where)
``random``          the key as a state (``_sampler``, ``_samplers``: `jax.random` over it)
``thread``          `functionalize`, `thread`, `overlay` (``_frames``: what they stand on)
``transform``       derivatives, compilation, control flow, batching, checks
``nn``              the facade: `nn.Module` (``_graph``: as pytrees; ``_kept``: looks at them)
==================  =====================================================================
"""

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
from .state import (
    BatchState,
    HiddenState,
    LongTermState,
    ParamState,
    ShortTermState,
    State,
    params,
)
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
