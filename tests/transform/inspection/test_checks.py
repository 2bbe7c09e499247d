"""Checks, checkpoints, rules of one's own, meshes, units: what transforms do with states there."""

import functools
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, on_four_devices

close = functools.partial(close, rtol=1e-6)

T = sl.transform


def counter():
    return sl.State(jnp.zeros((), jnp.int32), name="calls")


# Errors at run time.


@pytest.mark.parametrize(
    ("run", "calls_before"),
    [
        (lambda fun: fun, 0),
        (sl.jit, 0),
        (sl.jit, 1),
        (sl.jit, 2),
    ],
)
def test_error_if_raises_its_text_and_changes_nothing(run, calls_before):
    w = sl.State(jnp.ones(()), name="w")

    @run
    def step(x):
        w.value = T.error_if(w.value * x, x < 0, "x is negative")

    for _ in range(calls_before):
        step(jnp.array(2.0))
    before = w.value
    assert before == 2.0**calls_before
    with pytest.raises(RuntimeError, match="x is negative"):
        step(jnp.array(-1.0))
    assert w.value is before
    step(jnp.array(3.0))
    assert w.value == 3.0 * before


@pytest.mark.parametrize("calls_before", [0, 1, 2])
def test_after_a_failed_check_states_are_as_they_were(calls_before):
    calls = counter()

    @sl.jit
    def step(x):
        calls.value += 1
        return T.error_if(x, x < 0, "x is negative")

    for _ in range(calls_before):
        step(jnp.array(2.0))
    before = calls.value
    with pytest.raises((RuntimeError, ValueError), match="x is negative"):
        step(jnp.array(-1.0))
    assert calls.value is before
    step(jnp.array(3.0))
    assert calls.value == calls_before + 1


def test_error_if_hands_through_any_pytree_and_takes_arrays_of_conditions():
    tree = {"a": jnp.ones(2), "b": (jnp.zeros(()), None)}
    close(T.error_if(tree, jnp.array([False, False]), "no"), tree)
    with pytest.raises(RuntimeError, match="one is"):
        T.error_if(tree, jnp.array([False, True]), "one is")


@pytest.mark.parametrize("control", ["scan", "for_loop", "cond", "while_loop", "vmap", "grad"])
def test_error_if_in_other_transforms_changes_nothing(control):
    calls = counter()

    def body(x):
        calls.value += 1
        return T.error_if(x, x < 0, "x is negative")

    calls_of = {
        "scan": lambda xs: T.scan(lambda c, x: (c, body(x)), 0.0, xs),
        "for_loop": lambda xs: T.for_loop(body, xs),
        "cond": lambda xs: T.cond(xs[0] < 5, body, lambda x: x, xs[1]),
        "while_loop": lambda xs: T.while_loop(lambda x: x > -5, lambda x: body(x) - 2, xs[0]),
        "vmap": lambda xs: T.vmap(body)(xs),
        "grad": lambda xs: sl.grad(body, return_value=True)(xs[1]),
    }
    bad = jnp.array([1.0, -1.0])
    before = calls.value
    for run in (calls_of[control], sl.jit(calls_of[control])):
        with pytest.raises(RuntimeError, match="x is negative"):
            jax.block_until_ready(run(bad))
        assert calls.value is before


@pytest.mark.parametrize("error", [ValueError, KeyError])
def test_jit_error_if_raises_with_values(error):
    calls = counter()

    def refuse(x, *, limit):
        raise error(f"x is {x}, over {limit}")

    def step(x):
        calls.value += 1
        T.jit_error_if(jnp.array([x > 1, x > 5]), refuse, x, limit=1)
        T.jit_error_if(x < 0, "x is {} in {where}", x, where="step")
        return 2 * x

    assert step(1.0) == 2.0
    with pytest.raises(error, match=r"x is 3.0, over 1"):
        step(3.0)
    with pytest.raises(ValueError, match=r"x is -1.0 in step"):
        step(-1.0)
    compiled = sl.jit(step)
    calls.value = jnp.zeros((), jnp.int32)
    assert compiled(1.0) == 2.0
    before = calls.value
    with pytest.raises(error, match=r"x is 3.0, over 1"):
        compiled(3.0)
    with pytest.raises(ValueError, match=r"x is -1.0 in step"):
        compiled(-1.0)
    assert calls.value is before
    assert compiled(0.5) == 1.0
    assert calls.value == 2


