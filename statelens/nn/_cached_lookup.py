"""What was found by looking at a module, kept for as long as the module is what it was."""

import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

from ..state import Frame, Reads, active_frame


def active_reads() -> Reads | None:
    """Returns where the running trace records what it reads."""
    frame = active_frame.get()
    return None if frame is None else frame.reads


class CachedLookup:
    """What a look at a module found, for as long as another one would find the same."""

    # To find a module's states takes a walk over all of it, and programs ask for one at a time.

    def __init__(self, find: Callable[[], Any]):
        self._reads = Reads()
        outer = active_reads()
        try:
            frame = Frame(reads=self._reads)
            with closing(frame), frame:
                self.found = find()
        finally:
            if outer is not None:
                outer.update(self._reads)
        self._outer = None if outer is None else weakref.ref(outer)
        self._is_good = self._reads.are_exhaustive()

    def is_valid(self) -> bool:
        """Says whether another look would find the same, and is recorded already."""
        reads = self._reads
        if not (self._is_good and reads.attributes_unchanged() and reads.containers_unchanged()):
            return False
        outer = active_reads()
        return outer is None or (self._outer is not None and self._outer() is outer)
