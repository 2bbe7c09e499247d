"""Equinox: modules through `filter_jit`, or, as they hold nothing but arrays, through `jax.jit`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..calls import Call, FirstCall, Training, threaded, training
from ..problems import ADAM, Problem, affine

NAME = "Equinox filter_jit"


class Layer(eqx.Module):
    bias: jax.Array
    weight: jax.Array

    def __call__(self, x: Any) -> Any:
        return affine(self.bias, self.weight, x)


class Model(eqx.Module):
    layers: list[Layer]
    forward: Any = eqx.field(static=True)

    def __init__(self, problem: Problem):
        self.layers = [Layer(jnp.array(bias), jnp.array(weight)) for bias, weight in problem.layers]
        self.forward = problem.forward

    def __call__(self, x: Any) -> Any:
        return self.forward(self.layers, x)


def loss_function(problem: Problem) -> Any:
    return lambda model, x, y: problem.loss(model(x), y)


def step_function(problem: Problem) -> Any:
    loss_and_grad = eqx.filter_value_and_grad(loss_function(problem))

    def step(model: Model, x: Any, y: Any) -> Any:
        loss, grads = loss_and_grad(model, x, y)
        updates = jax.tree.map(lambda grad: -problem.rate * grad, grads)
        return loss, eqx.apply_updates(model, updates)

    return step


def filtered_step(problem: Problem, donate: bool = False) -> Call:
    step = step_function(problem)
    if not donate:
        return threaded(eqx.filter_jit(step), Model(problem), problem.x, problem.y)
    # What is donated is all but the first argument.
    jitted = eqx.filter_jit(lambda batch, model: step(model, *batch), donate="all-except-first")
    batch = problem.x, problem.y
    return threaded(lambda model: jitted(batch, model), Model(problem))


def steps(problem: Problem, donate: bool = False) -> dict[str, Call]:
    plain = jax.jit(step_function(problem), donate_argnums=(0,) if donate else ())
    return {
        NAME: filtered_step(problem, donate),
        "Equinox, jax.jit": threaded(plain, Model(problem), problem.x, problem.y),
    }


def evaluations(problem: Problem) -> dict[str, Call]:
    def predict(model: Model, x: Any) -> Any:
        return model(x)

    filtered, plain, model, x = eqx.filter_jit(predict), jax.jit(predict), Model(problem), problem.x
    return {NAME: lambda: filtered(model, x), "Equinox, jax.jit": lambda: plain(model, x)}


def trainings(problem: Problem) -> dict[str, Training]:
    loss_of = loss_function(problem)

    def step(model: Model, memory: Any, x: Any, y: Any) -> Any:
        loss, grads = eqx.filter_value_and_grad(loss_of)(model, x, y)
        updates, memory = ADAM.update(grads, memory, model)
        return loss, eqx.apply_updates(model, updates), memory

    def begun(jit: Any) -> Training:
        model = Model(problem)
        return training(jit(step), jit(loss_of), model, ADAM.init(model), problem.x, problem.y)

    return {NAME: begun(eqx.filter_jit), "Equinox, jax.jit": begun(jax.jit)}


def gradients(problem: Problem) -> dict[str, Call]:
    function = eqx.filter_value_and_grad(loss_function(problem))
    model, x, y = Model(problem), problem.x, problem.y
    return {"Equinox": lambda: function(model, x, y)}


def first_calls(problem: Problem) -> dict[str, FirstCall]:
    args = Model(problem), problem.x, problem.y
    return {NAME: FirstCall(lambda: eqx.filter_jit(step_function(problem)), args)}


def derivatives(problem: Problem, compiled: bool) -> dict[str, dict[str, Call]]:
    model, x, y = Model(problem), problem.x, problem.y
    loss_of = loss_function(problem)

    def predict(model: Model, x: Any) -> Any:
        return model(x)

    def vjp(model: Model, x: Any) -> Any:
        out, pullback = eqx.filter_vjp(lambda model: model(x), model)
        return pullback(out)[0]

    def hvp(model: Model, x: Any, y: Any) -> Any:
        gradient = eqx.filter_grad(lambda model: loss_of(model, x, y))
        return eqx.filter_jvp(gradient, (model,), (model,))[1]

    wrap = eqx.filter_jit if compiled else lambda function: function
    jacobian = wrap(eqx.filter_jacrev(predict))
    hessian = wrap(eqx.filter_hessian(loss_of))
    product, pulled = wrap(hvp), wrap(vjp)
    return {
        "jacrev": {"Equinox": lambda: jacobian(model, x)},
        "hessian": {"Equinox": lambda: hessian(model, x, y)},
        "hvp": {"Equinox": lambda: product(model, x, y)},
        "vjp": {"Equinox": lambda: pulled(model, x)},
    }
