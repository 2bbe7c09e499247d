"""`sl.jit` where there are so many states that their values go in together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from benchmarks.programs import difference, program

MANY = 300
CALLS = 12
X = jnp.array([1.0, 2.0])


def made():
    """Makes states that are written, and as many that are only read."""
    sums = [sl.State(jnp.full(2, float(n)), name=f"sums[{n}]") for n in range(MANY)]
    rates = [sl.State(jnp.float32(n / MANY), name=f"rates[{n}]") for n in range(MANY)]
    return sums, rates


def by_hand(sums, rates, x):
    sums = [total + rate * x for total, rate in zip(sums, rates, strict=True)]
    return sum(total.sum() for total in sums), sums


def adder(sums, rates):
    def add(x):
        out, written = by_hand([s.value for s in sums], [r.value for r in rates], x)
        for state, value in zip(sums, written, strict=True):
            state.value = value
        return out

    return add


@pytest.mark.parametrize("options", [{}, {"donate_states": True}, {"donate_argnums": 0}], ids=str)
def test_calls_give_what_they_give_by_hand(options):
    sums, rates = made()
    add, plain = sl.jit(adder(sums, rates), **options), jax.jit(by_hand)
    expected = [state.value + 0 for state in sums]
    fixed = [state.value for state in rates]
    for number in range(CALLS):
        out, expected = plain(expected, fixed, X + number)
        assert add(X + number) == out
        if number == CALLS // 2:
            for states in (expected, fixed):
                states[7] = states[7] - 1
            sums[7].value -= 1
            rates[7].value -= 1
    np.testing.assert_array_equal([state.value for state in sums], expected)


def test_the_memory_of_those_that_are_written_is_donated_and_that_of_others_is_not():
    sums, rates = made()
    add = sl.jit(adder(sums, rates), donate_states=True)
    for _ in range(CALLS):
        written, read = [state.value for state in sums], [state.value for state in rates]
        add(X)
        assert all(value.is_deleted() for value in written)
        assert not any(value.is_deleted() for value in read)


@pytest.mark.parametrize("donate", [False, True], ids=["kept", "donated"])
def test_the_program_is_the_one_written_by_hand(donate):
    sums, rates = made()
    args = [state.value for state in sums], [state.value for state in rates], X
    plain = jax.jit(by_hand, donate_argnums=(0,) if donate else ())
    ours = sl.jit(adder(sums, rates), donate_states=donate or None)
    found = difference(program(ours, X), program(plain, *args))
    assert not found, found


def test_what_is_compiled_ahead_of_time_runs_and_says_which_state_has_changed():
    sums, rates = made()
    compiled = sl.jit(adder(sums, rates), donate_states=True).lower(X).compile()
    out, expected = by_hand([s.value + 0 for s in sums], [r.value for r in rates], X)
    assert compiled(X) == pytest.approx(float(out))
    np.testing.assert_allclose([state.value for state in sums], expected, rtol=1e-6)
    rates[3].value = {"a": X}
    with pytest.raises(sl.ArgumentTypeError, match=r"rates\[3\]' differs: it is a dict of a"):
        compiled(X)


def test_a_message_of_jax_names_one_of_them():
    states = [sl.State(jnp.float32(number)) for number in range(MANY)]

    def first_that_is_positive(x):
        return next(state.value + x for state in states if state.value > 0)

    with pytest.raises(jax.errors.TracerBoolConversionError, match=r"argument state_0\."):
        sl.jit(first_that_is_positive)(1.0)


def test_states_are_kept_where_a_call_fails_or_is_differentiated():
    sums, rates = made()
    add = sl.jit(adder(sums, rates), donate_states=True)
    for _ in range(CALLS):
        add(X)
    before = [np.asarray(state.value) for state in sums]
    with pytest.raises(TypeError):
        add(jnp.ones(3))
    np.testing.assert_array_equal([state.value for state in sums], before)
    grad = sl.grad(add, rates[0])(X)
    assert grad == X.sum()
