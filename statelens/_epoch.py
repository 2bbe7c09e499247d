"""A count of changes after which a compiled function may have to look again.

A state or module that is made, and an attribute of a module that is set, may change what a
function reaches. While the count stands still nothing of the kind has happened, and compiled
functions need not look.
"""


class Epoch:
    """The count.

    Attributes:
        now: What it stands at.
    """

    def __init__(self) -> None:
        self.now = 0

    def advance(self) -> None:
        """Counts one change."""
        self.now += 1


epoch = Epoch()
