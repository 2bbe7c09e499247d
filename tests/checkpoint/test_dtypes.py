"""Each dtype survives the round trip, bit for bit, or is refused by path."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

import statelens as sl
from statelens.checkpoint import load, read_header, save

DTYPES = [
    *("bool", "int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16"),
    *("int32", "uint32", "int64", "uint64", "float16", "bfloat16", "float32", "float64"),
    *("complex64", "complex128", "float4_e2m1fn"),
    *sorted(name for name in dir(ml_dtypes) if name.startswith("float8_")),
]
SHAPES = [(), (1,), (3,), (2, 0), (2, 3), (2, 1, 4)]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "arrays.safetensors"


def numbers(name, shape):
    """All bit patterns that the dtype has, as far as they go."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    count = int(np.prod(shape))
    if name == "bool":
        return (np.arange(count) % 2 == 1).reshape(shape)
    if name.startswith(("int", "uint", "float4")):
        return (np.arange(count) % 4).astype(dtype).reshape(shape)
    pattern = np.random.default_rng(0).integers(0, 256, count * dtype.itemsize, np.uint8)
    return pattern.view(dtype).reshape(shape)  # nan and -0.0 are among them


@pytest.mark.parametrize("name", DTYPES)
def test_numpy_arrays_of_any_dtype(file, name):
    saved = {str(shape): numbers(name, shape) for shape in SHAPES}
    save(file, saved)
    loaded = load(file, jax.tree.map(np.zeros_like, saved))
    for key, array in saved.items():
        assert loaded[key].dtype == array.dtype
        assert loaded[key].shape == array.shape
        assert loaded[key].tobytes() == array.tobytes()
        assert read_header(file).arrays[f"[{key!r}]"].dtype == name
    with safe_open(file, "np") as opened:
        assert len(opened.keys()) == len(SHAPES)


@pytest.mark.parametrize("name", [name for name in DTYPES if hasattr(jnp, name)])
def test_jax_arrays_of_any_dtype(file, name):
    with jax.enable_x64(True):
        saved = {str(shape): jnp.asarray(numbers(name, shape)) for shape in SHAPES}
        save(file, saved)
        loaded = load(file, jax.tree.map(jnp.zeros_like, saved))
    for key, array in saved.items():
        assert loaded[key].dtype == name
        assert np.asarray(loaded[key]).tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("layout", ["transposed", "strided", "reversed", "big-endian"])
def test_arrays_that_lie_otherwise_in_memory(file, layout):
    array = np.arange(12.0).reshape(3, 4)
    laid = {
        "transposed": array.T,
        "strided": array[:, ::2],
        "reversed": array[::-1],
        "big-endian": array.astype(">f8"),
    }[layout]
    save(file, {"a": laid})
    loaded = load(file, {"a": np.zeros_like(laid)})["a"]
    np.testing.assert_array_equal(loaded, laid)
    assert loaded.dtype == laid.dtype


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 2)])
def test_random_keys(file, impl, shape):
    key = jax.random.key(7, impl=impl)
    keys = jax.random.split(key, shape) if shape else key
    like = jax.random.split(jax.random.key(8, impl=impl), shape) if shape else key
    save(file, {"keys": keys})
    loaded = load(file, {"keys": like})["keys"]
    assert loaded.dtype == keys.dtype
    assert loaded.shape == shape
    np.testing.assert_array_equal(jax.random.key_data(loaded), jax.random.key_data(keys))


def test_a_key_is_no_array_and_no_key_of_another_kind(file):
    save(file, {"key": jax.random.key(0)})
    with pytest.raises(sl.CheckpointError, match=r"'key': the dtype .* key<fry>\[\], and key<rbg>"):
        load(file, {"key": jax.random.key(0, impl="rbg")})
    with pytest.raises(
        sl.CheckpointError, match=r"'key': the shape .* key<fry>\[\], and uint32\[2\]"
    ):
        load(file, {"key": jax.random.PRNGKey(0)})


NUMBERS = [True, 0, -3, 2**63 - 1, -(2**63), 0.1, -0.0, float("nan"), float("inf"), 1e-320, 1 + 2j]


@pytest.mark.parametrize("number", NUMBERS, ids=str)
def test_numbers_of_python(file, number):
    save(file, {"n": number})
    loaded = load(file, {"n": type(number)(0)})["n"]
    assert type(loaded) is type(number)
    assert repr(loaded) == repr(number)


@pytest.mark.parametrize(
    ("leaf", "why"),
    [
        (np.array(["a"]), "an array of dtype str32"),
        (np.array([object()]), "an array of dtype object"),
        (np.zeros(1, "datetime64[s]"), r"an array of dtype datetime64\[s\]"),
        (np.zeros(1, [("a", "f4")]), "an array of dtype void32"),
        (np.zeros(1, np.longdouble), "an array of dtype float128"),
        (np.zeros(1, jax.dtypes.float0), "an array of dtype void"),
        (2**63, "an integer of more than 64 bits"),
        (jax.ShapeDtypeStruct((), jnp.float32), "a shape and dtype without numbers"),
    ],
    ids=lambda case: getattr(getattr(case, "dtype", None), "name", ""),
)
def test_what_no_file_can_hold_is_refused_by_path(file, leaf, why):
    with pytest.raises(sl.CheckpointError, match=rf"1 can't be saved\n'a\[1\]' is {why}"):
        save(file, {"a": [jnp.ones(1), leaf]})
    assert not file.exists()


@pytest.mark.parametrize(("code", "name"), [("C64", "complex64"), ("F8_E8M0", "float8_e8m0fnu")])
def test_dtypes_that_newer_files_have(file, code, name):
    array = np.ones(4, getattr(ml_dtypes, name, name))
    header = f'{{"a":{{"dtype":"{code}","shape":[4],"data_offsets":[0,{array.nbytes}]}}}}'
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode() + array.tobytes())
    np.testing.assert_array_equal(load(file, {"a": np.zeros_like(array)})["a"], array)
