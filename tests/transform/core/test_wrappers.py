"""Transforms as method decorators, and what they do with code that is in their way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

T = sl.transform


class Model(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.array(2.0))
        self.calls = sl.State(jnp.zeros(()))

    def forward(self, x):
        self.calls.value = self.calls.value + 1
        return self.w.value * x


def decorated(decorator):
    class Decorated(Model):
        run = decorator(Model.forward)

    return Decorated()


@pytest.mark.parametrize(
    ("decorator", "x"),
    [
        (sl.jit, 3.0),
        (T.checkpoint, 3.0),
        (T.vmap, jnp.full(2, 3.0)),
        (T.checkify, 3.0),
        (
            T.shard_map(
                mesh=jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)),
                in_specs=jax.P(),
                out_specs=jax.P(),
            ),
            3.0,
        ),
    ],
    ids=["jit", "checkpoint", "vmap", "checkify", "shard_map"],
)
def test_methods_of_facade_modules_write_their_states(decorator, x):
    model = decorated(decorator)
    out = model.run(x)
    out = out[1] if isinstance(out, tuple) else out
    np.testing.assert_allclose(out, 2 * jnp.asarray(x))
    assert model.calls.value == 1


def test_custom_rules_as_methods():
    model = decorated(T.custom_vjp)
    type(model).__dict__["run"].def_fwd(lambda perturbed, self, x: (self.forward(x), x))
    with pytest.raises(sl.ArgumentError, match="def_bwd was not called"):
        model.run(2.0)


def test_gradients_of_batches_as_methods():
    class Losses(Model):
        @T.accumulate_grad(grad_states=None, microbatches=2)
        def total(self, x):
            return jnp.mean((self.forward(x)) ** 2)

        @T.per_example_grad
        def each(self, x):
            return self.forward(x) ** 2

    model = Losses()
    assert model.each(jnp.ones(3)).tolist() == [8, 8, 8]
    assert model.calls.value == 1


def test_random_numbers_under_vmap_in_a_try_block_are_drawn_all_the_same():
    rng = sl.random.RandomState(0)

    def draw(x):
        try:
            return rng.normal()
        except BaseException:
            return jnp.float32(0)

    keys = jax.random.split(jax.random.key(0), 4)
    expected = jax.vmap(lambda key: jax.random.normal(jax.random.split(key)[1]))(keys[1:])
    assert T.vmap(draw)(jnp.arange(3.0)).tolist() == expected.tolist()
    assert rng.value == keys[0]


def test_a_forward_gradient_that_fails_leaves_the_random_key_alone():
    def boom(x):
        raise ValueError("boom")

    key = sl.random.get_key()
    with pytest.raises(ValueError, match="boom"):
        T.fwd_grad(boom)(1.0)
    assert sl.random.get_key() == key


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize("by", ["argument", "state", "list"])
def test_derivatives_keep_no_tracer(by):
    w = sl.ParamState(jnp.array(2.0))
    states = {"argument": None, "state": w, "list": [w]}[by]
    argnums = 0 if by == "argument" else None
    with jax.checking_leaks():
        for transform in (sl.grad, T.hessian, T.jacrev, T.jacfwd):
            transform(lambda x: w.value**2 * x, states, argnums)(3.0)
        jax.jit(lambda x: sl.grad(lambda x: w.value**2 * x, states, argnums)(x))(3.0)


def test_a_custom_rule_for_numbers_of_no_dtype():
    @T.custom_vjp
    def double(x):
        return x * 2

    @double.def_fwd
    def _(perturbed, x):
        return x * 2, None

    @double.def_bwd
    def _(residuals, cotangent, perturbed, x):
        return (7 * cotangent,)

    assert jax.grad(double)(1.0) == 7
    assert jax.grad(double)(jnp.float32(1)) == 7


@pytest.mark.parametrize("rule", ["vjp", "jvp"])
def test_states_that_a_rule_is_not_about_have_no_derivative_through_it(rule):
    w, other = sl.ParamState(jnp.array(2.0)), sl.ParamState(jnp.array(3.0))

    def fun(x, *, factor=1.0):
        return w.value * other.value * x * factor

    if rule == "vjp":
        f = T.custom_vjp(fun, states=w)
        f.def_fwd(lambda perturbed, x, factor=1.0: (fun(x, factor=factor), None))
        f.def_bwd(lambda r, c, perturbed, x, factor=1.0: (c * other.value * x, (c,)))
    else:
        f = T.custom_jvp(fun, states=w)

        @f.def_jvp
        def _(primals, tangents):
            (value, (x,)), (moved, _) = primals, tangents
            return value * other.value * x, moved * other.value * x

    loss = lambda x: f(x) * other.value  # noqa: E731
    by_w, by_other = sl.grad(loss, [w, other])(5.0)
    assert by_w == 3 * 5 * 3
    assert by_other == 2 * 3 * 5
    assert sl.jit(sl.grad(loss, [w, other]))(5.0)[1] == 30


def test_tangents_that_have_no_dtype_of_their_own():
    float0 = np.zeros((), jax.dtypes.float0)
    ours = T.jvp(lambda x, n: x * n, (2.0, 3), (1.0, float0))
    assert [float(value) for value in ours] == [6.0, 3.0]
    with pytest.raises(sl.StructureError, match="asked hvp for a product with a vector"):
        T.hvp(lambda x: x**3)(1j, 2.0)


def test_without_jit_a_branch_that_fails_leaves_its_states_alone():
    count = sl.State(jnp.zeros(()))

    def fails(x):
        count.value = count.value + 1
        raise ValueError("boom")

    with jax.disable_jit(), pytest.raises(ValueError, match="boom"):
        T.cond(True, fails, lambda x: x, 1.0)
    assert count.value == 0
