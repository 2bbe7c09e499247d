"""statelens, functional: an Equinox model as the first argument, parameters by an unbound lens."""

from typing import Any

import jax

import statelens as sl

from ..calls import Call, FirstCall, Training, threaded, training
from ..problems import ADAM, Problem
from .equinox_ import Model

NAME = "statelens, unbound lens"


def loss_function(problem: Problem) -> Any:
    return lambda model, x, y: problem.loss(model(x), y)


def step_function(problem: Problem) -> Any:
    loss_and_grad = sl.value_and_grad(loss_function(problem), sl.inexact)

    def step(model: Model, x: Any, y: Any) -> Any:
        loss, grads = loss_and_grad(model, x, y)
        updates = jax.tree.map(lambda grad: -problem.rate * grad, grads)
        return loss, sl.inexact.apply_updates(model, updates)

    return step


def steps(problem: Problem, donate: bool = False) -> dict[str, Call]:
    step = sl.jit(step_function(problem), donate_argnums=(0,) if donate else None)
    return {NAME: threaded(step, Model(problem), problem.x, problem.y)}


def evaluations(problem: Problem) -> dict[str, Call]:
    predict, model, x = sl.jit(lambda model, x: model(x)), Model(problem), problem.x
    return {NAME: lambda: predict(model, x)}


def trainings(problem: Problem) -> dict[str, Training]:
    loss_of, model = loss_function(problem), Model(problem)
    optimizer = sl.optim.Optimizer(ADAM, sl.trainable)
    train = sl.optim.train_step(loss_of, optimizer, donate=False)

    def step(*args: Any) -> Any:
        model, memory, loss = train(*args)
        return loss, model, memory

    memory, batch = optimizer.init(model), (problem.x, problem.y)
    return {NAME: training(step, sl.jit(loss_of), model, memory, *batch)}


def gradients(problem: Problem) -> dict[str, Call]:
    function = sl.value_and_grad(loss_function(problem), sl.inexact)
    model, x, y = Model(problem), problem.x, problem.y
    return {NAME: lambda: function(model, x, y)}


def first_calls(problem: Problem) -> dict[str, FirstCall]:
    args = Model(problem), problem.x, problem.y
    return {NAME: FirstCall(lambda: sl.jit(step_function(problem)), args)}


def derivatives(problem: Problem, compiled: bool) -> dict[str, dict[str, Call]]:
    model, x, y = Model(problem), problem.x, problem.y
    lens, loss_of = sl.inexact, loss_function(problem)

    def predict(model: Model, x: Any) -> Any:
        return model(x)

    def vjp(model: Model, x: Any) -> Any:
        out, pullback = sl.transform.vjp(predict, model, x, grad_states=lens, argnums=None)
        return pullback(out)

    def hvp(model: Model, x: Any, y: Any) -> Any:
        return sl.transform.hvp(loss_of, lens)(lens.partition(model)[0], model, x, y)

    wrap = sl.jit if compiled else lambda function: function
    jacobian = wrap(sl.transform.jacrev(predict, lens))
    hessian = wrap(sl.transform.hessian(loss_of, lens))
    product, pulled = wrap(hvp), wrap(vjp)
    return {
        "jacrev": {NAME: lambda: jacobian(model, x)},
        "hessian": {NAME: lambda: hessian(model, x, y)},
        "hvp": {NAME: lambda: product(model, x, y)},
        "vjp": {NAME: lambda: pulled(model, x)},
    }
