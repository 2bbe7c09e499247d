"""The arguments of a compiled function: static, by name, donated."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close, counted

close = functools.partial(close, rtol=1e-6)


def test_equinox_models_with_functions_and_numbers_in_them():
    mlp = eqx.nn.MLP(2, 1, 4, 2, activation=jax.nn.gelu, key=jax.random.key(0))
    dropout = eqx.nn.Dropout(0.5)
    run, runs = counted(lambda model, layer, x: layer(jax.vmap(model)(x), key=jax.random.key(1)))
    f, xs = sl.jit(run), jnp.ones((3, 2))
    theirs = eqx.filter_jit(lambda m, d, x: d(jax.vmap(m)(x), key=jax.random.key(1)))
    close(f(mlp, dropout, xs), theirs(mlp, dropout, xs))
    other = eqx.nn.MLP(2, 1, 4, 2, activation=jax.nn.gelu, key=jax.random.key(2))
    close(f(other, dropout, xs), theirs(other, dropout, xs))
    assert len(runs) == 1
    close(f(mlp, eqx.nn.Dropout(0.25), xs), theirs(mlp, eqx.nn.Dropout(0.25), xs))
    close(f(mlp, eqx.nn.Dropout(0.5, inference=True), xs), jax.vmap(mlp)(xs))
    assert len(runs) == 3


def test_a_model_comes_back_as_it_went_in():
    mlp = eqx.nn.MLP(2, 1, 4, 2, key=jax.random.key(0))
    double = sl.jit(lambda model: sl.inexact.update(model, lambda x: 2 * x))
    after = double(mlp)
    assert after.activation is mlp.activation
    close(after.layers[0].weight, 2 * mlp.layers[0].weight)
    assert jax.tree.structure(after) == jax.tree.structure(mlp)


def test_functions_texts_and_none_are_part_of_the_program():
    run, runs = counted(lambda f, mode, nothing, x: f(x) if mode == "f" and nothing is None else x)
    f = sl.jit(run)
    assert f(jnp.sin, "f", None, 0.5) == jnp.sin(0.5)
    assert f(jnp.cos, "f", None, 0.5) == jnp.cos(0.5)
    assert f(jnp.cos, "g", None, 0.5) == 0.5
    assert f(jnp.cos, "f", 1.0, 0.5) == 0.5
    assert f(jnp.sin, "f", None, 0.25) == jnp.sin(0.25)
    assert len(runs) == 4


def test_states_that_a_function_argument_closes_over_are_found():
    state = sl.State(jnp.array(2.0))

    def inner(x):
        state.value += 1
        return state.value * x

    run, runs = counted(lambda g, x: g(x))
    f = sl.jit(run)
    assert [f(inner, 1.0), f(inner, 1.0)] == [3, 4]
    assert len(runs) == 1


def test_what_cannot_be_hashed_is_refused_by_the_name_of_the_argument():
    f = sl.jit(lambda a, b: b, static_argnums=0)
    with pytest.raises(sl.ArgumentTypeError, match=r"argument 0 part of the program(?s:.*)a list"):
        f([1], 2.0)
    g = sl.jit(lambda *, mode: mode, static_argnames="mode")
    with pytest.raises(sl.ArgumentTypeError, match=r"argument 'mode'.*(?s:.*)tuple in place of a"):
        g(mode=[1])
    with pytest.raises(sl.ArgumentTypeError, match=r"argument 1 at '\[0\]\.a'(?s:.*)a set"):
        sl.jit(lambda x, y: x)(1.0, [{"a": {1}}])


def test_static_argnums():
    run, runs = counted(lambda n, x, shape: x**n * jnp.ones(shape))
    f = sl.jit(run, static_argnums=(0, 2))
    close(f(2, 3.0, (2,)), jnp.full(2, 9.0))
    close(f(2, 4.0, (2,)), jnp.full(2, 16.0))
    close(f(3, 2.0, (1, 1)), jnp.full((1, 1), 8.0))
    assert len(runs) == 2


def test_static_argnames_by_position_and_by_keyword():
    def power(x, n, *, times=1):
        assert isinstance(n, int)
        assert isinstance(times, int)
        runs.append(1)
        return times * x**n

    runs: list[int] = []
    f = sl.jit(power, static_argnames=("n", "times"))
    assert [f(2.0, 3), f(2.0, n=3), f(2.0, 3, times=2), f(2.0, n=3, times=2)] == [8, 8, 16, 16]
    assert f(x=3.0, n=2) == 9
    assert len(runs) <= 5
    runs.clear()
    assert [f(5.0, 3), f(5.0, n=3), f(1.0, n=3, times=2)] == [125, 125, 2]
    assert not runs


@pytest.mark.parametrize("pair", [(1, 1.0), (1, True), (0.0, False)])
def test_static_values_of_different_types_are_different(pair):
    f = sl.jit(lambda s: jnp.asarray(s), static_argnums=0)
    for value in pair:
        assert f(value).dtype == jnp.asarray(value).dtype


def test_positional_arguments_are_not_mistaken_for_keywords():
    f = sl.jit(lambda x, y: x - y)
    assert [f(3.0, 1.0), f(3.0, y=1.0), f(y=1.0, x=3.0), f(x=1.0, y=3.0)] == [2, 2, 2, -2]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        f(1.0)
