"""Computing in a smaller dtype: parameters, gradients and optimisers stay in float32."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import close

X = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)


def dtypes_of(seen):
    """A loss that notes the dtypes which it computes with."""

    def loss(model, x):
        seen.append((x.dtype, *[layer.weight.dtype for layer in model.layers]))
        return jnp.mean(jax.vmap(model)(x) ** 2)

    return loss


def mlp():
    return eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = mlp()
        self.calls = sl.State(jnp.zeros(()))

    def loss(self, x):
        self.calls.value += 1
        return jnp.mean(jax.vmap(self.mlp)(x) ** 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_tree_is_cast_inside_the_loss(dtype):
    seen = []
    loss = sl.optim.mixed_precision(dtypes_of(seen), compute=dtype, keep="layers[0].**")
    grads, value = sl.grad(loss, sl.trainable, return_value=True)(mlp(), X)
    assert seen == [(dtype, jnp.float32, dtype)]
    assert value.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    expected = sl.grad(dtypes_of([]), sl.trainable)(mlp(), X)
    close(jax.tree.leaves(grads), jax.tree.leaves(expected), rtol=0.05)


def test_states_are_cast_inside_the_loss():
    net = Net()
    params = net.states(sl.trainable)
    seen = []

    def loss(x):
        seen.append((x.dtype, net.mlp.layers[0].weight.dtype, net.mlp.layers[1].weight.dtype))
        return net.loss(x)

    small = sl.optim.mixed_precision(loss, params, keep="mlp.layers[0].**")
    grads = sl.grad(small, params)(X)
    assert seen == [(jnp.bfloat16, jnp.float32, jnp.bfloat16)]
    assert net.calls.value == 1  # what the loss writes isn't lost
    assert net.mlp.layers[1].weight.dtype == jnp.float32
    assert {x.dtype for x in grads.values()} == {jnp.dtype("float32")}


def test_what_comes_with_the_loss_is_left_alone():
    loss = sl.optim.mixed_precision(lambda model, x: (jnp.sum(model["w"] * x), model["w"]))
    value, aux = loss({"w": jnp.ones(())}, jnp.ones((), int))
    assert (value.dtype, aux.dtype) == (jnp.float32, jnp.bfloat16)


def test_a_parameter_that_the_loss_writes_keeps_its_dtype():
    weight = sl.ParamState(jnp.array([1.001]))

    def loss():
        weight.value = jnp.clip(weight.value, -1, 1)
        return jnp.sum(weight.value)

    small = sl.optim.mixed_precision(loss, {"w": weight})
    with pytest.raises(sl.StateTypeError, match=r"another dtype with 'w'(.|\n)*after the step"):
        sl.grad(small, [weight])()
    assert weight.value.dtype == jnp.float32


def test_statistics_among_the_arguments_are_not_cast():
    norm, statistics = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")

    @sl.optim.mixed_precision
    def loss(norm, statistics, x):
        each = jax.vmap(norm, (0, None), (0, None), axis_name="batch")
        out, statistics = each(x, statistics)
        return jnp.sum(out), statistics

    _, after = loss(norm, statistics, X)
    before, now = (list(map(jnp.result_type, jax.tree.leaves(x))) for x in (statistics, after))
    assert now == before


def test_training_in_bfloat16_learns():
    net = Net()
    params = net.states(sl.trainable)
    loss = sl.optim.mixed_precision(net.loss, params)
    step = sl.optim.train_step(loss, sl.optim.Optimizer(optax.adam(0.01), params))
    losses = [step(X) for _ in range(50)]
    assert losses[-1] < losses[0] / 2


def steps(style, transformation, loss, tree, n):
    """The weight, the scale and the losses after some steps."""
    if style == "tree":
        optimizer = sl.optim.Optimizer(transformation, "w")
        step, state = sl.optim.train_step(loss, optimizer), None
        state = step.init(tree)
        values = []
        for _ in range(n):
            tree, state, value = step(tree, state)
            values.append(value)
        return tree["w"], state, values
    cell = sl.ParamState(tree["w"])
    optimizer = sl.optim.Optimizer(transformation, {"w": cell})
    step = sl.optim.train_step(lambda: loss({"w": cell.value}), optimizer)
    values = [step() for _ in range(n)]
    return cell.value, optimizer.state.value, values


STYLES = pytest.mark.parametrize("style", ["tree", "states"])


@STYLES
def test_a_scaled_loss_gives_the_same_steps(style):
    def loss(tree):
        return jnp.sum(tree["w"] ** 2)

    scaled = sl.optim.dynamic_loss_scale(optax.adam(0.1), initial=1024.0)
    tree = {"w": jnp.array([1.0, 2.0])}
    got = steps(style, scaled, loss, tree, 3)
    tree = {"w": jnp.array([1.0, 2.0])}
    wanted = steps(style, optax.adam(0.1), loss, tree, 3)
    close((got[0], got[2]), (wanted[0], wanted[2]))


@STYLES
def test_an_overflow_changes_the_scale_alone(style):
    def loss(tree):
        # In float16 the cotangent overflows from 2 ** 16 on.
        return jnp.sum((tree["w"].astype(jnp.float16)).astype(jnp.float32))

    scaled = sl.optim.dynamic_loss_scale(optax.sgd(1.0), initial=2.0**17, period=2)
    weight, state, _ = steps(style, scaled, loss, {"w": jnp.array([8.0])}, 2)
    assert (weight, state.loss_scale) == (8.0, 2.0**15)
    weight, state, _ = steps(style, scaled, loss, {"w": jnp.array([8.0])}, 5)
    # Two steps of good ones double it again, which overflows.
    assert (weight, state.loss_scale, state.good_steps) == (6.0, 2.0**15, 0)


@STYLES
def test_small_gradients_do_not_vanish(style):
    def loss(tree):
        return jnp.sum((tree["w"] * 1e-4).astype(jnp.float16).astype(jnp.float32) * 1e-5)

    plain, *_ = steps(style, optax.sgd(1e8), loss, {"w": jnp.ones(1)}, 1)
    scaled = sl.optim.dynamic_loss_scale(optax.sgd(1e8))
    moved, *_ = steps(style, scaled, loss, {"w": jnp.ones(1)}, 1)
    assert abs(moved - (1 - 0.1)) < abs(plain - (1 - 0.1))
    np.testing.assert_allclose(moved, 0.9, rtol=1e-2)


@pytest.mark.parametrize("clip", [optax.clip(1.0), 1.0])
def test_an_overflow_is_not_clipped_to_a_step(clip):
    scaled = sl.optim.dynamic_loss_scale(optax.sgd(1.0), initial=2.0**17)
    optimizer, tree = sl.optim.Optimizer(scaled, "w"), {"w": jnp.array([8.0])}
    step = sl.optim.train_step(
        lambda tree: jnp.sum(tree["w"].astype(jnp.float16).astype(jnp.float32)),
        optimizer,
        clip=clip,
    )
    tree, state, _ = step(tree, step.init(tree))
    assert (tree["w"], state.loss_scale) == (8.0, 2.0**16)


def test_a_scale_beyond_the_dtype_of_a_gradient():
    scaled = sl.optim.dynamic_loss_scale(optax.sgd(1.0), initial=2.0**17)
    optimizer, tree = sl.optim.Optimizer(scaled, "w"), {"w": jnp.array([8.0], jnp.float16)}
    step = sl.optim.train_step(
        lambda tree: jnp.sum(tree["w"].astype(jnp.float32)) * 1e-3, optimizer
    )
    tree, _, _ = step(tree, step.init(tree))
    np.testing.assert_allclose(tree["w"], 8.0, atol=0.01)


def test_a_parameter_that_is_called_as_the_scale_is():
    tree = {"loss_scale": jnp.ones(1), "w": jnp.ones(1)}
    optimizer = sl.optim.Optimizer(optax.sgd(0.1, 0.9), "**")
    step = sl.optim.train_step(lambda t: jnp.sum(t["w"] * t["loss_scale"]), optimizer)
    tree, _, _ = step(tree, step.init(tree))
    np.testing.assert_allclose(tree["w"], 0.9)


def test_a_scale_for_a_part_is_refused():
    parts = {"a": sl.optim.dynamic_loss_scale(optax.sgd(1.0)), ...: optax.sgd(1.0)}
    optimizer = sl.optim.Optimizer(sl.optim.by_lens(parts), "**")
    tree = {"a": jnp.ones(1), "b": jnp.ones(1)}
    step = sl.optim.train_step(lambda t: jnp.sum(t["a"] * t["b"]), optimizer)
    with pytest.raises(sl.ArgumentError, match=r"dynamic_loss_scale\(optimiser\), around all"):
        step(tree, step.init(tree))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sl.optim.mixed_precision(None), "mixed_precision"),
        (lambda: sl.optim.dynamic_loss_scale(optax.adam), "that makes an optimiser, and is none"),
        (lambda: sl.optim.dynamic_loss_scale(optax.adam(0.1), factor=1.0), "the third above 1"),
    ],
)
def test_it_is_refused(call, message):
    with pytest.raises(sl.StateLensError, match=message):
        call()
