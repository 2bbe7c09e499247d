"""Flax NNX as an oracle: loops, branches and lanes, one program in its own idiom and in ours.

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
    KERNELS,
    Count,
    OurCell,
    OurLinear,
    OurMLP,
    TheirCell,
    TheirLinear,
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


# Control flow with writes in the body.


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_scans(reverse, compiled):
    theirs, ours = TheirCell(), OurCell()

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0), reverse=reverse)
    def their_scan(carry, x):
        model, total = carry
        out = model(x)
        return (model, total + out), out

    def their_run(model):
        (_, total), outs = their_scan((model, jnp.zeros(())), X)
        return total, outs

    def our_run():
        def step(total, x):
            out = ours(x)
            return total + out, out

        return T.scan(step, jnp.zeros(()), X, reverse=reverse)

    for _ in range(2):
        found = nnx.jit(their_run)(theirs) if compiled else their_run(theirs)
        close(sl.jit(our_run)() if compiled else our_run(), found)
    same_models(ours, theirs)


def test_a_scan_over_layers():
    """Parameters of all layers in one array each, one layer a step."""
    kernels = jnp.sin(jnp.arange(27.0)).reshape(3, 3, 3)

    @nnx.vmap(in_axes=0, out_axes=0)
    def make(kernel):
        return TheirLinear(kernel)

    theirs = make(kernels)

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def their_forward(layer, x):
        return jnp.tanh(layer(x))

    theirs_out = their_forward(theirs, X)

    ours = T.vmap_new_states(OurLinear)(kernels)
    one_layer = sl.thread(lambda layer, x: jnp.tanh(layer(x)))

    def step(x, layer):
        return one_layer(layer, x)

    out, after = T.scan(step, X, ours)
    close(out, theirs_out)
    same_models(after, theirs)


def test_gradients_through_a_scan():
    theirs, ours = TheirCell(), OurCell()

    def their_loss(model, xs):
        scan = nnx.scan(
            lambda model, x: (model, model(x)), in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0)
        )
        return jnp.sum(scan(model, xs)[1] ** 2)

    run = nnx.grad(their_loss, argnums=(nnx.DiffState(0, nnx.Param), 1))
    their_by_rate, their_by_x = run(theirs, X)
    loss = lambda xs: jnp.sum(T.for_loop(ours, xs) ** 2)  # noqa: E731
    by_rate, by_x = sl.grad(loss, ours.states(sl.ParamState), argnums=0)(X)
    close(by_x, their_by_x)
    close(flat_ours(by_rate), flat_theirs(their_by_rate))
    same_models(ours, theirs)


@pytest.mark.parametrize("compiled", [False, True])
def test_while_loops(compiled):
    theirs, ours = TheirCell(), OurCell()

    def their_run(model):
        def body(carry):
            model, x = carry
            return model, x + model(x)

        return nnx.while_loop(lambda carry: carry[1] < 20.0, body, (model, jnp.zeros(())))[1]

    def our_run():
        return T.while_loop(lambda x: x < 20.0, lambda x: x + ours(x), jnp.zeros(()))

    found = nnx.jit(their_run)(theirs) if compiled else their_run(theirs)
    close(sl.jit(our_run)() if compiled else our_run(), found)
    same_models(ours, theirs)


def test_loops_over_a_range():
    theirs, ours = TheirCell(), OurCell()

    def their_body(i, carry):
        model, total = carry
        return model, total + i * model(X[i])

    _, found = nnx.fori_loop(0, 4, their_body, (theirs, jnp.zeros(())))
    total = sl.State(jnp.zeros(()))

    def body(i):
        total.value += i * ours(X[i])

    T.for_loop(body, jnp.arange(4))
    close(total.value, found)
    same_models(ours, theirs)


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_branches(taken, compiled):
    theirs, ours = TheirCell(), OurCell()

    def their_other(model, x):
        model.count[...] += 10
        return x.sum()

    def their_run(model, taken, x):
        return nnx.cond(taken, lambda model, x: model(x), their_other, model, x)

    def other(x):
        ours.count.value += 10
        return x.sum()

    def our_run(taken, x):
        return T.cond(taken, ours, other, x)

    found = (nnx.jit(their_run) if compiled else their_run)(theirs, jnp.asarray(taken), X[0])
    close((sl.jit(our_run) if compiled else our_run)(jnp.asarray(taken), X[0]), found)
    same_models(ours, theirs)


@pytest.mark.parametrize("index", [-1, 0, 1, 2, 7])
def test_one_of_several(index):
    theirs, ours = TheirMLP(), OurMLP()

    def their_bump(model, x):
        model.first.bias[...] += x[0, :1]
        return x @ KERNELS[0] @ KERNELS[1]

    def bump(x):
        ours.first.bias.value += x[0, :1]
        return x @ KERNELS[0] @ KERNELS[1]

    their_branches = [lambda m, x: m(x), their_bump, lambda m, x: m.last(m.first(x))]
    branches = [ours, bump, lambda x: ours.last(ours.first(x))]
    index = jnp.asarray(index)
    close(T.switch(index, branches, X), nnx.switch(index, their_branches, theirs, X))
    same_models(ours, theirs)


def test_gradients_through_a_branch_in_a_scan():
    theirs, ours = TheirCell(), OurCell()

    def their_loss(model, xs):
        def step(model, x):
            return model, nnx.cond(x[0] > 0.3, lambda m: m(x), lambda m: m.rate[...] * x[1], model)

        scan = nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        return jnp.sum(scan(model, xs)[1] ** 2)

    their_value, their_grads = nnx.jit(
        nnx.value_and_grad(their_loss, argnums=nnx.DiffState(0, nnx.Param))
    )(theirs, X)

    def loss(xs):
        step = lambda x: T.cond(x[0] > 0.3, lambda: ours(x), lambda: ours.rate.value * x[1])  # noqa: E731
        return jnp.sum(T.for_loop(step, xs) ** 2)

    value, grads = sl.jit(sl.value_and_grad(loss, ours.states(sl.ParamState)))(X)
    close(value, their_value)
    close(flat_ours(grads), flat_theirs(their_grads))
    same_models(ours, theirs)


# Lanes.


def test_state_axes():
    """Hidden states have an axis, parameters are shared."""
    theirs, ours = TheirCell(), OurCell()
    stacked = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
    theirs.h, theirs.count = nnx.BatchStat(stacked), Count(jnp.zeros(4, jnp.int32))
    ours.h.value, ours.count.value = stacked, jnp.zeros(4, jnp.int32)
    axes = nnx.StateAxes({nnx.Param: None, ...: 0})
    run = nnx.vmap(lambda model, x: model(x), in_axes=(axes, 0))
    lanes = T.vmap(ours, in_states={0: [ours.h, ours.count]})
    for n in range(2):
        close(lanes(X + n), run(theirs, X + n))
    same_models(ours, theirs)


@pytest.mark.parametrize("axis", [0, 1])
def test_state_axes_by_an_unbound_lens(axis):
    theirs, ours = TheirCell(), OurCell()
    stacked = jnp.linspace(-1.0, 1.0, 12).reshape((4, 3) if axis == 0 else (3, 4))
    theirs.h, theirs.count = nnx.BatchStat(stacked), Count(jnp.zeros(4, jnp.int32))
    ours.h.value = stacked
    ours.count.value = jnp.zeros(4, jnp.int32)
    axes = nnx.StateAxes({nnx.Param: None, nnx.BatchStat: axis, ...: 0})
    run = nnx.vmap(lambda model, x: model(x), in_axes=(axes, 0))
    found = run(theirs, X)
    places = {sl.lens(sl.BatchState): axis, sl.lens("count"): 0}
    out, after = T.vmap(
        sl.thread(lambda model, x: model(x)),
        in_axes=(None, 0),
        in_states=places,
        out_states=places,
    )(ours, X)
    close(out, found)
    same_models(after, theirs)


def test_statistics_over_the_lanes():
    theirs, ours = TheirCell(), OurCell()

    def their_lane(model, x):
        model.h[...] = 0.5 * model.h[...] + 0.5 * jax.lax.pmean(x, "batch")
        return x - model.h[...]

    axes = nnx.StateAxes({...: None})
    found = nnx.vmap(their_lane, in_axes=(axes, 0), axis_name="batch")(theirs, X)

    def lane(x):
        ours.h.value = 0.5 * ours.h.value + 0.5 * jax.lax.pmean(x, "batch")
        return x - ours.h.value

    close(T.vmap(lane, axis_name="batch")(X), found)
    same_models(ours, theirs)


def test_an_ensemble_and_its_gradients():
    keys = jax.random.split(jax.random.key(0), 5)

    @nnx.vmap(in_axes=0, out_axes=0)
    def their_make(key):
        return TheirLinear(jax.random.normal(key, (3, 2)))

    theirs = their_make(keys)
    ours = T.vmap_new_states(lambda key: OurLinear(jax.random.normal(key, (3, 2))))(keys)
    same_models(ours, theirs)

    def their_loss(model, x, y):
        outs = nnx.vmap(lambda model, x: model(x), in_axes=(0, None))(model, x)
        return jnp.mean((outs - y) ** 2)

    def loss(model, x, y):
        run = sl.thread(lambda model, x: model(x))
        outs, _ = T.vmap(run, in_axes=(0, None))(model, x)
        return jnp.mean((outs - y) ** 2)

    their_grads = nnx.grad(their_loss, argnums=nnx.DiffState(0, nnx.Param))(theirs, X, Y)
    grads = sl.grad(loss, sl.lens(sl.ParamState))(ours, X, Y)
    close(flat_ours(grads.states(sl.ParamState)), flat_theirs(their_grads))
