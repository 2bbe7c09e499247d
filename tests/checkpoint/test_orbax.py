"""Orbax: as the engine of checkpoints, and by itself, with modules as they are."""

import copy
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from statelens.checkpoint import Checkpoints
from tests.checkpoint.test_dtypes import DTYPES, NUMBERS, SHAPES, numbers
from tests.checkpoint.test_save_load import Net, mlp, values
from tests.helpers import on_four_devices

ocp = pytest.importorskip("orbax.checkpoint")


def round_trip(folder, saved, like):
    with Checkpoints(folder, engine="orbax") as checkpoints:
        checkpoints.save(0, saved)
    return checkpoints.restore(like)


# As the engine.


def test_dtypes_and_shapes(tmp_path):
    saved = {f"{name}{shape}": numbers(name, shape) for name in DTYPES for shape in SHAPES}
    loaded = round_trip(tmp_path, saved, jax.tree.map(np.zeros_like, saved))
    for key, array in saved.items():
        assert loaded[key].dtype == array.dtype, key
        assert loaded[key].tobytes() == array.tobytes(), key


@pytest.mark.slow
def test_arrays_of_jax(tmp_path):
    wide = ("int64", "uint64", "float64", "complex128")
    names = [name for name in DTYPES if hasattr(jnp, name) and name not in wide]
    saved = {f"{name}{n}": jnp.asarray(numbers(name, (n, 2))) for name in names for n in (0, 3)}
    like = jax.tree.map(jnp.zeros_like, saved)
    keys = {"key": jax.random.key(1), "keys": jax.random.split(jax.random.key(2, impl="rbg"), 3)}
    loaded = round_trip(tmp_path, {**saved, **keys}, {**like, **jax.tree.map(jnp.copy, keys)})
    assert values(loaded) == values({**saved, **keys})


def test_numbers_of_python(tmp_path):
    saved = dict(enumerate(NUMBERS))
    loaded = round_trip(tmp_path, saved, {name: type(x)(0) for name, x in saved.items()})
    assert {name: repr(x) for name, x in loaded.items()} == {n: repr(x) for n, x in saved.items()}


def test_trees_of_either_style(tmp_path):
    saved = {"model": mlp(0), "module": Net(1), "a/b.c": [jnp.ones(1)], "": jnp.ones(1)}
    module = Net(2)
    like = {"model": mlp(1), "module": module, "a/b.c": [jnp.zeros(1)], "": jnp.zeros(1)}
    loaded = round_trip(tmp_path, saved, like)
    assert values(loaded) == values(saved)
    assert loaded["module"] is module


def test_a_tree_of_nothing(tmp_path):
    assert round_trip(tmp_path, {}, {}) == {}


def test_rules_and_lenses_are_those_of_files(tmp_path):
    with Checkpoints(tmp_path, engine="orbax") as checkpoints:
        checkpoints.save(0, {"qk": jnp.arange(4.0), "other": jnp.ones(1)}, lens="qk")
    rule = sl.checkpoint.Rule("qk", ("q", "k"), load=lambda qk: np.split(qk, 2))
    loaded = checkpoints.restore({"q": jnp.zeros(2), "k": jnp.zeros(2)}, rename=rule)
    np.testing.assert_array_equal(loaded["k"], [2, 3])


def test_what_cannot_be_saved_is_refused_by_path(tmp_path):
    with Checkpoints(tmp_path, engine="orbax") as checkpoints:
        with pytest.raises(sl.CheckpointError, match="'a' is an array of dtype object"):
            checkpoints.save(0, {"a": np.array([None])})
        with pytest.raises(sl.CheckpointError, match="'a' is a value that is being traced"):
            jax.jit(lambda a: checkpoints.save(0, {"a": a}))(1.0)


def test_saving_goes_on_while_values_are_donated(tmp_path):
    model = Net(1)
    before = values(model)
    with Checkpoints(tmp_path, engine="orbax") as checkpoints:
        checkpoints.save(0, model)
        model.weight.value.delete()  # as a step that donates does
        model.weight.value = jnp.zeros((2, 3))
    assert values(model) != before
    checkpoints.restore(model)
    assert values(model) == before


@pytest.mark.slow
def test_shardings_are_kept():
    on_four_devices("""
    import jax, jax.numpy as jnp, numpy as np, tempfile
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    import statelens as sl
    mesh = Mesh(np.array(jax.devices()), ("x",))
    rows, columns = NamedSharding(mesh, P("x")), NamedSharding(mesh, P(None, "x"))
    def tree(seed, sharding):
        x = jax.device_put(seed + jnp.arange(32.0).reshape(8, 4), sharding)
        keys = jax.device_put(jax.random.split(jax.random.key(seed), 8), rows)
        return {"x": x, "small": x.astype("float8_e3m4"), "state": sl.State(x), "keys": keys}
    saved, like = tree(0, rows), tree(1, columns)
    with tempfile.TemporaryDirectory() as folder:
        with sl.checkpoint.Checkpoints(folder, engine="orbax") as checkpoints:
            checkpoints.save(0, saved)
        shapes = {"x": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=columns)}
        by_shape = checkpoints.restore(shapes, lens="x")
        loaded = checkpoints.restore(like)
    for name in saved:
        ours, theirs, was = (jax.tree.leaves(tree[name])[0] for tree in (loaded, saved, like))
        assert ours.sharding == was.sharding, name
        assert bool((ours == theirs).all()), name
    assert by_shape["x"].sharding == columns
    """)


def test_without_orbax_the_extra_is_named():
    code = """
import sys
sys.modules["orbax"] = sys.modules["orbax.checkpoint"] = None
import statelens as sl
try:
    sl.checkpoint.Checkpoints("a", engine="orbax")
except sl.MissingPackageError as error:
    print("pip install 'statelens[orbax]'" in str(error))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "True\n"


# By itself, and pickle.


class Deep(sl.nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.blocks = [Net(seed), {"a b": Net(seed + 1)}]
        self.shared = self.blocks[0]


@pytest.mark.parametrize("make", [Net, Deep])
def test_a_module_goes_into_orbax_as_it_is(tmp_path, make):
    saved, like = make(1), make(2)
    # Orbax has no functions among leaves.
    for net in (*saved.nodes(Net).values(), *like.nodes(Net).values()):
        net.memory.value = {"n": jnp.ones(2)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", saved)
        checkpointer.wait_until_finished()
        loaded = checkpointer.restore(tmp_path / "model", like)
    assert type(loaded) is make
    assert values(loaded) == values(saved)
    if make is Deep:
        assert loaded.shared is loaded.blocks[0]


def pickled(tree):
    return pickle.loads(pickle.dumps(tree))


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
@pytest.mark.parametrize("make", [Net, Deep])
def test_a_module_goes_through_pickle(copied, make):
    saved = make(1)
    loaded = copied(saved)
    assert values(loaded) == values(saved)
    net = next(iter(loaded.nodes(Net).values()))
    assert net.again is net.weight
    keys = jax.tree_util.tree_flatten_with_path(saved)[0]
    assert [str(k) for k, _ in keys] == [
        str(k) for k, _ in jax.tree_util.tree_flatten_with_path(loaded)[0]
    ]


def test_paths_of_a_module_are_of_a_kind_that_jax_knows():
    keys = [key for path, _ in jax.tree_util.tree_flatten_with_path(Net(1))[0] for key in path]
    known = (jax.tree_util.GetAttrKey, jax.tree_util.DictKey)
    assert all(isinstance(key, known) for key in keys)
    assert jax.tree_util.keystr(keys[:1], simple=True) == "again"
    assert pickle.loads(pickle.dumps(keys)) == keys
