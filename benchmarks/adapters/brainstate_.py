"""brainstate: parameters are states, functions close over the model."""

from typing import Any

import brainstate
import jax.numpy as jnp
from brainstate import transform

from ..calls import Call, FirstCall
from ..problems import Problem, affine

NAME = "brainstate"


class Layer(brainstate.nn.Module):
    def __init__(self, bias: Any, weight: Any):
        super().__init__()
        self.bias = brainstate.ParamState(jnp.array(bias))
        self.weight = brainstate.ParamState(jnp.array(weight))

    def __call__(self, x: Any) -> Any:
        return affine(self.bias.value, self.weight.value, x)


class Model(brainstate.nn.Module):
    def __init__(self, problem: Problem):
        super().__init__()
        self.layers = [Layer(bias, weight) for bias, weight in problem.layers]
        self.forward = problem.forward

    def __call__(self, x: Any) -> Any:
        return self.forward(self.layers, x)


def loss_function(model: Model, problem: Problem) -> Any:
    return lambda x, y: problem.loss(model(x), y)


def step_function(model: Model, problem: Problem) -> Any:
    params = model.states(brainstate.ParamState)
    loss_and_grad = transform.grad(loss_function(model, problem), params, return_value=True)

    def step(x: Any, y: Any) -> Any:
        grads, loss = loss_and_grad(x, y)
        for path, grad in grads.items():
            params[path].value -= problem.rate * grad
        return loss

    return step


def steps(problem: Problem, donate: bool = False) -> dict[str, Call]:
    if donate:  # there is no way to donate states
        return {}
    step = transform.jit(step_function(Model(problem), problem))
    x, y = problem.x, problem.y
    return {NAME: lambda: step(x, y)}


def evaluations(problem: Problem) -> dict[str, Call]:
    predict, x = transform.jit(Model(problem)), problem.x
    return {NAME: lambda: predict(x)}


def gradients(problem: Problem) -> dict[str, Call]:
    model, x, y = Model(problem), problem.x, problem.y
    params = model.states(brainstate.ParamState)
    function = transform.grad(loss_function(model, problem), params, return_value=True)
    return {NAME: lambda: function(x, y)[::-1]}


def first_calls(problem: Problem) -> dict[str, FirstCall]:
    model = Model(problem)

    def make() -> Any:
        return transform.jit(step_function(model, problem))

    return {NAME: FirstCall(make, (problem.x, problem.y))}


def derivatives(problem: Problem, compiled: bool) -> dict[str, dict[str, Call]]:
    model, x, y = Model(problem), problem.x, problem.y
    params = model.states(brainstate.ParamState)

    def vjp(x: Any) -> Any:
        out, pullback = transform.vjp(model, x, grad_states=params, argnums=None)
        return pullback(out)

    wrap = transform.jit if compiled else lambda function: function
    jacobian = wrap(transform.jacrev(model, params))
    hessian = wrap(transform.hessian(loss_function(model, problem), params))
    pulled = wrap(vjp)
    return {
        "jacrev": {NAME: lambda: jacobian(x)},
        "hessian": {NAME: lambda: hessian(x, y)},
        "vjp": {NAME: lambda: pulled(x)},
    }
