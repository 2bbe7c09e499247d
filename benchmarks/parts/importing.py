"""What an import costs, in an interpreter that has imported JAX and Equinox."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from ..report import Row, Settings, missing

TITLE = "import after jax and equinox, in new interpreters, to 60 ms"

MODULES = {
    "statelens": "statelens",
    "optax": "optax",
    "NNX": "flax.nnx",
    "brainstate": "brainstate",
    "Penzai": "penzai.pz",
}
PROGRAM = """
import time, jax, equinox
start = time.perf_counter()
import {}
print(time.perf_counter() - start)
"""


def rows(settings: Settings) -> Iterator[Row]:
    there = {name: module for name, module in MODULES.items() if find_spec(module.split(".")[0])}
    taken: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(3 if settings.quick else 15):
        for name, module in there.items():
            taken[name].append(_seconds(module))
    for name, times in taken.items():
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        relative = (middle / 0.06, low / 0.06, high / 0.06)
        yield Row("importing", "import", name, None, *relative, middle)
    yield from missing("importing", [name for name in MODULES if name not in there])


def _seconds(module: str) -> float:
    program = [sys.executable, "-c", PROGRAM.format(module)]
    return float(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
