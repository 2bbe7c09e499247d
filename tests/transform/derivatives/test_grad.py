"""`grad` and `value_and_grad` at their edges; the numbers are those of plain JAX."""

import functools
import traceback
from collections import OrderedDict
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import Affine, close, on_four_devices

close = functools.partial(close, rtol=1e-6, atol=0)


class Pair(NamedTuple):
    one: Any
    two: Any


XS = jnp.arange(6.0).reshape(3, 2)
BY_WEIGHT = XS.sum(0).reshape(2, 1)


# The form of the gradient is the form of what was passed.


def test_a_named_tuple_of_states_gives_a_named_tuple():
    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.asarray(3.0))
    gradient = sl.grad(lambda: a.value * b.value, Pair(a, b))()
    assert gradient == Pair(3.0, 2.0)
    assert isinstance(gradient, Pair)


def test_the_keys_keep_their_order():
    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.asarray(3.0))
    gradient = sl.grad(lambda: a.value * b.value, OrderedDict(z=a, a=b))()
    assert list(gradient.items()) == [("z", 3.0), ("a", 2.0)]


def test_bound_lenses_in_a_dictionary():
    one, other = Affine(), Affine()
    gradient = sl.grad(
        lambda x: jnp.sum(other(one(x) * jnp.ones(2))),
        {"one": one.states("bias"), "other": [other.weight]},
    )(XS)
    assert gradient["one"]["bias",].tolist() == [3.0]
    close(gradient["other"][0], jnp.full((2, 1), one(XS).sum()))


def test_a_state_whose_value_is_a_dictionary_has_a_dictionary_for_gradient():
    state = sl.ParamState({"w": jnp.arange(2.0), "inner": [jnp.ones(())]})
    loss = lambda v: jnp.sum(v["w"] ** 2) * v["inner"][0]  # noqa: E731
    close(sl.grad(lambda: loss(state.value), state)(), jax.grad(loss)(state.value))
    tree = {"s": state}
    by_tree = sl.grad(lambda tree: loss(tree["s"].value), "s")(tree)
    close(by_tree["s"].value, jax.grad(loss)(state.value))


def test_a_view_of_a_leaf_inside_a_state():
    module = sl.nn.Module()
    module.both = sl.ParamState({"w": jnp.arange(2.0), "b": jnp.ones(2)})
    loss = lambda: jnp.sum((module.both.value["w"] * module.both.value["b"]) ** 2)  # noqa: E731
    close(sl.grad(loss, module.states("both.w"))(), {("both", "w"): jnp.array([0.0, 2.0])})


def test_a_view_of_a_slice():
    module = sl.nn.Module()
    module.table = sl.ParamState(jnp.arange(5.0))
    rows = sl.lens("table")[1:3].bind(module)
    [gradient] = sl.grad(lambda: jnp.sum(module.table.value**2), rows)().values()
    close(gradient, jnp.array([2.0, 4.0]))
    passed = sl.grad(lambda m: jnp.sum(m.table.value**2), sl.lens("table")[1:3])(module)
    close(passed.table.value, jnp.array([2.0, 4.0]))


def test_a_view_of_an_equinox_layer():
    module = sl.nn.Module()
    module.layer = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    views = module.states("layer.weight")
    gradient = sl.grad(lambda x: jnp.sum(jax.vmap(module.layer)(x)), views)(XS)
    close(gradient, {("layer", "weight"): BY_WEIGHT.T})


def test_one_view():
    module = sl.nn.Module()
    module.both = sl.ParamState({"w": jnp.arange(2.0), "b": jnp.ones(2)})
    view = module.states("both.w")["both.w"]
    close(sl.grad(lambda: jnp.sum(module.both.value["w"] ** 2), view)(), jnp.array([0.0, 2.0]))


def test_an_unbound_lens_gives_the_tree_with_none_outside_the_focus():
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    loss = lambda model, x: jnp.mean(jax.vmap(model)(x) ** 2)  # noqa: E731
    gradient = sl.grad(loss, "layers[-1].bias")(model, XS)
    expected = eqx.filter_grad(loss)(model, XS)
    close(gradient.layers[1].bias, expected.layers[1].bias)
    assert len(jax.tree.leaves(gradient)) == 1
    assert gradient.activation is None
    assert jax.tree.structure(eqx.apply_updates(model, gradient)) == jax.tree.structure(model)


