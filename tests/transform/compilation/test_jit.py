"""`jit` finds the states that a function touches, and makes them inputs and outputs."""

import functools
import itertools
import re
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import close, counted, operations
from tests.transform.compilation.net import Net, plain_net, values_of

close = functools.partial(close, rtol=1e-6)

T = sl.transform
X = jnp.array([1.0, 2.0, 3.0])


# What it computes is what jax.jit computes of the pure form.


@settings(max_examples=15)
@given(
    st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3),
    st.integers(1, 3),
)
def test_values_are_those_of_jax_jit_over_the_pure_form(x, calls):
    net = Net()
    f, x = sl.jit(lambda x: net(x)), jnp.array(x, jnp.float32)
    values = values_of(net)
    for _ in range(calls):
        out, values = jax.jit(plain_net)(values, x)
        close(f(x), out)
    close(values_of(net), values)


@pytest.mark.parametrize("x", [1.5, 2, True, 1j, np.float32(3), np.arange(3), [1.0, (2, 3)], {}])
def test_arguments_are_promoted_as_by_jax_jit(x):
    def f(x):
        return jax.tree.map(lambda leaf: leaf * 2, x)

    ours, theirs = sl.jit(f)(x), jax.jit(f)(x)
    close(ours, theirs)
    weak = [[jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(t)] for t in (ours, theirs)]
    assert weak[0] == weak[1]


def test_keyword_arguments_and_defaults():
    scale = sl.State(jnp.array(2.0))

    @sl.jit
    def f(x, *, y=1.0, **more):
        return scale.value * x + y + sum(more.values())

    assert [f(1.0), f(1.0, y=2.0), f(x=1.0, y=3.0), f(1.0, z=5.0)] == [3, 4, 5, 8]


def test_the_wrapper_has_the_name_and_text_of_the_function():
    def energy(x):
        """Kinetic and potential."""
        return x

    f = sl.jit(energy)
    assert (f.__name__, f.__doc__, repr(f)) == ("energy", "Kinetic and potential.", "jit(energy)")
    assert "jit_energy" in f.lower(1.0).as_text()


def test_it_decorates_with_options_and_without():
    @sl.jit
    def one(x):
        return x + 1

    @sl.jit(max_traces=1)
    def two(x):
        return x + 2

    assert (one(1.0), two(1.0)) == (2, 3)


# How often the body runs.


def test_the_body_runs_once_at_first_never_later_and_once_for_another_shape_or_dtype():
    net = Net()
    run, runs = counted(lambda x: net(x))
    f = sl.jit(run)
    for x, expected in [(X, 1), (-X, 1), (jnp.ones((2, 3)), 2), (jnp.arange(3), 3), (X, 3)]:
        f(x)
        assert len(runs) == expected
    assert net.calls.value == 5


def test_the_body_runs_once_if_states_are_found_that_it_does_not_touch():
    net, other = Net(), Net()
    run, runs = counted(lambda x: net(x) if other else None)
    sl.jit(run)(X)
    assert len(runs) == 1


hidden: list = []


class Registered:
    registry: list = []  # noqa: RUF012


@pytest.mark.parametrize("where", ["iterator", "class attribute", "text"])
def test_the_body_runs_twice_if_a_state_cannot_be_found_beforehand(where):
    state = sl.State(jnp.array(1.0))
    Registered.registry[:] = hidden[:] = [state]
    look_up = {
        "iterator": functools.partial(next, itertools.cycle([state])),
        "class attribute": lambda: getattr(Registered, "regis" + "try")[0],
        "text": lambda: globals()["hid" + "den"][0],
    }[where]

    def body(x):
        look_up().value += x
        return look_up().value

    run, runs = counted(body)
    f = sl.jit(run)
    assert [f(1.0), f(1.0)] == [2, 3]
    assert len(runs) == 2
    assert f.states.written == (state,)
    f(jnp.ones(()))  # strong, so another program; the state is known by now
    assert len(runs) == 3


@pytest.mark.parametrize(
    "reach",
    ["closure", "global", "default", "partial", "bound", "list", "object", "weakref", "lens"],
)
def test_states_are_found_where_python_code_finds_things(reach):
    global module_state
    state = module_state = sl.State(jnp.array(1.0))
    holder = Net()
    holder.calls = state
    ref = weakref.ref(state)
    states = [{"a": (state,)}]
    bound = holder.states("calls")

    class Plain:
        def __init__(self):
            self.inner = {"s": state}

        def __call__(self, x):
            return self.inner["s"].value * x

        def method(self, x):
            return self(x)

    plain = Plain()
    fun = {
        "closure": lambda x: state.value * x,
        "global": lambda x: module_state.value * x,
        "default": lambda x, s=state: s.value * x,
        "partial": functools.partial(lambda s, x: s().value * x, lambda: state),
        "bound": plain.method,
        "list": lambda x: states[0]["a"][0].value * x,
        "object": plain,
        "weakref": lambda x: ref().value * x,
        "lens": lambda x: bound["calls"].value * x,
    }[reach]
    f = sl.jit(fun, max_traces=1)
    assert f(3.0) == 3
    state.value = jnp.array(2.0)
    assert f(3.0) == 6
    assert state in f.states.read


# What is an input, what is an output, what is a constant.


