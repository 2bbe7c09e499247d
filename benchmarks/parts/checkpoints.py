"""Saving and loading of a large model, which a disk and a copy cost; and what memory that takes."""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import statelens as sl

from ..compare import compare
from ..rows import Row
from ..settings import Settings

TITLE = "checkpoints of 1 GB (64 MB, if quick), to safetensors.flax"
BASELINE, STATES, LENS = "safetensors.flax", "statelens", "statelens, unbound lens"


def model(megabytes: int, value: float = 0.5) -> dict[str, jax.Array]:
    """Makes arrays of 16 MB each, by name."""
    return {f"layer{n}": jnp.full((2048, 2048), value, jnp.float32) for n in range(megabytes // 16)}


class Holder(sl.nn.Module):
    """A module of as many parameters."""

    def __init__(self, arrays: dict[str, jax.Array]):
        super().__init__()
        self.layers = {name: sl.ParamState(array) for name, array in arrays.items()}


def rows(settings: Settings) -> Iterator[Row]:
    megabytes = 64 if settings.quick else 1024
    with tempfile.TemporaryDirectory() as folder:
        yield from compare(
            "checkpoints", "save", savers(megabytes, Path(folder)), BASELINE, settings=settings
        )
        yield from compare(
            "checkpoints", "load", loaders(megabytes, Path(folder)), BASELINE, settings=settings
        )
        for name, taken in peaks(megabytes, Path(folder)).items():
            note = f"{taken:.0f} MB beside the tree"
            yield Row("checkpoints", "memory of a load", name, None, taken / 16, note=note)


def savers(megabytes: int, folder: Path) -> dict[str, Callable[[], Any]]:
    import safetensors.flax

    arrays = model(megabytes)
    holder = Holder(arrays)
    return {
        BASELINE: lambda: safetensors.flax.save_file(arrays, str(folder / "flax")),
        STATES: lambda: sl.checkpoint.save(folder / "states", holder),
        LENS: lambda: sl.checkpoint.save(folder / "tree", arrays),
        "Equinox": lambda: eqx.tree_serialise_leaves(folder / "equinox", arrays),
    }


def loaders(megabytes: int, folder: Path) -> dict[str, Callable[[], Any]]:
    import safetensors.flax

    for save in savers(megabytes, folder).values():
        save()
    like = model(megabytes, 0.0)
    holder = Holder(like)
    return {
        BASELINE: lambda: safetensors.flax.load_file(str(folder / "flax")),
        STATES: lambda: sl.checkpoint.load(folder / "states", holder).layers["layer0"].value,
        LENS: lambda: sl.checkpoint.load(folder / "tree", like),
        "Equinox": lambda: eqx.tree_deserialise_leaves(folder / "equinox", like),
    }


def peaks(megabytes: int, folder: Path) -> dict[str, float]:
    """Gives the megabytes that a load takes beside the tree which it gives, in new processes."""
    found = {}
    for name in (BASELINE, LENS):
        program = [sys.executable, "-m", __name__, name, str(megabytes), str(folder)]
        out = subprocess.run(program, capture_output=True, text=True, check=True).stdout
        found[name] = float(out) - megabytes
    return found


def peak(name: str, megabytes: int, folder: Path) -> float:
    """Loads into shapes, and gives by how many megabytes that has raised the largest size."""
    import safetensors.flax

    like = jax.eval_shape(lambda: model(megabytes))
    jax.block_until_ready(jnp.ones(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load = {
        BASELINE: lambda: safetensors.flax.load_file(str(folder / "flax")),
        LENS: lambda: sl.checkpoint.load(folder / "tree", like),
    }[name]
    jax.block_until_ready(load())
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    print(peak(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