@pytest.mark.parametrize(
    "spec",
    [
        "bias",
        ["bias"],
        lambda path, unit: path[-1] == "bias",
        {"bias": True, "weight": False},
        sl.lens("**") - "weight",
        sl.at(lambda tree: tree["bias"]),
    ],
    ids=["text", "list", "predicate", "mask", "algebra", "accessor"],
)
def test_any_spec_is_a_lens(spec):
    tree = {"bias": jnp.ones(1), "weight": jnp.ones((2, 1))}
    gradient = sl.grad(lambda t, x: jnp.sum(x @ t["weight"] + t["bias"]), spec)(tree, XS)
    close(gradient, {"bias": jnp.array([3.0]), "weight": None})


def test_a_state_that_is_tied_has_one_gradient_the_sum():
    module = sl.nn.Module()
    module.a = module.b = sl.ParamState(jnp.asarray(3.0))
    loss = lambda m: m.a.value * 2 + m.b.value**2  # noqa: E731
    close(sl.grad(lambda: loss(module), module.states())(), {("a",): jnp.asarray(8.0)})
    passed = sl.grad(loss, "a")(module)
    assert passed.a is passed.b
    assert passed.a.value == 8.0


def test_a_tied_state_in_an_immutable_tree():
    shared = sl.ParamState(jnp.asarray(3.0))
    loss = lambda tree: tree["a"].value * 2 + tree["b"].value ** 2  # noqa: E731
    gradient = sl.grad(loss, "a")({"a": shared, "b": shared})
    assert gradient["a"].value == 8.0


# Arguments.


@pytest.mark.parametrize("argnums", [np.int32(1), np.int64(1), [np.int64(1)], (np.int8(1),)])
def test_argnums_may_be_integers_of_numpy(argnums):
    fun = lambda a, b: a * b**2  # noqa: E731
    gradient = sl.grad(fun, argnums=argnums)(2.0, 3.0)
    assert gradient == (12.0 if np.ndim(argnums) == 0 else (12.0,))


@pytest.mark.parametrize("grad_states", [None, "w"])
def test_argnums_in_any_order_give_gradients_in_that_order(grad_states):
    fun = lambda t, a, b: t["w"] * a * b**2  # noqa: E731
    gradient = sl.grad(fun, grad_states, (2, 1))({"w": jnp.ones(())}, 2.0, 3.0)
    by_args = gradient if grad_states is None else gradient[1]
    assert by_args == (12.0, 9.0)


def test_keyword_arguments_are_passed_on():
    model = Affine()

    def loss(x, *, power, scale):
        return scale * jnp.sum(model(x) ** power)

    by_state, by_x = sl.grad(loss, model.bias, argnums=0)(XS, power=1, scale=jnp.asarray(2.0))
    assert by_state == 6.0
    close(by_x, jnp.full((3, 2), 1.0))


def test_static_text_callable_and_module_arguments_are_not_differentiated():
    model, other = Affine(), Affine()

    def loss(x, kind, activation, module, times):
        assert kind == "sum"
        return getattr(jnp, kind)(activation(module(model(x) * jnp.ones(2)))) * times

    gradient = sl.grad(loss, model.bias)(XS, "sum", lambda x: 2 * x, other, 3)
    close(gradient, jnp.array([18.0]))


def test_static_arguments_beside_a_lens():
    tree = {"w": jnp.ones(2), "name": "w", "function": jnp.sum}
    loss = lambda t, key: t["function"](t[key] * 3)  # noqa: E731
    close(sl.grad(loss, "w")(tree, "w"), {"w": jnp.full(2, 3.0), "name": None, "function": None})


def test_a_facade_module_by_position_is_argument_0():
    model = Affine()
    gradient = sl.grad(lambda m, x: jnp.sum(x @ m.weight.value), sl.params, check_states=False)(
        model, XS
    )
    close(gradient.weight.value, BY_WEIGHT)
    close(gradient.bias.value, jnp.zeros(1))


# As a decorator, on functions and methods.


def test_a_decorator_without_a_function():
    w = sl.State(jnp.asarray(2.0))

    @sl.grad(grad_states=w, argnums=0, return_value=True)
    def loss(x):
        """The loss."""
        return w.value * x

    assert loss(3.0) == ((3.0, 2.0), 6.0)
    assert (loss.__name__, loss.__doc__) == ("loss", "The loss.")


def test_a_decorator_without_arguments():
    @sl.value_and_grad
    def square(x):
        return x**2

    assert square(3.0) == (9.0, 6.0)


