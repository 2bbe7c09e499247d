"""What type checkers make of a user's file: right programs pass, wrong ones are flagged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import statelens as sl

PROGRAM = """
from typing import assert_type

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import statelens as sl
from statelens import random

state = sl.State(jnp.zeros(3))
assert_type(state, sl.State[jax.Array])
assert_type(state.value, jax.Array)
assert_type(sl.ParamState({"a": 1.0}).value, dict[str, float])
assert_type(state.with_value(jnp.ones(3)), sl.State[jax.Array])
state.value = 2 * state.value
state.value = "text"  # wrong
state.vlaue  # wrong
state + 1  # wrong


class Position(sl.ParamState[jax.Array]):
    pass


assert_type(Position(jnp.zeros(2)).value, jax.Array)


class Net(sl.nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.weight = sl.ParamState(jnp.zeros(size))
        self.training = True

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.weight.value


net = Net(3)
assert_type(net.weight, sl.ParamState[jax.Array])
assert_type(net.training, bool)
assert_type(net(jnp.zeros(3)), jax.Array)
list(net.states().values())
list(net.states(sl.ParamState).keys())
params, others = net.states(sl.ParamState, ...)
params.keys()
Net()  # wrong
net.nothing  # wrong
net.states(sl.ParamState, ...).keys()  # wrong

sl.checkpoint.save("model.safetensors", net, rename={"encoder.**": "backbone.**"})
assert_type(sl.checkpoint.load("model.safetensors", net), Net)
loaded, report = sl.checkpoint.load(["1.safetensors", "2.safetensors"], net, strict=False)
assert_type(loaded, Net)
assert_type(report.unexpected, tuple[str, ...])
assert_type(sl.checkpoint.Checkpoints("run", best="loss").restore(net), Net)
sl.checkpoint.Checkpoints("run", engine="pickle")  # wrong
sl.checkpoint.load("model.safetensors", net, strict="no")  # wrong

rng = random.RandomState(0)
assert_type(rng.value, jax.Array)
assert_type(rng.normal(0.0, [1.0, 2.0], (2, 3)), jax.Array)
assert_type(random.normal(shape=3, key=5), jax.Array)
rng.choice(np.arange(3), size=2, p=[0.1, 0.2, 0.7])
rng.poisson(4.0, size=np.int64(3), method="exact")
random.randn(2, 3, dtype=jnp.bfloat16)
assert_type(random.fork(), random.RandomState)
assert_type(random.fork(2), list[random.RandomState])
random.beta(1.0)  # wrong
random.normall()  # wrong
random.normal("a")  # wrong
rng.beta(1.0, 1.0, c=1)  # wrong
rng.normal(key="a")  # wrong
rng.randint(1, 2, 3, int, 5)  # wrong


def step(tree: dict[str, sl.State[jax.Array]], x: jax.Array) -> tuple[jax.Array, str]:
    return tree["a"].value + x, "text"


tree = {"a": state}
x = jnp.zeros(3)
(out, text), after = sl.thread(step)(tree, x)
assert_type(after, dict[str, sl.State[jax.Array]])
assert_type(text, str)
loss, (aux, after) = sl.thread(step, has_aux=True)(tree, x)
assert_type(aux, str)
sl.thread(step)(tree)  # wrong


def add(x: float) -> jax.Array:
    return state.value + x


out, values = sl.functionalize(add, [state])([x], 1.0)
assert_type(out, jax.Array)
sl.functionalize(add, [state])([x])  # wrong


def predict(x: jax.Array, scale: float = 1.0) -> jax.Array:
    return scale * state.value * x


def loss_and_text(x: jax.Array) -> tuple[jax.Array, str]:
    return jnp.sum(predict(x)), "text"


assert_type(sl.jit(predict)(x, scale=2.0), jax.Array)
assert_type(sl.jit(max_traces=1)(predict)(x), jax.Array)
assert_type(sl.jit(predict).states.written, tuple[sl.State, ...])
assert_type(sl.transform.vmap(predict, in_states=state)(x), jax.Array)
assert_type(sl.transform.vmap(in_axes=(0, None))(predict)(x, 2.0), jax.Array)
assert_type(sl.transform.checkpoint(predict)(x), jax.Array)
assert_type(sl.transform.remat(prevent_cse=False)(predict)(x), jax.Array)
_, text = sl.grad(loss_and_text, state, has_aux=True)(x)
assert_type(text, str)
_, value, text = sl.grad(loss_and_text, state, has_aux=True, return_value=True)(x)
assert_type(value, jax.Array)
(value, text), _ = sl.value_and_grad(loss_and_text, state, has_aux=True)(x)
assert_type(text, str)
sl.jit(predict)()  # wrong
sl.jit(predict)(x, scael=2.0)  # wrong
sl.jit(predict, max_trace=1)  # wrong
sl.jit(max_traces=1)(predict)()  # wrong
sl.transform.vmap(predict)()  # wrong
sl.transform.vmap(in_axes=0)(predict)()  # wrong
sl.transform.vmap(predict, in_axis=0)  # wrong
sl.transform.checkpoint(predict)()  # wrong
sl.transform.remat(predict)(x, "text")  # wrong
sl.grad(predict, state)()  # wrong
sl.grad(has_aux=True)(loss_and_text)()  # wrong
sl.grad(predict, state, has_aux=True)  # wrong
sl.value_and_grad(loss_and_text, state, has_aux=True)()  # wrong


class Layer(sl.nn.Module):
    weight: sl.ParamState[jax.Array]

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.weight.value * x

    @sl.jit
    def step(self, x: jax.Array) -> jax.Array:
        return self(x)


layer = Layer()
linears = sl.nodes(eqx.nn.Linear)
assert_type(linears, sl.Nodes[eqx.nn.Linear])
assert_type(linears.get(layer).popitem()[1], eqx.nn.Linear)
assert_type(linears.update(layer, lambda linear: linear.weight), Layer)
assert_type(linears.update(layer, lambda path, linear: linear.bias, with_path=True), Layer)
assert_type(linears / "weight", sl.Lens)
sl.nodes("**.weight").update(layer, jnp.exp)
linears.update(layer, lambda linear: linear.wieght)  # wrong
linears.update(layer, lambda path, linear: linear)  # wrong

assert_type(sl.jit(layer)(x), jax.Array)
assert_type(layer.step(x), jax.Array)
layer.weight.value = x
layer.nothing  # wrong
layer.weight = 1.0  # wrong
layer.step()  # wrong
sl.jit(layer)()  # wrong
"""


def test_right_programs_pass_and_wrong_ones_are_flagged(tmp_path):
    pytest.importorskip("pyright")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(Path(sl.__file__).parents[1])]})
    )
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    out = subprocess.run([*command, "-p", "."], cwd=tmp_path, capture_output=True, text=True)
    report = json.loads(out.stdout)["generalDiagnostics"]
    flagged = {
        d["range"]["start"]["line"]: d["message"] for d in report if d["severity"] == "error"
    }
    wrong = {i for i, line in enumerate(PROGRAM.splitlines()) if line.endswith("# wrong")}
    assert flagged.keys() == wrong, {i: flagged.get(i) for i in flagged.keys() ^ wrong}
