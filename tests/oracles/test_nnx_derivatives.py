"""Flax NNX as an oracle: derivatives and training, one program in its own idiom and in ours.

NNX passes the module to the function, and updates it in place; here the function closes over
the module, or `thread` gives it back. The peer is optional; install it to have these tests run.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import close
from tests.oracles.nnx_models import (
    FILTERS,
    KERNELS,
    Count,
    OurLinear,
    OurMLP,
    TheirLinear,
    TheirMLP,
    X,
    Y,
    flat_ours,
    flat_theirs,
    loss_of,
    same_models,
)

pytestmark = pytest.mark.slow

close = functools.partial(close, rtol=2e-6)

nnx = pytest.importorskip("flax.nnx", reason="the peer flax isn't installed")

T = sl.transform


# Derivatives.


@pytest.mark.parametrize("name", FILTERS)
def test_gradients_by_a_filter(name):
    their_filter, lens = FILTERS[name]
    theirs, ours = TheirMLP(), OurMLP()
    their_value, their_grads = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, their_filter))(
        theirs, X, Y
    )
    value, grads = sl.value_and_grad(lambda x, y: loss_of(ours, x, y), lens.bind(ours))(X, Y)
    close(value, their_value)
    close(flat_ours(grads), flat_theirs(their_grads))
    same_models(ours, theirs)


@pytest.mark.parametrize("name", FILTERS)
def test_gradients_of_an_argument_that_is_given_back(name):
    their_filter, lens = FILTERS[name]
    theirs, ours = TheirMLP(), OurMLP()
    their_grads = nnx.grad(loss_of, argnums=nnx.DiffState(0, their_filter))(theirs, X, Y)
    grads, after = sl.grad(sl.thread(loss_of), lens, has_aux=True)(ours, X, Y)
    close(flat_ours(grads.states()), flat_theirs(their_grads))
    same_models(after, theirs)
    assert ours.first.count.value == 0


def test_gradients_by_states_and_arguments_with_auxiliary_output():
    theirs, ours = TheirMLP(), OurMLP()

    def loss(model, x, y):
        out = model(x)
        return jnp.mean((out - y) ** 2), {"out": out}

    run = nnx.value_and_grad(loss, argnums=(nnx.DiffState(0, nnx.Param), 1), has_aux=True)
    (their_value, their_aux), (their_grads, their_by_x) = run(theirs, X, Y)
    run = sl.value_and_grad(
        lambda x, y: loss(ours, x, y), ours.states(sl.ParamState), argnums=0, has_aux=True
    )
    (value, aux), (grads, by_x) = run(X, Y)
    close((value, aux, by_x), (their_value, their_aux, their_by_x))
    close(flat_ours(grads), flat_theirs(their_grads))
    same_models(ours, theirs)


def test_pullbacks():
    theirs, ours = TheirMLP(), OurMLP()
    their_out, their_pullback = nnx.vjp(lambda model, x: model(x), theirs, X, graph_updates=False)
    out, pullback = T.vjp(ours, X, grad_states=ours.states(sl.ParamState), argnums=0)
    close(out, their_out)
    their_by_model, their_by_x = their_pullback(Y)
    by_model, by_x = pullback(Y)
    close(by_x, their_by_x)
    close(flat_ours(by_model), flat_theirs(nnx.state(their_by_model, nnx.Param)))


def test_pushforwards():
    theirs, ours = TheirMLP(), OurMLP()
    along = nnx.clone(theirs)
    for layer in (along.first, along.last):
        layer.kernel[...] = jnp.cos(layer.kernel[...])
        layer.bias[...] = jnp.ones_like(layer.bias[...])
        layer.count = Count(np.zeros((), jax.dtypes.float0))
    their_out = nnx.jvp(
        lambda model, x: model(x), (theirs, X), (along, jnp.cos(X)), graph_updates=False
    )
    params = ours.states(sl.ParamState)
    tangents = {
        path: jnp.cos(s.value) if "kernel" in path else jnp.ones_like(s.value)
        for path, s in params.items()
    }
    out = T.jvp(ours, (X,), (jnp.cos(X),), grad_states=params, state_tangents=tangents)
    close(out, their_out)


def test_rules_of_one_s_own():
    x = jnp.cos(KERNELS[0]) * 2

    @nnx.custom_vjp
    def their_rule(model, x):
        return jnp.sum(model.kernel[...] * x)

    def their_forward(model, x):
        return their_rule(model, x), (model.kernel[...], x)

    def their_backward(kept, cotangents):
        (by_model, _), ct = cotangents
        by_model = jax.tree.map(lambda leaf: leaf, by_model)
        by_model["kernel"][...] = jnp.clip(kept[1] * ct, -0.5, 0.5)
        return by_model, kept[0] * ct

    their_rule.defvjp(their_forward, their_backward)
    theirs, ours = TheirLinear(KERNELS[0]), OurLinear(KERNELS[0])
    their_grads, their_by_x = nnx.grad(
        lambda model, x: 3 * their_rule(model, x), argnums=(nnx.DiffState(0, nnx.Param), 1)
    )(theirs, x)

    @T.custom_vjp(states=ours.states("kernel"))
    def rule(x):
        return jnp.sum(ours.kernel.value * x)

    @rule.def_fwd
    def forward(perturbed, x):
        return rule(x), (ours.kernel.value, x)

    @rule.def_bwd
    def backward(kept, ct, perturbed, x):
        return {("kernel",): jnp.clip(kept[1] * ct, -0.5, 0.5)}, (kept[0] * ct,)

    grads, by_x = sl.grad(lambda x: 3 * rule(x), ours.states("kernel"), argnums=0)(x)
    close(by_x, their_by_x)
    close(grads[("kernel",)], their_grads["kernel"][...])


@pytest.mark.parametrize("policy", [None, jax.checkpoint_policies.dots_saveable])
def test_recomputed_intermediates(policy):
    theirs, ours = TheirMLP(), OurMLP()
    remembered = nnx.remat(lambda model, x: model(x), policy=policy)
    run = nnx.value_and_grad(lambda model, x, y: jnp.mean((remembered(model, x) - y) ** 2))
    their_value, their_grads = run(theirs, X, Y)
    again = T.checkpoint(ours, policy=policy)
    run = sl.value_and_grad(lambda x, y: jnp.mean((again(x) - y) ** 2), ours.states(sl.ParamState))
    value, grads = run(X, Y)
    close(value, their_value)
    close(flat_ours(grads), {p: v for p, v in flat_theirs(their_grads).items() if "count" not in p})
    same_models(ours, theirs)


# Compiled, with updates.


def test_compiled_functions_update_states():
    theirs, ours = TheirMLP(), OurMLP()

    @nnx.jit
    def their_step(model, x):
        out = model(x)
        model.last.bias[...] = model.last.bias[...] - 0.1 * out.mean(0)
        return out

    @sl.jit
    def our_step(x):
        out = ours(x)
        ours.last.bias.value = ours.last.bias.value - 0.1 * out.mean(0)
        return out

    for n in range(3):
        close(our_step(X + n), their_step(theirs, X + n))
    same_models(ours, theirs)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.1, momentum=0.9),
        optax.adam(1e-2),
        optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2, weight_decay=0.1)),
    ],
    ids=["momentum", "adam", "clipped adamw"],
)
@pytest.mark.parametrize("name", ["by class", "all but"])
def test_training_with_optax(optimizer, name):
    their_filter, lens = FILTERS[name]
    theirs, ours = TheirMLP(), OurMLP()
    their_optimizer = nnx.Optimizer(theirs, optimizer, wrt=their_filter)

    @nnx.jit
    def their_step(model, opt, x, y):
        value, grads = nnx.value_and_grad(loss_of, argnums=nnx.DiffState(0, their_filter))(
            model, x, y
        )
        opt.update(model, grads)
        return value

    bound = lens.bind(ours)
    start = {path: state.value for path, state in bound.items()}
    moments = sl.State(optimizer.init(start))

    @sl.jit
    def our_step(x, y):
        grads, value = sl.grad(lambda: loss_of(ours, x, y), bound, return_value=True)()
        now = {path: state.value for path, state in bound.items()}
        updates, moments.value = optimizer.update(grads, moments.value, now)
        for path, value_after in optax.apply_updates(now, updates).items():
            bound[path].value = value_after
        return value

    for n in range(5):
        close(our_step(X + n, Y), their_step(theirs, their_optimizer, X + n, Y), rtol=1e-5)
    close(flat_ours(ours.states()), flat_theirs(nnx.state(theirs)), rtol=1e-5)


def test_training_of_an_immutable_tree_with_optax():
    theirs, ours = TheirMLP(), OurMLP()
    optimizer = optax.adam(1e-2)
    their_optimizer = nnx.Optimizer(theirs, optimizer, wrt=nnx.Param)
    lens = sl.lens(sl.ParamState)
    kept = optimizer.init(lens.partition(ours)[0])

    @sl.jit
    def our_step(model, kept, x, y):
        grads, model = sl.grad(sl.thread(loss_of), lens, has_aux=True)(model, x, y)
        updates, kept = optimizer.update(grads, kept, lens.partition(model)[0])
        return lens.apply_updates(model, updates), kept

    for n in range(4):
        grads = nnx.grad(loss_of, argnums=nnx.DiffState(0, nnx.Param))(theirs, X + n, Y)
        their_optimizer.update(theirs, grads)
        ours, kept = our_step(ours, kept, X + n, Y)
    close(flat_ours(ours.states()), flat_theirs(nnx.state(theirs)), rtol=1e-5)