def test_jit_error_if_in_a_plain_jit_of_jax_has_the_text():
    @jax.jit
    def step(x):
        T.jit_error_if(x < 0, "x is {}", x)
        return x

    assert step(1.0) == 1.0
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"x is -1.0"):
        jax.block_until_ready(step(-1.0))


# checkify.


def test_checkify_gives_the_error_and_stores_what_was_written():
    w, calls = sl.ParamState(jnp.array(-1.0)), counter()

    def fun(x):
        calls.value += 1
        T.check(x > 0, "x is {x}", x=jnp.asarray(x))
        return jnp.log(w.value) + x

    for run in (fun, sl.jit(fun)):
        calls.value = jnp.zeros((), jnp.int32)
        error, out = T.checkify(run)(-2.0)
        assert "x is -2.0" in error.get()
        assert jnp.isnan(out)
        assert calls.value == 1
        with pytest.raises(ValueError, match=r"x is -2.0"):
            error.throw()
        with pytest.raises(ValueError, match=r"x is -2.0"):
            T.check_error(error)
        assert T.checkify(run)(2.0)[0].get() is None
        error, _ = T.checkify(run, T.nan_checks)(2.0)
        assert "nan generated by primitive: log" in error.get()
        error, _ = T.checkify(run, T.user_checks | T.nan_checks)(2.0)
        assert "nan generated" in error.get()
        w.value = jnp.array(1.0)
        assert T.checkify(run, T.user_checks | T.nan_checks)(2.0)[0].get() is None
        w.value = jnp.array(-1.0)


@pytest.mark.parametrize(
    ("errors", "fun", "text"),
    [
        ("div_checks", lambda a: a / (a - a), "division by zero"),
        ("float_checks", lambda a: a / (a - a), "division by zero"),
        ("nan_checks", lambda a: jnp.sqrt(-a - 1), "nan generated"),
        ("index_checks", lambda a: jnp.ones(2)[(a + 7).astype(int)], "out-of-bounds"),
        ("automatic_checks", lambda a: jnp.ones(2)[(a + 7).astype(int)], "out-of-bounds"),
        ("all_checks", lambda a: T.check(a > 3, "small"), "small"),
        ("user_checks", lambda a: T.check(a > 3, "small"), "small"),
    ],
)
def test_checkify_makes_the_checks_that_are_asked_for(errors, fun, text):
    a, calls = sl.State(jnp.ones(())), counter()

    def run():
        calls.value += 1
        return fun(a.value)

    assert text in T.checkify(run, getattr(T, errors))()[0].get()
    assert calls.value == 1


def test_checkify_in_loops():
    total = sl.State(jnp.zeros(()))

    def body(x):
        total.value += x
        T.check(total.value < 3, "total is {t}", t=total.value)

    error, _ = T.checkify(lambda: T.for_loop(body, jnp.arange(4.0)))()
    assert "total is 3.0" in error.get()
    assert total.value == 6.0


def test_a_function_that_raises_under_checkify_changes_nothing():
    calls = counter()
    before = calls.value

    def fun():
        calls.value += 1
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        T.checkify(fun)()
    assert calls.value is before


# checkpoint.


def chain(w, x):
    for _ in range(3):
        x = jnp.sin(w * x)
    return jnp.sum(x)


