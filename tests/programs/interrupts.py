"""An interrupt at a chosen place: before the n-th instruction of this library that Python runs."""

import pathlib
import sys

import statelens

LOCKS = {"_lock", "_splitting"}
OURS = str(pathlib.Path(statelens.__file__).parent)


class InterruptAt:
    """Interrupts what runs in its block before the n-th instruction; counts them without one.

    JAX's own instructions aren't counted: a trace of JAX's that is cut short may leave JAX
    itself in pieces.

    Attributes:
        count: How many instructions there were.
        has_come: Whether the interrupt did.
    """

    def __init__(self, number=None):
        self._number = number
        self.count = 0
        self.has_come = False

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, kind, *_):
        sys.settrace(self._before)
        return self.has_come  # where it passes through JAX, another error may have taken its place

    def _enter(self, frame, event, arg):
        code = frame.f_code
        # A trace function may interrupt between the taking of a lock and its block, where no
        # signal can: the lock would be taken for ever.
        if not code.co_filename.startswith(OURS) or not LOCKS.isdisjoint(code.co_names):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame, event, arg):
        if event == "opcode":
            self.count += 1
            if self.count - 1 == self._number:
                self.has_come = True
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._step
