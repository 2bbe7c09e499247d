"""States: mutable cells, the frames that lie over them, and what a trace has read.

A state's value is stored in one place and read through the innermost open frame. A frame holds
what a traced function writes, until its transform has succeeded and commits it. What a trace has
read of mutable modules is recorded, so that a program is known to be stale when that changes.
"""

from ._contents import ALL_FIELDS, Link
from ._context import (
    TOP,
    active_frame,
    concrete_types,
    current_trace,
    has_tracers,
    is_concrete,
    this_frame,
)
from ._dependencies import Readers, Reads
from ._frame import Captured, Frame, Writes, capture, record_reads
from ._kinds import (
    BatchState,
    HiddenState,
    LongTermState,
    ParamState,
    ShortTermState,
    params,
    trainable,
)
from ._lent import this_thread
from ._ownership import own, owned
from ._plain_jax import explain_untouched, run_in_own_trace
from ._refusals import refuse_ended
from ._state import State, copied, is_alive, peek, store_all
from ._storage import ENDED, LazyValue
from ._unfinished import UNFINISHED, refuse_unfinished

__all__ = [
    "BatchState",
    "HiddenState",
    "LongTermState",
    "ParamState",
    "ShortTermState",
    "State",
    "params",
    "trainable",
]
