"""Flax NNX as an oracle: keys, layers, and the rest; one program in its own idiom and in ours.

NNX passes the module to the function, and updates it in place; here the function closes over
the module, or `thread` gives it back. The peer is optional; install it to have these tests run.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close
from tests.oracles.nnx_models import (
    OurMLP,
    TheirMLP,
    X,
    Y,
    flat_ours,
    flat_theirs,
    same_models,
)

pytestmark = pytest.mark.slow

close = functools.partial(close, rtol=2e-6)

nnx = pytest.importorskip("flax.nnx", reason="the peer flax isn't installed")

T = sl.transform


# Random numbers by the same keys: NNX folds a count into the key of a stream.


class Stream(sl.nn.Module):
    def __init__(self, key):
        super().__init__()
        self.key = sl.State(key)
        self.count = sl.State(jnp.zeros((), jnp.uint32))

    def __call__(self):
        key = jax.random.fold_in(self.key.value, self.count.value)
        self.count.value += 1
        return key


class OurDropout(sl.nn.Module):
    def __init__(self, rate, stream):
        super().__init__()
        self.rate = rate
        self.stream = stream

    def __call__(self, x):
        keep = jax.random.bernoulli(self.stream(), 1 - self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0.0)


def test_dropout_in_a_compiled_gradient():
    drop = nnx.Dropout(0.4, rngs=nnx.Rngs(dropout=jax.random.key(3)))
    mlp, ours = TheirMLP(), OurMLP()
    stream = Stream(drop.rngs.key[...])
    our_drop = OurDropout(0.4, stream)

    @nnx.jit
    def their_step(model, drop, x, y):
        def loss(model, drop):
            return jnp.mean((model.last(drop(jnp.tanh(model.first(x)))) - y) ** 2)

        return nnx.value_and_grad(loss, argnums=nnx.DiffState(0, nnx.Param))(model, drop)

    @sl.jit
    def our_step(x, y):
        def loss():
            return jnp.mean((ours.last(our_drop(jnp.tanh(ours.first(x)))) - y) ** 2)

        return sl.value_and_grad(loss, ours.states(sl.ParamState))()

    values = set()
    for _ in range(3):
        their_value, their_grads = their_step(mlp, drop, X, Y)
        value, grads = our_step(X, Y)
        close(value, their_value)
        close(flat_ours(grads), flat_theirs(their_grads))
        values.add(float(value))
    assert len(values) == 3
    assert stream.count.value == 3


def test_a_stream_in_a_scan_and_split_for_lanes():
    rngs, stream = nnx.Rngs(noise=jax.random.key(5)), Stream(jax.random.key(5))

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def their_scan(rngs, x):
        return rngs, x + jax.random.normal(rngs.noise(), (3,))

    _, found = their_scan(rngs, X)
    close(T.for_loop(lambda x: x + jax.random.normal(stream(), (3,)), X), found)

    @nnx.split_rngs(splits=4)
    @nnx.vmap(in_axes=(0, 0))
    def their_lanes(rngs, x):
        return x + jax.random.normal(rngs.noise(), (3,))

    # A stream that is split starts with one key for each lane, and counts from zero.
    found = their_lanes(rngs, X)
    keys = jax.random.split(stream(), 4)
    lanes = Stream(keys)
    lanes.count.value = jnp.zeros(4, jnp.uint32)
    run = T.vmap(lambda x: x + jax.random.normal(lanes(), (3,)), in_states=[lanes.key, lanes.count])
    close(run(X), found)


# Layers.


def test_batch_normalisation_learns_and_keeps_statistics():
    class OurNorm(sl.nn.Module):
        def __init__(self, n):
            super().__init__()
            self.scale, self.bias = sl.ParamState(jnp.ones(n)), sl.ParamState(jnp.zeros(n))
            self.mean, self.var = sl.BatchState(jnp.zeros(n)), sl.BatchState(jnp.ones(n))

        def __call__(self, x, training):
            mean, var = self.mean.value, self.var.value
            if training:
                mean = x.mean(0)
                var = (x**2).mean(0) - mean**2
                self.mean.value = 0.9 * self.mean.value + 0.1 * mean
                self.var.value = 0.9 * self.var.value + 0.1 * var
            scaled = (x - mean) * jax.lax.rsqrt(var + 1e-5)
            return scaled * self.scale.value + self.bias.value

    theirs = nnx.BatchNorm(3, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
    ours = OurNorm(3)

    @nnx.jit
    def their_step(model, x):
        def loss(model):
            return jnp.sum(model(x, use_running_average=False) ** 3)

        value, grads = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, nnx.Param))(model)
        for name in ("scale", "bias"):
            getattr(model, name)[...] -= 0.01 * grads[name][...]
        return value

    @sl.jit
    def our_step(x):
        params = ours.states(sl.ParamState)
        grads, value = sl.grad(lambda: jnp.sum(ours(x, True) ** 3), params, return_value=True)()
        for path, state in params.items():
            state.value -= 0.01 * grads[path]
        return value

    for n in range(4):
        close(our_step(X * (n + 1)), their_step(theirs, X * (n + 1)), rtol=1e-4)
    close(flat_ours(ours.states()), flat_theirs(nnx.state(theirs)), rtol=1e-4)
    close(ours(X, False), theirs(X, use_running_average=True), rtol=1e-4)


def dense(layer):
    bias = None if layer.bias is None else layer.bias[...]
    return {"kernel": layer.kernel[...]} | ({} if bias is None else {"bias": bias})


def apply_dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0.0)


class OurRecurrent(sl.nn.Module):
    """A cell whose layers are one state each, and whose hidden state is another."""

    layers: tuple[str, ...]

    def __init__(self, theirs, carry):
        super().__init__()
        self.p = sl.ParamState({name: dense(getattr(theirs, name)) for name in self.layers})
        self.h = sl.HiddenState(carry)


class OurLSTM(OurRecurrent):
    layers = ("ii", "if_", "ig", "io", "hi", "hf", "hg", "ho")

    def __call__(self, x):
        (c, h), p = self.h.value, self.p.value
        gate = lambda of_x, of_h: apply_dense(p[of_x], x) + apply_dense(p[of_h], h)  # noqa: E731
        i, f, o = map(jax.nn.sigmoid, (gate("ii", "hi"), gate("if_", "hf"), gate("io", "ho")))
        c = f * c + i * jnp.tanh(gate("ig", "hg"))
        self.h.value = (c, o * jnp.tanh(c))
        return self.h.value[1]


class OurGRU(OurRecurrent):
    layers = ("dense_i", "dense_h")

    def __call__(self, x):
        h, p = self.h.value, self.p.value
        x_r, x_z, x_n = jnp.split(apply_dense(p["dense_i"], x), 3, axis=-1)
        h_r, h_z, h_n = jnp.split(apply_dense(p["dense_h"], h), 3, axis=-1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        self.h.value = (1 - z) * jnp.tanh(x_n + r * h_n) + z * h
        return self.h.value


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_networks_in_a_scan(kind):
    theirs = getattr(nnx, f"{kind}Cell")(3, 5, rngs=nnx.Rngs(1))
    zeros = jnp.zeros((4, 5))
    ours = OurLSTM(theirs, (zeros, zeros)) if kind == "LSTM" else OurGRU(theirs, zeros)
    carry = ours.h.value
    xs = jnp.sin(jnp.arange(6.0 * 4 * 3)).reshape(6, 4, 3)

    def their_loss(cell, xs):
        @nnx.scan(in_axes=(nnx.Carry, None, 0), out_axes=(nnx.Carry, 0))
        def step(carry, cell, x):
            return cell(carry, x)

        after, outs = step(carry, cell, xs)
        return jnp.sum(outs**2), (after, outs)

    run = nnx.value_and_grad(their_loss, argnums=nnx.DiffState(0, nnx.Param), has_aux=True)
    (their_value, (their_after, their_outs)), their_grads = nnx.jit(run)(theirs, xs)

    def loss(xs):
        outs = T.for_loop(ours, xs)
        return jnp.sum(outs**2), outs

    run = sl.value_and_grad(loss, ours.states(sl.ParamState), has_aux=True)
    (value, outs), grads = sl.jit(run)(xs)
    close((value, outs, ours.h.value), (their_value, their_outs, their_after), rtol=1e-5)
    [by_layer] = grads.values()
    found = {(name, part): by_layer[name][part] for name in by_layer for part in by_layer[name]}
    close(found, flat_theirs(their_grads), rtol=1e-5)


# The rest.


def test_shapes_and_checks():
    theirs, ours = TheirMLP(), OurMLP()
    their_shape = nnx.eval_shape(lambda model: model(X), theirs)
    shape = T.eval_shape(ours, X)
    assert (shape.shape, shape.dtype) == (their_shape.shape, their_shape.dtype)

    def their_checked(model, x):
        jax.experimental.checkify.check(x[0, 0] > 0, "negative")
        return model(x)

    def checked(x):
        T.check(x[0, 0] > 0, "negative")
        return ours(x)

    for x in (X, -X):
        their_error, their_out = nnx.jit(nnx.checkify(their_checked))(theirs, x)
        error, out = sl.jit(T.checkify(checked))(x)
        assert (error.get() is None) == (their_error.get() is None)
        if error.get() is None:
            close(out, their_out)
    same_models(ours, theirs)


def test_parts_on_devices():
    theirs, ours = TheirMLP(), OurMLP()
    spec = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    run = nnx.shard_map(
        lambda model, x: model(x),
        mesh=mesh,
        in_specs=(spec(), spec("data")),
        out_specs=spec("data"),
    )
    found = run(theirs, X)
    close(T.shard_map(ours, mesh, spec("data"), spec("data"))(X), found)
    same_models(ours, theirs)