@pytest.mark.parametrize("prevent_cse", [False, True])
@pytest.mark.parametrize("policy", [None, "everything_saveable", "nothing_saveable"])
def test_checkpoint_has_the_values_and_the_gradients(prevent_cse, policy):
    w, calls, x = sl.ParamState(jnp.array([0.5, 2.0])), counter(), jnp.array([1.0, -0.5])
    policy = policy and getattr(jax.checkpoint_policies, policy)

    @T.checkpoint(prevent_cse=prevent_cse, policy=policy)
    def layer(x):
        calls.value += 1
        return chain(w.value, x)

    close(layer(x), chain(w.value, x))
    assert calls.value == 1
    close(sl.grad(layer, w, argnums=0)(x), jax.grad(chain, (0, 1))(w.value, x))
    assert calls.value == 2
    close(T.jvp(layer, (x,), (x,))[1], jax.jvp(lambda x: chain(w.value, x), (x,), (x,))[1])
    close(
        T.hessian(layer, w)(x),
        jax.hessian(chain)(w.value, x),
        1e-5,
    )
    assert calls.value == 4


def residuals(policy):
    """Counts the sines and cosines of the backward pass, and what is kept for it."""
    w = sl.ParamState(jnp.array([0.5, 2.0]))
    fun = lambda x: chain(w.value, x)  # noqa: E731
    if policy is not None:
        fun = T.checkpoint(fun, policy=policy)
    pure = sl.functionalize(sl.grad(fun, w), w)
    text = str(jax.make_jaxpr(pure)(w.value, jnp.ones(2)))
    return text.count(" = sin "), text.count(" = cos "), "checkpoint[" in text or "remat" in text


def test_what_checkpoint_keeps_is_seen_in_the_program():
    kept = jax.checkpoint_policies
    sines, cosines, is_marked = residuals(None)
    assert (sines, cosines, is_marked) == (3, 3, False)
    again, cosines, is_marked = residuals(kept.nothing_saveable)
    assert is_marked
    # All but the last one are computed again for the derivatives.
    assert again > sines
    assert cosines == 3
    assert residuals(kept.everything_saveable)[0] == sines


def test_checkpoint_takes_static_arguments_functions_and_modules():
    calls, model = counter(), sl.nn.Module()
    model.w = sl.ParamState(jnp.array(3.0))

    def layer(mode, activation, module, x, *, scale):
        calls.value += 1
        assert isinstance(mode, int)
        assert scale == "double"
        return activation(mode * module.w.value * x)

    layer = T.checkpoint(layer, static_argnums=0)
    close(layer(2, jnp.tanh, model, 0.1, scale="double"), jnp.tanh(0.6))
    gradient = sl.grad(lambda x: layer(2, jnp.tanh, model, x, scale="double"), model.w)
    close(gradient(0.1), 0.2 * (1 - jnp.tanh(0.6) ** 2))
    assert calls.value == 2
    assert T.remat is T.checkpoint


