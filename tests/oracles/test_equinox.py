"""Equinox as an oracle: what its filtered transforms give of a model, ours give by a lens.

Equinox splits a model by what its leaves are; here the same split is `inexact`, and a lens can be
any other. Where an Equinox program threads an `equinox.nn.State`, a cell can hold it instead.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl

pytestmark = pytest.mark.slow

T = sl.transform

KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (6, 4))
YS = jnp.cos(XS[:, :2])


class Static(eqx.Module):
    """Arrays, numbers, functions and texts, some of which are static fields."""

    w: jax.Array
    n: jax.Array
    scale: float
    act: object
    name: str = eqx.field(static=True, default="static")

    def __call__(self, x):
        return self.act(x[:2] * self.w * self.scale) + self.n


MODELS = {
    "MLP": eqx.nn.MLP(4, 2, 8, 2, key=KEY),
    "numbers and functions": Static(jnp.arange(1.0, 3.0), jnp.arange(2), 2.0, jnp.tanh),
    "sequence": eqx.nn.Sequential(
        [
            eqx.nn.Linear(4, 3, key=KEY),
            eqx.nn.LayerNorm(3),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.Linear(3, 2, use_bias=False, key=KEY),
        ]
    ),
    "twice the same layer": eqx.nn.Sequential(
        [eqx.nn.Linear(4, 4, key=KEY)] * 2 + [eqx.nn.Linear(4, 2, key=KEY)]
    ),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def loss_of(model, x, y):
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def call(model, x):
    return model(x)


def same(ours, theirs):
    """To the bit, and the same kind of tree."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert eqx.tree_equal(ours, theirs)