def test_methods_of_equinox_modules_and_of_plain_classes():
    class Model(eqx.Module):
        w: jax.Array

        @sl.grad(grad_states="w", has_aux=True)
        def loss(self, x, *, power=1):
            return jnp.sum(self.w**power * x), "aux"

    class Plain:
        @sl.grad(argnums=1)
        def loss(self, x):
            return x**2

    gradient, aux = Model(jnp.full(2, 3.0)).loss(1.0, power=2)
    assert (gradient.w.tolist(), aux) == ([6.0, 6.0], "aux")
    assert Plain().loss(3.0) == 6.0


def test_a_method_of_a_facade_module():
    class Model(Affine):
        @sl.grad(grad_states="bias")
        def gradient(self, x):
            return jnp.sum(x @ self.weight.value + self.bias.value)

    assert Model().gradient(XS).bias.value == 3.0


def test_a_partial_and_a_module_are_functions():
    model = Affine()
    loss = functools.partial(lambda scale, x: scale * jnp.sum(model(x)), 2.0)
    assert sl.grad(loss, model.bias)(XS) == 6.0
    mlp = eqx.nn.MLP(1, "scalar", 2, 1, key=jax.random.key(0))
    close(sl.grad(mlp)(jnp.ones(1)), jax.grad(mlp)(jnp.ones(1)))


# Value, auxiliary output, and what else comes back.


@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("argnums", [0, (0, 1)])
def test_value_and_grad_is_that_of_jax(has_aux, argnums):
    fun = lambda x, y: (x * y, {"aux": x + y}) if has_aux else x * y  # noqa: E731
    ours = sl.value_and_grad(fun, argnums=argnums, has_aux=has_aux)(2.0, 3.0)
    close(ours, jax.value_and_grad(fun, argnums=argnums, has_aux=has_aux)(2.0, 3.0))


def test_value_and_grad_of_states_and_arguments():
    w = sl.State(jnp.asarray(2.0))
    fun = lambda x: (w.value * x, "aux")  # noqa: E731
    ours = sl.value_and_grad(fun, w, 0, has_aux=True)(3.0)
    assert ours == ((6.0, "aux"), (3.0, 2.0))


def test_auxiliary_output_may_be_static_or_a_state():
    w = sl.State(jnp.asarray(2.0), name="w")
    fun = lambda: (w.value**2, {"text": "seen", "function": jnp.sum, "state": w})  # noqa: E731
    gradient, aux = sl.grad(fun, w, has_aux=True)()
    assert gradient == 4.0
    assert (aux["text"], aux["function"]) == ("seen", jnp.sum)
    assert (aux["state"].name, aux["state"].value) == ("w", 2.0)


def test_a_loss_may_be_a_python_number_as_for_jax():
    w = sl.State(jnp.asarray(2.0))
    close(sl.grad(lambda: 1.0, w, check_states=False)(), jnp.zeros(()))


@pytest.mark.parametrize("x64", [False, True])
def test_the_gradient_s_dtype_is_the_state_s(x64):
    with jax.enable_x64(x64):
        states = [sl.State(jnp.ones(2, d)) for d in (jnp.bfloat16, jnp.float32)]
        total = lambda: sum(jnp.sum(s.value).astype(jnp.float32) for s in states)  # noqa: E731
        assert [g.dtype for g in sl.grad(total, states)()] == [jnp.bfloat16, jnp.float32]


# What is differentiable.


def test_holomorphic_functions_of_complex_states():
    z = sl.State(jnp.asarray(1.0 + 2.0j))
    close(
        sl.grad(lambda: z.value**3, z, holomorphic=True)(),
        jax.grad(lambda z: z**3, holomorphic=True)(z.value),
    )
    tree = sl.grad(lambda t: t["z"] ** 3, "z", holomorphic=True)({"z": z.value})
    close(tree["z"], jax.grad(lambda z: z**3, holomorphic=True)(z.value))


def test_real_numbers_have_no_holomorphic_derivative():
    w = sl.State(jnp.ones(2), name="w")
    match = r"derivative by '(w|argument 0|)'\nit is of dtype float32.*no holomorphic=True"
    total = lambda x: jnp.sum(x + 0j)  # noqa: E731
    for call in (
        lambda: sl.grad(lambda: total(w.value), w, holomorphic=True)(),
        lambda: sl.grad(lambda t: total(t["w"]), "w", holomorphic=True)({"w": jnp.ones(2)}),
        lambda: sl.grad(total, holomorphic=True)(jnp.ones(2)),
    ):
        with pytest.raises(TypeError, match=f"(?s){match}"):
            call()


