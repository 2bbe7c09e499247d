"""JAX by hand, the parameters in nested dicts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from . import Call, FirstCall, Problem, affine, threaded

NAME = "jax.jit, nested dict"


def parameters(problem: Problem) -> dict[str, Any]:
    return {
        f"layer_{number:04}": {"bias": jnp.array(bias), "weight": jnp.array(weight)}
        for number, (bias, weight) in enumerate(problem.layers)
    }


def predictor(problem: Problem) -> Any:
    def predict(params: dict[str, Any], x: Any) -> Any:
        layers = [partial(affine, each["bias"], each["weight"]) for each in params.values()]
        return problem.forward(layers, x)

    return predict


def step_function(problem: Problem) -> Any:
    predict = predictor(problem)

    def step(params: dict[str, Any], x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(lambda p: problem.loss(predict(p, x), y))(params)
        return loss, jax.tree.map(lambda p, g: p - problem.rate * g, params, grads)

    return step


def steps(problem: Problem, donate: bool = False) -> dict[str, Call]:
    step = jax.jit(step_function(problem), donate_argnums=(0,) if donate else ())
    return {NAME: threaded(step, parameters(problem), problem.x, problem.y)}


def evaluations(problem: Problem) -> dict[str, Call]:
    predict, params, x = jax.jit(predictor(problem)), parameters(problem), problem.x
    return {NAME: lambda: predict(params, x)}


def first_calls(problem: Problem) -> dict[str, Call]:
    params, x, y = parameters(problem), problem.x, problem.y

    def fresh() -> FirstCall:
        step = jax.jit(step_function(problem))
        return FirstCall(lambda: step.lower(params, x, y), lambda: step(params, x, y)[0])

    return {NAME: fresh}