def test_checkpoint_decorates_methods_and_returns_anything():
    class Layer(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.h = sl.HiddenState(jnp.zeros(()))

        @T.checkpoint
        def step(self, x):
            self.h.value = self.h.value + x
            return {"h": self.h.value, "kind": "leaky", "f": jnp.sin}

    layer = Layer()
    assert layer.step(1.0) == {"h": 1.0, "kind": "leaky", "f": jnp.sin}
    assert layer.h.value == 1.0


# named_scope.


def test_a_named_scope_is_in_the_program():
    w = sl.ParamState(jnp.ones(2))

    @T.named_scope("the_head")
    def head(x):
        w.value = w.value + 1
        return w.value * x

    @sl.jit
    def fun(x):
        with T.named_scope("the_body"):
            x = jnp.sin(x)
        return head(x)

    text = fun.lower(jnp.ones(2)).as_text(debug_info=True)
    assert "the_head" in text
    assert "the_body" in text
    assert w.value[0] == 1.0
    fun(jnp.ones(2))
    assert w.value[0] == 2.0


# Looking at functions.


class Model(sl.nn.Module):
    def __init__(self, key=0):
        super().__init__()
        self.w = sl.ParamState(jax.random.normal(jax.random.key(key), (2, 3)), name="w")
        self.calls = counter()
        self.rng = sl.random.RandomState(0, name="rng")

    def __call__(self, x):
        self.calls.value += 1
        return x @ self.w.value + self.rng.normal(size=3)


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


# Rules of one's own.


def custom_vjp_scale(w, seen):
    calls = counter()

    @T.custom_vjp(states=w)
    def scale(x, y):
        calls.value += 1
        return jnp.sum(w.value * x) * y

    @scale.def_fwd
    def _(perturbed, x, y):
        seen.append(perturbed)
        calls.value += 1
        return jnp.sum(w.value * x) * y, w.value

    @scale.def_bwd
    def _(kept, cotangent, perturbed, x, y):
        seen.append(perturbed)
        return 10 * cotangent * x * y, (100 * cotangent * kept * y, None)

    return scale, calls


def test_custom_vjp_has_its_rule_for_the_states_and_knows_what_is_perturbed():
    w, seen = sl.ParamState(jnp.array([1.0, 2.0])), []
    scale, calls = custom_vjp_scale(w, seen)
    x, y = jnp.array([3.0, 4.0]), jnp.array(2.0)
    close(scale(x, y), jnp.array(22.0))
    assert seen == []
    close(sl.grad(scale, w)(x, y), 10 * x * y)
    assert seen == [(True, (False, False))] * 2
    seen.clear()
    close(sl.grad(scale)(x, y), 100 * w.value * y)
    assert seen == [(False, (True, False))] * 2
    close(sl.grad(scale, w, argnums=0)(x, y), (10 * x * y, 100 * w.value * y))
    assert seen[-1] == (True, (True, False))
    assert calls.value == 4


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_a_rule_holds_in_jit_and_vmap_and_scan(rule):
    w = sl.ParamState(jnp.array([1.0, 2.0]))
    scale, calls = custom_vjp_scale(w, []) if rule == "vjp" else custom_jvp_scale(w, [])
    x, y = jnp.array([3.0, 4.0]), jnp.array(2.0)
    gradient = sl.grad(scale, w)
    expected = 10 * x * y
    close(sl.jit(gradient)(x, y), expected)
    close(T.vmap(gradient, in_axes=(0, None))(jnp.stack([x, 2 * x]), y)[1], 2 * expected)
    close(T.for_loop(lambda y: gradient(x, y), jnp.stack([y, y]))[1], expected)
    total = lambda: jnp.sum(T.vmap(scale, in_axes=(0, None))(jnp.stack([x, x]), y))  # noqa: E731
    close(sl.grad(total, w)(), 2 * expected)
    assert calls.value == 5


def custom_jvp_scale(w, seen):
    calls = counter()

    @T.custom_jvp(states=w)
    def scale(x, y):
        calls.value += 1
        return jnp.sum(w.value * x) * y

    @scale.def_jvp
    def _(primals, tangents):
        (value, (x, y)), (moved, along) = primals, tangents
        calls.value += 1
        seen.append((moved is not None, tuple(t is not None for t in along)))
        slope = 0.0
        if moved is not None:
            slope = slope + 10 * jnp.sum(moved * x) * y
        if along[0] is not None:
            slope = slope + 100 * jnp.sum(value * along[0]) * y
        return jnp.sum(value * x) * y, slope

    return scale, calls


def test_custom_jvp_has_its_rule_for_the_states_and_knows_what_moves():
    w, seen = sl.ParamState(jnp.array([1.0, 2.0])), []
    scale, calls = custom_jvp_scale(w, seen)
    x, y = jnp.array([3.0, 4.0]), jnp.array(2.0)
    close(scale(x, y), jnp.array(22.0))
    close(sl.grad(scale, w)(x, y), 10 * x * y)
    assert seen[-1] == (True, (False, False))
    close(sl.grad(scale)(x, y), 100 * w.value * y)
    assert seen[-1] == (False, (True, False))
    out, slope = T.jvp(scale, (x, y), grad_states=w, state_tangents=jnp.ones(2))
    close((out, slope), (jnp.array(22.0), jnp.array(140.0)))
    assert calls.value == 4
    close(T.jacfwd(scale, w)(x, y), 10 * x * y)


def test_a_rule_can_be_differentiated_forward_over_reverse():
    w = sl.ParamState(jnp.array(2.0))

    @T.custom_jvp(states=w)
    def cube():
        return w.value**3

    @cube.def_jvp
    def _(primals, tangents):
        (value, _), (moved, _) = primals, tangents
        return value**3, 5 * value**2 * moved

    close(T.hvp(cube, w)(jnp.ones(())), jnp.array(20.0))
    close(T.hessian(cube, w)(), jnp.array(20.0))
    assert w.value == 2.0


def product_with_a_rule(rule, w, other):
    if rule == "vjp":
        product = T.custom_vjp(lambda x: w.value * other.value * x, states=w)
        product.def_fwd(lambda perturbed, x: (w.value * other.value * x, None))
        product.def_bwd(lambda residuals, cotangent, perturbed, x: (7 * cotangent, (None,)))
    else:
        product = T.custom_jvp(lambda x: w.value * other.value * x, states=w)
        product.def_jvp(lambda p, t: (p[0] * other.value * p[1][0], 7 * t[0]))
    return product


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_a_rule_reads_other_states(rule):
    w, other = sl.ParamState(jnp.array(2.0)), sl.ParamState(jnp.array(3.0))
    product = product_with_a_rule(rule, w, other)
    x = jnp.ones(())
    close(product(x), jnp.array(6.0))
    close(sl.grad(product, w)(x), jnp.array(7.0))

    def step(total, x):
        other.value = other.value + x
        return total, sl.grad(product, w, return_value=True)(x)

    slopes, values = T.scan(step, 0.0, jnp.ones(2))[1]
    close((slopes, values), (jnp.array([7.0, 7.0]), jnp.array([8.0, 10.0])))


@pytest.mark.parametrize(
    ("rule", "derivative"), [("vjp", "grad"), ("jvp", "grad"), ("jvp", "jacfwd")]
)
def test_a_rule_says_nothing_of_other_states(rule, derivative):
    w, other = sl.ParamState(jnp.array(2.0)), sl.ParamState(jnp.array(3.0))
    product = product_with_a_rule(rule, w, other)
    loss = lambda x: product(x) + other.value**2  # noqa: E731
    slopes = getattr(T, derivative)(loss, [w, other])(jnp.ones(()))
    close(slopes, [jnp.array(7.0), jnp.array(6.0)])


def test_a_backward_rule_has_no_forward_derivative():
    w, other = sl.ParamState(jnp.array(2.0)), sl.ParamState(jnp.array(3.0))
    product = product_with_a_rule("vjp", w, other)
    with pytest.raises(TypeError, match=r"forward-mode autodiff .* to a custom_vjp"):
        T.jacfwd(product, w)(jnp.ones(()))


def test_a_rule_without_states_is_about_the_arguments():
    w = sl.ParamState(jnp.array(2.0))
    fun = T.custom_vjp(lambda x: w.value * x)
    seen = []
    fun.def_fwd(lambda perturbed, x: (seen.append(perturbed), (w.value * x, None))[1])
    fun.def_bwd(lambda residuals, cotangent, perturbed, x: (9 * cotangent,))
    close(sl.grad(fun)(1.0), jnp.array(9.0))
    assert set(seen) == {(True,)}
    fun = T.custom_jvp(lambda x: w.value * x)
    fun.def_jvp(lambda primals, tangents: (w.value * primals[0], 9 * tangents[0]))
    close(sl.grad(fun)(1.0), jnp.array(9.0))


def ruled(rule, fun, slope):
    """Gives a function of x and keywords a derivative of its own, tenfold the true one."""
    if rule == "vjp":
        ruled = T.custom_vjp(fun)
        ruled.def_fwd(lambda perturbed, x, **named: (fun(x, **named), None))
        ruled.def_bwd(lambda _, along, perturbed, x, **named: (10 * along * slope(**named),))
    else:
        ruled = T.custom_jvp(fun)
        ruled.def_jvp(lambda p, t, **named: (fun(*p, **named), 10 * t[0] * slope(**named)))
    return ruled


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
@pytest.mark.parametrize("k", [2.0, 2, jnp.array(2.0), np.array(2.0), np.array(2)])
def test_a_rule_takes_keyword_arguments(rule, k):
    times = ruled(rule, lambda x, *, k: x * k, lambda k: k)
    loss = lambda x: times(x, k=k)  # noqa: E731
    close(loss(3.0), jnp.array(6.0))
    close(sl.grad(loss)(3.0), jnp.array(20.0))
    close(sl.jit(sl.grad(loss))(3.0), jnp.array(20.0))
    # A rule says nothing of keyword arguments.
    close(sl.grad(lambda k: times(3.0, k=k))(2.0), jnp.array(0.0))
    close(
        T.vmap(sl.grad(lambda x, k: times(x, k=k)))(jnp.ones(2), jnp.arange(2.0)),
        10 * jnp.arange(2.0),
    )


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit])
def test_a_rule_takes_keyword_arguments_that_are_no_arrays(rule, run):
    def fun(x, *, act, name, layer):
        assert name == "scale"
        return act(x) * layer(jnp.ones(1))[0]

    layer = eqx.nn.MLP(1, 1, 2, 1, activation=jnp.tanh, key=jax.random.key(0))
    named = {"act": jnp.square, "name": "scale", "layer": layer}
    slope = lambda act, name, layer: layer(jnp.ones(1))[0]  # noqa: E731
    loss = run(lambda x: ruled(rule, fun, slope)(x, **named))
    factor = layer(jnp.ones(1))[0]
    close(loss(3.0), 9 * factor)
    close(run(sl.grad(loss))(3.0), 10 * factor)