def test_what_is_no_number_is_not_to_be_blamed_on_holomorphic():
    label = sl.State("text", name="label")
    with pytest.raises(
        TypeError, match=r"(?s)'label'.*a str, which has none\nInstead: lens & statelens"
    ):
        sl.grad(lambda: jnp.ones(()), label, holomorphic=True)()


@pytest.mark.parametrize("wrap", [lambda fun: fun, sl.jit], ids=["eager", "jit"])
def test_gradients_of_sums_that_are_still_to_be_made_over_devices(wrap):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        w, x = (jax.device_put(array, jax.P("x")) for array in (jnp.ones(4), jnp.arange(4.0)))
        state = sl.State(w)

        def loss(w):
            return jnp.einsum("i,i->", w, x, out_sharding=jax.P(unreduced={"x"}))

        assert jax.typeof(loss(w)).sharding.spec.unreduced
        found = wrap(sl.grad(lambda: loss(state.value), state))()
        expected = jax.grad(loss)(w)
        close(found, expected)
        assert jax.typeof(found) == jax.typeof(expected)


@pytest.mark.slow
def test_gradients_lie_where_those_of_jax_lie():
    on_four_devices("""
        import jax, jax.numpy as jnp, statelens as sl
        from jax.sharding import AxisType, NamedSharding

        devices = jax.devices()
        mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))

        @jax.custom_vjp
        def hop(w):
            return jax.device_put(jnp.sum(w**2), devices[2])
        hop.defvjp(lambda w: (hop(w), w), lambda w, cotangent: (2 * w * cotangent,))

        losses = hop, lambda w: w.sum().astype(jnp.bfloat16), lambda w: w[0], lambda w: (w**2).sum()
        meshes = NamedSharding(mesh, jax.P("x")), NamedSharding(mesh, jax.P())
        for place in devices[0], devices[1], *meshes:
            w = jax.device_put(jnp.arange(4.0), place)
            state = sl.State(w)
            for loss in losses:
                try:
                    expected = jax.grad(loss)(w)
                except ValueError:
                    continue
                for found in sl.grad(loss)(w), sl.grad(lambda: loss(state.value), state)():
                    assert (found == expected).all()
                    assert found.committed == expected.committed
                    assert found.sharding == expected.sharding
    """)


def test_an_error_in_a_backward_pass_ends_in_the_users_own_line():
    @jax.custom_vjp
    def loss(x):
        return jnp.sum(x)

    def backward(residuals, cotangent):
        raise ValueError("in the backward pass")

    loss.defvjp(lambda x: (loss(x), None), backward)
    state = sl.State(jnp.ones(2))
    for call in (
        lambda: sl.grad(loss)(jnp.ones(2)),
        lambda: sl.grad(lambda: loss(state.value), state)(),
        lambda: sl.transform.vjp(loss, jnp.ones(2))[1](1.0),
    ):
        with pytest.raises(ValueError, match="in the backward pass") as caught:
            call()
        files = {frame.filename for frame in traceback.extract_tb(caught.tb)}
        assert files == {__file__}


def test_gradients_by_a_complex_python_number():
    expected = jax.grad(lambda z: z**2, holomorphic=True)(1j)
    close(sl.grad(lambda z: z**2, holomorphic=True)(1j), expected)
    state = sl.State(1j)
    close(sl.grad(lambda: state.value**2, state, holomorphic=True)(), expected)


def test_gradients_in_a_plain_shard_map():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def total(w, x):
        return jnp.sum(w * x)

    for in_spec in (jax.P(), jax.P("x")):
        w, x = jnp.ones(() if in_spec == jax.P() else 4), jnp.arange(4.0)
        found, expected = (
            jax.shard_map(
                grad(total), mesh=mesh, in_specs=(in_spec, jax.P("x")), out_specs=in_spec
            )(w, x)
            for grad in (sl.grad, jax.grad)
        )
        close(found, expected)


def test_allowed_integers_have_gradients_of_float0():
    n = sl.State(jnp.arange(2))
    gradient = sl.grad(lambda x: jnp.sum(n.value * x), n, allow_int=True)(1.0)
    assert gradient.dtype == jax.dtypes.float0
    tree = {"n": jnp.arange(2), "w": jnp.ones(2)}
    by_tree = sl.grad(lambda t: jnp.sum(t["n"] * t["w"]), "**", allow_int=True)(tree)
    assert by_tree["n"].dtype == jax.dtypes.float0
    close(by_tree["w"], jnp.arange(2.0))


