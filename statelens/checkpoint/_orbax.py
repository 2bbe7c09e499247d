"""Orbax as the engine: arrays that are spread over processes, and saving while the run goes on.

Orbax is given a dictionary of arrays by name, and a note that says what each of them is.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from .._errors import CheckpointError, CheckpointFileError, MissingPackageError
from .._tree import is_key
from ..lens import LensSpec
from ._encoding import Spec, decode, encode, is_complex, spec_of, stored, to_host
from ._names import refuse_unsavable, slots_of
from ._placing import placed


def library() -> Any:
    """Imports Orbax, which is an extra."""
    try:
        import orbax.checkpoint
    except ImportError:
        raise MissingPackageError(
            "asked for checkpoints with engine='orbax'",
            "orbax-checkpoint isn't installed",
            "pip install 'statelens[orbax]'",
        ) from None
    return orbax.checkpoint


class Folders:
    """Each checkpoint is a folder of Orbax; it gets its name when it is whole."""

    suffix = ".orbax"

    def __init__(self) -> None:
        self._orbax = library()
        self._checkpointer: Any = None

    def write(self, path: str, tree: Any, lens: LensSpec, metadata: dict[str, str]) -> None:
        """Copies arrays from their devices, and has them written while the run goes on."""
        slots = slots_of(tree, lens, "save")
        refuse_unsavable(slots, "save", may_be_spread=True)
        leaves = {slot.names[0]: slot.leaf for slot in slots}
        notes = {
            "specs": {name: spec_of(leaf) for name, leaf in leaves.items()},
            "metadata": metadata,
        }
        # Orbax takes no arrays without items: the notes say all of them.
        arrays = {name: _lying(leaf) for name, leaf in leaves.items() if np.size(leaf)}
        if self._checkpointer is None:
            handler = self._orbax.CompositeCheckpointHandler()
            self._checkpointer = self._orbax.AsyncCheckpointer(handler)
        args = self._orbax.args
        items = {"notes": args.JsonSave(notes)}
        if arrays:
            items["arrays"] = args.PyTreeSave(arrays)
        try:
            self._checkpointer.save(path, args=args.Composite(**items), force=True)
        except Exception as error:  # Orbax has many
            raise _not_possible(path, error) from error

    def open(self, path: str) -> "Folder":
        """Opens a checkpoint that is there."""
        return Folder(self._orbax, path)

    def wait(self) -> bool:
        """Returns when all that was written is there; says whether that was to be waited for."""
        if self._checkpointer is None:
            return False
        try:
            self._checkpointer.wait_until_finished()
        except Exception as error:
            raise _not_possible("a checkpoint", error) from error
        return True


def _not_possible(path: str, error: Exception) -> CheckpointFileError:
    return CheckpointFileError(
        f"asked to save {path} by Orbax",
        f"{type(error).__name__}: {error}",
        "a folder on a disk with room, that may be written to",
    )


def _lies_as_it_is(spec: Spec) -> bool:
    return stored(spec).note is None or is_complex(spec)


def _lying(leaf: Any) -> Any:
    """Returns what Orbax is given for a leaf: an array of JAX where it is one."""
    if is_key(leaf):
        return jax.random.key_data(leaf)
    if not _lies_as_it_is(spec_of(leaf)):
        return encode(to_host(leaf))
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, spec_of(leaf).dtype)


class Folder:
    """A checkpoint to be loaded from: what is in it, and its arrays, one at a time."""

    is_ours = True

    def __init__(self, orbax: Any, path: str):
        self.name = path
        self._orbax = orbax
        self._handlers = orbax.CompositeCheckpointHandler(
            arrays=orbax.PyTreeCheckpointHandler(), notes=orbax.JsonCheckpointHandler()
        )
        self._checkpointer = orbax.Checkpointer(self._handlers)
        try:
            notes = self._restored(notes=orbax.args.JsonRestore()).notes
            specs = notes["specs"].items()
            self.specs = {name: Spec(tuple(shape), dtype) for name, (shape, dtype) in specs}
            self.metadata: dict[str, str] = notes["metadata"]
        except Exception as error:  # Orbax has many
            raise CheckpointError(
                f"asked to load {path}, which is no whole checkpoint",
                f"{type(error).__name__}: {error}",
                "a folder that Checkpoints(..., engine='orbax') has written",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    def _restored(self, **items: Any) -> Any:
        return self._checkpointer.restore(self.name, args=self._orbax.args.Composite(**items))

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Returns an array in the memory of the host; the data of a key."""
        return self._decoded(name, self._arrays({name: None}).get(name))

    def fetch(self, wanted: Mapping[int, tuple[str, Any]]) -> dict[int, Any]:
        """Returns arrays as the leaves whose places they take; devices read their own parts."""
        shardings = {name: self._sharding(name, leaf) for name, leaf in wanted.values()}
        arrays = self._arrays(shardings)
        found = {}
        for number, (name, leaf) in wanted.items():
            array, sharding = arrays.get(name), self._sharding(name, leaf)
            if array is None or sharding is None or array.sharding != sharding:
                array = placed(leaf, self._decoded(name, array), copy=True)
            found[number] = array
        return found

    def _sharding(self, name: str, leaf: Any) -> Any:
        """Returns where Orbax puts an array; None for the host, if there is more to be done."""
        is_bound = isinstance(leaf, jax.ShapeDtypeStruct) or getattr(leaf, "committed", False)
        return leaf.sharding if is_bound and _lies_as_it_is(self.specs[name]) else None

    def _arrays(self, shardings: Mapping[str, Any]) -> dict[str, Any]:
        """Reads what has items by name, on the host or where it is to lie."""
        host = self._orbax.RestoreArgs(restore_type=np.ndarray)
        how = {
            name: host if to is None else self._orbax.ArrayRestoreArgs(sharding=to)
            for name, to in shardings.items()
            if 0 not in self.specs[name].shape
        }
        if not how:
            return {}
        item = dict.fromkeys(how, 0)
        args = self._orbax.args.PyTreeRestore(item, restore_args=how, partial_restore=True)
        return self._restored(arrays=args).arrays

    def _decoded(self, name: str, array: Any) -> np.ndarray[Any, Any]:
        spec = self.specs[name]
        if array is None:  # it has no items
            lies = stored(spec)
            array = np.zeros(spec.shape if _lies_as_it_is(spec) else lies.shape, lies.dtype)
            array = array.astype(spec.dtype) if is_complex(spec) else array
        return decode(np.asarray(array), spec)
