"""Every optimiser that Optax exports does, in both styles, what it does with arrays in a list."""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl

# What an optimiser needs beside a learning rate.
NEEDED: dict[str, dict[str, Any]] = {
    "adamw": {"weight_decay": 0.1},
    "contrib.galore": {"rank": 2},
    "contrib.schedule_free": {"base_optimizer": optax.sgd(0.1)},
    "noisy_sgd": {"key": 0},
    "polyak_sgd": {"max_learning_rate": 0.1},
}
# Parts of optimisers, one that is deprecated, and one that takes a gradient for each example.
OTHERS = {
    "contrib.dpsgd",
    "contrib.scale_by_madgrad",
    "optimistic_adam",
    "scale_by_backtracking_linesearch",
    "scale_by_learning_rate",
    "scale_by_polyak",
    "scale_by_zoom_linesearch",
}


def optimisers() -> dict[str, Any]:
    found = {}
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name in dir(module):
            make = getattr(module, name)
            if name.startswith("_") or not inspect.isfunction(make):
                continue
            parameters = inspect.signature(make).parameters
            if {"learning_rate", "max_learning_rate"} & parameters.keys():
                found[prefix + name] = make
    return {name: make for name, make in found.items() if name not in OTHERS}


OPTIMISERS = optimisers()
WRAPPERS = {
    "chain": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1)),
    "MultiSteps": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "apply_if_finite": optax.apply_if_finite(optax.adam(0.1), 3),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(
        learning_rate=optax.linear_schedule(0.1, 0.0, 5)
    ),
    "add_noise": optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
    "reduce_on_plateau": optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "mechanize": optax.contrib.mechanize(optax.sgd(0.1)),
}


def made(name: str) -> optax.GradientTransformation:
    if name in WRAPPERS:
        return WRAPPERS[name]
    needed = NEEDED.get(name, {})
    if "max_learning_rate" not in needed:
        needed = {"learning_rate": 0.1, **needed}
    return OPTIMISERS[name](**needed)


def extra(name, value, grad, fun):
    """What a step is given beside the gradient."""
    functions = {"obj_fn": fun} if name == "contrib.sophia" else {"value_fn": fun}
    return {"value": value, "grad": grad, **functions}


class Layer(eqx.Module):
    bias: jax.Array
    weight: jax.Array
    name: str = "layer"

    def __call__(self, x):
        return self.weight @ x + self.bias


class Net(sl.nn.Module):
    def __init__(self, bias, weight):
        super().__init__()
        self.bias, self.weight = sl.ParamState(bias), sl.ParamState(weight)

    def __call__(self, x):
        return self.weight.value @ x + self.bias.value


def arrays():
    return [jnp.array([0.5, -0.25]), jnp.arange(1.0, 7.0).reshape(2, 3) / 7]


X = jnp.array([1.0, -2.0, 0.5])


def loss(call):
    return jnp.sum((call(X) - 1.0) ** 2)


def by_hand(name, steps=3):
    values = arrays()
    transformation = optax.with_extra_args_support(made(name))
    state = transformation.init(values)

    def fun(values):
        return loss(Layer(*values))

    for _ in range(steps):
        value, grad = jax.value_and_grad(fun)(values)
        more = extra(name, value, grad, fun)
        updates, state = transformation.update(grad, state, values, **more)
        values = optax.apply_updates(values, updates)
    return values


def functional(name, steps=3):
    model, lens = Layer(*arrays()), sl.lens("**")
    optimizer = sl.optim.Optimizer(made(name), lens)
    state = optimizer.init(model)
    for _ in range(steps):
        value, grad = sl.value_and_grad(loss, lens)(model)
        more = extra(name, value, grad, loss)
        model, state = optimizer.update(model, state, grad, **more)
    return [model.bias, model.weight]


def stateful(name, steps=3):
    model = Net(*arrays())
    params = model.states(sl.trainable)
    optimizer = sl.optim.Optimizer(made(name), params)

    def fun():
        return loss(model)

    for _ in range(steps):
        value, grad = sl.value_and_grad(fun, params)()
        optimizer.step(grad, **extra(name, value, grad, fun))
    return [model.bias.value, model.weight.value]


def agrees(name):
    expected = by_hand(name)
    for run in (functional, stateful):
        for got, wanted in zip(run(name), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert any(not np.array_equal(a, b) for a, b in zip(expected, arrays(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "sgd", "MultiSteps", "inject_hyperparams"])
def test_those_that_people_use_are_those_of_optax(name):
    agrees(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OPTIMISERS, *WRAPPERS])
def test_each_is_that_of_optax(name):
    agrees(name)


def test_there_are_many():
    assert len(OPTIMISERS) > 40
