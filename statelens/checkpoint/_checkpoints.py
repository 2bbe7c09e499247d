"""The checkpoints of a run: one file a step, of which the last ones and the best one are kept."""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, TypeVar

import jax
from jax.experimental import multihost_utils

from .._errors import (
    ArgumentError,
    CheckpointError,
    CheckpointFileError,
    user_facing,
)
from ..lens import LensSpec
from ._file import File, check_metadata, sync_folder
from ._rules import Rename
from ._save_load import load_from, save

T = TypeVar("T")


class Engine(Protocol):
    """How checkpoints are written: in files, or in folders of Orbax."""

    suffix: str

    def write(self, path: str, tree: Any, lens: LensSpec, metadata: dict[str, str]) -> None:
        """Writes a checkpoint, whole or not at all; it may be done later."""
        ...

    def open(self, path: str) -> Any:
        """Opens a checkpoint to look at it, and to load from it; it is closed by ``with``."""
        ...

    def wait(self) -> bool:
        """Returns when all that was written is there; says whether that was to be waited for."""
        ...


class _Files:
    """Each checkpoint is a safetensors file."""

    suffix = ".safetensors"

    def write(self, path: str, tree: Any, lens: LensSpec, metadata: dict[str, str]) -> None:
        save(path, tree, lens=lens, metadata=metadata)

    def open(self, path: str) -> File:
        return File(path)

    def wait(self) -> bool:
        return False  # a file is there when `write` returns


_METRICS = "metrics"
_NAME = re.compile(r"step_(\d+)")
_BEGUN = re.compile(r"\.?step_(\d+)\..*tmp")


