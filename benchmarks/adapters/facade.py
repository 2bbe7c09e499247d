"""statelens, its facade: parameters are states, functions close over the model."""

from typing import Any

import jax.numpy as jnp

import statelens as sl

from ..calls import Call, FirstCall, Training
from ..problems import ADAM, Problem, affine

NAME = "statelens"


class Layer(sl.nn.Module):
    def __init__(self, bias: Any, weight: Any):
        super().__init__()
        self.bias = sl.ParamState(jnp.array(bias))
        self.weight = sl.ParamState(jnp.array(weight))

    def __call__(self, x: Any) -> Any:
        return affine(self.bias.value, self.weight.value, x)


class Model(sl.nn.Module):
    def __init__(self, problem: Problem):
        super().__init__()
        self.layers = [Layer(bias, weight) for bias, weight in problem.layers]
        self.forward = problem.forward

    def __call__(self, x: Any) -> Any:
        return self.forward(self.layers, x)


def loss_function(model: Model, problem: Problem) -> Any:
    return lambda x, y: problem.loss(model(x), y)


def step_function(model: Model, problem: Problem) -> Any:
    params = model.states(sl.ParamState)
    loss_of = loss_function(model, problem)

    def step(x: Any, y: Any) -> Any:
        grads, loss = sl.grad(loss_of, params, return_value=True)(x, y)
        for path, grad in grads.items():
            params[path].value -= problem.rate * grad
        return loss

    return step


def steps(problem: Problem, donate: bool = False) -> dict[str, Call]:
    step = sl.jit(step_function(Model(problem), problem), donate_states=donate or None)
    x, y = problem.x, problem.y
    return {NAME: lambda: step(x, y)}


def evaluations(problem: Problem) -> dict[str, Call]:
    predict, x = sl.jit(Model(problem)), problem.x
    return {NAME: lambda: predict(x)}


def trainings(problem: Problem) -> dict[str, Training]:
    model, x, y = Model(problem), problem.x, problem.y
    loss_of = loss_function(model, problem)
    optimizer = sl.optim.Optimizer(ADAM, model.states(sl.trainable))
    step = sl.optim.train_step(loss_of, optimizer, donate=False)
    evaluate = sl.jit(loss_of)
    return {NAME: Training(lambda: step(x, y), lambda: evaluate(x, y))}


def gradients(problem: Problem) -> dict[str, Call]:
    model, x, y = Model(problem), problem.x, problem.y
    function = sl.value_and_grad(loss_function(model, problem), model.states(sl.ParamState))
    return {NAME: lambda: function(x, y)}


def first_calls(problem: Problem) -> dict[str, FirstCall]:
    model = Model(problem)

    def make() -> Any:
        return sl.jit(step_function(model, problem))

    return {NAME: FirstCall(make, (problem.x, problem.y))}


def derivatives(problem: Problem, compiled: bool) -> dict[str, dict[str, Call]]:
    model, x, y = Model(problem), problem.x, problem.y
    params, loss_of = model.states(sl.ParamState), loss_function(model, problem)

    def vjp(x: Any) -> Any:
        out, pullback = sl.transform.vjp(model, x, grad_states=params, argnums=None)
        return pullback(out)

    def hvp(x: Any, y: Any) -> Any:
        return sl.transform.hvp(loss_of, params)(params.values_dict(), x, y)

    wrap = sl.jit if compiled else lambda function: function
    jacobian = wrap(sl.transform.jacrev(model, params))
    hessian = wrap(sl.transform.hessian(loss_of, params))
    product, pulled = wrap(hvp), wrap(vjp)
    return {
        "jacrev": {NAME: lambda: jacobian(x)},
        "hessian": {NAME: lambda: hessian(x, y)},
        "hvp": {NAME: lambda: product(x, y)},
        "vjp": {NAME: lambda: pulled(x)},
    }