def close(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if not eqx.is_array_like(a):
            assert a == b
            continue
        assert jnp.shape(a) == jnp.shape(b)
        assert jnp.result_type(a) == jnp.result_type(b)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def last_layer(model):
    """The arrays of what comes last, as a lens and as Equinox's filter."""
    lens = sl.inexact & sl.lens("layers[-1].**")
    return lens, lens.mask(model)


# Derivatives.


def test_gradients(model):
    same(sl.grad(loss_of, sl.inexact)(model, XS, YS), eqx.filter_grad(loss_of)(model, XS, YS))
    found = sl.value_and_grad(loss_of, sl.inexact)(model, XS, YS)
    same(found, eqx.filter_value_and_grad(loss_of)(model, XS, YS))


def test_gradients_in_both_compilers(model):
    run = sl.jit(sl.value_and_grad(loss_of, sl.inexact))
    theirs = eqx.filter_jit(eqx.filter_value_and_grad(loss_of))
    close(run(model, XS, YS), theirs(model, XS, YS))
    close(eqx.filter_jit(run)(model, XS, YS), theirs(model, XS, YS))
    close(sl.jit(theirs)(model, XS, YS), theirs(model, XS, YS))


def test_gradients_with_auxiliary_output_of_any_kind(model):
    def loss(model, x, y):
        return loss_of(model, x, y), {"model": model, "name": "text", "f": jnp.sin}

    found = sl.value_and_grad(loss, sl.inexact, has_aux=True)(model, XS, YS)
    same(found, eqx.filter_value_and_grad(loss, has_aux=True)(model, XS, YS))


@pytest.mark.parametrize("name", ["MLP", "sequence", "twice the same layer"])
def test_gradients_of_a_part(name):
    model = MODELS[name]
    lens, mask = last_layer(model)

    @eqx.filter_grad
    def theirs(focus, rest):
        return loss_of(eqx.combine(focus, rest), XS, YS)

    same(sl.grad(loss_of, lens)(model, XS, YS), theirs(*eqx.partition(model, mask)))


def test_gradients_of_several_arguments():
    a, b = MODELS["MLP"], MODELS["sequence"]
    theirs = eqx.filter_grad(lambda pair: loss_of(pair[0], XS, YS) * loss_of(pair[1], XS, YS))
    ours = sl.grad(lambda a, b: loss_of(a, XS, YS) * loss_of(b, XS, YS), sl.inexact)
    whole = sl.grad(lambda pair: loss_of(pair[0], XS, YS) * loss_of(pair[1], XS, YS), sl.inexact)
    same(whole((a, b)), theirs((a, b)))
    close(ours(a, b), theirs((a, b))[0])


def test_pushforwards(model):
    tangents = jax.tree.map(jnp.cos, eqx.filter(model, eqx.is_inexact_array))
    along_x = jnp.sin(XS[0])
    theirs = eqx.filter_jvp(call, (model, XS[0]), (tangents, along_x))
    ours = T.jvp(
        call, (model, XS[0]), (None, along_x), grad_states=sl.inexact, state_tangents=tangents
    )
    same(ours, theirs)
    theirs = eqx.filter_jvp(lambda m: m(XS[0]), (model,), (tangents,))
    same(
        T.jvp(lambda m: m(XS[0]), (model,), grad_states=sl.inexact, state_tangents=tangents), theirs
    )
    out, push = T.linearize(lambda m: m(XS[0]), model, grad_states=sl.inexact)
    close((out, push(tangents)), theirs)


def test_pullbacks(model):
    theirs, their_pullback = eqx.filter_vjp(call, model, XS[0])
    ours, pullback = T.vjp(call, model, XS[0], grad_states=sl.inexact, argnums=1)
    same(ours, theirs)
    same(pullback(jnp.ones_like(ours)), their_pullback(jnp.ones_like(ours)))
    theirs, their_pullback, their_aux = eqx.filter_vjp(lambda m: (m(XS[0]), m), model, has_aux=True)
    ours, pullback, aux = T.vjp(
        lambda m: (m(XS[0]), m), model, grad_states=sl.inexact, has_aux=True
    )
    same((ours, aux), (theirs, their_aux))
    same(pullback(jnp.ones_like(ours)), their_pullback(jnp.ones_like(ours))[0])


@pytest.mark.parametrize("name", ["MLP", "numbers and functions", "sequence"])
@pytest.mark.parametrize("derivative", ["jacrev", "jacfwd"])
def test_jacobians(name, derivative):
    model = MODELS[name]
    theirs = getattr(eqx, f"filter_{derivative}")(call)(model, XS[0])
    ours = getattr(T, derivative)(call, sl.inexact)(model, XS[0])
    close(ours, theirs)
    with_aux = lambda m, x: (m(x), "text")  # noqa: E731
    blocks, aux = getattr(T, derivative)(with_aux, sl.inexact, has_aux=True)(model, XS[0])
    close(blocks, theirs)
    assert aux == "text"


@pytest.mark.parametrize("name", ["MLP", "numbers and functions"])
def test_hessians(name):
    model = MODELS[name]
    theirs = eqx.filter_hessian(loss_of)(model, XS, YS)
    ours = T.hessian(loss_of, sl.inexact)(model, XS, YS)
    close(ours, theirs)
    v = jax.tree.map(jnp.cos, eqx.filter(model, eqx.is_inexact_array))
    product = eqx.filter_jvp(lambda m: eqx.filter_grad(loss_of)(m, XS, YS), (model,), (v,))[1]
    close(T.hvp(loss_of, sl.inexact)(v, model, XS, YS), product)


@pytest.mark.parametrize("frozen", [False, True])
def test_rules_that_know_what_is_perturbed(frozen):
    model = MODELS["MLP"]
    seen = {"ours": [], "theirs": []}

    def clipped(of):
        return jax.tree.map(lambda g: jnp.clip(g, -0.01, 0.01), of)

    @eqx.filter_custom_vjp
    def theirs(model, x):
        return model(x)

    @theirs.def_fwd
    def their_forward(perturbed, model, x):
        seen["theirs"].append(jax.tree.leaves(perturbed))
        return eqx.filter_vjp(call, model, x)

    @theirs.def_bwd
    def their_backward(pullback, ct, perturbed, model, x):
        return clipped(pullback(ct)[0])

    @T.custom_vjp
    def ours(model, x):
        return model(x)

    @ours.def_fwd
    def forward(perturbed, model, x):
        seen["ours"].append(jax.tree.leaves(perturbed))
        return eqx.filter_vjp(call, model, x)

    @ours.def_bwd
    def backward(pullback, ct, perturbed, model, x):
        return clipped(pullback(ct))

    lens = last_layer(model)[0] if frozen else sl.inexact
    their_grads = sl.grad(lambda m: jnp.sum(theirs(m, XS[0])), lens)(model)
    grads = sl.grad(lambda m: jnp.sum(ours(m, XS[0])), lens)(model)
    same(grads, their_grads)
    assert all(jnp.max(jnp.abs(leaf)) <= 0.01 for leaf in jax.tree.leaves(grads))
    assert sum(seen["ours"][0]) == sum(seen["theirs"][0]) == len(jax.tree.leaves(grads))


def test_forward_rules():
    model = MODELS["MLP"]

    def rule(primals, tangents):
        (x, model), (along, by_model) = primals, tangents
        moved = jnp.zeros(2) if along is None else 2 * along[:2]
        biases = [layer.bias for layer in by_model.layers]
        return model(x), moved + sum(b.sum() for b in biases if b is not None)

    theirs, ours = eqx.filter_custom_jvp(lambda x, m: m(x)), T.custom_jvp(lambda x, m: m(x))
    theirs.def_jvp(rule)
    ours.def_jvp(rule)
    x, along = XS[0], jnp.sin(XS[0])
    found = eqx.filter_jvp(lambda x: theirs(x, model), (x,), (along,))
    same(T.jvp(lambda x: ours(x, model), (x,), (along,)), found)
    gradient = jax.grad(lambda x: jnp.sum(theirs(x, model)))(x)
    same(sl.grad(lambda x: jnp.sum(ours(x, model)))(x), gradient)
    lens = sl.inexact & sl.lens("**.bias")
    gradient = sl.grad(lambda m: jnp.sum(theirs(x, m)), lens)(model)
    same(sl.grad(lambda m: jnp.sum(ours(x, m)), lens)(model), gradient)


def test_recomputed_intermediates(model):
    theirs = eqx.filter_grad(lambda m: jnp.sum(eqx.filter_checkpoint(call)(m, XS[0]) ** 2))
    ours = sl.grad(lambda m: jnp.sum(T.checkpoint(call)(m, XS[0]) ** 2), sl.inexact)
    close(ours(model), theirs(model))


def test_converted_closures():
    """What a converted function closes over is in its leaves, for any lens to select."""
    model = MODELS["MLP"]
    converted = eqx.filter_closure_convert(lambda x: model(x) * 2, XS[0])
    same(sl.jit(call)(converted, XS[0]), eqx.filter_jit(call)(converted, XS[0]))
    loss = lambda f, x: jnp.sum(f(x) ** 2)  # noqa: E731
    theirs = eqx.filter_grad(loss)(converted, XS[0])
    same(sl.grad(loss, sl.inexact)(converted, XS[0]), theirs)
    assert len(jax.tree.leaves(theirs)) == len(jax.tree.leaves(sl.inexact.get(model)))

    w = sl.ParamState(jnp.asarray(3.0))

    def with_state(f, x):
        return jnp.sum(w.value * f(x))

    grads = sl.grad(with_state, w)(converted, XS[0])
    close(grads, jnp.sum(converted(XS[0])))


def test_shapes_and_programs(model):
    ours, theirs = T.eval_shape(call, model, XS[0]), eqx.filter_eval_shape(call, model, XS[0])
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    both = lambda m, x: (m(x), "text", jnp.sin)  # noqa: E731
    assert T.eval_shape(both, model, XS[0])[1:] == eqx.filter_eval_shape(both, model, XS[0])[1:]


# Lanes.


def ensemble(count=3):
    return eqx.filter_vmap(lambda key: eqx.nn.MLP(4, 2, 8, 2, key=key))(
        jax.random.split(KEY, count)
    )


def test_an_ensemble_is_made_and_run():
    make = lambda key: eqx.nn.MLP(4, 2, 8, 2, key=key)  # noqa: E731
    keys = jax.random.split(KEY, 3)
    for transform in (T.vmap, T.vmap_new_states):
        same(transform(make)(keys), ensemble())
    theirs = eqx.filter_vmap(call, in_axes=(eqx.if_array(0), None))(ensemble(), XS[0])
    close(T.vmap(call, in_axes=(0, None))(ensemble(), XS[0]), theirs)
    grads = eqx.filter_grad(
        lambda m: jnp.sum(eqx.filter_vmap(call, in_axes=(eqx.if_array(0), None))(m, XS[0]) ** 2)
    )(ensemble())
    ours = sl.grad(lambda m: jnp.sum(T.vmap(call, in_axes=(0, None))(m, XS[0]) ** 2), sl.inexact)(
        ensemble()
    )
    close(ours, grads)


PREFIXES = {
    "the model by one axis": (lambda m: 0, 0),
    "some of it": (
        lambda m: eqx.tree_at(
            lambda n: (n.layers[0].weight, n.layers[-1].bias),
            jax.tree.map(lambda _: None, m),
            (0, 1),
            is_leaf=lambda node: node is None,
        ),
        1,
    ),
    "none of it": (lambda m: None, 0),
}


@pytest.mark.parametrize("name", PREFIXES)
@pytest.mark.parametrize("x_axis", [0, 1, None])
def test_lanes_by_a_prefix(name, x_axis):
    make_axes, out_axis = PREFIXES[name]
    model = MODELS["MLP"]
    axes = make_axes(model)
    if axes is None and x_axis is None:
        x_axis = 0
    xs = XS[:3] if x_axis != 1 else XS[:3].T
    xs = xs[0] if x_axis is None else xs
    if axes == 0:
        mapped = ensemble()
    else:
        flat_axes = jax.tree.leaves(
            jax.tree.broadcast(axes, model, is_leaf=lambda node: node is None),
            is_leaf=lambda node: node is None,
        )
        leaves, treedef = jax.tree.flatten(model)
        mapped = treedef.unflatten(
            [
                leaf if axis is None else jnp.stack([leaf, 2 * leaf, -leaf], axis)
                for leaf, axis in zip(leaves, flat_axes, strict=True)
            ]
        )
    their_axes = eqx.if_array(0) if axes == 0 else axes
    theirs = eqx.filter_vmap(
        lambda m, x: {"out": m(x), "again": [x.sum()]},
        in_axes=(their_axes, x_axis),
        out_axes={"out": out_axis, "again": 0},
    )(mapped, xs)
    ours = T.vmap(
        lambda m, x: {"out": m(x), "again": [x.sum()]},
        in_axes=(axes, x_axis),
        out_axes={"out": out_axis, "again": 0},
    )(mapped, xs)
    close(ours, theirs)


# Equinox's own states.


class Normed(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm
    last: eqx.nn.Linear

    def __init__(self, mode):
        a, b, c, d = jax.random.split(KEY, 4)
        self.first = eqx.nn.Linear(4, 5, key=a)
        self.norm = eqx.nn.BatchNorm(5, axis_name="batch", momentum=0.9, mode=mode)
        self.spectral = eqx.nn.SpectralNorm(eqx.nn.Linear(5, 5, key=b), "weight", key=c)
        self.last = eqx.nn.Linear(5, 2, key=d)

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        x, state = self.spectral(jax.nn.relu(x), state)
        return self.last(x), state


def batch_loss(model, state, x, y):
    run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    out, state = run(x, state)
    return jnp.mean((out - y) ** 2), state


def trained_by_equinox(model, state, optimizer, steps):
    kept = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, kept, x, y):
        run = eqx.filter_value_and_grad(batch_loss, has_aux=True)
        (value, state), grads = run(model, state, x, y)
        updates, kept = optimizer.update(grads, kept, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state, kept, value

    values = []
    for n in range(steps):
        model, state, kept, value = step(model, state, kept, XS + n, YS)
        values.append(value)
    return model, state, values


@pytest.mark.parametrize("mode", ["ema", "batch"])
def test_training_with_equinox_states_threaded(mode):
    optimizer = optax.adam(1e-2)
    model, state = eqx.nn.make_with_state(Normed)(mode)
    theirs = trained_by_equinox(model, state, optimizer, 4)
    model, state = eqx.nn.make_with_state(Normed)(mode)
    kept = optimizer.init(sl.inexact.partition(model)[0])

    @sl.jit
    def step(model, state, kept, x, y):
        run = sl.grad(batch_loss, sl.inexact, has_aux=True, return_value=True)
        grads, value, state = run(model, state, x, y)
        updates, kept = optimizer.update(grads, kept, sl.inexact.partition(model)[0])
        return sl.inexact.apply_updates(model, updates), state, kept, value

    values = []
    for n in range(4):
        model, state, kept, value = step(model, state, kept, XS + n, YS)
        values.append(value)
    close((model, state, values), theirs)


@pytest.mark.parametrize("mode", ["ema", "batch"])
def test_training_with_all_in_cells(mode):
    """Model, statistics and moments each in a state; the loop is the mutable style's."""
    optimizer = optax.adam(1e-2)
    theirs = trained_by_equinox(*eqx.nn.make_with_state(Normed)(mode), optimizer, 4)
    model, state = eqx.nn.make_with_state(Normed)(mode)
    focus, rest = sl.inexact.partition(model)
    params, stats = sl.ParamState(focus), sl.BatchState(state)
    moments = sl.State(optimizer.init(focus))

    def loss(x, y):
        model = sl.combine(params.value, rest)

        def lane(x):
            out, stats.value = model(x, stats.value)
            return out

        return jnp.mean((T.vmap(lane, axis_name="batch")(x) - y) ** 2)

    @sl.jit
    def step(x, y):
        grads, value = sl.grad(loss, params, return_value=True)(x, y)
        updates, moments.value = optimizer.update(grads, moments.value, params.value)
        params.value = optax.apply_updates(params.value, updates)
        return value

    values = [step(XS + n, YS) for n in range(4)]
    close((sl.combine(params.value, rest), stats.value, values), theirs)
    # All steps in one loop.
    params.value, stats.value = focus, eqx.nn.make_with_state(Normed)(mode)[1]
    moments.value = optimizer.init(focus)
    looped = T.for_loop(lambda n: step(XS + n, YS), jnp.arange(4))
    close((sl.combine(params.value, rest), stats.value, list(looped)), theirs, 1e-4)


@pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell"])
def test_recurrent_networks(kind):
    cell = getattr(eqx.nn, kind)(4, 3, key=KEY)
    start = jnp.zeros(3) if kind == "GRUCell" else (jnp.zeros(3), jnp.zeros(3))
    out_of = lambda h: h if kind == "GRUCell" else h[0]  # noqa: E731

    @eqx.filter_value_and_grad(has_aux=True)
    def theirs(cell, xs):
        def step(h, x):
            h = cell(x, h)
            return h, out_of(h)

        last, outs = jax.lax.scan(step, start, xs)
        return jnp.sum(outs**2), last

    h = sl.HiddenState(start)

    def loss(cell, xs):
        h.value = start

        def step(x):
            h.value = cell(x, h.value)
            return out_of(h.value)

        return jnp.sum(T.for_loop(step, xs) ** 2)

    (value, last), grads = theirs(cell, XS)
    for run in (sl.value_and_grad(loss, sl.inexact), sl.jit(sl.value_and_grad(loss, sl.inexact))):
        h.value = start
        close((run(cell, XS), h.value), ((value, grads), last))


def test_dropout_with_keys_from_a_state():
    drop, linear = eqx.nn.Dropout(0.5), eqx.nn.Linear(4, 4, key=KEY)
    rng = sl.random.RandomState(7)

    def loss(linear, xs):
        return jnp.sum(T.vmap(lambda x: drop(linear(x), key=rng.split_key()))(xs) ** 2)

    def theirs(linear, xs, key):
        after, *lanes = jax.random.split(key, len(xs) + 1)
        used = jax.vmap(lambda key: jax.random.split(key)[1])(jnp.stack(lanes))
        run = jax.vmap(lambda x, key: drop(linear(x), key=key))
        return jnp.sum(run(xs, used) ** 2), after

    key = rng.value
    for _ in range(3):
        (value, key), grads = eqx.filter_value_and_grad(theirs, has_aux=True)(linear, XS, key)
        close(sl.value_and_grad(loss, sl.inexact)(linear, XS), (value, grads))
        assert rng.value == key


def test_loops_of_a_model_that_is_carried():
    """A model is the carry of a loop, its functions and texts with it."""
    model = MODELS["MLP"]

    def theirs(model, xs):
        dynamic, static = eqx.partition(model, eqx.is_array)

        def step(dynamic, x):
            model = eqx.combine(dynamic, static)
            grads = eqx.filter_grad(lambda m: jnp.sum(m(x) ** 2))(model)
            model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))
            return eqx.filter(model, eqx.is_array), model(x)

        dynamic, outs = jax.lax.scan(step, dynamic, xs)
        return eqx.combine(dynamic, static), outs

    def step(model, x):
        grads = sl.grad(lambda m: jnp.sum(m(x) ** 2), sl.inexact)(model)
        model = sl.inexact.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))
        return model, model(x)

    close(T.scan(step, model, XS), theirs(model, XS))
