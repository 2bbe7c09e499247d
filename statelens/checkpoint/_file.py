"""One safetensors file: written whole or not at all, and looked at before it is read.

The format is the length of a header in eight bytes, the header as JSON (the dtype, shape and
place of each array by name), and the arrays' bytes. The safetensors library checks a file; arrays
are written and read one at a time, so that no second copy of a tree is in memory.
"""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from typing import Any, NamedTuple, Self

import numpy as np

from .._errors import (
    ArgumentTypeError,
    CheckpointError,
    CheckpointFileError,
    MissingPackageError,
    user_facing,
)
from ._encoding import Spec, Stored, bytes_of, decode, dtype_of_code, empty, encode, spec_in, stored
from ._placing import placed

_METADATA = "__metadata__"
_OURS = "statelens"


class Tensor(NamedTuple):
    """An array that is to be written: how it looks, and how it is got when its turn comes."""

    spec: Spec
    get: Callable[[], np.ndarray[Any, Any]]


def library() -> Any:
    """Imports safetensors, which is an extra."""
    try:
        import safetensors
    except ImportError:
        raise MissingPackageError(
            "asked for a checkpoint in a safetensors file",
            "safetensors isn't installed",
            "pip install 'statelens[io]'",
        ) from None
    return safetensors


def check_metadata(metadata: Any) -> dict[str, str]:
    """Refuses metadata that a header can't hold."""
    entries = dict(metadata or {})
    for key, value in entries.items():
        if not (isinstance(key, str) and isinstance(value, str)) or key == _OURS:
            raise ArgumentTypeError(
                f"asked to save the metadata {{{key!r}: {value!r}}}",
                f"safetensors takes text by text, and {_OURS!r} is the library's own key",
                "json.dumps(value) for what isn't text",
                "an entry of the tree itself, for arrays and numbers",
            )
    return entries


