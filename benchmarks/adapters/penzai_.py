"""Penzai: variables are taken out of the model, and put back inside, as its own trainer does."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from penzai import pz

from ..calls import Call, FirstCall
from ..problems import Problem, affine

NAME = "Penzai"


@pz.pytree_dataclass
class Layer(pz.Struct):
    bias: Any
    weight: Any

    def __call__(self, x: Any) -> Any:
        return affine(self.bias.value, self.weight.value, x)


@pz.pytree_dataclass
class Model(pz.Struct):
    layers: list[Layer]
    forward: Any = dataclasses.field(metadata={"pytree_node": False})

    def __call__(self, x: Any) -> Any:
        return self.forward(self.layers, x)


def built(problem: Problem) -> Model:
    def parameter(array: Any, label: str) -> Any:
        return pz.Parameter(value=jnp.array(array), label=label)

    layers = [
        Layer(
            parameter(bias, f"layers/{number}/bias"), parameter(weight, f"layers/{number}/weight")
        )
        for number, (bias, weight) in enumerate(problem.layers)
    ]
    return Model(layers, problem.forward)


def loss_function(problem: Problem) -> Any:
    def loss_of(params: Any, stateless: Any, x: Any, y: Any) -> Any:
        return problem.loss(pz.bind_variables(stateless, params)(x), y)

    return loss_of


def step_function(problem: Problem) -> Any:
    loss_of = loss_function(problem)

    def step(params: Any, stateless: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, stateless, x, y)
        return loss, jax.tree.map(lambda p, g: p - problem.rate * g, params, grads)

    return step


def steps(problem: Problem, donate: bool = False) -> dict[str, Call]:
    model, x, y = built(problem), problem.x, problem.y
    jitted = jax.jit(step_function(problem), donate_argnums=(0,) if donate else ())

    def call() -> Any:
        stateless, params = pz.unbind_params(model)
        loss, new = jitted(pz.freeze_params(params), stateless, x, y)
        for param, value in zip(params, new, strict=True):
            param.update(value)
        return loss

    return {NAME: call}


def evaluations(problem: Problem) -> dict[str, Call]:
    predict, model, x = pz.variable_jit(lambda model, x: model(x)), built(problem), problem.x
    return {NAME: lambda: predict(model, x)}


def gradients(problem: Problem) -> dict[str, Call]:
    function = jax.value_and_grad(loss_function(problem))
    model, x, y = built(problem), problem.x, problem.y

    def call() -> Any:
        stateless, params = pz.unbind_params(model)
        return function(pz.freeze_params(params), stateless, x, y)

    return {NAME: call}


def first_calls(problem: Problem) -> dict[str, FirstCall]:
    stateless, params = pz.unbind_params(built(problem), freeze=True)
    args = params, stateless, problem.x, problem.y
    return {NAME: FirstCall(lambda: jax.jit(step_function(problem)), args)}
