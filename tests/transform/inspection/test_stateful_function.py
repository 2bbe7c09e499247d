"""Looking at functions: shapes, programs, states, without running them."""

import functools

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close, counter

close = functools.partial(close, rtol=1e-6)

T = sl.transform


class Model(sl.nn.Module):
    def __init__(self, key=0):
        super().__init__()
        self.w = sl.ParamState(jax.random.normal(jax.random.key(key), (2, 3)), name="w")
        self.calls = counter()
        self.rng = sl.random.RandomState(0, name="rng")

    def __call__(self, x):
        self.calls.value += 1
        return x @ self.w.value + self.rng.normal(size=3)


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_eval_shape_changes_nothing():
    model = Model()
    before = model.states().values_dict()
    shape = jax.ShapeDtypeStruct((4, 2), jnp.float32)
    for x in (shape, jnp.ones((4, 2))):
        out = T.eval_shape(model, x)
        assert out == jax.ShapeDtypeStruct((4, 3), jnp.float32)
        shapes, out = T.eval_shape(model, x, return_state_shapes=True)
        assert out.shape == (4, 3)
        assert {cell.name: leaf.shape for cell, leaf in shapes.items()} == {
            "w": (2, 3),
            "calls": (),
            "rng": (),
        }
        assert shapes[model.calls].dtype == jnp.int32
    assert all(model.states()[path].value is value for path, value in before.items())


def test_eval_shape_of_what_makes_a_module_makes_nothing():
    model = T.eval_shape(Model, 3)
    assert isinstance(model, Model)
    assert model.w.value == jax.ShapeDtypeStruct((2, 3), jnp.float32)
    assert model.w.name == "w"
    assert T.eval_shape(lambda m, x: m.w.value @ x, model, jnp.ones(3)).shape == (2,)
    out = T.eval_shape(lambda x, mode: {"mode": mode, "y": 2 * x}, jnp.ones(2), mode="fast")
    assert out == {"mode": "fast", "y": jax.ShapeDtypeStruct((2,), jnp.float32)}


def test_a_program_has_the_states_as_inputs_and_outputs():
    model = Model()
    before = model.states().values_dict()
    x = jnp.ones((4, 2))
    jaxpr, states = T.make_jaxpr(model)(x)
    assert {cell.name for cell in states} == {"w", "calls", "rng"}
    assert len(jaxpr.in_avals) == 4
    assert [aval.shape for aval in jaxpr.out_avals] == [(4, 3), *(c.value.shape for c in states)]
    assert str(T.make_jaxpr(model, return_states=False)(x)) == str(jaxpr)
    out = jax.extend.core.jaxpr_as_fun(jaxpr)(x, *(cell.value for cell in states))
    assert all(model.states()[path].value is value for path, value in before.items())
    close(out[0], model(x))
    for value, cell in zip(out[1:], states, strict=True):
        assert jnp.all(value == cell.value)


def test_a_program_has_static_arguments():
    w = sl.State(jnp.ones(()))
    fun = lambda mode, x: w.value * x if mode == "up" else x - w.value  # noqa: E731
    for option in ({"static_argnums": 0}, {"static_argnames": "mode"}):
        assert "mul" in str(T.make_jaxpr(fun, **option)("up", 1.0)[0])
        assert "sub" in str(T.make_jaxpr(fun, **option)("down", 1.0)[0])


def test_a_stateful_function_says_what_it_does():
    total, scale = sl.State(jnp.zeros(()), name="total"), sl.ParamState(jnp.ones(2), name="scale")

    def add(x, *, more=0.0):
        total.value = total.value + jnp.sum(x * scale.value) + more
        return {"total": total.value}

    stateful = T.StatefulFunction(add)
    assert repr(stateful) == "StatefulFunction(add)"
    assert stateful.__name__ == "add"
    x = jnp.ones(2)
    touched = stateful.states(x)
    assert set(touched.read) == {total, scale}
    assert touched.written == (total,)
    values = [cell.value for cell in touched.read]
    assert stateful.in_tree(x) == jax.tree.structure((values, x))
    assert stateful.in_tree(x, more=1.0) == jax.tree.structure(((values, x), {"more": 1.0}))
    assert stateful.out_tree(x) == jax.tree.structure(({"total": 0}, values))
    assert stateful.out_shapes(x) == {"total": jax.ShapeDtypeStruct((), jnp.float32)}
    pure = stateful.pure(x)
    out, after = jax.jit(pure)(values, 2 * x)
    close(out, {"total": jnp.array(4.0)})
    assert [float(jnp.sum(value)) for value in after] == [
        {total: 4.0, scale: 2.0}[cell] for cell in touched.read
    ]
    assert total.value == 0.0
    assert [aval.shape for aval in stateful.jaxpr(x).in_avals] == [
        *(value.shape for value in values),
        (2,),
    ]
    close(stateful(x, more=1.0), {"total": jnp.array(3.0)})
    assert total.value == 3.0


def test_a_stateful_function_without_states_is_pure_as_it_is():
    stateful = T.StatefulFunction(lambda x: x + 1)
    assert stateful.states(1.0) == ((), ())
    assert stateful.pure(1.0)([], 2.0) == (3.0, [])


def test_a_state_finder_finds_by_usage():
    a, b, c = (sl.State(jnp.zeros(()), name=name, tag=name) for name in "abc")

    def fun(x):
        b.value = a.value + x
        return c.value

    found = {
        "all": [a, b, c],
        "read": [a, c],
        "write": [b],
    }
    for usage, states in found.items():
        finder = lambda kind, usage=usage: T.StateFinder(fun, usage=usage, return_type=kind)(1.0)  # noqa: E731
        assert set(finder("list")) == set(states)
        assert isinstance(finder("list"), list)
        assert finder("tuple") == tuple(finder("list"))
        assert finder("dict") == dict(enumerate(finder("list")))
    both = T.StateFinder(fun, usage="both", return_type="tuple").find(1.0)
    assert {key: set(states) for key, states in both.items()} == {"read": {a, c}, "write": {b}}
    named = T.StateFinder(fun, key_fn=lambda number, state: state.name)(1.0)
    assert named == {"a": a, "b": b, "c": c}
    assert T.StateFinder(fun, sl.tagged("b") | sl.tagged("c"), usage="read")(1.0) == {0: c}
    assert T.StateFinder(fun, sl.ParamState, return_type="list")(1.0) == []
    assert b.value == 0.0
