"""A tree is saved and loaded by path: what is in the file, and where it goes."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import statelens as sl
from statelens.checkpoint import Mismatch, Report, load, read_header, save
from tests.helpers import Affine, EquinoxAffine, on_four_devices


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.safetensors"


class Net(sl.nn.Module):
    """States, an Equinox layer, a key, a state of a pytree, and a tied weight."""

    def __init__(self, seed):
        super().__init__()
        self.weight = sl.ParamState(jnp.full((2, 3), float(seed)))
        self.layer = eqx.nn.Linear(2, 3, key=jax.random.key(seed))
        self.rng = sl.random.RandomState(seed)
        self.memory = sl.State({"n": jnp.full((2,), seed), "f": abs, "steps": seed})
        self.again = self.weight
        self.size = seed


def values(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not callable(leaf)]
    data = [jax.random.key_data(x) if _is_key(x) else x for x in leaves]
    return [(np.asarray(x).dtype.name, np.asarray(x).shape, np.asarray(x).tobytes()) for x in data]


def _is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def mlp(seed, depth=1):
    return eqx.nn.MLP(2, 1, 4, depth, key=jax.random.key(seed))


# Round trips.


def test_an_immutable_model_comes_back_as_a_new_one(file):
    saved, like = mlp(0), mlp(1)
    before = values(like)
    save(file, saved)
    loaded = load(file, like)
    assert eqx.tree_equal(loaded, saved)
    assert loaded.activation is like.activation
    assert values(like) == before


def test_a_module_is_assigned_and_is_the_same_object(file):
    saved, like = Net(1), Net(2)
    cells = dict(like.states())
    save(file, saved)
    assert load(file, like) is like
    assert values(like) == values(saved)
    assert dict(like.states()) == cells
    assert like.memory.value["f"] is abs
    assert like.size == 2  # a plain attribute
    assert like.again is like.weight


def test_one_file_holds_a_whole_run(file):
    def run(seed):
        model = mlp(seed)
        memory = optax.adam(0.1).init(eqx.filter(model, eqx.is_array))
        return {
            "model": model,
            "module": Net(seed),
            "optimizer": memory,
            "key": jax.random.key(seed),
            "raw": jax.random.PRNGKey(seed),
            "step": seed,
        }

    saved, like = run(3), run(4)
    like["optimizer"] = jax.tree.map(lambda x: x + 1, like["optimizer"])
    module = like["module"]
    save(file, saved)
    loaded = load(file, like)
    assert values(loaded) == values(saved)
    assert jax.tree.structure(loaded) == jax.tree.structure(like)
    assert loaded["module"] is module
    assert loaded["step"] == 3
    assert type(loaded["step"]) is int


def test_an_immutable_model_that_holds_states(file):
    saved = {"inner": EquinoxAffine(sl.ParamState(jnp.ones(2)), jnp.zeros(1))}
    like = {"inner": EquinoxAffine(sl.ParamState(jnp.zeros(2)), jnp.ones(1))}
    cell = like["inner"].weight
    save(file, saved)
    loaded = load(file, like)
    assert loaded["inner"].weight is cell
    np.testing.assert_array_equal(cell.value, jnp.ones(2))
    np.testing.assert_array_equal(loaded["inner"].bias, jnp.zeros(1))
    np.testing.assert_array_equal(like["inner"].bias, jnp.ones(1))


@pytest.mark.parametrize("tree", [jnp.arange(3.0), {}, (), None, {"a": None}], ids=str)
def test_trees_of_one_array_and_of_none(file, tree):
    save(file, tree)
    assert values(load(file, jax.tree.map(jnp.zeros_like, tree))) == values(tree)


def test_what_the_file_is_to_others(file):
    save(file, {"model": Affine(), "step": 3, "a b": {0: jnp.ones(1)}}, metadata={"format": "pt"})
    arrays = load_file(file)
    assert set(arrays) == {"model.weight", "model.bias", "model.calls", "step", "['a b'][0]"}
    np.testing.assert_array_equal(arrays["model.weight"], np.full((2, 1), 0.5, np.float32))
    with safe_open(file, "np") as opened:
        assert opened.metadata()["format"] == "pt"
    header = read_header(file)
    assert header.metadata == {"format": "pt"}
    assert header.arrays["model.weight"].shape == (2, 1)
    assert header.arrays["step"].dtype == "int64"


def test_arrays_lie_at_multiples_of_their_size(file):
    save(file, {"a": np.ones(3, np.int8), "b": np.ones(3), "c": np.ones(1, np.float16)})
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    starts = {name: entry["data_offsets"][0] for name, entry in header.items() if name in "abc"}
    assert starts == {"b": 0, "c": 24, "a": 26}


# What isn't an array comes from `like`.


def test_what_is_no_array_comes_from_like(file):
    save(file, {"f": jnp.tanh, "text": "old", "w": jnp.ones(1)})
    loaded = load(file, {"f": jnp.sin, "text": "new", "w": jnp.zeros(1)})
    assert loaded["f"] is jnp.sin
    assert loaded["text"] == "new"


def test_a_module_that_another_process_made_may_hold_other_functions(file):
    save(file, mlp(0))
    like = eqx.tree_at(lambda m: m.activation, mlp(1), replace_fn=lambda _: jnp.sin)
    assert load(file, like).activation is jnp.sin


# Shapes in place of arrays, devices.


def test_shapes_stand_for_arrays(file):
    saved = mlp(0)
    save(file, saved)
    like = eqx.filter_eval_shape(mlp, 1)
    loaded = load(file, like)
    assert values(loaded) == values(saved)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(eqx.filter(loaded, eqx.is_array)))


def test_shapes_of_keys_stand_for_keys(file):
    keys = jax.random.split(jax.random.key(1, impl="rbg"), 3)
    save(file, {"keys": keys})
    loaded = load(file, jax.eval_shape(lambda: {"keys": keys}))
    assert loaded["keys"].dtype == keys.dtype
    assert values(loaded) == values({"keys": keys})


def test_arrays_of_numpy_and_of_jax_stay_what_they_are(file):
    saved = {"np": np.arange(3.0), "number": np.float32(2), "jax": jnp.arange(3)}
    save(file, saved)
    loaded = load(file, {"np": np.zeros(3), "number": np.float32(0), "jax": jnp.zeros(3, int)})
    assert type(loaded["np"]) is np.ndarray
    assert type(loaded["number"]) is np.float32
    assert isinstance(loaded["jax"], jax.Array)
    assert loaded["np"].flags.writeable
    assert values(loaded) == values(saved)


@pytest.mark.parametrize("shape", [(), (3,), (0, 2)], ids=str)
@pytest.mark.parametrize("number", [0.5, 3, 1j], ids=str)
def test_weak_types_stay(file, shape, number):
    save(file, {"rate": jnp.full(shape, number)})
    like = {"rate": 0 * jnp.full(shape, number)}
    assert like["rate"].weak_type
    loaded = load(file, like)["rate"]
    assert loaded.weak_type
    assert loaded.dtype == like["rate"].dtype
    assert loaded.committed == like["rate"].committed
    assert (loaded == number).all()


def test_a_weak_type_stays_where_the_array_lies(file):
    save(file, {"rate": jnp.full((4, 2), 0.5)})
    mesh = jax.make_mesh((1,), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    loaded = load(file, {"rate": jax.device_put(jnp.full((4, 2), 1.0), sharding)})["rate"]
    assert loaded.weak_type
    assert loaded.committed
    assert loaded.sharding == sharding


def test_what_is_uncommitted_stays_so_and_devices_are_kept():
    on_four_devices("""
    import jax, jax.numpy as jnp, numpy as np, tempfile
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
    import statelens as sl
    mesh = Mesh(np.array(jax.devices()), ("x",))
    rows, all = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
    on_two = jax.devices()[2]
    def tree(seed):
        return {
            "rows": jax.device_put(seed + jnp.arange(8.0), rows),
            "all": jax.device_put(seed + jnp.arange(8.0), all),
            "two": jax.device_put(seed + jnp.arange(2.0), on_two),
            "keys": jax.device_put(jax.random.split(jax.random.key(seed), 8), rows),
            "free": seed + jnp.arange(8.0),
            "state": sl.State(jax.device_put(seed + jnp.arange(8.0), rows)),
        }
    saved, like = tree(0), tree(1)
    with tempfile.TemporaryDirectory() as folder:
        file = folder + "/a.safetensors"
        sl.checkpoint.save(file, saved)
        loaded = sl.checkpoint.load(file, like)
        shapes = {"rows": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=rows)}
        by_shape = sl.checkpoint.load(file, shapes, lens="rows")
    for name in saved:
        ours, theirs = jax.tree.leaves(loaded[name])[0], jax.tree.leaves(saved[name])[0]
        assert ours.sharding == theirs.sharding, name
        assert ours.committed == theirs.committed, name
        assert bool((ours == theirs).all()), name
    assert by_shape["rows"].sharding == rows
    """)


# A part of the tree.


def test_a_lens_says_what_is_saved_and_loaded(file):
    save(file, mlp(0), lens="layers[-1].**")
    assert set(read_header(file).arrays) == {"layers[1].weight", "layers[1].bias"}
    loaded = load(file, mlp(1), lens="layers[-1].**")
    assert eqx.tree_equal(loaded.layers[1], mlp(0).layers[1])
    assert eqx.tree_equal(loaded.layers[0], mlp(1).layers[0])


def test_what_a_file_has_beyond_the_lens_is_no_error(file):
    save(file, {"encoder": jnp.ones(1), "decoder": jnp.ones(2), "head": jnp.ones(3)})
    like = {"encoder": jnp.zeros(1), "head": jnp.zeros(5)}
    assert load(file, like, lens="encoder")["encoder"] == 1
    loaded, report = load(file, like, lens="encoder", strict=False)
    assert report == Report((("encoder",),), (), ("decoder",), ())
    assert loaded["head"] is like["head"]


def test_a_bound_lens_is_what_it_selects(file):
    saved, like = Net(1), Net(2)
    save(file, saved.states(sl.trainable))
    names = {"again", "layer.weight", "layer.bias"}
    assert set(read_header(file).arrays) == names
    bound = like.states(sl.trainable)
    assert load(file, bound) is bound
    assert values(bound.values_dict()) == values(saved.states(sl.trainable).values_dict())
    assert like.memory.value["steps"] == 2
    # What a file has beyond is no error, as with any lens.
    save(file, saved)
    load(file, bound)

    save(file, {"params": saved.states(sl.trainable), "step": 1})
    assert set(read_header(file).arrays) == {f"params.{name}" for name in names} | {"step"}
    like = Net(2)
    bound = like.states(sl.trainable)
    assert load(file, {"params": bound, "step": 0}) == {"params": bound, "step": 1}
    assert values(like.layer) == values(saved.layer)
    assert values(like.weight) == values(saved.weight)


def test_a_bound_lens_of_rows_is_loaded_into_them(file):
    model = sl.nn.Module()
    model.table = sl.ParamState(jnp.arange(4.0))
    model.layer = eqx.nn.Linear(1, 2, key=jax.random.key(0))
    rows = model.states("table[1:3] | layer.weight[0]")
    save(file, {"rows": rows})
    before = model.layer.weight
    model.table.value = jnp.zeros(4)
    model.layer = jax.tree.map(jnp.zeros_like, model.layer)
    load(file, {"rows": rows})
    np.testing.assert_array_equal(model.table.value, [0, 1, 2, 0])
    np.testing.assert_array_equal(model.layer.weight, [before[0], [0.0]])


def test_a_part_of_an_array_is_saved_and_loaded_alone(file):
    rows = sl.lens("w")[1:3]
    save(file, {"w": jnp.arange(4.0)}, lens=rows)
    assert read_header(file).arrays["w"].shape == (2,)
    np.testing.assert_array_equal(load(file, {"w": jnp.zeros(4)}, lens=rows)["w"], [0, 1, 2, 0])
    state = {"w": sl.State(jnp.zeros(4))}
    load(file, state, lens=rows)
    np.testing.assert_array_equal(state["w"].value, [0, 1, 2, 0])


def test_a_part_of_a_part_is_refused(file):
    model = sl.nn.Module()
    model.layer = eqx.nn.Linear(1, 4, use_bias=False, key=jax.random.key(0))
    rows = {"rows": model.states("layer.weight[1:3]")}
    with pytest.raises(sl.SelectionError, match=r"the part \[0:1\] of 'rows.layer.weight'"):
        save(file, rows, lens="rows.layer.weight[0:1]")


def test_what_was_donated_is_loaded_again(file):
    saved = {"w": jnp.arange(3.0), "state": sl.State(jnp.arange(3.0))}
    save(file, saved)
    before = values(saved)
    saved["w"].delete()
    saved["state"].value.delete()
    assert values(load(file, saved)) == before


def test_arrays_alone_leave_out_numbers(file):
    model = {"dropout": eqx.nn.Dropout(0.5), "w": jnp.ones(1), "steps": 3}
    save(file, model)
    assert set(read_header(file).arrays) == {"dropout.p", "dropout.inference", "w", "steps"}
    save(file, model, lens=sl.arrays)
    assert set(read_header(file).arrays) == {"w"}
    with pytest.raises(sl.CheckpointError, match=r"missing in the file: 'steps'"):
        load(file, model)
    assert load(file, model, lens=sl.arrays)["steps"] == 3


def test_a_lens_of_nothing_is_refused(file):
    with pytest.raises(sl.PathError, match="'heads'"):
        save(file, {"head": jnp.ones(1)}, lens="heads")
    assert not file.exists()


# What doesn't fit.


def misfits():
    return {
        "shape": jnp.ones((3, 2)),
        "dtype": jnp.ones(2, jnp.bfloat16),
        "kind": jnp.ones(()),
        "node": {"a": jnp.ones(1), "b": [jnp.ones(1)]},
        "leaf": jnp.ones(1),
        "old_name": jnp.ones(1),
        "fits": jnp.ones(1),
    }


def like_misfits():
    return {
        "shape": jnp.zeros((2, 3)),
        "dtype": jnp.zeros(2),
        "kind": 3,
        "node": jnp.zeros(2),
        "leaf": {"inner": jnp.zeros(1)},
        "old_names": jnp.zeros(1),
        "fits": jnp.zeros(1),
    }


REPORT = Report(
    loaded=(("fits",),),
    missing=(("old_names",),),
    unexpected=("old_name",),
    mismatched=(
        Mismatch(("dtype",), "dtype", "bfloat16[2]", "float32[2]"),
        Mismatch(("kind",), "dtype", "float32[]", "a Python int"),
        Mismatch(("leaf", "inner"), "structure", "an array at 'leaf'", "float32[1]"),
        Mismatch(("node",), "structure", "a node with 'node.a'", "float32[2]"),
        Mismatch(("shape",), "shape", "float32[3,2]", "float32[2,3]"),
    ),
)


def test_all_that_does_not_fit_is_listed_at_once(file):
    save(file, misfits())
    with pytest.raises(sl.CheckpointError, match="1 missing, 1 unexpected, 5 mismatched") as error:
        load(file, like_misfits())
    assert error.value.report == REPORT
    assert isinstance(error.value, ValueError)
    lines = str(error.value).splitlines()
    assert (
        "mismatched: 'shape': the shape in the file is float32[3,2], and float32[2,3] in the tree"
        in lines
    )
    assert "missing in the file: 'old_names'" in lines
    assert "unexpected in the file: 'old_name' (like 'old_names'?)" in lines


def test_without_strict_what_fits_is_loaded_and_the_report_is_given(file):
    save(file, misfits())
    like = like_misfits()
    loaded, report = load(file, like, strict=False)
    assert report == REPORT
    assert not report.fits
    assert loaded.pop("fits") == 1
    assert loaded.pop("leaf")["inner"] is like["leaf"]["inner"]
    assert all(loaded[name] is like[name] for name in loaded)


def test_a_name_that_is_like_no_other(file):
    save(file, {"abc": jnp.ones(1)})
    with pytest.raises(sl.CheckpointError, match="unexpected in the file: 'abc'\n") as error:
        load(file, {"xyz": jnp.ones(1)})
    assert error.value.report.missing == (("xyz",),)


def test_a_report_without_misfits_says_so(file):
    save(file, {"a": jnp.ones(1)})
    report = load(file, {"a": jnp.ones(1)}, strict=False)[1]
    assert report.fits
    assert str(report) == "all 1 arrays fit"


def test_a_long_report_is_cut_in_the_message_and_whole_in_the_error(file):
    save(file, {"a": [jnp.ones(1)] * 30})
    with pytest.raises(sl.CheckpointError, match=r"and 20 more, in error\.report") as error:
        load(file, {"b": [jnp.ones(1)] * 5, "a": []})
    assert len(error.value.report.unexpected) == 30


def test_nothing_is_assigned_where_something_does_not_fit(file):
    save(file, Affine())
    like = Affine()
    like.calls.value = jnp.zeros(2, int)
    like.weight.value = 0 * like.weight.value
    before = values(like)
    with pytest.raises(sl.CheckpointError, match=r"'calls': the shape in the file is int32\[\]"):
        load(file, like)
    assert values(like) == before


def test_float64_is_no_array_of_jax_without_its_mode(file):
    save(file, {"w": np.ones(2)})
    like = {"w": jax.ShapeDtypeStruct((2,), np.float64)}
    with pytest.raises(sl.CheckpointError, match=r"float64\[2\], which JAX has with"):
        load(file, like)
    with jax.enable_x64(True):
        assert load(file, like)["w"].dtype == np.float64


def test_two_leaves_of_one_name_are_refused(file):
    class Key:
        def __init__(self, order):
            self.order = order

        def __lt__(self, other):
            return self.order < other.order

        def __repr__(self):
            return "key"

    with pytest.raises(sl.StructureError, match=r"two of them are called '\[key\]'"):
        save(file, {Key(0): jnp.ones(1), Key(1): jnp.ones(1)})


def test_the_name_of_metadata_is_refused(file):
    with pytest.raises(sl.CheckpointError, match="keeps its metadata under that name"):
        save(file, {"__metadata__": jnp.ones(1)})


@pytest.mark.parametrize(
    "metadata", [{"step": 3}, {3: "step"}, {"statelens": "x"}], ids=["number", "key", "ours"]
)
def test_metadata_is_text(file, metadata):
    with pytest.raises(sl.ArgumentTypeError, match="safetensors takes text by text"):
        save(file, {}, metadata=metadata)


def test_an_array_beside_modules_in_a_list_has_no_cell(file):
    model = sl.nn.Module()
    model.layers = [Affine(), jnp.ones(1)]
    save(file, model)
    with pytest.raises(sl.StateTypeError, match=r"asked to load the array at 'layers\[1\]'"):
        load(file, model)
    assert load(file, model, lens=sl.State) is model


# In transforms.


def test_a_traced_value_is_refused_by_path(file):
    with pytest.raises(sl.CheckpointError, match="'w' is a value that is being traced"):
        jax.jit(lambda w: save(file, {"w": w}))(jnp.ones(1))
    state = sl.State(jnp.ones(1))

    @sl.jit
    def step():
        state.value += 1
        save(file, {"state": state})

    with pytest.raises(sl.CheckpointError, match="'state' is a value that is being traced"):
        step()
    assert not file.exists()


def test_loading_into_what_is_traced_is_refused(file):
    save(file, {"w": jnp.ones(1)})
    with pytest.raises(sl.CheckpointError, match="'w'\nthere is a value that is being traced"):
        jax.jit(lambda w: load(file, {"w": w}))(jnp.ones(1))


def test_a_donated_array_is_refused_by_path(file):
    array = jnp.ones(3)
    array.delete()
    with pytest.raises(sl.CheckpointError, match="'w' is an array that was donated or deleted"):
        save(file, {"w": array})


def test_in_an_overlay_its_values_are_saved_and_loaded(file):
    state = sl.State(jnp.zeros(1))
    with sl.overlay({state: jnp.ones(1)}):
        save(file, {"state": state})
    assert load(file, {"state": jnp.zeros(1)})["state"] == 1
    with sl.overlay({state: jnp.full(1, 2.0)}) as over:
        load(file, {"state": state})
        assert state.value == 1
        assert over.writes[state] == 1
    assert state.value == 0


def test_a_compiled_function_sees_what_was_loaded(file):
    model = Affine()
    run = sl.jit(lambda x: model(x))
    save(file, model)
    first = run(jnp.ones((1, 2)))
    model.weight.value = 0 * model.weight.value
    assert run(jnp.ones((1, 2))) != first
    load(file, model)
    assert run(jnp.ones((1, 2))) == first
