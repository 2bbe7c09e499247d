"""What a training keeps goes into one file and comes back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import close

X = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(4, 3)


class Net(sl.nn.Module):
    def __init__(self, seed):
        super().__init__()
        first, last = jax.random.split(jax.random.key(seed))
        self.first = eqx.nn.Linear(3, 4, key=first)
        norm = eqx.nn.make_with_state(eqx.nn.BatchNorm)
        self.norm, self.statistics = norm(4, "batch", mode="batch")
        self.drop = eqx.nn.Dropout(0.3)
        self.last = eqx.nn.Linear(4, 2, key=last)
        self.random = sl.random.RandomState(seed)

    def __call__(self, x):
        norm = jax.vmap(self.norm, (0, None), (0, None), axis_name="batch")
        x, self.statistics = norm(jax.vmap(self.first)(x), self.statistics)
        return jax.vmap(self.last)(self.drop(jnp.tanh(x), key=self.random.split_key()))


def stateful(seed):
    model = Net(seed)
    params = model.states(sl.trainable)
    parts = {"last.**": optax.sgd(0.1, 0.9), ...: optax.adamw(0.01)}
    optimizer = sl.optim.Optimizer(sl.optim.by_lens(parts), params)
    averages = sl.optim.ema(params, 0.9)
    step = sl.optim.train_step(lambda: jnp.mean(model(X) ** 2), optimizer, ema=averages)
    return step, {"model": model, "optimizer": optimizer, "averages": averages}


@pytest.mark.parametrize("engine", ["safetensors", "orbax"])
def test_a_stateful_training_goes_on_as_if_nothing_had_been(engine, tmp_path):
    run = sl.checkpoint.Checkpoints(tmp_path / "run", engine=engine)
    step, everything = stateful(0)
    for _ in range(2):
        step()
    run.save(2, everything)
    run.wait()
    expected = [step() for _ in range(3)]

    again, other = stateful(1)
    run.restore(other)
    np.testing.assert_array_equal([again() for _ in range(3)], expected)
    for one, two in zip(
        jax.tree.leaves(eqx.filter(everything, eqx.is_inexact_array)),
        jax.tree.leaves(eqx.filter(other, eqx.is_inexact_array)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    everything["model"].eval()
    other["model"].eval()
    close(everything["model"](X), other["model"](X))


def test_a_functional_training_is_one_tree(tmp_path):
    def loss(model, key):
        return jnp.mean(jax.vmap(model)(X + 0.1 * jax.random.normal(key, X.shape)) ** 2)

    def begun(seed):
        model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(seed))
        return {"model": model, "state": step.init(model), "key": jax.random.key(seed), "step": 0}

    def advance(run):
        key, now = jax.random.split(run["key"])
        model, state, value = step(run["model"], run["state"], now)
        return {"model": model, "state": state, "key": key, "step": run["step"] + 1}, value

    optimizer = sl.optim.Optimizer(optax.adam(optax.linear_schedule(0.1, 0.0, 5)), sl.trainable)
    averages = sl.optim.ema(sl.trainable, 0.9)
    step = sl.optim.train_step(loss, optimizer, ema=averages, donate=False)
    run, _ = advance(begun(0))
    sl.checkpoint.save(tmp_path / "run.safetensors", run)
    again = sl.checkpoint.load(tmp_path / "run.safetensors", begun(1))
    assert again["step"] == 1
    for _ in range(3):
        (run, expected), (again, value) = advance(run), advance(again)
        np.testing.assert_array_equal(value, expected)
    assert run["step"] == again["step"] == 4


def test_a_file_has_the_paths_of_moments(tmp_path):
    optimizer = sl.optim.Optimizer(optax.adam(0.1), sl.lens("w")[:2])
    tree = {"w": jnp.ones((3, 2)), "b": jnp.ones(1)}
    sl.checkpoint.save(tmp_path / "f", {"state": optimizer.init(tree)})
    arrays = sl.checkpoint.read_header(tmp_path / "f").arrays
    assert sorted(arrays) == ["state[0].count", "state[0].mu.w", "state[0].nu.w"]
    assert arrays["state[0].mu.w"].shape == (2, 2)
