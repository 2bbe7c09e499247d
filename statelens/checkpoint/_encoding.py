"""How leaves lie in a file: dtypes, and what stands for those that safetensors hasn't.

Any reader can open the file: an array of a dtype that not all of them know lies in it as an array
of one that they do know, and a note says which it is. Complex numbers have one more axis, for the
real and the imaginary part; random keys are their data; integers of 2 and 4 bits are wider ones;
other floats of a byte are their bytes. Python's numbers are arrays of no dimensions.
"""

from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from .._tree import is_array, is_key

NUMBERS = (bool, int, float, complex)
"""The classes of Python's numbers, which are saved; not what is derived from them."""

# What the first release that we support knows, and so any reader.
_CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
_NAMES = {code: name for name, code in _CODES.items()} | {
    "C64": "complex64",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_PARTS_OF_COMPLEX = {"complex64": "float32", "complex128": "float64"}
_WIDER = {"int2": "int8", "int4": "int8", "uint2": "uint8", "uint4": "uint8"}
_BYTES = {"float4_e2m1fn"} | {
    name for name in dir(ml_dtypes) if name.startswith("float8_") and name not in _CODES
}


class Spec(NamedTuple):
    """The shape and the dtype of a leaf, by name: of a random key, ``key<fry>``."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Stored(NamedTuple):
    """How an array lies in a file: its code and shape there, and a note, if it needs one."""

    code: str
    shape: tuple[int, ...]
    note: str | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype in the file."""
        return dtype_of_code(self.code)

    @property
    def nbytes(self) -> int:
        """How many bytes the array takes."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=object))


def dtype_named(name: str) -> np.dtype[Any]:
    """Returns a dtype by its name, one of NumPy or one that JAX adds to it."""
    return np.dtype(getattr(ml_dtypes, name, name))


def dtype_of_code(code: str) -> np.dtype[Any]:
    """Returns a dtype by what safetensors calls it; of one that NumPy hasn't, its bytes."""
    return dtype_named(_NAMES.get(code, "uint8"))


def is_of_kind(spec: Spec, number: type) -> bool:
    """Says whether an array holds numbers of one of Python's classes."""
    known = {*_NAMES.values(), *_PARTS_OF_COMPLEX, *_WIDER, *_BYTES}
    return spec.dtype in known and jnp.issubdtype(dtype_named(spec.dtype), _KINDS[number])


_KINDS = {bool: np.bool_, int: np.integer, float: np.floating, complex: np.complexfloating}


def is_saved(leaf: Any) -> bool:
    """Says whether a leaf has numbers to be saved: an array, or a number of Python."""
    return is_array(leaf) or type(leaf) in NUMBERS


def spec_of(leaf: Any) -> Spec:
    """Returns the shape and dtype of an array, of what stands for one, or of a number."""
    if type(leaf) in NUMBERS:
        return Spec((), np.result_type(leaf).name)
    dtype = leaf.dtype
    return Spec(tuple(leaf.shape), str(dtype) if is_key(leaf) else dtype.name)


def is_complex(spec: Spec) -> bool:
    """Says whether an array is of complex numbers."""
    return spec.dtype in _PARTS_OF_COMPLEX


def why_not(leaf: Any, *, may_be_spread: bool = False) -> str | None:
    """Says why a leaf can't be saved, or None if it can; it may lie in part elsewhere, or not."""
    if isinstance(leaf, jax.core.Tracer):
        return "a value that is being traced"
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return "a shape and dtype without numbers"
    if isinstance(leaf, jax.Array):
        if leaf.is_deleted():
            return "an array that was donated or deleted"
        if not (may_be_spread or leaf.is_fully_addressable):
            return "an array that lies in part on devices of another process"
    if type(leaf) is int and not -(2**63) <= leaf < 2**63:
        return "an integer of more than 64 bits"
    name = spec_of(leaf).dtype
    if is_key(leaf) or name in {*_CODES, *_PARTS_OF_COMPLEX, *_WIDER, *_BYTES}:
        return None
    return f"an array of dtype {name}"


def stored(spec: Spec) -> Stored:
    """Says how an array lies in a file."""
    shape, name = spec
    if name in _CODES:
        return Stored(_CODES[name], shape, None)
    if name in _PARTS_OF_COMPLEX:
        return Stored(_CODES[_PARTS_OF_COMPLEX[name]], (*shape, 2), name)
    if name.startswith("key<"):
        return Stored("U32", shape + _data_shape(name), name)
    return Stored(_CODES[_WIDER.get(name, "uint8")], shape, name)


def spec_in(code: str, shape: tuple[int, ...], note: str | None) -> Spec | None:
    """Returns the shape and dtype of what lies in a file; None if the note can't be its."""
    if note is None:
        return Spec(shape, _NAMES.get(code, code))
    logical = shape
    if note in _PARTS_OF_COMPLEX:
        logical = shape[:-1]
    elif note in _IMPLEMENTATIONS:
        logical = shape[: max(len(shape) - len(_data_shape(note)), 0)]
    elif note not in {*_WIDER, *_BYTES}:
        return None
    lies = stored(Spec(logical, note))
    return Spec(logical, note) if (lies.code, lies.shape) == (code, shape) else None


# What the dtype of a random key is called, and its implementation.
_IMPLEMENTATIONS = {"key<fry>": "threefry2x32", "key<rbg>": "rbg", "key<urbg>": "unsafe_rbg"}


def _data_shape(dtype: str) -> tuple[int, ...]:
    impl = _IMPLEMENTATIONS[dtype]
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl))).shape


def to_host(leaf: Any) -> np.ndarray[Any, Any]:
    """Returns a leaf in the memory of the host; the data of a key."""
    if isinstance(leaf, jax.Array):
        leaf = jax.random.key_data(leaf) if is_key(leaf) else leaf
        devices = leaf.sharding.device_set
        if len(devices) > 1 or next(iter(devices)).platform != "cpu":
            # JAX keeps what it fetches with the array: of a copy, it goes with that.
            leaf = jnp.copy(leaf)
    return np.asarray(leaf)


def encode(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns what lies in a file for an array of the host."""
    name = array.dtype.name
    array = np.ascontiguousarray(array).reshape(array.shape)
    if name in _PARTS_OF_COMPLEX:
        parts = array.reshape(-1).view(_PARTS_OF_COMPLEX[name])
        array = parts.reshape(*array.shape, 2)
    elif name in _WIDER:
        array = array.astype(_WIDER[name])
    elif name in _BYTES:
        array = array.view(np.uint8)
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Makes an array that lies where JAX, on a CPU, can take it as its own without a copy."""
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


_ALIGNMENT = 64


def bytes_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns the bytes of a contiguous array, which lie where they are."""
    return array.reshape(-1).view(np.uint8)


def decode(array: np.ndarray[Any, Any], spec: Spec) -> np.ndarray[Any, Any]:
    """Returns the array that lies in a file as another one; the data of a key."""
    name = spec.dtype
    if name in _PARTS_OF_COMPLEX and array.dtype != name:
        return array.reshape(-1).view(name).reshape(spec.shape)
    if name in _WIDER:
        return array.astype(dtype_named(name))
    return array.view(dtype_named(name)) if name in _BYTES else array