def test_a_rule_about_states_takes_keyword_arguments():
    w = sl.ParamState(jnp.array(2.0))

    @T.custom_jvp(states=w)
    def power(x, *, n, act):
        return act(w.value) ** n * x

    @power.def_jvp
    def _(primals, tangents, *, n, act):
        (value, (x,)), (moved, _) = primals, tangents
        return act(value) ** n * x, 100 * n * act(moved) * x

    loss = lambda x: power(x, n=3, act=jnp.negative)  # noqa: E731
    close(loss(1.0), jnp.array(-8.0))
    close(sl.grad(loss, w)(1.0), jnp.array(-300.0))


def test_what_a_rule_leaves_out_is_refused_and_changes_nothing():
    w, calls = sl.ParamState(jnp.array(2.0), name="w"), counter()

    def fun(x):
        calls.value += 1
        w.value = w.value + 1
        return x

    for make in (T.custom_vjp, T.custom_jvp):
        missing = make(fun, states=w)
        with pytest.raises(sl.ArgumentError, match=r"custom_v?jv?p\(fun\)\nit has no rule"):
            missing(1.0)
    writing = T.custom_vjp(fun, states=w)
    writing.def_fwd(lambda perturbed, x: (x, None))
    writing.def_bwd(lambda *args: (None, (None,)))
    with pytest.raises(sl.SelectionError, match=r"derivative by ParamState\(.*name='w'\)"):
        writing(1.0)
    assert (w.value, calls.value) == (2.0, 0)


