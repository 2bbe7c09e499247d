"""Programs in the mutable style, run as they are in the library that they were written for.

A program takes the library as its only argument, as a script does with ``import brainstate`` or
``import statelens as brainstate``. The peer is optional; install it to have these tests run.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


def layer(bst, n_in=2, n_out=3):
    class Layer(bst.nn.Module):
        def __init__(self):
            super().__init__()
            start = jnp.linspace(-1.0, 1.0, n_in * n_out).reshape(n_in, n_out)
            self.weight = bst.ParamState(start)
            self.bias = bst.ParamState(jnp.ones(n_out))
            self.calls = bst.ShortTermState(jnp.zeros((), jnp.int32))

        def __call__(self, x):
            self.calls.value = self.calls.value + 1
            return jnp.tanh(x @ self.weight.value + self.bias.value)

    return Layer()


X = jnp.array([[0.5, -1.0], [1.0, 2.0]])


@program
def jit_of_a_training_step(bst):
    model = layer(bst)
    params = model.states(bst.ParamState)

    @bst.transform.jit
    def step(x):
        grads, value = bst.transform.grad(
            lambda: jnp.mean(model(x) ** 2), params, return_value=True
        )()
        for path, state in params.items():
            state.value = state.value - 0.1 * grads[path]
        return value

    values = [step(X) for _ in range(4)]
    return values, [state.value for state in model.states().values()]


@program
def a_method_under_jit(bst):
    model = layer(bst)
    call = bst.transform.jit(lambda x: model(x))
    return call(X), call(2 * X), model.calls.value


@program
def static_arguments(bst):
    scale = bst.State(jnp.ones(2))

    def power(n, x):
        scale.value = scale.value * 2
        return scale.value * x**n

    run = bst.transform.jit(power, static_argnums=0)
    return run(2, X), run(3, X), scale.value


@program
def vector_gradients(bst):
    model = layer(bst)
    params = model.states(bst.ParamState)
    return bst.transform.vector_grad(model, params, argnums=0, return_value=True)(X)


@program
def jacobians_by_reverse(bst):
    model = layer(bst)
    return bst.transform.jacrev(lambda x: model(x), model.states(bst.ParamState))(X[0])


@program
def jacobians_by_forward(bst):
    model = layer(bst)
    run = bst.transform.jacfwd(lambda x: model(x), model.states(bst.ParamState), return_value=True)
    return run(X[0])


@program
def a_hessian(bst):
    state = bst.ParamState(jnp.array([1.0, 2.0]))
    other = bst.ParamState(jnp.array(3.0))
    loss = lambda: jnp.sum(state.value**3) * other.value  # noqa: E731
    return bst.transform.hessian(loss, {"a": state, "b": other})()


@program
def a_pullback(bst):
    model = layer(bst)
    params = model.states(bst.ParamState)
    out, pullback = bst.transform.vjp(model, X, grad_states=params)
    return out, pullback(jnp.ones_like(out)), model.calls.value


@program
def a_pushforward(bst):
    model = layer(bst)
    return bst.transform.jvp(lambda x: model(x), (X,), (jnp.ones_like(X),))


@program
def a_gradient_with_auxiliary_output(bst):
    model = layer(bst)

    def loss(x):
        out = model(x)
        return jnp.sum(out), {"mean": jnp.mean(out)}

    run = bst.transform.grad(
        loss, model.states(bst.ParamState), argnums=0, has_aux=True, return_value=True
    )
    return run(X)


@program
def gradients_of_a_list_of_states(bst):
    model = layer(bst)
    return bst.transform.grad(lambda x: jnp.sum(model(x)), [model.weight, model.bias])(X)


@program
def a_recurrent_network_in_a_scan(bst):
    h = bst.HiddenState(jnp.zeros(3))
    model = layer(bst)

    def step(total, x):
        h.value = 0.5 * h.value + model(x)
        return total + jnp.sum(h.value), h.value

    return bst.transform.scan(step, 0.0, X), h.value, model.calls.value


@program
def a_scan_in_reverse(bst):
    h = bst.HiddenState(jnp.zeros(2))

    def step(carry, x):
        h.value = h.value * 2 + x
        return carry * 0.5 + x, h.value

    return bst.transform.scan(step, jnp.zeros(2), X, reverse=True), h.value


@program
def a_for_loop(bst):
    total = bst.State(jnp.zeros(2))

    def step(i, x):
        total.value = total.value + i * x
        return total.value

    return bst.transform.for_loop(step, jnp.arange(2), X), total.value


@program
def a_checkpointed_for_loop(bst):
    total = bst.State(jnp.zeros(2))

    def step(x):
        total.value = total.value + jnp.sin(x)
        return total.value

    return bst.transform.checkpointed_for_loop(step, jnp.tile(X, (10, 1))), total.value


@program
def the_gradient_of_a_loop(bst):
    rate, h = bst.ParamState(jnp.array(0.9)), bst.HiddenState(jnp.ones(2))

    def loss(xs):
        def step(x):
            h.value = rate.value * h.value + x
            return jnp.sum(h.value)

        return jnp.sum(bst.transform.for_loop(step, xs))

    return bst.transform.grad(loss, rate, argnums=0, return_value=True)(X), h.value


@program
def a_while_loop(bst):
    steps = bst.State(jnp.zeros((), jnp.int32))

    def body(x):
        steps.value = steps.value + 1
        return x / 2

    return bst.transform.while_loop(lambda x: x > 1.0, body, jnp.array(100.0)), steps.value


@program
def branches(bst):
    a, b = bst.State(jnp.zeros(())), bst.State(jnp.zeros(()))

    def one(x):
        a.value = a.value + x
        return x

    def other(x):
        b.value = b.value - x
        return 2 * x

    return [
        bst.transform.cond(jnp.array(True), one, other, 1.0),
        bst.transform.cond(jnp.array(False), one, other, 1.0),
        bst.transform.switch(jnp.array(1), [one, other], 3.0),
        bst.transform.ifelse([False, True], [lambda: one(5.0), lambda: other(5.0)]),
        a.value,
        b.value,
    ]


@program
def a_batch_over_hidden_states(bst):
    h, w = bst.HiddenState(jnp.zeros((2, 2))), bst.ParamState(jnp.array(2.0))

    def step(x):
        h.value = h.value * 0.5 + w.value * x
        return jnp.sum(h.value)

    run = bst.transform.vmap(step, in_states={0: {"h": h}}, out_states={0: {"h": h}})
    return run(X), run(X), h.value


@program
def recomputed_intermediates(bst):
    model = layer(bst)
    run = bst.transform.checkpoint(lambda x: jnp.sum(model(x)))
    return bst.transform.grad(run, model.states(bst.ParamState))(X), model.calls.value


@program
def shapes_only(bst):
    model = layer(bst)
    out = bst.transform.eval_shape(lambda x: model(x), X)
    return out.shape, str(out.dtype), model.calls.value


@program
def found_states(bst):
    model = layer(bst)
    find = bst.transform.StateFinder
    return [
        len(find(lambda x: model(x), usage=usage, return_type="list")(X))
        for usage in ("all", "write")
    ]


@program
def random_numbers(bst):
    bst.random.seed(7)
    first = bst.random.normal(0.0, 1.0, (3,)), bst.random.uniform(-1.0, 1.0, (2,))
    draw = bst.transform.jit(lambda: bst.random.rand(2))
    return first, draw(), draw(), bst.random.randint(0, 10, (4,))


@program
def random_numbers_in_a_loop(bst):
    bst.random.seed(3)
    return bst.transform.for_loop(lambda x: x + bst.random.randn(2), X), bst.random.rand(1)


@program
def dropout_in_a_gradient(bst):
    bst.random.seed(1)
    model = layer(bst)

    def loss(x):
        keep = bst.random.rand(2, 3) < 0.5
        return jnp.sum(jnp.where(keep, model(x), 0.0))

    run = bst.transform.grad(loss, model.states(bst.ParamState), return_value=True)
    return run(X), run(X)


def plain(tree):
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value) for value in tree]
    return tree


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_runs(name):
    assert PROGRAMS[name](sl) is not None


@pytest.mark.parametrize("name", PROGRAMS)
def test_brainstate_gives_the_same_numbers(name):
    brainstate = pytest.importorskip("brainstate", reason="the peer brainstate isn't installed")
    key = sl.random.get_key()
    try:
        ours, theirs = plain(PROGRAMS[name](sl)), plain(PROGRAMS[name](brainstate))
    finally:
        sl.random.set_key(key)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
