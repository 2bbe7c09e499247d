"""How often Python runs a function's body, and what program comes of it."""

import re
from collections import Counter

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl

T = sl.transform


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.linspace(-1.0, 1.0, 9).reshape(3, 3))
        self.b = sl.ParamState(jnp.zeros(3))
        self.calls = sl.State(jnp.zeros((), jnp.int32))
        self.runs = []

    def __call__(self, x):
        self.runs.append(1)
        self.calls.value = self.calls.value + 1
        return jnp.tanh(x @ self.w.value + self.b.value)

    def scan_step(self, carry, x):
        return self(carry) + x, carry

    def is_small(self, x):
        return jnp.sum(x) < 5

    def grow(self, x):
        return jnp.abs(self(x)) + x + 1


X, XS = jnp.ones(3), jnp.ones((4, 3))

EAGER = {
    "scan": lambda net: T.scan(net.scan_step, X, XS),
    "checkpointed_scan": lambda net: T.checkpointed_scan(net.scan_step, X, XS),
    "for_loop": lambda net: T.for_loop(net, XS),
    "checkpointed_for_loop": lambda net: T.checkpointed_for_loop(net, XS),
    "while_loop": lambda net: T.while_loop(net.is_small, net.grow, X),
    "bounded_while_loop": lambda net: T.bounded_while_loop(net.is_small, net.grow, X, max_steps=8),
    "cond": lambda net: T.cond(True, net, net.grow, X),
    "switch": lambda net: T.switch(1, [net.grow, net], X),
    "ifelse": lambda net: T.ifelse([False, True], [net.grow, net], X),
    "map": lambda net: T.map(net, XS),
}


@pytest.mark.parametrize("name", EAGER)
def test_a_second_eager_call_runs_no_python(name):
    net = Net()
    EAGER[name](net)
    first, calls = len(net.runs), int(net.calls.value)
    for _ in range(3):
        EAGER[name](net)
    assert len(net.runs) == first
    assert net.calls.value == 4 * calls > 0


def test_a_first_jit_call_runs_the_body_once_a_later_one_never_a_new_shape_once():
    net = Net()
    f = sl.jit(lambda x: net(x))
    for x, runs in [(X, 1), (2 * X, 1), (XS, 2), (X, 2), (XS, 2)]:
        f(x)
        assert len(net.runs) == runs
    assert net.calls.value == 5


def test_a_state_that_cannot_be_found_beforehand_costs_one_more_trace():
    hidden = sl.State(jnp.ones(()))
    registry = iter([hidden] * 9)
    runs = []

    def fun(x):
        runs.append(1)
        state = next(registry)
        state.value = state.value + 1
        return state.value * x

    f = sl.jit(fun)
    assert [f(1.0), f(1.0), f(1.0)] == [2, 3, 4]
    assert len(runs) == 2


@pytest.mark.parametrize("donate", [None, True])
def test_states_that_are_found_for_nothing_are_no_inputs(donate):
    net, other = Net(), sl.State(jnp.ones(7))

    def fun(x):
        return net(x) if isinstance(other, sl.State) else None

    f = sl.jit(fun, donate_states=donate)
    assert "7xf32" not in f.lower(X).as_text()
    f(X)
    assert len(net.runs) == 1
    assert other not in f.states.read


def test_a_nested_scan_runs_its_body_a_few_times_and_no_more():
    net = Net()

    def outer(x):
        return T.for_loop(lambda y: net(x) * y, jnp.arange(2.0))

    sl.jit(lambda: T.for_loop(outer, XS))()
    assert len(net.runs) <= 3
    assert net.calls.value == 8


def operations(text):
    return Counter(re.findall(r"= \"?(stablehlo\.\w+)", text))


W = jnp.linspace(-1.0, 1.0, 9).reshape(3, 3)
B = jnp.zeros(3)
N = jnp.zeros((), jnp.int32)


def net_of(w, b, x):
    return jnp.tanh(x @ w + b)


def loss_of(w, b, x):
    return jnp.mean(net_of(w, b, x) ** 2)


def params_of(net):
    return {"b": net.b, "w": net.w}


def step(net):
    def run(x):
        grads, value = sl.grad(lambda: jnp.mean(net(x) ** 2), params_of(net), return_value=True)()
        net.w.value = net.w.value - 0.1 * grads["w"]
        net.b.value = net.b.value - 0.1 * grads["b"]
        return value

    return run


