"""Flax NNX as an oracle: one program in its own idiom and in ours, value for value.

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

pytestmark = pytest.mark.slow

close = functools.partial(close, rtol=2e-6)

nnx = pytest.importorskip("flax.nnx", reason="the peer flax isn't installed")

T = sl.transform

X = jnp.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5], [0.1, 0.2, 0.3], [2.0, -2.0, 1.0]])
Y = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [-1.0, 1.0]])
KERNELS = [jnp.sin(jnp.arange(12.0)).reshape(3, 4), jnp.cos(jnp.arange(8.0)).reshape(4, 2)]


class Count(nnx.Variable):
    """How often a layer ran."""


class TheirLinear(nnx.Module):
    def __init__(self, kernel):
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(kernel.shape[1]))
        self.count = Count(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count[...] += 1
        return x @ self.kernel[...] + self.bias[...]


class TheirMLP(nnx.Module):
    def __init__(self):
        self.first, self.last = map(TheirLinear, KERNELS)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


class OurLinear(sl.nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.kernel = sl.ParamState(kernel)
        self.bias = sl.ParamState(jnp.zeros(kernel.shape[1]))
        self.count = sl.LongTermState(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count.value += 1
        return x @ self.kernel.value + self.bias.value


class OurMLP(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = map(OurLinear, KERNELS)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def loss_of(model, x, y):
    return jnp.mean((model(x) - y) ** 2)


def flat_theirs(state):
    """Values by path, whatever NNX keeps them in."""
    return {
        tuple(map(str, path)): jnp.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)
    }


def flat_ours(mapping):
    return {tuple(map(str, path)): getattr(leaf, "value", leaf) for path, leaf in mapping.items()}


def same_models(ours, theirs):
    close(flat_ours(ours.states()), flat_theirs(nnx.state(theirs)))


# Derivatives.

FILTERS = {
    "by class": (nnx.Param, sl.lens(sl.ParamState)),
    "by name": (nnx.PathContains("kernel"), sl.lens("**.kernel")),
    "by part of the path": (
        nnx.All(nnx.Param, nnx.PathContains("last")),
        sl.lens(sl.ParamState) & sl.lens("last.**"),
    ),
    "all but": (
        nnx.All(nnx.Param, nnx.Not(nnx.PathContains("bias"))),
        sl.lens(sl.ParamState) & ~sl.lens("**.bias"),
    ),
    "any of": (
        nnx.Any(
            nnx.All(nnx.PathContains("first"), nnx.PathContains("bias")),
            nnx.All(nnx.PathContains("last"), nnx.PathContains("kernel")),
        ),
        sl.lens("first.bias") | sl.lens("last.kernel"),
    ),
    "a predicate": (
        lambda path, value: path[0] == "first" and isinstance(value, nnx.Param),
        sl.lens(lambda path, unit: path[0] == "first" and isinstance(unit, sl.ParamState)),
    ),
}


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


# Control flow with writes in the body.


class TheirCell(nnx.Module):
    def __init__(self):
        self.rate = nnx.Param(jnp.array(0.9))
        self.h = nnx.BatchStat(jnp.ones(3))
        self.count = Count(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count[...] += 1
        self.h[...] = jnp.tanh(self.rate[...] * self.h[...] + x)
        return self.h[...].sum()


class OurCell(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = sl.ParamState(jnp.array(0.9))
        self.h = sl.BatchState(jnp.ones(3))
        self.count = sl.LongTermState(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.count.value += 1
        self.h.value = jnp.tanh(self.rate.value * self.h.value + x)
        return self.h.value.sum()


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

    # A stream that is split starts with one key for each lane, and counts anew.
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
