"""What was found by looking at a module, kept for as long as the module is what it was.

To find a module's states takes a walk over all of it. Who asks for them one by one should not
walk anew each time, and still never be given what was there before.
"""

import weakref
from collections.abc import Callable
from typing import Any

from ..state import Frame, Reads, active_frame


class Kept:
    """What a look at a module has found.

    Args:
        look: Looks.

    Attributes:
        found: What it has found.
    """

    def __init__(self, look: Callable[[], Any]):
        self._reads = Reads()
        outer = _outer_reads()
        try:
            with Frame({}, {}, reads=self._reads):
                self.found = look()
        finally:
            if outer is not None:
                outer.update(self._reads)
        self._noted = _nowhere if outer is None else weakref.ref(outer)
        self._is_good = self._reads.are_exhaustive()

    def holds(self) -> bool:
        """Says whether a new look would find the same, and be noted where it is noted already."""
        if not (self._is_good and self._reads.is_current and self._reads.containers_unchanged()):
            return False
        outer = _outer_reads()
        return outer is None or self._noted() is outer


def _nowhere() -> Reads | None:
    return None


def _outer_reads() -> Reads | None:
    frame: Any = active_frame.get()
    return None if frame is None else frame.reads