# Units.


@pytest.fixture
def units():
    return pytest.importorskip("saiunit")


def quantity(units, mantissa, unit):
    return units.Quantity(jnp.asarray(mantissa), unit=unit)


@pytest.mark.parametrize("jitted", [False, True])
def test_derivatives_have_units(units, jitted):
    length = sl.ParamState(quantity(units, [2.0, 3.0], units.meter), name="length")
    calls = counter()

    def area(x):
        calls.value += 1
        return (length.value**2 * x).sum()

    def areas(x):
        return length.value**2 * x

    run = sl.jit if jitted else lambda fun: fun
    values, eye = jnp.array([2.0, 3.0]), jnp.eye(2)
    cases = [
        (T.grad(area, length, unit_aware=True), 8 * values, units.meter),
        (T.vector_grad(areas, length, unit_aware=True), 8 * values, units.meter),
        (T.jacrev(areas, length, unit_aware=True), 8 * values * eye, units.meter),
        (T.jacfwd(areas, length, unit_aware=True), 8 * values * eye, units.meter),
    ]
    for derivative, expected, unit in cases:
        found = run(derivative)(4.0)
        assert units.get_unit(found) == unit
        np.testing.assert_allclose(units.get_mantissa(found), expected, rtol=1e-6)
    assert calls.value == 1
    assert length.value.unit == units.meter


