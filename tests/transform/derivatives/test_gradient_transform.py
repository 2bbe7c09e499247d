"""State awareness around transforms that users write, and around Jacobians and Hessians."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import Affine, close

close = functools.partial(close, rtol=1e-6, atol=0)

GradientTransform = sl.transform.GradientTransform


XS = jnp.arange(6.0).reshape(3, 2)


def scaled_grad(fun, argnums=0, has_aux=False, factor=1.0):
    def scaled(*args):
        gradient, aux = jax.grad(fun, argnums, has_aux=has_aux)(*args)
        return jax.tree.map(lambda g: factor * g, gradient), aux

    return scaled


def clipped_grad(fun, argnums=0, has_aux=False, max_norm=1.0):
    def clipped(*args):
        gradient, aux = jax.grad(fun, argnums, has_aux=has_aux)(*args)
        clip = optax.clip_by_global_norm(max_norm)
        return clip.update(gradient, clip.init(gradient))[0], aux

    return clipped


def loss_of(model):
    return lambda x: jnp.mean(model(x) ** 2)


# Transforms of one's own.


@pytest.mark.parametrize("argnums", [None, 0, (0,)])
@pytest.mark.parametrize("return_value", [False, True])
def test_scaling_scales_every_part(argnums, return_value):
    model = Affine()
    options = {"argnums": argnums, "return_value": return_value}
    scaled = GradientTransform(
        loss_of(model),
        scaled_grad,
        model.states(sl.ParamState),
        transform_params={"factor": 3.0},
        **options,
    )(XS)
    plain = sl.grad(loss_of(model), model.states(sl.ParamState), **options)(XS)
    gradient = plain[0] if return_value else plain
    tripled = jax.tree.map(lambda g: 3.0 * g, gradient)
    close(scaled, (tripled, plain[1]) if return_value else tripled)
    assert model.calls.value == 2


def test_clipping_clips_the_norm_over_all_states():
    model = Affine()
    params = model.states(sl.ParamState)
    clipped = GradientTransform(
        loss_of(model), clipped_grad, params, transform_params={"max_norm": 0.5}
    )
    gradient = clipped(XS)
    plain = sl.grad(loss_of(model), params)(XS)
    np.testing.assert_allclose(optax.tree.norm(gradient), 0.5, rtol=1e-6)
    close(gradient, jax.tree.map(lambda g: g * 0.5 / optax.tree.norm(plain), plain))


def test_a_transform_of_a_lens_on_a_tree():
    tree = {"w": jnp.arange(2.0), "b": jnp.ones(2)}
    gradient = GradientTransform(
        lambda t: jnp.sum(t["w"] * t["b"]), clipped_grad, "b", transform_params={"max_norm": 0.1}
    )(tree)
    close(gradient, {"w": None, "b": jnp.array([0.0, 0.1])})


def test_a_transform_is_called_with_one_function_of_one_tree():
    seen = []

    def spy(fun, argnums=0, has_aux=False):
        def run(values):
            seen.append((argnums, has_aux, jax.tree.leaves(values)))
            return jax.grad(fun, argnums, has_aux=has_aux)(values)

        return run

    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.asarray(3.0))
    GradientTransform(lambda: a.value * b.value, spy, {"a": a, "b": b})()
    assert seen == [(0, True, [2.0, 3.0])]


def test_aux_value_and_writes_go_through_a_transform():
    model = Affine()
    fun = lambda x: (loss_of(model)(x), {"aux": x})  # noqa: E731
    gradient, value, aux = GradientTransform(
        fun, scaled_grad, model.states("bias"), has_aux=True, return_value=True
    )(XS)
    assert list(gradient) == [("bias",)]
    np.testing.assert_allclose(value, loss_of(Affine())(XS), rtol=1e-6)
    assert aux["aux"].tolist() == XS.tolist()
    assert model.calls.value == 1


def test_it_decorates_methods():
    class Holder:
        scale = 2.0

        def loss(self, x):
            return self.scale * x**2

        gradient = GradientTransform(loss, scaled_grad, argnums=1)

    assert Holder().gradient(3.0) == 12.0
    assert Holder.gradient(Holder(), 3.0) == 12.0


def test_a_transform_that_fails_leaves_the_states():
    def failing(fun, argnums=0, has_aux=False):
        def run(*args):
            jax.grad(fun, argnums, has_aux=has_aux)(*args)
            raise ZeroDivisionError("after the trace")

        return run

    model = Affine()
    with pytest.raises(ZeroDivisionError, match="after the trace"):
        GradientTransform(loss_of(model), failing, model.weight)(XS)
    assert model.calls.value == 0


def test_repr_says_what_it_does_to_what():
    def loss(x):
        return x

    assert repr(GradientTransform(loss, scaled_grad)) == "scaled_grad(loss)"
    assert repr(sl.grad(loss)) == "grad(loss)"


def test_what_is_no_function_is_refused():
    with pytest.raises(sl.ArgumentTypeError, match=r"asked jacrev to differentiate a float\n"):
        GradientTransform(3.0, jax.jacrev)


def test_errors_name_the_transform():
    with pytest.raises(sl.DifferentiationError, match="asked hessian for the derivative by 'n'"):
        GradientTransform(lambda t: t["n"], jax.hessian, "n")({"n": jnp.arange(2)})


# Jacobians and Hessians.

jacobians = pytest.mark.parametrize("jacobian", [jax.jacrev, jax.jacfwd])


@jacobians
def test_jacobians_by_states_and_arguments(jacobian):
    model = Affine()
    params = model.states(sl.ParamState)
    by_states, by_x = GradientTransform(model, jacobian, params, argnums=0)(XS)
    plain = lambda values, x: x @ values["weight",] + values["bias",]  # noqa: E731
    close((by_states, by_x), jacobian(plain, (0, 1))(params.values_dict(), XS))
    assert model.calls.value == 1


@jacobians
def test_jacobians_of_functions_that_return_trees(jacobian):
    w = sl.State({"a": jnp.arange(2.0)})
    fun = lambda: {"double": 2 * w.value["a"], "sum": jnp.sum(w.value["a"])}  # noqa: E731
    close(
        GradientTransform(fun, jacobian, w)(),
        {"double": {"a": 2 * jnp.eye(2)}, "sum": {"a": jnp.ones(2)}},
    )


@jacobians
def test_jacobians_by_a_lens(jacobian):
    tree = {"w": jnp.arange(2.0), "b": jnp.ones(2)}
    fun = lambda t: t["w"] * t["b"]  # noqa: E731
    close(GradientTransform(fun, jacobian, "w")(tree), {"w": jnp.eye(2), "b": None})


@jacobians
def test_writes_in_a_jacobian_are_the_primal_s(jacobian):
    w, seen = sl.State(jnp.arange(2.0)), sl.State(jnp.zeros(2))

    def fun():
        seen.value = w.value**2
        return seen.value

    close(GradientTransform(fun, jacobian, [w])(), [jnp.diag(2 * jnp.arange(2.0))])
    assert seen.value.tolist() == [0.0, 1.0]


def test_hessians_by_one_state():
    w = sl.State(jnp.array([1.0, 2.0]))
    fun = lambda: jnp.sum(w.value**3) + w.value[0] * w.value[1]  # noqa: E731
    close(GradientTransform(fun, jax.hessian, w)(), jnp.array([[6.0, 1.0], [1.0, 12.0]]))


def test_hessians_by_states_whose_value_is_a_tree():
    w = sl.State({"a": jnp.asarray(2.0), "b": jnp.asarray(3.0)})
    fun = lambda v: v["a"] ** 2 * v["b"]  # noqa: E731
    close(GradientTransform(lambda: fun(w.value), jax.hessian, w)(), jax.hessian(fun)(w.value))


def test_hessians_over_a_mapping_of_states_are_mappings_of_mappings():
    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.asarray(3.0))
    hessian = GradientTransform(lambda: a.value**2 * b.value, jax.hessian, {"a": a, "b": b})()
    plain = jax.hessian(lambda v: v["a"] ** 2 * v["b"])({"a": 2.0, "b": 3.0})
    close(hessian, plain)


def test_hessians_over_states_and_arguments():
    a = sl.State(jnp.asarray(2.0))
    hessian = GradientTransform(lambda x: a.value**2 * x, jax.hessian, {"a": a}, argnums=0)(5.0)
    close(hessian, jax.hessian(lambda v, x: v["a"] ** 2 * x, (0, 1))({"a": 2.0}, 5.0))


def test_hessians_by_a_lens():
    tree = {"w": jnp.asarray(2.0), "b": jnp.asarray(3.0)}
    hessian = GradientTransform(lambda t: t["w"] ** 2 * t["b"], jax.hessian, "w")(tree)
    close(hessian, {"w": {"w": jnp.asarray(6.0), "b": None}, "b": None})
