"""States: mutable cells, the frames that lie over them, and what a trace has read.

A state's value is stored in one place and read through the innermost open frame. A frame holds
what a traced function writes, until its transform has succeeded and commits it. What a trace has
read of mutable modules is recorded, so that a program is known to be stale when that changes.
"""

from ._context import active_frame, living_frames, own, owned
from ._dependencies import Reads, epoch
from ._frame import NO_WRITES, Captured, Frame, Writes, capture, this_frame
from ._state import (
    BatchState,
    HiddenState,
    LongTermState,
    ParamState,
    ShortTermState,
    State,
    is_alive,
    params,
    peek,
    refuse_ended,
)
from ._storage import ENDED, Deferred, Holding, held_value, moves, moving, store_all, store_arrays
from ._trace import TOP, concrete_types, current_trace, has_tracers, is_concrete

__all__ = [
    "ENDED",
    "NO_WRITES",
    "TOP",
    "BatchState",
    "Captured",
    "Deferred",
    "Frame",
    "HiddenState",
    "Holding",
    "LongTermState",
    "ParamState",
    "Reads",
    "ShortTermState",
    "State",
    "Writes",
    "active_frame",
    "capture",
    "concrete_types",
    "current_trace",
    "epoch",
    "has_tracers",
    "held_value",
    "is_alive",
    "is_concrete",
    "living_frames",
    "moves",
    "moving",
    "own",
    "owned",
    "params",
    "peek",
    "refuse_ended",
    "store_all",
    "store_arrays",
    "this_frame",
]