class Checkpoints:
    """The checkpoints of a run in a folder, by step.

    A run that is resumed from one goes on bit for bit as if it had never been interrupted, if the
    tree holds all that changes: the model, the optimiser's state, the key, and where in the
    data the run is. A process that dies while it saves leaves the earlier checkpoints.

    Args:
        folder: Where they lie; it is made by the first `save`. One process writes to it.
        keep: How many of the last steps are kept; None keeps all.
        best: A metric, as in ``save(step, tree, metrics={"loss": 0.1})``, by which one step is
            the best. That one is kept too.
        mode: Whether the least value of the metric is the best, or the greatest.
        engine: ``"safetensors"``, or ``"orbax"`` for arrays that are spread over processes and
            for saving while the run goes on (``pip install 'statelens[orbax]'``): `save` then
            returns before the checkpoint is there, and `wait` when it is.

    Raises:
        ArgumentError: `keep`, `mode` or `engine` is none of these.

    Example:
        >>> import tempfile, jax.numpy as jnp, statelens as sl
        >>> folder = tempfile.TemporaryDirectory()
        >>> checkpoints = sl.checkpoint.Checkpoints(folder.name, keep=2, best="loss")
        >>> for step, loss in enumerate([0.5, 0.1, 0.3, 0.2]):
        ...     checkpoints.save(step, {"w": jnp.full(2, loss)}, metrics={"loss": loss})
        >>> checkpoints.steps(), checkpoints.latest(), checkpoints.best()
        ((1, 2, 3), 3, 1)
        >>> checkpoints.restore({"w": jnp.zeros(2)})
        {'w': Array([0.2, 0.2], dtype=float32)}
        >>> folder.cleanup()
    """

    @user_facing
    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int | None = 3,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        engine: Literal["safetensors", "orbax"] = "safetensors",
    ):
        if keep is not None and keep < 1:
            raise ArgumentError(
                f"asked for checkpoints with keep={keep}",
                "the last one is always kept",
                "a number from 1 on",
                "keep=None, to keep all",
            )
        if mode not in ("min", "max"):
            raise ArgumentError(
                f"asked for checkpoints with mode={mode!r}",
                "a metric has its best where it is least, or greatest",
                "'min' for a loss",
                "'max' for an accuracy",
            )
        self.folder: str = os.path.abspath(os.fspath(folder))
        self._keep = keep
        self._metric = best
        self._sign = 1 if mode == "min" else -1
        self._engine = _engine(engine)

    def __repr__(self) -> str:
        return f"Checkpoints({self.folder!r}, steps={self.steps()})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def path(self, step: int) -> str:
        """Returns where the checkpoint of a step lies, whether it is there or not.

        Args:
            step: The step.

        Returns:
            The path of its file, or of its folder.
        """
        return os.path.join(self.folder, f"step_{step:08d}{self._engine.suffix}")

    @user_facing
    def save(
        self,
        step: int,
        tree: Any,
        *,
        metrics: Mapping[str, Any] | None = None,
        lens: LensSpec = ...,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Saves a tree as the checkpoint of a step, and removes what isn't kept.

        Args:
            step: A number from 0 on, no less than the last one. A checkpoint of that step that is
                there is replaced.
            tree: Whatever `checkpoint.save` takes.
            metrics: Numbers by name, that of ``best`` among them.
            lens: What of the tree is saved.
            metadata: Text by text, beside the metrics.

        Raises:
            ArgumentError: The step isn't a number from 0 on, or the metric of ``best`` is missing.
            CheckpointError: A leaf can't be saved. Or there are checkpoints of later steps, as if a
                run has gone back: `drop_after` deletes those.
            CheckpointFileError: The checkpoint can't be written.
        """
        _check_step(step, "save the checkpoint of")
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        if self._metric is not None and self._metric not in numbers:
            raise ArgumentError(
                f"asked to save the checkpoint of step {step}",
                f"the best is told by {self._metric!r}, and the metrics are {sorted(numbers)}",
                f"save(step, tree, metrics={{{self._metric!r}: ...}})",
            )
        entries = {**check_metadata(metadata), _METRICS: json.dumps(numbers)}
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise CheckpointFileError(
                f"asked to save a checkpoint in {self.folder}",
                error.strerror or str(error),
                "a folder that can be made and written to",
            ) from error
        # What is being written may be of a later step.
        self._engine.wait()
        later = list(self._listed(step + 1))
        if later:
            raise CheckpointError(
                f"asked to save the checkpoint of step {step}",
                f"{self.folder} has those of steps {later}, from which a run would be resumed",
                f"checkpoints.drop_after({step}), which deletes them, of a run that has gone back",
                "another folder, for another run",
            )
        self._engine.write(self.path(step), tree, lens, entries)
        self._remove_others(step)

    @user_facing
    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps: those of a run that goes on from an earlier one.

        Args:
            step: The last one that is left, whether it is there or not.

        Raises:
            ArgumentError: The step isn't a number from 0 on.

        Example:
            >>> import tempfile, jax.numpy as jnp, statelens as sl
            >>> folder = tempfile.TemporaryDirectory()
            >>> checkpoints = sl.checkpoint.Checkpoints(folder.name)
            >>> for step in range(3):
            ...     checkpoints.save(step, {"w": jnp.full(2, step)})
            >>> checkpoints.drop_after(0)
            >>> checkpoints.steps()
            (0,)
            >>> folder.cleanup()
        """
        _check_step(step, "drop the checkpoints after")
        self.wait()
        if jax.process_index() == 0:
            # The last one first: what is left, if the process dies, is a run up to some step.
            for later in reversed(self._named(step + 1)):
                _remove(self.path(later))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"drop_after {self.folder}")

    def _remove_others(self, writing: int | None = None) -> None:
        if jax.process_index() != 0:
            return
        listed = self._listed()
        last = list(listed) if self._keep is None else list(listed)[-self._keep :]
        for step in listed.keys() - {self._best_of(listed), *last}:
            _remove(self.path(step))
        for name in os.listdir(self.folder):
            # What was begun by a process that died, or failed; not what is being written now.
            begun = _BEGUN.fullmatch(name)
            if begun and int(begun[1]) != writing:
                _remove(os.path.join(self.folder, name))
        sync_folder(self.folder)

    @user_facing
    def steps(self) -> tuple[int, ...]:
        """Returns the steps whose checkpoints are there, whole, in order."""
        return tuple(self._listed())

    def _named(self, first: int) -> list[int]:
        """Returns the steps from one on that have a file or a folder, in order."""
        if not os.path.isdir(self.folder):
            return []
        names = (os.path.splitext(name) for name in os.listdir(self.folder))
        found = [_NAME.fullmatch(stem) for stem, suffix in names if suffix == self._engine.suffix]
        return sorted(int(match[1]) for match in found if match and int(match[1]) >= first)

    def _listed(self, first: int = 0) -> dict[int, dict[str, str]]:
        """Returns the metadata of the checkpoints that are whole, by step, in order."""
        listed = {}
        for step in self._named(first):
            # It may just have been removed.
            with (
                contextlib.suppress(CheckpointError),
                self._engine.open(self.path(step)) as opened,
            ):
                listed[step] = opened.metadata
        return listed

    @user_facing
    def latest(self) -> int | None:
        """Returns the last step that is there, or None."""
        return max(self.steps(), default=None)

    @user_facing
    def metrics(self, step: int) -> dict[str, float]:
        """Returns the metrics that were saved with a step.

        Args:
            step: A step that is there.

        Returns:
            Numbers by name.

        Raises:
            CheckpointFileError: There is no such checkpoint.
        """
        with self._engine.open(self.path(self._there(step))) as opened:
            return _metrics(opened.metadata)

    @user_facing
    def best(self) -> int | None:
        """Returns the step of the best metric, the last of several, or None.

        A metric that isn't a number (a loss that has become nan) is never the best.
        """
        return self._best_of(self._listed())

    def _best_of(self, listed: dict[int, dict[str, str]]) -> int | None:
        if self._metric is None:
            return None
        values = {
            n: _metrics(metadata).get(self._metric, math.nan) for n, metadata in listed.items()
        }
        known = {step: self._sign * x for step, x in values.items() if not math.isnan(x)}
        return min(known, key=lambda step: (known[step], -step), default=None)

    @user_facing
    def restore(
        self,
        like: T,
        step: int | None = None,
        *,
        lens: LensSpec = ...,
        rename: Rename = None,
    ) -> T:
        """Loads a checkpoint into a tree; see `checkpoint.load`.

        Args:
            like: A tree of the structure that was saved.
            step: Which; None stands for the last one, and `best` says which is the best.
            lens: What of the tree is loaded.
            rename: Other names in the file.

        Returns:
            The tree. States and modules are assigned, and are the same objects in it.

        Raises:
            CheckpointFileError: There is no such checkpoint.
            CheckpointError: It doesn't fit.
        """
        self.wait()
        with self._engine.open(self.path(self._there(step))) as opened:
            return load_from(opened, like, lens, rename, strict=True)

    def _there(self, step: int | None) -> int:
        steps = self.steps()
        if step in steps:
            return step
        if step is None and steps:
            return steps[-1]
        raise CheckpointFileError(
            f"asked for the checkpoint of {'the last step' if step is None else f'step {step}'}",
            f"{self.folder} has {f'those of steps {list(steps)}' if steps else 'none'}",
            "checkpoints.latest() is None, before there is one",
            "checkpoints.steps() lists those that are there",
        )

    @user_facing
    def wait(self) -> None:
        """Returns when all that was saved is there; of safetensors files, at once."""
        if self._engine.wait():
            self._remove_others()


def _check_step(step: Any, to_do: str) -> None:
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ArgumentError(
            f"asked to {to_do} step {step!r}",
            "checkpoints are told apart by their steps",
            "an integer from 0 on; int(step) of an array",
        )


def _metrics(metadata: dict[str, str]) -> dict[str, float]:
    return json.loads(metadata.get(_METRICS, "{}"))


def _engine(name: str) -> Engine:
    if name == "safetensors":
        return _Files()
    if name == "orbax":
        from ._orbax import Folders

        return Folders()
    raise ArgumentError(
        f"asked for checkpoints with engine={name!r}",
        "there is no such engine",
        "'safetensors', files that any safetensors reader opens",
        "'orbax', for arrays of several processes, and for saving while the run goes on",
    )


def _remove(path: str) -> None:
    """Removes a file or a folder, which may have gone."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)
