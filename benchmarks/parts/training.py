"""Training steps by `statelens.optim.train_step` and Adam, beside hand-written ones.

Perceptrons are of a size where what a library does between programs still counts.
"""

from collections.abc import Iterator

import optax

from ..adapters import BASELINE, asked
from ..calls import checked
from ..cases import HAND
from ..compare import compare
from ..models import train_steps
from ..problems import perceptron
from ..rows import Row
from ..settings import Settings

TITLE = "an MLP of so many layers of 64, batch of 32, by Adam; to jax.jit over flat lists"


def rows(settings: Settings) -> Iterator[Row]:
    yield from _measured("training and evaluation in turns", 5, settings)
    for layers in (3, 5, 10):
        yield from _measured("training step", layers, settings)
    for work in ("MLP", "12-layer transformer"):
        calls = checked(train_steps(work, optax.adam(1e-3)))
        yield from compare("training", f"training step, {work}", calls, HAND, settings=settings)


def _measured(work: str, layers: int, settings: Settings) -> Iterator[Row]:
    problem = perceptron(*[64] * (layers + 1), examples=32)
    trainings = asked("trainings", problem, settings=settings)
    calls = checked({name: training.in_turns for name, training in trainings.items()})
    if work == "training step":
        calls = {name: training.step for name, training in trainings.items()}
    yield from compare("training", work, calls, BASELINE, settings=settings, size=layers)
