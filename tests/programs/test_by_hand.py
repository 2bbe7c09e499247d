"""The programs of statelens are those that are written by hand, operation by operation."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from benchmarks.cases import FACADE, FUNCTIONAL, HAND
from benchmarks.models import MODELS, step
from benchmarks.pairs import WORKS
from benchmarks.programs import difference, operations, program


@functools.cache
def programs(work):
    return {
        style: (program(case.function, *case.args), case.results())
        for style, case in WORKS[work]().items()
    }


@pytest.mark.parametrize("style", [FUNCTIONAL, FACADE])
@pytest.mark.parametrize("work", WORKS)
def test_the_program_is_the_one_written_by_hand(work, style):
    ours, our_results = programs(work)[style]
    theirs, their_results = programs(work)[HAND]
    found = difference(ours, theirs)
    assert not found, found
    assert len(our_results) == len(their_results)
    assert all(map(np.array_equal, our_results, their_results))


@pytest.mark.parametrize(
    "name",
    [name if name == "MLP" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_a_model_that_people_train_has_the_operations_of_the_step_by_hand(name):
    cases = step(*MODELS[name](small=True), optax.adam(1e-3), donate=True)
    found = [operations(case.function.lower(*case.args)) for case in cases.values()]
    by_hand, *others = found
    assert others == [by_hand, by_hand]


def test_a_weakly_typed_vector_is_taken_as_it_is():
    loss = lambda w, x: jnp.sum((w * x) ** 4)  # noqa: E731
    w, x = jnp.full(3, 0.5), jnp.ones(3)
    ours = jax.jit(lambda w, x: sl.transform.hvp(loss, ...)(w, w, x))
    by_hand = jax.jit(lambda w, x: jax.jvp(lambda w: jax.grad(loss)(w, x), (w,), (w,))[1])
    assert not difference(program(ours, w, x), program(by_hand, w, x))


def plain(x, y):
    return jnp.sum(x * y)


@pytest.mark.parametrize(
    ("other", "options", "expected"),
    [
        (lambda x, y: jnp.sum(x * y) + 1.0, {}, r"\+1 stablehlo.add .*\n.*1\.000000e\+00"),
        (lambda x, y: jnp.sum(x), {}, r"(?s)-1 input tensor<3xf32>.*-1 stablehlo.mul.*flops: 2"),
        (lambda x, y: (jnp.sum(x * y), x), {}, r"\+1 output tensor<3xf32>"),
        (lambda x, y: jnp.max(x * y), {}, r"(?s)\+1 stablehlo.maximum.*-1 stablehlo.add"),
        (lambda x, y: (jnp.sum(x * y), x), {"donate_argnums": 0}, r"\+1 donated tensor<3xf32>"),
        (lambda x, y: jax.nn.relu(plain(x, y)), {}, r"\+1 stablehlo.maximum"),
        (lambda x, y: jax.lax.cond(plain(x, y) > 0, lambda: 1.0, lambda: 2.0), {}, "case"),
    ],
)
def test_a_difference_is_seen(other, options, expected):
    args = jnp.ones(3), jnp.ones(3)
    found = difference(program(jax.jit(other, **options), *args), program(jax.jit(plain), *args))
    assert re.search(expected, found), found


def test_names_order_and_calls_make_no_difference():
    def called(x, y):
        return jax.jit(lambda a, b: plain(b, a))(y, x)

    args = jnp.ones(3), jnp.ones(3)
    assert not difference(program(jax.jit(called), *args), program(jax.jit(plain), *args))