def write_file(path: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes arrays to a file: a reader sees the old file or the new one, whatever happens."""
    library()
    if _METADATA in tensors:
        raise CheckpointError(
            f"asked to save an array called {_METADATA!r}",
            "safetensors keeps its metadata under that name",
            "another key",
        )
    lies = {name: stored(tensor.spec) for name, tensor in tensors.items()}
    # The widest first, so that each array lies at a multiple of its items' size.
    order = sorted(tensors, key=lambda name: -lies[name].dtype.itemsize)
    header = _header({name: lies[name] for name in order}, metadata)
    with _replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            file.write(bytes_of(_as_announced(name, tensors[name], lies[name])).data)


def _as_announced(name: str, tensor: Tensor, lies: Stored) -> np.ndarray[Any, Any]:
    """Returns an array as it lies in the file, which the header has told already."""
    array = encode(tensor.get())
    if (array.shape, array.dtype) != (lies.shape, lies.dtype):
        raise CheckpointError(
            f"asked to save {name!r} as {tensor.spec}",
            f"it has become {array.dtype}{list(array.shape)} while the file was written",
            "functions of rules that give the same each time, and don't change arrays",
        )
    return array


def _header(lies: dict[str, Stored], metadata: dict[str, str]) -> bytes:
    notes = {name: each.note for name, each in lies.items() if each.note is not None}
    header: dict[str, Any] = {_METADATA: {**metadata, _OURS: json.dumps({"dtypes": notes})}}
    end = 0
    for name, each in lies.items():
        start, end = end, end + each.nbytes
        header[name] = {"dtype": each.code, "shape": each.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


@contextlib.contextmanager
def _replacing(path: str) -> Iterator["_Whole"]:
    """Opens a file beside another, which takes its place once it is written and on the disk."""
    # Through a link, so that it stays one.
    whole = os.path.realpath(path)
    folder, name = os.path.split(whole)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        if os.path.isdir(whole):
            raise IsADirectoryError(f"{whole} is a folder")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with open(os.open(temporary, flags, 0o666), "wb", buffering=0) as raw:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.chmod(temporary, stat.S_IMODE(os.stat(whole).st_mode))
            yield _Whole(raw)
            os.fsync(raw.fileno())
        os.replace(temporary, whole)
        sync_folder(folder)
    except OSError as error:
        raise _not_possible("save", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


class _Whole:
    """A file without a buffer, of which each write is made to its end."""

    def __init__(self, raw: Any):
        self._raw = raw

    def write(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[self._raw.write(view) :]


def sync_folder(folder: str) -> None:
    """Has what was renamed in a folder written to the disk."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _not_possible(to_do: str, path: str, error: OSError) -> CheckpointFileError:
    folder = os.path.dirname(os.path.realpath(path))
    remedies = ["a path whose folder exists, on a disk with room, that may be written to"]
    if not os.path.isdir(folder):
        remedies = [f"os.makedirs({folder!r}) before"]
    elif to_do == "load":
        remedies = [f"what is there: {_shown(folder)}"]
    failed = CheckpointFileError(f"asked to {to_do} {path}", _said(error), *remedies)
    failed.errno = error.errno
    return failed


def _said(error: OSError) -> str:
    return error.strerror or str(error)


def _shown(folder: str) -> str:
    with contextlib.suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
        return ", ".join(names[:5]) or "no safetensors file"
    return folder


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        arrays: The shape and the dtype of each array, by name.
        metadata: The text that was saved beside the arrays.
    """

    arrays: dict[str, Spec]
    metadata: dict[str, str]


class File:
    """An open file: what is in it, and its arrays, one at a time."""

    def __init__(self, path: str | os.PathLike[str]):
        self.name = os.fspath(path)
        opener = library().safe_open
        with contextlib.ExitStack() as closing:
            try:
                self._file = closing.enter_context(_opened(self.name, opener))
                length = int.from_bytes(self._file.read(8), "little")
                self._header: dict[str, Any] = json.loads(self._file.read(length))
            except OSError as error:
                raise _not_possible("load", self.name, error) from error
            except Exception as error:  # safetensors has one class of its own, an `Exception`
                raise self._broken(str(error)) from error
            self._start = 8 + length
            self.metadata: dict[str, str] = self._header.pop(_METADATA, None) or {}
            self.is_ours = _OURS in self.metadata
            notes = self._notes(self.metadata.pop(_OURS, "{}"))
            self.specs = {name: self._spec(name, notes.get(name)) for name in self._header}
            closing.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _notes(self, text: str) -> dict[str, str]:
        try:
            notes = json.loads(text)["dtypes"] if text != "{}" else {}
            return {name: str(note) for name, note in notes.items()}
        except Exception as error:  # whatever somebody has written there
            raise self._broken(f"the notes on dtypes can't be read: {error!r}") from error

    def _spec(self, name: str, note: str | None) -> Spec:
        code, shape = self._header[name]["dtype"], tuple(self._header[name]["shape"])
        spec = spec_in(code, shape, note)
        if spec is None:
            found = f"{code}{list(shape)}"
            raise self._broken(f"{name!r} is noted to be {note!r}, and lies in it as {found}")
        return spec

    def _broken(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"asked to load {self.name}, which is no whole safetensors file",
            why,
            "a file that checkpoint.save has written, or another safetensors library",
        )

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Returns an array in the memory of the host; the data of a key."""
        entry = self._header[name]
        start, end = entry["data_offsets"]
        try:
            array = empty(tuple(entry["shape"]), dtype_of_code(entry["dtype"]))
            data: Any = bytes_of(array)
            self._file.seek(self._start + start)
            if self._file.readinto(data) != end - start:
                raise self._broken(f"it has become shorter: {name!r} isn't whole any more")
        except OSError as error:
            raise _not_possible("load", self.name, error) from error
        except (ValueError, MemoryError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise self._broken(f"{name!r} has shape {entry['shape']}: {error}") from error
        if array.dtype == bool:
            np.not_equal(data, 0, out=array.reshape(-1))  # NumPy takes for granted 0 and 1
        return decode(array, self.specs[name])

    def fetch(self, wanted: Mapping[int, tuple[str, Any]]) -> dict[int, Any]:
        """Returns arrays as the leaves whose places they take, and where those lie."""
        return {
            number: placed(leaf, self.read(name), copy=False)
            for number, (name, leaf) in wanted.items()
        }


def _opened(path: str, check: Callable[..., Any]) -> BufferedReader:
    """Opens a file that safetensors finds whole."""
    while True:
        file = open(path, "rb")  # noqa: SIM115  (the caller closes it)
        try:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(f"{path} is no file")
            with check(path, "np"):
                pass
            # Another file may have taken its place in between.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


@user_facing
def read_header(path: str | os.PathLike[str]) -> Header:
    """Returns what is in a safetensors file, without reading its arrays.

    Args:
        path: The file.

    Returns:
        Shapes and dtypes by name, and the metadata. A random key has the dtype that it had.

    Raises:
        CheckpointFileError: There is no such file, or it can't be read.
        CheckpointError: It is no whole safetensors file.
        MissingPackageError: safetensors isn't installed.

    Example:
        >>> import tempfile, jax.numpy as jnp, statelens as sl
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/model.safetensors"
        ...     sl.checkpoint.save(file, {"w": jnp.ones((2, 3))}, metadata={"of": "us"})
        ...     sl.checkpoint.read_header(file)
        Header(arrays={'w': Spec(shape=(2, 3), dtype='float32')}, metadata={'of': 'us'})
    """
    with File(path) as file:
        return Header(file.specs, file.metadata)
