"""How long to measure, and what."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long to measure, and what.

    Attributes:
        quick: Whether a rough look is enough.
        peers: Whether other libraries are measured too.
        sizes: The numbers of small parameters to measure at.
        rounds: How many rounds a comparison has; as many again, where they don't tell enough.
        seconds: How long a candidate is run in a round; a few times, where that isn't slow.
        precision: To what fraction of itself each ratio must be known.
        budget: After how many seconds a comparison begins no other round; it has three at least.
        makes: How often candidates are made again, where that is possible; at least twice.
    """

    quick: bool = False
    peers: bool = True
    sizes: tuple[int, ...] = (10, 100, 1_000)
    rounds: int = 81
    seconds: float = 0.005
    precision: float = math.inf
    budget: float = 30.0
    makes: int = 16

    def longer(self) -> "Settings":
        """Gives settings for what is judged: a target may be less than what medians differ by."""
        if self.quick:
            return dataclasses.replace(self, rounds=5 * self.rounds)
        return dataclasses.replace(self, precision=0.002, budget=4 * self.budget)


QUICK = Settings(quick=True, sizes=(10, 100), rounds=5, seconds=0.002, budget=2.0, makes=2)