@pytest.mark.parametrize("form", [list, None, "argument"])
def test_second_derivatives_have_units(units, form):
    length = quantity(units, [2.0, 3.0], units.meter)
    state = sl.ParamState(length)
    if form == "argument":
        found = T.hessian(lambda tree: (tree["a"] ** 3).sum(), unit_aware=True)({"a": length})
        found = found["a"]["a"]
    elif form is list:
        found = T.hessian(lambda: (state.value**3).sum(), [state], unit_aware=True)()[0][0]
    else:
        found = T.hessian(lambda: (state.value**3).sum(), state, unit_aware=True)()
    # Cubic metres, by metres, by metres.
    assert units.get_unit(found) == units.meter
    np.testing.assert_allclose(units.get_mantissa(found), jnp.diag(jnp.array([12.0, 18.0])))


def test_units_by_states_and_arguments_and_value(units):
    a = sl.ParamState(quantity(units, 2.0, units.meter))
    t = quantity(units, 4.0, units.second)
    speed = lambda t: a.value / t  # noqa: E731
    (by_a, by_t), value = sl.grad(speed, {"a": a}, 0, unit_aware=True, return_value=True)(t)
    assert value.unit == units.meter / units.second
    assert units.get_unit(by_a["a"]) == 1 / units.second
    assert units.get_unit(by_t) == units.meter / units.second**2
    np.testing.assert_allclose(units.get_mantissa(by_t), -2 / 16)


def test_without_the_package_units_are_refused_by_name(monkeypatch):
    w = sl.ParamState(jnp.ones(()))
    monkeypatch.setitem(sys.modules, "saiunit", None)
    for name in ("grad", "value_and_grad", "vector_grad", "jacrev", "jacfwd", "hessian"):
        asked = "grad" if name == "value_and_grad" else name
        match = rf"(?s)asked {asked} for unit_aware=True\n.*saiunit.*statelens\[units\]"
        with pytest.raises(sl.MissingPackageError, match=match) as caught:
            getattr(T, name)(lambda: w.value, w, unit_aware=True)
        assert isinstance(caught.value, ImportError)


# Meshes of four devices: those of a process of its own.

SHARDED = """
import warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import statelens as sl

shard_map = sl.transform.shard_map
mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
assert len(jax.devices()) == 4
x = jnp.arange(8.0)
"""


def over_a_mesh(code):
    on_four_devices(SHARDED + textwrap.dedent(code))


def test_states_are_partitioned_and_shared_over_a_mesh():
    over_a_mesh(
        """
        w = sl.ParamState(jnp.array(3.0), name="w")
        h = sl.HiddenState(jnp.zeros(8), name="h")
        grown = sl.State(jnp.zeros(4), name="grown")
        total = sl.State(jnp.zeros(()), name="total")
        shapes = []

        @shard_map(mesh=mesh, in_specs=P("d"), out_specs=P("d"),
                   in_states={h: P("d")}, out_states={grown: P("d")})
        def step(x):
            shapes.append((x.shape, h.value.shape, w.value.shape))
            h.value = 0.5 * h.value + w.value * x
            grown.value = jnp.sum(x, keepdims=True)
            total.value += jax.lax.psum(jnp.sum(x), "d")
            return h.value

        for run in (step, sl.jit(step)):
            h.value, total.value = jnp.ones(8), jnp.zeros(())
            out = run(x)
            assert set(shapes) == {((2,), (2,), ())}, shapes
            np.testing.assert_allclose(out, 0.5 + 3 * x)
            np.testing.assert_allclose(h.value, out)
            np.testing.assert_allclose(grown.value, x.reshape(4, 2).sum(1))
            assert total.value == 28.0
            assert w.value == 3.0
            assert h.value.sharding.is_equivalent_to(NamedSharding(mesh, P("d")), 1)
            assert total.value.sharding.is_fully_replicated

        # The gradient is that of the program on one device.
        loss = lambda: jnp.sum(step(x) ** 2)
        h.value = jnp.ones(8)
        slope = sl.grad(loss, w)()
        np.testing.assert_allclose(slope, jnp.sum(2 * (0.5 + 3 * x) * x), rtol=1e-6)
        """
    )


