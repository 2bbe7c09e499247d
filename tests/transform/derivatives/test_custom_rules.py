"""`custom_vjp` and `custom_jvp`: rules of one's own, which see states."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, counter

close = functools.partial(close, rtol=1e-6)

T = sl.transform


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
    assert set(seen) == {(True, (False, False))}
    seen.clear()
    close(sl.grad(scale)(x, y), 100 * w.value * y)
    assert set(seen) == {(False, (True, False))}
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
