"""JAX by hand, the parameters in a flat list: the baseline."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..calls import Call, FirstCall, Training, threaded, training
from ..problems import ADAM, Problem, affine
from . import BASELINE


def parameters(problem: Problem) -> list[Any]:
    return [jnp.array(array) for layer in problem.layers for array in layer]


def predictor(problem: Problem) -> Any:
    def predict(params: list[Any], x: Any) -> Any:
        pairs = zip(params[::2], params[1::2], strict=True)
        return problem.forward([partial(affine, bias, weight) for bias, weight in pairs], x)

    return predict


def loss_function(problem: Problem) -> Any:
    predict = predictor(problem)
    return lambda params, x, y: problem.loss(predict(params, x), y)


def step_function(problem: Problem) -> Any:
    loss_of = loss_function(problem)

    def step(params: list[Any], x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        return loss, [p - problem.rate * g for p, g in zip(params, grads, strict=True)]

    return step


def steps(problem: Problem, donate: bool = False) -> dict[str, Call]:
    step = jax.jit(step_function(problem), donate_argnums=(0,) if donate else ())
    return {BASELINE: threaded(step, parameters(problem), problem.x, problem.y)}


def evaluations(problem: Problem) -> dict[str, Call]:
    predict, params, x = jax.jit(predictor(problem)), parameters(problem), problem.x
    return {BASELINE: lambda: predict(params, x)}


def trainings(problem: Problem) -> dict[str, Training]:
    loss_of, params = loss_function(problem), parameters(problem)
    memory, structure = jax.tree.flatten(ADAM.init(params))

    def step(params: list[Any], memory: list[Any], x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        updates, new = ADAM.update(grads, structure.unflatten(memory), params)
        return loss, optax.apply_updates(params, updates), jax.tree.leaves(new)

    batch = problem.x, problem.y
    return {BASELINE: training(jax.jit(step), jax.jit(loss_of), params, memory, *batch)}


def gradients(problem: Problem) -> dict[str, Call]:
    function = jax.value_and_grad(loss_function(problem))
    params, x, y = parameters(problem), problem.x, problem.y
    return {"jax.value_and_grad": lambda: function(params, x, y)}


def first_calls(problem: Problem) -> dict[str, FirstCall]:
    args = parameters(problem), problem.x, problem.y
    return {BASELINE: FirstCall(lambda: jax.jit(step_function(problem)), args)}


def derivatives(problem: Problem, compiled: bool) -> dict[str, dict[str, Call]]:
    predict, loss_of = predictor(problem), loss_function(problem)
    params, x, y = parameters(problem), problem.x, problem.y

    def vjp(params: list[Any], x: Any) -> Any:
        out, pullback = jax.vjp(lambda params: predict(params, x), params)
        return pullback(out)[0]

    def hvp(params: list[Any], x: Any, y: Any) -> Any:
        return jax.jvp(lambda p: jax.grad(loss_of)(p, x, y), (params,), (params,))[1]

    wrap = jax.jit if compiled else lambda function: function
    jacobian, hessian = wrap(jax.jacrev(predict)), wrap(jax.hessian(loss_of))
    product, pulled = wrap(hvp), wrap(vjp)
    return {
        "jacrev": {"jax": lambda: jacobian(params, x)},
        "hessian": {"jax": lambda: hessian(params, x, y)},
        "hvp": {"jax": lambda: product(params, x, y)},
        "vjp": {"jax": lambda: pulled(params, x)},
    }
