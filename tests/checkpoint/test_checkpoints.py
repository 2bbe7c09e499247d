"""The checkpoints of a run: which are kept, and that a run goes on as if never interrupted."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from statelens.checkpoint import Checkpoints, read_header
from tests.checkpoint.test_save_load import values
from tests.helpers import Affine

ENGINES = ["safetensors", "orbax"]


def tree(step):
    return {"w": jnp.full(2, float(step))}


@pytest.fixture(params=ENGINES)
def make(request, tmp_path):
    if request.param == "orbax":
        pytest.importorskip("orbax.checkpoint")
    return lambda **options: Checkpoints(tmp_path / "run", engine=request.param, **options)


# Which are kept.


def test_the_last_ones_are_kept(make):
    checkpoints = make(keep=2)
    assert checkpoints.steps() == ()
    assert checkpoints.latest() is checkpoints.best() is None
    for step in (1, 5, 10, 100):
        checkpoints.save(step, tree(step))
    checkpoints.wait()
    assert checkpoints.steps() == (10, 100)
    assert checkpoints.latest() == 100
    assert checkpoints.restore(tree(0))["w"][0] == 100
    assert checkpoints.restore(tree(0), step=10)["w"][0] == 10
    assert len(os.listdir(checkpoints.folder)) == 2


def test_all_are_kept_where_that_is_asked_for(make):
    with make(keep=None) as checkpoints:
        for step in range(4):
            checkpoints.save(step, tree(step))
    assert checkpoints.steps() == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("mode", "best", "kept"), [("min", 1, (1, 4, 5)), ("max", 2, (2, 4, 5))], ids=["min", "max"]
)
def test_the_best_is_kept_too(make, mode, best, kept):
    checkpoints = make(keep=2, best="score", mode=mode)
    for step, score in enumerate([float("nan"), 0.1, 0.9, 0.5, 0.9 if mode == "min" else 0.1, 0.5]):
        checkpoints.save(step, tree(step), metrics={"score": jnp.asarray(score), "other": step})
    checkpoints.wait()
    assert checkpoints.best() == best
    assert checkpoints.steps() == kept
    assert checkpoints.metrics(5) == {"score": 0.5, "other": 5.0}
    assert checkpoints.restore(tree(0), checkpoints.best())["w"][0] == best


def test_of_equal_ones_the_last_is_the_best(make):
    with make(best="loss") as checkpoints:
        for step in range(3):
            checkpoints.save(step, tree(step), metrics={"loss": 1.0})
    assert checkpoints.best() == 2


def test_a_loss_that_is_never_a_number_has_no_best(make):
    with make(best="loss") as checkpoints:
        checkpoints.save(0, tree(0), metrics={"loss": float("nan")})
    assert checkpoints.best() is None
    assert checkpoints.steps() == (0,)


def test_a_run_that_goes_back_says_so_before_it_saves(make):
    with make(keep=3, best="loss") as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, tree(step), metrics={"loss": -step})
        # The last one may not yet be there.
        with pytest.raises(sl.CheckpointError, match=r"steps \[20, 30\](.|\n)*drop_after\(15\)"):
            checkpoints.save(15, tree(15), metrics={"loss": 0})
    assert checkpoints.steps() == (10, 20, 30)
    with make(keep=2, best="loss") as again:
        again.drop_after(15)
        assert again.steps() == (10,)
        for step in (15, 16):
            again.save(step, tree(-step), metrics={"loss": step})
    assert again.steps() == (10, 15, 16)
    assert again.latest() == 16
    assert again.best() == 10
    assert again.restore(tree(0))["w"][0] == -16


def test_the_last_of_what_is_being_saved_may_be_dropped(make):
    with make() as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, tree(step))
        checkpoints.drop_after(1)
        checkpoints.save(1, tree(7))
    assert checkpoints.steps() == (1,)
    assert checkpoints.restore(tree(0))["w"][0] == 7
    assert len(os.listdir(checkpoints.folder)) == 1


def test_a_later_one_that_is_not_whole_is_no_later_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / "step_00000003.safetensors").touch()
    checkpoints.save(2, tree(2))
    assert checkpoints.steps() == (2,)
    checkpoints.drop_after(2)
    assert not (tmp_path / "step_00000003.safetensors").exists()


def test_a_step_is_replaced(make):
    with make() as checkpoints:
        checkpoints.save(1, tree(1))
        checkpoints.save(1, tree(2))
    assert checkpoints.steps() == (1,)
    assert checkpoints.restore(tree(0))["w"][0] == 2


def test_another_process_sees_them(make):
    with make(best="loss") as checkpoints:
        checkpoints.save(3, tree(3), metrics={"loss": 1.0})
    again = make(best="loss")
    assert again.latest() == again.best() == 3
    assert "steps=(3,)" in repr(again)


def test_what_is_not_whole_is_never_listed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(1))
    checkpoints.save(2, tree(2))
    whole = (tmp_path / "step_00000002.safetensors").read_bytes()
    (tmp_path / "step_00000002.safetensors").write_bytes(whole[:-1])
    (tmp_path / "step_00000003.safetensors").touch()
    (tmp_path / "step_00000004.safetensors").mkdir()
    (tmp_path / ".step_00000005.safetensors.ab.tmp").write_bytes(whole)
    (tmp_path / "notes.txt").touch()
    assert checkpoints.steps() == (1,)
    assert checkpoints.restore(tree(0))["w"][0] == 1
    checkpoints.save(6, tree(6))
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    assert (tmp_path / "notes.txt").exists()


def test_a_folder_of_orbax_that_is_not_whole_is_never_listed(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    checkpoints = Checkpoints(tmp_path, engine="orbax")
    checkpoints.save(1, tree(1))
    checkpoints.wait()
    (tmp_path / "step_00000002.orbax").mkdir()
    (tmp_path / "step_00000003.orbax.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.steps() == (1,)
    checkpoints.save(4, tree(4))
    checkpoints.wait()
    assert checkpoints.steps() == (1, 4)
    assert not [name for name in os.listdir(tmp_path) if name.endswith("tmp")]


@pytest.mark.filterwarnings("ignore")  # of threads of Orbax that end by an error
def test_a_full_disk_leaves_the_earlier_checkpoints(make, small_disk):
    checkpoints = make()
    checkpoints.save(1, tree(1))
    checkpoints.wait()
    big = {"w": np.random.default_rng(0).normal(size=100_000)}

    def save_and_wait():
        checkpoints.save(2, big)
        checkpoints.wait()

    with pytest.raises(sl.CheckpointFileError, match=r"(?s)asked to save .*File too large"):
        save_and_wait()
    assert checkpoints.steps() == (1,)
    checkpoints.save(3, tree(3))
    checkpoints.wait()
    assert checkpoints.steps() == (1, 3)
    assert len(os.listdir(checkpoints.folder)) == 2


def test_metadata_and_a_lens_go_to_the_file(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": jnp.ones(1), "b": jnp.ones(1)}, lens="a", metadata={"of": "us"})
    header = read_header(checkpoints.path(1))
    assert set(header.arrays) == {"a"}
    assert header.metadata == {"of": "us", "metrics": "{}"}
    assert checkpoints.restore({"b": jnp.zeros(1)}, rename={"a": "b"})["b"] == 1


def test_what_does_not_fit_is_reported(make):
    with make() as checkpoints:
        checkpoints.save(1, {"a": jnp.ones(2), "b": jnp.ones(1)})
    model = {"a": sl.State(jnp.zeros(3)), "c": jnp.zeros(1)}
    with pytest.raises(sl.CheckpointError, match="1 missing, 1 unexpected, 1 mismatched") as error:
        checkpoints.restore(model)
    assert error.value.report.mismatched[0].what == "shape"
    assert (model["a"].value == 0).all()


# What is asked wrongly.


def test_steps_that_are_not_there(make):
    checkpoints = make()
    with pytest.raises(sl.CheckpointFileError, match="asked for the checkpoint of the last step"):
        checkpoints.restore(tree(0))
    with checkpoints:
        checkpoints.save(1, tree(1))
    with pytest.raises(sl.CheckpointFileError, match=r"of step 7\n.* has those of steps \[1\]"):
        checkpoints.restore(tree(0), step=7)
    with pytest.raises(sl.CheckpointFileError, match="of step 7"):
        checkpoints.metrics(7)


@pytest.mark.parametrize("step", [-1, 1.0, True, jnp.int32(1), None], ids=str)
def test_a_step_is_an_integer(tmp_path, step):
    with pytest.raises(sl.ArgumentError, match="an integer from 0 on"):
        Checkpoints(tmp_path).save(step, tree(1))
    with pytest.raises(sl.ArgumentError, match="an integer from 0 on"):
        Checkpoints(tmp_path).drop_after(step)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": 0}, "the last one is always kept"),
        ({"mode": "least"}, "'max' for an accuracy"),
        ({"engine": "pickle"}, "there is no such engine"),
    ],
    ids=str,
)
def test_options(tmp_path, options, says):
    with pytest.raises(sl.ArgumentError, match=says):
        Checkpoints(tmp_path, **options)


def test_the_metric_of_the_best_is_asked_for(tmp_path):
    with pytest.raises(sl.ArgumentError, match="told by 'loss', and the metrics are"):
        Checkpoints(tmp_path, best="loss").save(1, tree(1), metrics={"accuracy": 1.0})


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(sl.CheckpointFileError, match="asked to save a checkpoint in"):
        Checkpoints(tmp_path / "file" / "run").save(1, tree(1))


# A run goes on as if it had never been interrupted.

XS = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
YS = XS.sum(1, keepdims=True)
BATCH, STEPS_AN_EPOCH = 4, 3


def make_layers(key):
    keys = jax.random.split(key)
    return {
        "first": eqx.nn.Linear(4, 8, key=keys[0]),
        "dropout": eqx.nn.Dropout(0.5),
        "second": eqx.nn.Linear(8, 1, key=keys[1]),
    }


def forward(layers, x, key):
    hidden = layers["dropout"](jax.nn.relu(layers["first"](x)), key=key)
    return layers["second"](hidden)


class Functional:
    """An Equinox model, Optax, a key, the order of the data, and where in it the run is."""

    optimizer = optax.adam(0.1)

    def __init__(self, seed):
        key, model_key = jax.random.split(jax.random.key(seed))
        model = make_layers(model_key)
        memory = self.optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        order = np.arange(12)
        self.run = {"model": model, "optimizer": memory, "key": key, "order": order, "step": 0}

    def saved(self):
        return self.run

    def restore(self, checkpoints):
        self.run = checkpoints.restore(self.run)

    @property
    def step(self):
        return self.run["step"]

    def advance(self):
        run = dict(self.run)
        at = run["step"] % STEPS_AN_EPOCH
        run["key"], order_key, key = jax.random.split(run["key"], 3)
        if at == 0:
            run["order"] = np.asarray(jax.random.permutation(order_key, 12), int)
        batch = run["order"][at * BATCH : (at + 1) * BATCH]
        run["model"], run["optimizer"] = self._update(
            run["model"], run["optimizer"], key, XS[batch], YS[batch]
        )
        run["step"] += 1
        self.run = run

    @staticmethod
    @eqx.filter_jit
    def _update(model, memory, key, x, y):
        @sl.grad(grad_states=sl.inexact)
        def loss(model):
            keys = jax.random.split(key, len(x))
            return jnp.mean((jax.vmap(lambda x, key: forward(model, x, key))(x, keys) - y) ** 2)

        updates, memory = Functional.optimizer.update(loss(model), memory)
        return eqx.apply_updates(model, updates), memory


class Stateful(sl.nn.Module):
    """The same as one module, whose states are all that changes."""

    optimizer = optax.adam(0.1)

    def __init__(self, seed):
        super().__init__()
        self.rng = sl.random.RandomState(seed)
        layers = make_layers(self.rng.split_key())
        self.first, self.second = layers["first"], layers["second"]
        self.dropout = layers["dropout"]
        self.order = sl.LongTermState(jnp.arange(12))
        self.count = sl.LongTermState(jnp.zeros((), int))
        params = self.states(sl.trainable).values_dict()
        self.memory = sl.LongTermState(self.optimizer.init(params))

    def saved(self):
        return self

    def restore(self, checkpoints):
        assert checkpoints.restore(self) is self

    @property
    def step(self):
        return int(self.count.value)

    def loss(self, x, y):
        keys = self.rng.split_key(len(x))
        layers = {"first": self.first, "dropout": self.dropout, "second": self.second}
        outs = jax.vmap(lambda x, key: forward(layers, x, key))(x, keys)
        return jnp.mean((outs - y) ** 2)

    def advance(self):
        at = self.step % STEPS_AN_EPOCH
        if at == 0:
            self.order.value = jax.random.permutation(self.rng.split_key(), 12)
        batch = np.asarray(self.order.value)[at * BATCH : (at + 1) * BATCH]
        self._update(XS[batch], YS[batch])

    @sl.jit
    def _update(self, x, y):
        params = self.states(sl.trainable)
        grads = sl.grad(self.loss, params)(x, y)
        updates, self.memory.value = self.optimizer.update(grads, self.memory.value)
        params.apply_updates(updates)
        self.count.value += 1


@pytest.mark.slow
@pytest.mark.parametrize("style", [Functional, Stateful])
def test_a_run_that_is_resumed_is_bit_for_bit_one_that_was_not_interrupted(make, style):
    whole = style(0)
    for _ in range(8):
        whole.advance()

    first = style(0)
    with make() as checkpoints:
        while first.step < 4:  # in the middle of the second epoch
            first.advance()
            checkpoints.save(first.step, first.saved())

    resumed = style(1)
    resumed.restore(make())
    assert resumed.step == 4
    assert values(resumed.saved()) == values(first.saved())
    while resumed.step < 8:
        resumed.advance()
    assert values(resumed.saved()) == values(whole.saved())


def test_a_compiled_step_is_not_traced_again_after_a_restore(tmp_path):
    model = Affine()
    step = sl.jit(lambda x: model(x), max_traces=1)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, model)
    step(jnp.ones((1, 2)))
    checkpoints.restore(model)
    step(jnp.ones((1, 2)))
    assert int(model.calls.value) == 1