def test_a_state_that_is_only_written_has_a_gradient_of_zero():
    w = sl.State(jnp.asarray(2.0))

    def loss(x):
        w.value = x
        return w.value**2

    assert sl.grad(loss, w)(3.0) == 0.0
    assert w.value == 3.0


def test_unchecked_states_have_gradients_of_zero_in_any_form():
    model = Affine()
    loss = lambda x: jnp.sum(x @ model.weight.value)  # noqa: E731
    gradient = sl.grad(loss, model.states(sl.ParamState), check_states=False)(XS)
    close(gradient, {("bias",): jnp.zeros(1), ("weight",): BY_WEIGHT})


def test_a_state_read_in_an_inner_grad_is_touched():
    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.asarray(3.0))
    inner = sl.grad(lambda: a.value**2 * b.value, a)
    assert sl.grad(inner, [b])() == [4.0]


# Writes.


def test_writes_are_committed_those_to_what_is_differentiated_included():
    w, seen = sl.State(jnp.asarray(2.0)), sl.State(jnp.zeros(()))

    def loss(x):
        value = w.value * x
        w.value = w.value + 1
        seen.value = value
        return value * w.value

    # d/dw of w x (w + 1)
    gradient = sl.grad(loss, w)(3.0)
    assert gradient == 3.0 * (2 * 2.0 + 1)
    assert (w.value, seen.value) == (3.0, 6.0)
    assert isinstance(w.value, jax.Array)


def test_a_write_may_change_shape_and_dtype():
    w = sl.State(jnp.ones(2))

    def loss():
        value = jnp.sum(w.value)
        w.value = jnp.arange(3)
        return value

    close(sl.grad(loss, w)(), jnp.ones(2))
    assert w.value.tolist() == [0, 1, 2]


def test_a_view_that_is_differentiated_may_be_written():
    module = sl.nn.Module()
    module.both = sl.ParamState({"w": jnp.asarray(2.0), "b": jnp.asarray(1.0)})
    view = module.states("both.w")["both.w"]

    def loss():
        value = view.value**2
        view.value = value
        return value + module.both.value["w"]

    assert sl.grad(loss, view)() == 8.0
    assert module.both.value == {"w": 4.0, "b": 1.0}


def test_threaded_with_a_lens_and_an_auxiliary_output():
    tree = {"w": jnp.asarray(2.0), "n": sl.State(jnp.zeros((), jnp.int32))}

    def loss(tree, x):
        tree["n"].value += 1
        return tree["w"] * x, {"x": x}

    gradient, (aux, after) = sl.grad(sl.thread(loss, has_aux=True), "w", has_aux=True)(tree, 3.0)
    assert gradient == {"w": 3.0, "n": None}
    assert aux == {"x": 3.0}
    assert (after["n"].value, tree["n"].value) == (1, 0)


def test_threaded_states_that_are_differentiated_come_back_as_they_were_left():
    module = Affine()

    def loss(module, x):
        out = jnp.sum(module(x))
        module.bias.value = module.bias.value * 2
        return out

    gradient, after = sl.grad(sl.thread(loss), sl.params, has_aux=True)(module, XS)
    close(gradient.weight.value, BY_WEIGHT)
    assert (after.bias.value, after.calls.value) == (0.5, 1)
    assert (module.bias.value, module.calls.value) == (0.25, 0)


def test_the_body_runs_once_whatever_is_asked_for():
    model, runs = Affine(), []

    def loss(x):
        runs.append(1)
        return jnp.sum(model(x)), "aux"

    sl.grad(loss, model.states(sl.ParamState), 0, has_aux=True, return_value=True)(XS)
    assert len(runs) == 1
    sl.grad(lambda m, x: loss(x), "weight", 1, has_aux=True, check_states=False)(Affine(), XS)
    assert len(runs) == 2


# Inside other transforms.


def test_grad_of_grad_by_states_and_by_arguments():
    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.asarray(3.0))
    loss = lambda x: a.value**3 * b.value * x**2  # noqa: E731
    mixed = sl.grad(sl.grad(loss, a), [a, b], argnums=0)
    plain = lambda a, b, x: a**3 * b * x**2  # noqa: E731
    by_a, by_b, by_x = jax.grad(jax.grad(plain), (0, 1, 2))(2.0, 3.0, 5.0)
    assert mixed(5.0) == ([by_a, by_b], by_x)


