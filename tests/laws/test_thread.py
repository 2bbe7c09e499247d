"""Laws of threading: a pure form computes what the stateful run computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import statelens as sl

COUNT = 3

# One step writes to a state a combination of two states and the argument.
steps = st.lists(
    st.tuples(*[st.integers(0, COUNT - 1)] * 3, st.sampled_from([-1.0, 0.5, 2.0])), max_size=8
)


def make(values):
    return [sl.State(jnp.asarray(value, jnp.float32)) for value in values]


def program(states, steps):
    def run(x):
        for target, a, b, factor in steps:
            states[target].value = factor * states[a].value + jnp.sin(states[b].value) * x
        return sum(state.value for state in states) * x

    return run


def plain(values, steps, x):
    values = list(values)
    for target, a, b, factor in steps:
        values[target] = factor * values[a] + jnp.sin(values[b]) * x
    return sum(values) * x, values


numbers = st.lists(st.floats(-2, 2, width=32), min_size=COUNT, max_size=COUNT)


@pytest.mark.parametrize("jitted", [False, True])
@given(values=numbers, steps=steps, x=st.floats(-2, 2, width=32))
def test_the_pure_form_is_the_stateful_run(jitted, values, steps, x):
    states = make(values)
    pure = sl.functionalize(program(states, steps), states)
    out, new = (jax.jit(pure) if jitted else pure)([state.value for state in states], x)
    assert [float(state.value) for state in states] == [np.float32(v) for v in values]
    stateful = program(states, steps)(x)
    np.testing.assert_allclose(out, stateful, rtol=1e-5, atol=1e-5)
    for pure_value, state in zip(new, states, strict=True):
        np.testing.assert_allclose(pure_value, state.value, rtol=1e-5, atol=1e-5)


@given(values=numbers, steps=steps, x=st.floats(-2, 2, width=32))
def test_a_threaded_tree_ends_as_the_stateful_run(values, steps, x):
    tree = {"inner": make(values)}
    out, after = sl.thread(lambda tree, x: program(tree["inner"], steps)(x))(tree, x)
    assert [float(state.value) for state in tree["inner"]] == [np.float32(v) for v in values]
    stateful = program(tree["inner"], steps)(x)
    np.testing.assert_allclose(out, stateful, rtol=1e-6, atol=1e-6)
    for state, expected in zip(after["inner"], tree["inner"], strict=True):
        np.testing.assert_allclose(state.value, expected.value, rtol=1e-6, atol=1e-6)


@given(values=numbers, steps=steps, x=st.floats(-2, 2, width=32))
def test_gradients_and_writes_are_those_of_plain_jax(values, steps, x):
    states = make(values)
    start = [state.value for state in states]
    (gradients, by_x), out = sl.grad(program(states, steps), states, argnums=0, return_value=True)(
        x
    )
    expected = jax.value_and_grad(lambda values, x: plain(values, steps, x), (0, 1), has_aux=True)(
        start, jnp.float32(x)
    )
    (value, after), (by_values, by_argument) = expected
    np.testing.assert_allclose(out, value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_x, by_argument, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(gradients, by_values, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    for state, theirs in zip(states, after, strict=True):
        np.testing.assert_allclose(state.value, theirs, rtol=1e-5, atol=1e-5)


@given(values=numbers, steps=steps)
def test_an_overlay_leaves_no_trace(values, steps):
    states = make(values)
    before = [state.value for state in states]
    with sl.overlay({states[0]: jnp.ones(())}) as trial:
        program(states, steps)(1.0)
    assert all(state.value is value for state, value in zip(states, before, strict=True))
    assert set(trial.writes) == {states[target] for target, *_ in steps}
