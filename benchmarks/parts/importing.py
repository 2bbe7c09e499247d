"""What an import costs, in an interpreter that has imported JAX, Equinox and Optax."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec

from ..rows import Row
from ..settings import Settings

TITLE = "import after jax, equinox and optax, in new interpreters, to 60 ms"

MODULES = {
    "statelens": "statelens",
    "NNX": "flax.nnx",
    "brainstate": "brainstate",
    "Penzai": "penzai.pz",
}
PROGRAM = """
import time, jax, equinox, optax
start = time.perf_counter()
import {}
print(time.perf_counter() - start)
"""


def rows(settings: Settings) -> Iterator[Row]:
    there = {
        name: module
        for name, module in MODULES.items()
        if find_spec(module.split(".")[0]) and (settings.peers or name == "statelens")
    }
    taken: dict[str, list[float]] = {name: [] for name in there}
    with tempfile.TemporaryDirectory() as folder:
        # As where packages are installed: bytecode is there from the second round on.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        for _ in range(4 if settings.quick else 16):
            for name, module in there.items():
                taken[name].append(_seconds(module, environment))
    for name, times in taken.items():
        low, middle, high = statistics.quantiles(times[1:], n=4, method="inclusive")
        relative = (middle / 0.06, low / 0.06, high / 0.06)
        yield Row("importing", "import", name, None, *relative, middle)


def _seconds(module: str, environment: dict[str, str]) -> float:
    program = [sys.executable, "-c", PROGRAM.format(module)]
    done = subprocess.run(program, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)
