"""Gradients that are scaled, clipped and let through, inside of a loss and in both styles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import close, counted

X = jax.random.normal(jax.random.key(1), (5, 2))


def mlp():
    return eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp()
        self.scale = sl.ParamState({"gain": jnp.full(1, 2.0), "shift": jnp.ones(1)})
        self.calls = sl.State(jnp.zeros((), int))

    def __call__(self, x):
        self.calls.value += 1
        return self.scale.value["gain"] * self.body(x) + self.scale.value["shift"]


def functional_loss(model):
    return jnp.sum(jax.vmap(model)(X) ** 2)


def facade_loss(net):
    return jnp.sum(sl.transform.vmap(net)(X) ** 2)


RULES = {
    "scale": (lambda lens: sl.optim.scale_grad(lens, -0.5), lambda gs: [-0.5 * g for g in gs]),
    "norm": (
        lambda lens: sl.optim.clip_grad(lens, norm=0.1),
        lambda gs: optax.clip_by_global_norm(0.1).update(gs, optax.EmptyState())[0],
    ),
    "value": (
        lambda lens: sl.optim.clip_grad(lens, value=0.1),
        lambda gs: [jnp.clip(g, -0.1, 0.1) for g in gs],
    ),
    "both": (
        lambda lens: sl.optim.clip_grad(lens, value=0.1, norm=0.05),
        lambda gs: optax.chain(optax.clip(0.1), optax.clip_by_global_norm(0.05)).update(
            gs, (optax.EmptyState(), optax.EmptyState())
        )[0],
    ),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]


def expected(grads, lens, after):
    old = lens.get(grads)
    return lens.set(grads, dict(zip(old, after(list(old.values())), strict=True)))


@pytest.mark.parametrize("run", [lambda f: f, sl.jit])
def test_gradients_of_a_tree_change_where_the_lens_selects_and_nowhere_else(rule, run):
    make, after = rule
    lens = sl.lens("layers[0].**")
    model = mlp()
    plain, value = sl.grad(functional_loss, sl.trainable, return_value=True)(model)

    def loss(model):
        return functional_loss(make(lens)(model))

    grads, same = run(sl.grad(loss, sl.trainable, return_value=True))(model)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    close(sl.trainable.get(grads), sl.trainable.get(expected(plain, lens, after)), rtol=1e-5)


@pytest.mark.parametrize("run", [lambda f: f, sl.jit])
def test_gradients_by_states_change_in_the_block(rule, run):
    make, after = rule
    net = Net()
    params = net.states(sl.trainable)
    plain = sl.grad(lambda: facade_loss(net), params)()
    chosen = net.states("body.**") & sl.inexact

    def loss():
        with make(chosen):
            return facade_loss(net)

    grads = run(sl.grad(loss, params))()
    close(grads, expected(plain, sl.lens("body.**"), after), rtol=1e-5)
    assert net.calls.value == 2  # what was written in the block


def test_a_part_of_a_states_value_and_rows_of_an_array():
    net = Net()
    params = net.states(sl.trainable)
    plain = sl.grad(lambda: facade_loss(net), params)()

    def loss():
        with sl.optim.scale_grad(net.states("scale.gain"), 0.0):
            return facade_loss(net)

    grads = sl.grad(loss, params)()
    assert not jnp.any(grads["scale",]["gain"])
    close(grads["scale",]["shift"], plain["scale",]["shift"])

    rows = sl.optim.scale_grad(sl.lens("w")[:1], 0.0)
    grads = jax.grad(lambda tree: jnp.sum(rows(tree)["w"]))({"w": jnp.ones((2, 2))})
    np.testing.assert_array_equal(grads["w"], [[0.0, 0.0], [1.0, 1.0]])


def test_it_decorates_a_loss_too():
    net = Net()
    params = net.states(sl.trainable)

    @sl.optim.scale_grad(net.states(sl.trainable), 2.0)
    def loss():
        return facade_loss(net)

    for _ in range(2):
        grads = sl.grad(loss, params)()
    plain = sl.grad(lambda: facade_loss(net), params)()
    close(grads, jax.tree.map(lambda grad: 2 * grad, plain), rtol=1e-5)


def test_in_the_middle_of_a_model():
    backward = sl.optim.scale_grad(..., -1.0)
    grad = jax.grad(lambda x: jnp.sum(backward({"a": 2 * x, "n": 3})["a"]))(X)
    np.testing.assert_array_equal(grad, jnp.full_like(X, -2.0))


def test_a_factor_may_be_traced_and_another_one_needs_no_new_trace():
    model = mlp()
    loss, runs = counted(lambda model, k: functional_loss(sl.optim.scale_grad(..., k)(model)))
    step = sl.jit(sl.grad(loss, sl.trainable))
    one, three = step(model, 1.0), step(model, 3.0)
    close(jax.tree.map(lambda g: 3 * g, one), three, rtol=1e-5)
    assert len(runs) == 1


def test_second_and_forward_derivatives():
    scaled = sl.optim.scale_grad(..., 0.5)
    f = lambda x: scaled(x) ** 3  # noqa: E731
    np.testing.assert_allclose(jax.jvp(f, (2.0,), (1.0,))[1], 6.0)
    np.testing.assert_allclose(jax.grad(jax.grad(f))(2.0), 0.5 * 0.5 * 12)
    np.testing.assert_allclose(jax.jacfwd(jax.grad(f))(2.0), 0.5 * 0.5 * 12)
    clipped = sl.optim.clip_grad(..., value=1.0)
    np.testing.assert_allclose(jax.grad(lambda x: clipped(x) ** 3)(2.0), 1.0)


def test_under_vmap_each_lane_is_clipped_by_itself():
    clipped = sl.optim.clip_grad(..., norm=1.0)
    grads = jax.vmap(jax.grad(lambda x: jnp.sum(clipped(x) ** 2)))(X)
    np.testing.assert_allclose(jnp.linalg.norm(grads, axis=1) <= 1 + 1e-6, True)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_keep_the_dtype(dtype):
    x = jnp.ones(2, dtype)
    for make, _ in RULES.values():
        assert jax.grad(lambda x: jnp.sum(make(...)(x)))(x).dtype == dtype  # noqa: B023


def test_what_has_no_gradient_stays_as_it_is():
    tree = {"key": jax.random.key(0), "n": jnp.arange(2), "np": np.arange(2), "w": jnp.ones(1)}
    for make, _ in RULES.values():
        same = make(...)(tree)
        assert all(same[name] is tree[name] for name in ("key", "n", "np"))


def test_a_loss_that_fails_in_the_block_leaves_states_as_they_are():
    net = Net()

    def loss():
        with sl.optim.scale_grad(net.states(sl.trainable), 2.0):
            net(X[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sl.grad(loss, net.states(sl.trainable))()
    with pytest.raises(ZeroDivisionError):
        loss()
    assert net.calls.value == 0


# straight_through


def binarised(x):
    return jnp.where(x > 0, 1.0, -1.0)


def test_values_are_those_of_the_function_and_gradients_those_of_the_identity():
    through = sl.optim.straight_through("**.weight", binarised)
    model = mlp()
    weights = sl.lens("**.weight")
    close(sl.trainable.get(through(model)), sl.trainable.get(weights.update(model, binarised)))
    grads = sl.grad(lambda m: functional_loss(through(m)), sl.trainable)(model)
    at_binarised = sl.grad(functional_loss, sl.trainable)(weights.update(model, binarised))
    close(sl.trainable.get(grads), sl.trainable.get(at_binarised), rtol=1e-5)


def test_states_are_read_through_the_function_in_the_block():
    net = Net()
    params = net.states(sl.trainable)
    weights = net.states("**.weight")

    @sl.jit
    def step():
        def loss():
            with sl.optim.straight_through(weights, binarised):
                return facade_loss(net)

        return sl.grad(loss, params)()

    grads = step()
    before = params.values_dict()
    close(params.values_dict(), before)
    weights.update(binarised)
    close(grads, sl.grad(lambda: facade_loss(net), params)(), rtol=1e-5)


def test_the_value_is_exact_and_both_modes_are_there():
    rounded = sl.optim.straight_through(..., jnp.round)
    x = jnp.array([1e8 + 0.3, 0.4, -0.6])
    np.testing.assert_array_equal(jax.jit(rounded)(x), jnp.round(x))
    np.testing.assert_array_equal(jax.jvp(rounded, (x,), (2 * x,))[1], 2 * x)
    assert jax.grad(jax.grad(lambda x: rounded(x) ** 2))(0.3) == 2.0


def test_what_else_the_function_depends_on_gets_no_gradient():
    def loss(x, step):
        return sl.optim.straight_through(..., lambda x: step * jnp.round(x / step))(x)

    np.testing.assert_array_equal(jax.grad(loss, argnums=(0, 1))(1.3, 0.5), (1.0, 0.0))


@pytest.mark.parametrize(
    "function", [lambda x: x[:1], lambda x: x > 0, lambda x: (x, x), lambda x: x.astype(int)]
)
def test_a_function_that_gives_something_else_is_refused(function):
    match = r"straight_through for a function(.|\n)*for float32\[5, 2\]"
    with pytest.raises(sl.StructureError, match=match):
        sl.optim.straight_through("x", function)({"x": X})
    state = sl.State(X)
    with pytest.raises(sl.StructureError, match=match), sl.optim.straight_through(state, function):
        pass


# What is refused


def test_what_isnt_selected_is_named_with_what_asked():
    for asked, use in {
        "scale_grad": lambda lens: sl.optim.scale_grad(lens, 1.0),
        "clip_grad": lambda lens: sl.optim.clip_grad(lens, norm=1.0),
        "straight_through": lambda lens: sl.optim.straight_through(lens, jnp.round),
    }.items():
        with pytest.raises(sl.PathError, match=rf"asked {asked} for 'wieght'(.|\n)*weight"):
            use("wieght")({"weight": X})
        with pytest.raises(sl.SelectionError, match=rf"asked {asked} for lens"):
            use(None)({"weight": X})
        with (
            pytest.raises(sl.SelectionError, match=rf"asked {asked} for states"),
            use({}),
        ):
            pass


def test_errors_end_at_the_users_line():
    def use():
        with sl.optim.straight_through(sl.State(X), lambda x: x[:1]):
            pass

    with pytest.raises(sl.StructureError, match="straight_through") as error:
        use()
    assert error.traceback[-1].name == "use"


@pytest.mark.parametrize("factor", ["a", None, jnp.ones(2), True, [1.0]])
def test_what_is_no_number_is_refused(factor):
    with pytest.raises(sl.ArgumentError, match="asked scale_grad for factor="):
        sl.optim.scale_grad(..., factor)
    if factor is not None:
        with pytest.raises(sl.ArgumentError, match="asked clip_grad for norm="):
            sl.optim.clip_grad(..., norm=factor)


def test_a_limit_is_needed():
    with pytest.raises(sl.ArgumentError, match="there is no limit"):
        sl.optim.clip_grad("w")


def test_what_is_no_function_is_refused():
    with pytest.raises(sl.ArgumentTypeError, match="asked straight_through for function="):
        sl.optim.straight_through("w", 1.0)
