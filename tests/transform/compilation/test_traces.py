"""How often Python runs a function's body, and how often JAX compiles what comes of it."""

import contextlib
from collections import Counter

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


STAGES = {
    "jaxpr_to_mlir_module_duration": "lowered",
    "backend_compile_duration": "compiled",
}


@contextlib.contextmanager
def stages(name):
    """Counts how often JAX lowers and compiles a function of a name."""
    counts = Counter()

    def listen(event, _, fun_name="", **__):
        stage = STAGES.get(event.rpartition("/")[2])
        if stage and name in fun_name:
            counts[stage] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def in_reach():
    net = Net()
    return lambda x: net(x), net.runs


def out_of_reach():
    net = Net()
    nets = iter([net] * 9)
    return lambda x: next(nets)(x), net.runs


def found_for_nothing():
    net, other = Net(), Net()
    return lambda x: net(x) if isinstance(other, Net) else None, net.runs


def half_in_reach():
    seen, hidden = Net(), Net()
    hidden.runs = seen.runs
    nets = iter([hidden] * 9)
    return lambda x: next(nets)(seen(x)), seen.runs


def trained():
    net = Net()
    gradient = sl.grad(lambda x: jnp.mean(net(x) ** 2), [net.w, net.b])

    def run(x):
        for state, by_state in zip([net.w, net.b], gradient(x), strict=True):
            state.value -= 0.1 * by_state

    return run, net.runs


@pytest.mark.parametrize("donate", [None, True])
@pytest.mark.parametrize(
    ("make", "first", "again"),
    [
        (in_reach, 1, 1),
        (found_for_nothing, 1, 1),
        (trained, 1, 1),
        (out_of_reach, 2, 1),
        (half_in_reach, 2 + 2, 2),
    ],
)
def test_a_function_is_lowered_and_compiled_once_however_its_states_are_found(
    make, first, again, donate
):
    def a_function_of_states(x):
        return fun(x)

    fun, ran = make()
    f = sl.jit(a_function_of_states, donate_states=donate)
    with stages(a_function_of_states.__name__) as counts:
        for _ in range(3):
            f(X)
        assert (len(ran), counts) == (first, {"lowered": 1, "compiled": 1})
        # Once more for other shapes, and with all states known by now.
        f(XS), f(X), f(XS)
        assert (len(ran), counts) == (first + again, {"lowered": 2, "compiled": 2})


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
