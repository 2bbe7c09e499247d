"""An interrupt at a chosen place: before the n-th instruction that Python runs."""

import sys


class Interrupt(KeyboardInterrupt):
    """Stands for a Ctrl-C."""


class InterruptAt:
    """Interrupts what runs in its block before the n-th instruction, if there are as many.

    Attributes:
        has_come: Whether it did.
    """

    def __init__(self, number):
        self._left = number
        self.has_come = False

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, kind, *_):
        sys.settrace(self._before)
        return self.has_come  # JAX raises another error in its place at times

    def _enter(self, frame, event, arg):
        if frame.f_code is InterruptAt.__exit__.__code__:
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame, event, arg):
        if event == "opcode":
            self._left -= 1
            if self._left < 0 and not self.has_come:
                self.has_come = True
                sys.settrace(None)
                raise Interrupt
        return self._step