def test_a_state_found_for_nothing_is_no_input_of_the_program():
    net, unused = Net(), sl.State(jnp.ones(7))
    f = sl.jit(lambda x: net(x) if isinstance(unused, sl.State) else x)
    assert "7xf32" not in f.lower(X).as_text()
    assert set(f.states.read) == set(net.states().values())
    assert f.states.written == (net.calls,)


def test_before_the_first_call_no_states_are_known():
    net = Net()
    assert sl.jit(net).states == ((), ())


def test_a_state_that_is_only_written_is_touched():
    state = sl.State(jnp.zeros(3))

    @sl.jit
    def f(x):
        state.value = x

    f(X)
    assert f.states == ((state,), (state,))
    close(state.value, X)


def test_states_touched_in_one_program_and_not_in_another():
    a, b = sl.State(jnp.array(1.0), name="a"), sl.State(jnp.array(2.0), name="b")

    @sl.jit
    def f(x):
        if x.ndim:
            a.value = a.value + 1
            return a.value * x
        b.value = b.value + 1
        return b.value * x

    assert f(1.0) == 3
    close(f(jnp.ones(2)), 2 * jnp.ones(2))
    assert (f(1.0), a.value, b.value) == (4, 2, 4)
    assert set(f.states.read) == set(f.states.written) == {a, b}
    close(f(jnp.ones(2)), 3 * jnp.ones(2))
    assert (a.value, b.value) == (3, 4)


def test_parameters_are_never_constants():
    big = sl.ParamState(jnp.full(5, 1234.5))
    model = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    f = sl.jit(lambda model, x: model(x).sum() + big.value)
    lowered = f.lower(model, jnp.ones(2))
    assert "1.2345" not in lowered.as_text()
    assert lowered.as_text().count("tensor<5xf32>") > 0
    close(f(model, jnp.ones(2)), model(jnp.ones(2)).sum() + 1234.5 * jnp.ones(5))
    big.value = jnp.zeros(5)
    close(f(model, jnp.ones(2)), model(jnp.ones(2)).sum() + jnp.zeros(5))


def test_only_states_that_are_written_are_outputs():
    net = Net()
    outs = jax.tree.leaves(sl.jit(lambda x: net(x)).trace(X).out_info)
    assert sorted((out.shape, out.dtype.name) for out in outs) == [((), "int32"), ((3,), "float32")]


def test_the_program_is_the_hand_written_one():
    net = Net()
    ours = sl.jit(lambda x: net(x)).lower(X)
    theirs = jax.jit(plain_net).lower(values_of(net), X)
    by_hand = jax.jit(lambda w, b, c, x: (jnp.tanh(x @ w + b), c + 1)).lower(*values_of(net), X)
    assert operations(ours) == operations(theirs) == operations(by_hand)
    arguments = [
        len(re.findall(r"%arg\d+: tensor", low.as_text().partition("-> (")[0]))
        for low in (ours, by_hand)
    ]
    assert arguments[0] == arguments[1] == 4


def test_a_training_step_is_the_hand_written_one():
    net = Net()

    @sl.jit
    def step(x):
        grads, value = sl.grad(lambda: jnp.sum(net(x) ** 2), [net.w, net.b], return_value=True)()
        net.w.value -= 0.1 * grads[0]
        net.b.value -= 0.1 * grads[1]
        return value

    @jax.jit
    def by_hand(w, b, calls, x):
        def loss(params):
            return jnp.sum(jnp.tanh(x @ params[0] + params[1]) ** 2)

        value, grads = jax.value_and_grad(loss)((w, b))
        return value, w - 0.1 * grads[0], b - 0.1 * grads[1], calls + 1

    values = values_of(net)
    assert operations(step.lower(X)) == operations(by_hand.lower(*values, X))
    for _ in range(3):
        expected, *values = by_hand(*values, X)
        close(step(X), expected)
    close(values_of(net), tuple(values))


# Nothing changes where the call fails.


def test_nothing_changes_when_the_function_raises_while_it_is_traced():
    net = Net()
    before = values_of(net)

    @sl.jit
    def f(x):
        net.w.value = 2 * net.w.value
        net(x)
        raise KeyError("boom")

    for _ in range(2):
        with pytest.raises(KeyError, match="boom"):
            f(X)
    assert all(a is b for a, b in zip(values_of(net), before, strict=True))


@pytest.mark.parametrize("check", [eqx.error_if, T.error_if], ids=["equinox", "statelens"])
def test_nothing_changes_when_the_program_raises_while_it_runs(check):
    net = Net()

    @sl.jit
    def f(x):
        net.w.value = 2 * net.w.value
        return check(net(x), jnp.any(x > 10), "x is large")

    f(X)
    before = values_of(net)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="x is large"):
            jax.block_until_ready(f(100 * X))
        assert all(a is b for a, b in zip(values_of(net), before, strict=True))
    f(X)
    assert net.calls.value == 2


def test_a_value_that_python_branches_on_is_refused_as_by_jax():
    flag = sl.State(jnp.array(True))
    f = sl.jit(lambda x: x if flag.value else -x)
    with pytest.raises(jax.errors.TracerBoolConversionError, match="boolean conversion of traced"):
        f(1.0)


def test_looking_up_a_bound_lens_touches_what_it_selects():
    net = Net()
    bound = net.states("b")
    f = sl.jit(lambda x: bound["b"].value * x)
    f(X)
    assert f.states.read == (net.b,)