def test_writes_of_an_inner_grad_are_seen_outside_and_committed_once():
    w, count = sl.State(jnp.asarray(2.0)), sl.State(jnp.zeros((), jnp.int32))

    def inner():
        count.value += 1
        return w.value**3

    def outer():
        gradient = sl.grad(inner, w)()
        count.value = count.value * 10
        return gradient

    assert sl.grad(outer, w)() == 12.0
    assert count.value == 10


def test_a_hessian_by_a_part_of_a_tree():
    tree = {"w": jnp.asarray(2.0), "b": jnp.asarray(3.0)}
    loss = lambda t: t["w"] ** 3 * t["b"]  # noqa: E731
    second = sl.grad(lambda t: sl.grad(loss, "w")(t)["w"], "**")(tree)
    assert second == {"w": 36.0, "b": 12.0}


def test_the_functional_form_in_vmap():
    w = sl.State(jnp.asarray(2.0))
    gradient = sl.grad(lambda x: (w.value * x) ** 2, w, return_value=True)
    pure = sl.functionalize(gradient, w)
    (by_w, value), _ = jax.vmap(pure, in_axes=(None, 0))(jnp.asarray(3.0), jnp.arange(3.0))
    close(by_w, 2 * 3.0 * jnp.arange(3.0) ** 2)
    close(value, (3.0 * jnp.arange(3.0)) ** 2)
    assert w.value == 2.0


def test_the_functional_form_in_scan():
    model = Affine()
    states = model.states(sl.ParamState)

    def step(x):
        gradient = sl.grad(lambda: jnp.mean(model(x) ** 2), states)()
        for path, state in states.items():
            state.value = state.value - 0.01 * gradient[path]
        return model.calls.value

    pure = sl.functionalize(step, model.states())
    start = model.states().values_dict()

    def body(values, x):
        out, values = pure(values, x)
        return values, out

    end, calls = jax.jit(lambda v, xs: jax.lax.scan(body, v, xs))(start, jnp.stack([XS] * 3))
    assert calls.tolist() == [1, 2, 3]
    assert model.calls.value == 0
    for _ in range(3):
        step(XS)
    close(end, model.states().values_dict())


def test_unbound_in_jit_in_vmap_in_scan():
    loss = lambda t, x: (t["w"] * x) ** 2 + t["b"]  # noqa: E731
    tree = {"w": jnp.asarray(2.0), "b": jnp.asarray(1.0)}

    def body(total, x):
        each = jax.vmap(jax.jit(sl.grad(loss, "w")), in_axes=(None, 0))(tree, x)
        return total + jnp.sum(each["w"]), each["w"]

    xs = jnp.arange(6.0).reshape(2, 3)
    total, each = jax.lax.scan(body, jnp.zeros(()), xs)
    close(each, 4.0 * xs**2)
    close(total, jnp.sum(each))


def test_raw_vmap_over_a_grad_that_writes_nothing():
    w = sl.State(jnp.asarray(2.0))
    gradient = sl.grad(lambda x: (w.value * x) ** 2, w)
    close(jax.vmap(gradient)(jnp.arange(3.0)), 4.0 * jnp.arange(3.0) ** 2)


def test_jax_grad_of_an_inner_grad():
    w = sl.State(jnp.asarray(2.0))
    close(jax.grad(sl.grad(lambda x: w.value**2 * x**3, w))(3.0), jnp.asarray(4.0 * 27.0))


def test_a_loss_in_jax_checkpoint_and_scan():
    w = sl.State(jnp.asarray(0.5))

    def loss(x):
        body = jax.checkpoint(lambda carry, _: (carry * w.value, None))
        return jax.lax.scan(body, x, length=3)[0]

    np.testing.assert_allclose(sl.grad(loss, w)(2.0), 2 * 3 * 0.25, rtol=1e-6)


class Doubled(sl.State):
    @property
    def value(self):
        return 2 * super().value

    @value.setter
    def value(self, value):
        sl.State.value.fset(self, value)


def test_a_state_that_says_itself_what_its_value_is_is_asked_in_all_ways():
    state, other = Doubled(jnp.array(1.0)), sl.State(jnp.array(1.0))
    gradient = sl.grad(lambda: state.value**2 + other.value, [state, other])
    with sl.overlay({}):
        expected = gradient()
    assert gradient() == sl.jit(gradient)() == expected