def step_by_hand(w, b, n, x):
    value, grads = jax.value_and_grad(lambda p: loss_of(p["w"], p["b"], x))({"w": w, "b": b})
    return value, w - 0.1 * grads["w"], b - 0.1 * grads["b"], n + 1


def loop_by_hand(w, b, n, x):
    def body(carry, x):
        n, h = carry
        return (n + 1, net_of(w, b, h) + x), h

    return jax.lax.scan(body, (n, x[0]), x)


def while_by_hand(w, b, n, x):
    def body(carry):
        n, h = carry
        return n + 1, jnp.abs(net_of(w, b, h)) + h + 1

    return jax.lax.while_loop(lambda carry: jnp.sum(carry[1]) < 5, body, (n, x))


def of_params(transform):
    def by_hand(w, b, n, x):
        found = transform(lambda p: loss_of(p["w"], p["b"], x))({"w": w, "b": b})
        return found, n + 1

    return by_hand


def jacobian_by_hand(w, b, n, x):
    return jax.jacrev(lambda p: net_of(p["w"], p["b"], x))({"w": w, "b": b}), n + 1


def hvp_by_hand(w, b, n, x):
    p = {"w": w, "b": b}
    gradient = jax.grad(lambda p: loss_of(p["w"], p["b"], x))
    return jax.jvp(gradient, (p,), (p,))[1], n + 1


def loss_in(net):
    return lambda x: jnp.mean(net(x) ** 2)


PROGRAMS = {
    "evaluation": (lambda net: net, lambda w, b, n, x: (net_of(w, b, x), n + 1), X),
    "step": (step, step_by_hand, X),
    "scan": (lambda net: lambda x: T.scan(net.scan_step, x[0], x), loop_by_hand, XS),
    "while": (lambda net: lambda x: T.while_loop(net.is_small, net.grow, x), while_by_hand, X),
    "vmap": (
        lambda net: lambda x: T.vmap(net)(x),
        lambda w, b, n, x: (jax.vmap(lambda x: net_of(w, b, x))(x), n + 1),
        XS,
    ),
    "jacrev": (lambda net: lambda x: T.jacrev(net, params_of(net))(x), jacobian_by_hand, X),
    "hessian": (
        lambda net: lambda x: T.hessian(loss_in(net), params_of(net))(x),
        of_params(jax.hessian),
        X,
    ),
    "hvp": (
        lambda net: (
            lambda x: T.hvp(loss_in(net), params_of(net))({"w": net.w.value, "b": net.b.value}, x)
        ),
        hvp_by_hand,
        X,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_compiled_program_is_the_one_written_by_hand(name):
    make, by_hand, x = PROGRAMS[name]
    ours = sl.jit(make(Net())).lower(x)
    theirs = jax.jit(by_hand).lower(W, B, N, x)
    assert operations(ours.as_text()) == operations(theirs.as_text())
    costs = [lowered.compile().cost_analysis() for lowered in (ours, theirs)]
    assert costs[0].get("flops") == costs[1].get("flops")


def test_a_step_over_an_equinox_model_is_the_one_written_by_hand():
    model = eqx.nn.MLP(3, 3, 4, 2, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_array)
    loss = lambda model, x: jnp.mean(model(x) ** 2)  # noqa: E731
    ours = sl.jit(lambda model, x: sl.grad(loss, sl.inexact)(model, x)).lower(model, X)

    def by_hand(arrays, x):
        return jax.grad(lambda arrays: loss(eqx.combine(arrays, static), x))(arrays)

    assert operations(ours.as_text()) == operations(jax.jit(by_hand).lower(arrays, X).as_text())


def test_a_guard_against_tracing_anew_names_what_has_changed():
    w = sl.ParamState(jnp.ones(3), name="weight")
    f = sl.jit(lambda x: w.value * x, max_traces=2)
    f(1.0), f(jnp.ones(3))
    with pytest.raises(sl.RetraceError, match=r"(?s)2 traces.*argument 0 was float32\[3\], and is"):
        f(jnp.ones((2, 3)))
    w.value = jnp.ones(1)
    with pytest.raises(
        sl.RetraceError, match=r"state 'weight' was float32\[3\], and is float32\[1"
    ):
        f(jnp.ones(3))
    assert w.value.shape == (1,)
