"""The one mechanism that every transform stands on.

A function is run purely: its arguments split into traced and static halves, its states found by
looking and by running, its writes taken out as outputs. What differs from transform to transform
lies in the other rooms.
"""

from ._assembly import has_modules
from ._carry import are_alike, check_carry, check_kept, commit, kinds, run, states_before
from ._discovery import Attempt, UndeclaredStates, discover
from ._methods import BoundMethod, Method, after_self
from ._module_cache import get, is_seen_tuple, is_tuple
from ._options import (
    Choice,
    applied,
    check_callable,
    parse_argnames,
    parse_argnums,
    parse_count,
    positions_of,
    read_lens,
)
from ._reachable import call_of, closed_over, innermost, is_foreign, labels_of, reachable, unwrapped
from ._run import finished, name_of, prepared, pure, staged, staged_value, staged_writes, states_in
from ._runtime_errors import (
    PROGRAM_ERRORS,
    can_raise,
    forget_errors,
    refuse_shared_arrays,
    remembering,
    reraise,
)
from ._source import Source, tuple_of
from ._static import (
    Partitioned,
    Static,
    as_partitioned,
    constants,
    merge_static,
    returned,
    split_numbers,
    split_static,
)
from ._tree_difference import children_of, describe_difference, described, written
from ._wrapper import Wrapper

__all__ = [
    "PROGRAM_ERRORS",
    "Attempt",
    "BoundMethod",
    "Choice",
    "Method",
    "Partitioned",
    "Source",
    "Static",
    "Undeclared",
    "Wrapper",
    "after_self",
    "apart",
    "applied",
    "are_alike",
    "call_of",
    "can_raise",
    "check_carry",
    "check_kept",
    "children_of",
    "closed_over",
    "commit",
    "constants",
    "contrast",
    "count",
    "described",
    "finished",
    "forget_errors",
    "function",
    "has_modules",
    "innermost",
    "is_foreign",
    "is_seen_tuple",
    "is_tuple",
    "kinds",
    "labels_of",
    "mixed",
    "name_of",
    "names",
    "packed",
    "positions",
    "positions_of",
    "prepared",
    "pure",
    "reachable",
    "read_lens",
    "recall",
    "refuse_shared_arrays",
    "remembering",
    "reraise",
    "returned",
    "run",
    "settle",
    "staged",
    "staged_value",
    "staged_writes",
    "states_before",
    "states_in",
    "tuple_of",
    "unmixed",
    "unwrapped",
    "written",
]
