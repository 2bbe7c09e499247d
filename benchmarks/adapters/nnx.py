"""Flax NNX: `nnx.jit`, and the faster ways of its guide to performance."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..calls import Call, FirstCall, Training
from ..problems import ADAM, Problem, affine


class Layer(nnx.Module):
    def __init__(self, bias: Any, weight: Any):
        self.bias = nnx.Param(jnp.array(bias))
        self.weight = nnx.Param(jnp.array(weight))

    def __call__(self, x: Any) -> Any:
        return affine(self.bias[...], self.weight[...], x)


class Model(nnx.Module):
    def __init__(self, problem: Problem):
        self.layers = nnx.List([Layer(bias, weight) for bias, weight in problem.layers])
        self.forward = problem.forward

    def __call__(self, x: Any) -> Any:
        return self.forward(self.layers, x)


def loss_function(problem: Problem) -> Any:
    return lambda model, x, y: problem.loss(model(x), y)


def step_function(problem: Problem, **mode: Any) -> Any:
    loss_and_grad = nnx.value_and_grad(loss_function(problem), **mode)

    def step(model: Model, x: Any, y: Any) -> Any:
        loss, grads = loss_and_grad(model, x, y)
        params, grads = nnx.state(model, nnx.Param), nnx.state(grads)
        nnx.update(model, jax.tree.map(lambda p, g: p - problem.rate * g, params, grads))
        return loss

    return step


def steps(problem: Problem, donate: bool = False) -> dict[str, Call]:
    donation = {"donate_argnums": 0} if donate else {}
    x, y = problem.x, problem.y

    def bound(jitted: Any) -> Call:
        return partial(jitted, Model(problem), x, y)

    step = nnx.jit(step_function(problem), **donation)
    in_trees = step_function(problem, graph=False)
    partially = nnx.jit_partial(in_trees, Model(problem), graph=False, **donation)
    return {
        "NNX jit": bound(step),
        "NNX jit, cached_partial": partial(nnx.cached_partial(step, Model(problem)), x, y),
        "NNX, functional loop": _functional(problem, donation),
        "NNX jit, tree mode": bound(nnx.jit(in_trees, graph=False, **donation)),
        "NNX jit_partial, tree mode": partial(partially, x, y),
    }


def _functional(problem: Problem, donation: dict[str, Any]) -> Call:
    step = step_function(problem)
    graph, state = nnx.split(Model(problem))
    x, y = problem.x, problem.y

    @partial(jax.jit, **donation)
    def jitted(state: Any, x: Any, y: Any) -> Any:
        model = nnx.merge(graph, state)
        loss = step(model, x, y)
        return loss, nnx.state(model)

    def call() -> Any:
        nonlocal state
        loss, state = jitted(state, x, y)
        return loss

    return call


def evaluations(problem: Problem) -> dict[str, Call]:
    def predict(model: Model, x: Any) -> Any:
        return model(x)

    jitted, model, x = nnx.jit(predict), Model(problem), problem.x
    return {
        "NNX jit": partial(jitted, model, x),
        "NNX jit, cached_partial": partial(nnx.cached_partial(jitted, model), x),
        "NNX jit, tree mode": partial(nnx.jit(predict, graph=False), model, x),
        "NNX jit_partial, tree mode": partial(nnx.jit_partial(predict, model, graph=False), x),
    }


def trainings(problem: Problem) -> dict[str, Training]:
    loss_of, model, batch = loss_function(problem), Model(problem), (problem.x, problem.y)
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)

    def step(model: Model, optimizer: Any, x: Any, y: Any) -> Any:
        loss, grads = nnx.value_and_grad(loss_of)(model, x, y)
        optimizer.update(model, grads)
        return loss

    train = nnx.cached_partial(nnx.jit(step), model, optimizer)
    evaluate = nnx.cached_partial(nnx.jit(loss_of), model)
    calls = Training(partial(train, *batch), partial(evaluate, *batch))
    return {"NNX jit, cached_partial": calls}


def gradients(problem: Problem) -> dict[str, Call]:
    model, x, y = Model(problem), problem.x, problem.y
    loss_of = loss_function(problem)
    return {
        "NNX": partial(nnx.value_and_grad(loss_of), model, x, y),
        "NNX, tree mode": partial(nnx.value_and_grad(loss_of, graph=False), model, x, y),
    }


def first_calls(problem: Problem) -> dict[str, FirstCall]:
    def of(**mode: Any) -> FirstCall:
        def make() -> Any:
            return nnx.jit(step_function(problem, **mode), **mode)

        return FirstCall(make, (Model(problem), problem.x, problem.y))

    return {"NNX jit": of(), "NNX jit, tree mode": of(graph=False)}
