"""`vmap` over states that are mapped, in other transforms too."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

XS = jnp.arange(6.0).reshape(3, 2)


# States that are mapped.


def leak(h):
    def fun(x):
        h.value = 0.5 * h.value + x
        return h.value.sum()

    return fun


def plain_leak(h, x):
    h = 0.5 * h + x
    return h.sum(), h


def in_module(state):
    module = sl.nn.Module()
    module.h, module.other = state, sl.State(jnp.zeros(()))
    return module


FORMS = {
    "one": lambda h, axis: h,
    "list": lambda h, axis: [h],
    "mapping": lambda h, axis: {"h": h},
    "bound lens": lambda h, axis: in_module(h).states("h"),
    "states: axis": lambda h, axis: {h: axis},
    "bound lens: axis": lambda h, axis: {in_module(h).states("h"): axis},
    "axis: states": lambda h, axis: {axis: h},
    "axis: list": lambda h, axis: {axis: [h]},
    "axis: bound lens": lambda h, axis: {axis: in_module(h).states("h")},
    "axis: mapping": lambda h, axis: {axis: {"h": h}},
}


@pytest.mark.parametrize(
    ("form", "axis"),
    [(form, axis) for form in FORMS for axis in ((0, 1, -1) if "axis" in form else (0,))],
)
def test_states_with_an_axis_in_every_form(form, axis):
    value = jnp.moveaxis(jnp.sin(XS), 0, axis)
    h = sl.HiddenState(value)
    spec = FORMS[form](h, axis)
    out = T.vmap(leak(h), in_states=spec)(XS)
    expected, after = jax.vmap(plain_leak, in_axes=(axis, 0), out_axes=(0, axis))(value, XS)
    close(out, expected)
    close(h.value, after)
    # The same, with another axis going out.
    h.value = value
    T.vmap(leak(h), in_states=spec, out_states={h: 0})(XS)
    close(h.value, jnp.moveaxis(after, axis, 0))


@pytest.mark.parametrize("form", FORMS)
def test_states_that_get_an_axis_going_out(form):
    axis = 1 if "axis" in form else 0
    h = sl.HiddenState(jnp.ones(2))
    out = T.vmap(leak(h), out_states=FORMS[form](h, axis))(XS)
    fun = lambda x: plain_leak(jnp.ones(2), x)  # noqa: E731
    expected, after = jax.vmap(fun, out_axes=(0, axis))(XS)
    close(out, expected)
    close(h.value, after)


def test_several_states_each_with_its_axis():
    a, b, c = sl.State(XS), sl.State(XS.T), sl.State(jnp.asarray(2.0))

    def fun(x):
        a.value, b.value = b.value * c.value, a.value + x
        return a.value * b.value

    def plain(a, b, x):
        a, b = b * 2.0, a + x
        return a * b, a, b

    expected, a_after, b_after = jax.vmap(plain, (0, 1, 0), (0, 0, 1))(XS, XS.T, XS)
    close(T.vmap(fun, in_states={0: [a], 1: b})(XS), expected)
    close((a.value, b.value, c.value), (a_after, b_after, jnp.asarray(2.0)))


def test_a_state_whose_value_is_a_tree():
    h = sl.State({"u": XS, "v": [jnp.arange(3.0)]})

    def fun(x):
        h.value = {"u": h.value["u"] * x, "v": [h.value["v"][0] + 1]}

    T.vmap(fun, in_states=h)(XS)
    close(h.value, {"u": XS * XS, "v": [jnp.arange(3.0) + 1]})


def test_a_state_that_is_mapped_and_only_read_stays_as_it_is():
    h = sl.State(XS)
    close(T.vmap(lambda: h.value.sum(), in_states=h)(), XS.sum(1))
    assert h.value is XS


# A lens that isn't bound.


def cells():
    return {"h": sl.State(XS), "w": sl.State(jnp.array([1.0, 2.0])), "n": 3}


@pytest.mark.parametrize("spec", ["h", {"h": 0}, {0: "h"}, {sl.lens("h"): 0}])
def test_an_unbound_lens_with_thread(spec):
    def fun(tree, x):
        tree["h"].value = tree["h"].value * tree["w"].value + x
        return tree["h"].value.sum()

    tree = cells()
    mapped = T.vmap(sl.thread(fun), in_states=spec, out_states=spec)
    out, after = mapped(tree, XS)
    expected = XS * jnp.array([1.0, 2.0]) + XS
    close(out, expected.sum(1))
    close(after["h"].value, expected)
    close(after["w"].value, jnp.array([1.0, 2.0]))
    assert after["n"] == 3
    assert tree["h"].value is XS


def test_an_unbound_lens_that_is_only_read():
    tree = {"w": XS, "b": jnp.ones(2), "name": "text"}
    fun = lambda tree, x: jnp.sum(tree["w"] * x + tree["b"])  # noqa: E731
    close(T.vmap(fun, in_states="w")(tree, XS), jnp.sum(XS * XS + 1, axis=1))
    by_columns = lambda tree, x: jnp.sum(tree["w"]) * x  # noqa: E731
    close(T.vmap(by_columns, in_states={"w": 1})(tree, jnp.ones(2)), XS.sum(0))


def test_an_unbound_lens_on_an_equinox_ensemble_maps_the_last_layer_only():
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    weights = jax.random.normal(jax.random.key(1), (3, *model.layers[1].weight.shape))
    heads = eqx.tree_at(lambda m: m.layers[1].weight, model, weights)
    ours = T.vmap(lambda m, x: m(x), in_states="layers[1].weight", in_axes=None)(heads, XS[0])
    each = [eqx.tree_at(lambda m: m.layers[1].weight, model, w)(XS[0]) for w in weights]
    close(ours, jnp.stack(each))


def test_a_lens_has_to_match_and_to_have_a_tree():
    with pytest.raises(sl.PathError, match=r"(?s)'wheight'.*'w'"):
        T.vmap(lambda t: t["w"], in_states="wheight")({"w": XS})
    with pytest.raises(sl.ArgumentError, match="the call has no positional argument"):
        T.vmap(lambda: 1.0, in_states="w")()
    with pytest.raises(sl.ArgumentTypeError, match=r"not \(out, tree\)\n.*statelens.thread"):
        T.vmap(lambda t: t["w"], in_states="w", out_states="w")({"w": XS})


def test_a_write_to_a_tree_argument_is_refused():
    def fun(tree, x):
        tree["h"].value = x

    tree = cells()
    with pytest.raises(sl.FrozenTreeError, match=r"'h'(.|\n)*statelens.thread\(fun\)"):
        T.vmap(fun, in_states="h")(tree, XS)
    assert tree["h"].value is XS


# In other transforms, and those in it.


def test_nested_with_one_state_for_each_and_one_for_both():
    both, rows, calls = sl.State(jnp.ones((3, 2))), sl.State(jnp.ones(3)), sl.State(0)

    def one(x):
        both.value = both.value + x
        calls.value += 1
        return both.value

    def row(xs):
        rows.value = rows.value * 2
        return T.vmap(one, in_states=both)(xs) * rows.value

    close(T.vmap(row, in_states=[both, rows])(XS), (1 + XS) * 2)
    close((both.value, rows.value), (1 + XS, jnp.full(3, 2.0)))
    assert calls.value == 1


def test_in_jit():
    h, w = sl.State(XS), sl.State(jnp.asarray(2.0))

    def fun(x):
        h.value = h.value * w.value + x
        return h.value.sum()

    mapped = sl.jit(T.vmap(fun, in_states=h))
    expected = XS
    for _ in range(2):
        expected = expected * 2.0 + XS
        close(mapped(XS), expected.sum(1))
        close(h.value, expected)


def test_jit_in_it():
    h = sl.State(XS)
    close(T.vmap(sl.jit(leak(h)), in_states=h)(XS), (1.5 * XS).sum(1))
    close(h.value, 1.5 * XS)


@pytest.mark.parametrize("derivative", [sl.grad, T.jacrev, T.jacfwd])
def test_a_derivative_by_the_mapped_and_by_the_shared_state(derivative):
    h, w = sl.State(XS), sl.State(jnp.asarray(2.0))

    def fun(x):
        h.value = jnp.sin(h.value) * w.value * x
        return h.value.sum()

    def plain(v):
        return jnp.sum(jnp.sin(v["h"]) * v["w"] * XS)

    total = lambda: jnp.sum(T.vmap(fun, in_states=h)(XS))  # noqa: E731
    values = {"h": XS, "w": jnp.asarray(2.0)}
    close(derivative(total, {"h": h, "w": w})(), jax.grad(plain)(values))
    close(h.value, jnp.sin(XS) * 2.0 * XS)


def test_a_derivative_in_it():
    h, w = sl.State(XS), sl.State(jnp.asarray(2.0))
    loss = lambda x: jnp.sum(h.value**2 * x) * w.value**2  # noqa: E731
    by_h, by_w = T.vmap(sl.grad(loss, [h, w]), in_states=h)(XS)
    close(by_h, 2 * XS * XS * 4.0)
    close(by_w, (XS**2 * XS).sum(1) * 4.0)
    hessians = T.vmap(T.hessian(loss, h), in_states=h)(XS)
    close(hessians, jax.vmap(jnp.diag)(8.0 * XS))


def test_in_scan_and_scan_in_it():
    def step(h, carry, x):
        h.value = 0.5 * h.value + x
        return carry + h.value, h.value

    def plain_step(carry, x):
        total, h = carry
        h = 0.5 * h + x
        return (total + h, h), h

    xs = jnp.sin(jnp.arange(12.0)).reshape(4, 3)
    start = (jnp.zeros(3), jnp.ones(3))
    (total, after), ys = jax.lax.scan(plain_step, start, xs)
    h = sl.State(jnp.ones(3))
    inside = T.vmap(lambda c, x: step(h, c, x), in_states=h)
    close(T.scan(inside, jnp.zeros(3), xs), (total, ys))
    close(h.value, after)
    h.value = jnp.ones(3)
    outside = T.vmap(
        lambda xs: T.scan(lambda c, x: step(h, c, x), jnp.zeros(()), xs),
        in_axes=1,
        out_axes=(0, 1),
        in_states=h,
    )
    close(outside(xs), (total, ys))
    close(h.value, after)


def test_cond_in_it_and_it_in_cond():
    h = sl.State(XS)

    def fun(x):
        T.cond(x[0] > 1, lambda: setattr(h, "value", h.value * 10), lambda: None)
        return h.value

    expected = jnp.where(XS[:, :1] > 1, XS * 10, XS)
    close(T.vmap(fun, in_states=h)(XS), expected)
    close(h.value, expected)
    close(
        T.cond(True, T.vmap(leak(h), in_states=h), lambda x: jnp.zeros(3), XS),
        (0.5 * expected + XS).sum(1),
    )