@pytest.mark.slow
def test_a_value_that_differs_between_devices_is_refused_by_name():
    over_a_mesh(
        """
        total = sl.State(jnp.zeros(2), name="total")
        calls = sl.State(jnp.zeros((), jnp.int32), name="calls")
        before = total.value, calls.value

        def add(x):
            calls.value += 1
            total.value = total.value + x

        for run in (lambda f: f, sl.jit):
            try:
                run(shard_map(add, mesh, P("d"), P()))(x)
            except sl.SelectionError as error:
                text = str(error)
                assert "to write State(f32[2], name='total'), which is whole" in text, text
                assert "out_states=" in text and "pmean" in text
            else:
                raise AssertionError("it was not refused")
            assert total.value is before[0] and calls.value is before[1]
        """
    )


@pytest.mark.slow
def test_models_as_arguments_and_what_raises_over_a_mesh():
    over_a_mesh(
        """
        class Model(sl.nn.Module):
            def __init__(self):
                super().__init__()
                self.w = sl.ParamState(jnp.arange(8.0))
                self.b = sl.ParamState(jnp.ones(()))
                self.mode = "fast"

            def __call__(self, x):
                assert self.mode == "fast" and self.w.value.shape == (2,)
                return self.w.value * x + self.b.value

        model = Model()
        run = shard_map(lambda m, x: m(x), mesh, (P(), P("d")), P("d"), in_states={"w": P("d")})
        np.testing.assert_allclose(run(model, x), x * x + 1)
        closed = shard_map(model, mesh, P("d"), P("d"), in_states={model.w: P("d")})
        np.testing.assert_allclose(closed(x), x * x + 1)

        calls = sl.State(jnp.zeros((), jnp.int32))
        before = calls.value

        @shard_map(mesh=mesh, in_specs=P("d"), out_specs=P("d"))
        def fails(x):
            calls.value += 1
            raise ZeroDivisionError("on purpose")

        try:
            fails(x)
        except ZeroDivisionError as error:
            assert "on purpose" in str(error)
        else:
            raise AssertionError("it was not raised")
        assert calls.value is before
        """
    )


@pytest.mark.slow
def test_a_partition_of_all_states_and_keyword_arguments_over_a_mesh():
    over_a_mesh(
        """
        h, g = sl.State(jnp.zeros(8)), sl.State(jnp.ones(8))

        def step(x, *, scale, act):
            assert h.value.shape == g.value.shape == x.shape == (2,) and scale.shape == (1,)
            h.value = h.value + act(scale * x) * g.value
            return h.value

        named = {"scale": jnp.array([2.0]), "act": jnp.negative}
        for names in (("in_states", "out_states"), ("state_in_specs", "state_out_specs")):
            for spec in (P("d"), {h: P("d"), g: P("d")}):
                h.value = jnp.zeros(8)
                run = shard_map(step, mesh, P("d"), P("d"), **dict.fromkeys(names, spec))
                np.testing.assert_allclose(run(x, **named), -2 * x)
                np.testing.assert_allclose(sl.jit(run)(x, **named), -4 * x)
                np.testing.assert_allclose(h.value, -4 * x)
                assert h.value.sharding.is_equivalent_to(NamedSharding(mesh, P("d")), 1)
        # A keyword argument may be differentiated by, too.
        run = shard_map(lambda x, *, k: k * x, mesh, P("d"), P("d"))
        assert sl.grad(lambda k: jnp.sum(run(x, k=k)))(2.0) == 28.0
        """
    )


# Found on the way.


def test_an_argument_that_is_donated_by_name_is_donated_by_position():
    x, y = jnp.ones(4), jnp.ones(4)
    jax.jit(lambda x: 2 * x, donate_argnames="x")(x)
    sl.jit(lambda x: 2 * x, donate_argnames="x")(y)
    assert x.is_deleted()
    assert y.is_deleted()
