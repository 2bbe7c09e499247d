"""Loops against those of `jax.lax`; which states they carry, and how often Python runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import close, counted
from tests.transform.control_flow.cell import (
    F32,
    INIT,
    XS,
    Cell,
    Multiply,
    every_loop,
    lax_scan,
    values_of,
)

close = functools.partial(close, rtol=1e-5, atol=1e-6)

T = sl.transform
xs_of_any_length = st.lists(st.floats(-2, 2, width=32), max_size=5).map(
    lambda xs: jnp.array(xs, F32)
)


# Against jax.lax.


@settings(max_examples=10)
@given(xs_of_any_length, st.booleans(), st.sampled_from([1, 2, True]))
def test_scan(xs, reverse, unroll):
    cell = Cell()
    expected, after = lax_scan(cell, INIT, xs, reverse=reverse)
    close(T.scan(cell.step, INIT, xs, reverse=reverse, unroll=unroll), expected)
    close(values_of(cell), after)


@settings(max_examples=10)
@given(xs_of_any_length, st.booleans(), st.sampled_from([1, 3]))
def test_for_loop(xs, reverse, unroll):
    cell = Cell()
    (_, ys), after = lax_scan(cell, INIT, xs, reverse=reverse)

    def body(x, number):
        cell.h.value = jnp.sin(cell.w.value * cell.h.value) + x
        cell.steps.value += 1
        return {"h": cell.h.value, "number": number}

    numbers = jnp.arange(len(xs))
    out = T.for_loop(body, xs, numbers, reverse=reverse, unroll=unroll)
    close(values_of(cell), after)
    close(out["number"], numbers)
    if len(xs):
        close(out["h"][0 if reverse else -1], after[0])
    assert out["h"].shape == ys.shape


@settings(max_examples=6)
@given(xs_of_any_length.filter(len), st.sampled_from([None, 1, 2, 7]))
def test_checkpointed_scan_and_for_loop(xs, checkpoints):
    one, other = Cell(), Cell()
    (carry, ys), after = lax_scan(one, INIT, xs)
    close(T.checkpointed_scan(one.step, INIT, xs, checkpoints=checkpoints), (carry, ys))
    close(values_of(one), after)
    close(
        T.checkpointed_for_loop(other.go, xs, checkpoints=checkpoints),
        T.for_loop(Cell().go, xs),
    )
    close(values_of(other), after)


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@settings(max_examples=10)
@given(st.floats(0, 100, width=32), st.floats(0, 8, width=32), st.booleans())
def test_while_loop_and_bounded_while_loop(x, limit, bounded):
    cell = Cell()
    cell.w.value = jnp.array([0.5, limit], F32)

    def go_on(x):
        return (x > cell.w.value[1]) & (cell.steps.value < 6)

    def halve(x):
        cell.steps.value += 1
        cell.h.value = cell.h.value * cell.w.value + x
        return x / 4

    def plain_go_on(carry):
        return (carry[0] > cell.w.value[1]) & (carry[2] < 6)

    def plain_halve(carry):
        return carry[0] / 4, carry[1] * cell.w.value + carry[0], carry[2] + 1

    x = jnp.array(x, F32)
    expected, *after = jax.lax.while_loop(plain_go_on, plain_halve, (x, *values_of(cell)))
    if bounded:
        out = T.bounded_while_loop(go_on, halve, x, max_steps=10, base=2)
    else:
        out = T.while_loop(go_on, halve, x)
    close(out, expected)
    close(values_of(cell), tuple(after))


def test_a_bounded_while_loop_stops_at_its_bound():
    steps = sl.State(jnp.zeros((), jnp.int32))

    def body(x):
        steps.value += 1
        return x + 1

    assert T.bounded_while_loop(lambda x: x < 100.0, body, 0.0, max_steps=3) == 3
    assert steps.value == 3


def test_without_steps_nothing_is_written():
    cell = Cell()
    before = values_of(cell)
    carry, ys = T.scan(cell.step, INIT, jnp.zeros(0))
    assert (carry, ys.shape) == (1, (0, 2))
    T.while_loop(lambda x: x < 0, lambda x: cell.step(x, x)[0], INIT)
    close(values_of(cell), before)


def test_a_checkpointed_loop_of_no_steps():
    assert T.checkpointed_for_loop(lambda: 1.0, length=0).shape == (0,)


def test_a_checkpointed_scan_over_nothing():
    cell = Cell()
    close(T.checkpointed_scan(cell.step, INIT, jnp.zeros(0)), T.scan(cell.step, INIT, jnp.zeros(0)))


def test_a_length_alone():
    cell = Cell()
    T.scan(lambda c, x: cell.step(c, 1.0 if x is None else jnp.nan), INIT, length=2)
    assert cell.steps.value == 2
    assert T.for_loop(lambda: cell.go(1.0)[0], length=3).shape == (3,)
    assert T.checkpointed_for_loop(lambda: cell.go(1.0)[0], length=3).shape == (3,)
    assert cell.steps.value == 8


def test_xs_and_carries_of_any_structure():
    total = sl.State({"a": jnp.zeros(2), "b": (jnp.zeros(()),)})

    def body(carry, x):
        total.value = {
            "a": total.value["a"] + x["k"],
            "b": (total.value["b"][0] + x["l"][0],),
        }
        return {"n": carry["n"] + 1, "none": None}, (x["k"], total.value["b"])

    xs = {"k": jnp.ones((3, 2)), "l": [jnp.arange(3.0)]}
    carry, (k, (b,)) = T.scan(body, {"n": 0, "none": None}, xs)
    close(carry, {"n": jnp.array(3), "none": None})
    close(k, xs["k"])
    close(b, jnp.array([0.0, 1.0, 3.0]))
    close(total.value, {"a": jnp.full(2, 3.0, F32), "b": (jnp.array(3.0, F32),)})


# Which states are carried; how often Python runs.


@every_loop
def test_states_that_are_only_read_are_closed_over_and_never_baked(loop):
    gain, total = sl.State(jnp.array(2.0, F32)), sl.State(jnp.array(0.0, F32))

    def body(x):
        total.value = total.value + gain.value
        return x

    for value in (2.0, 5.0):
        gain.value, total.value = jnp.array(value, F32), jnp.array(0.0, F32)
        before = gain.value
        loop(body, XS)
        assert total.value == 3 * value
        assert gain.value is before


@every_loop
def test_a_loop_only_carries_what_is_written(loop):
    gain, total = sl.State(jnp.ones((7,))), sl.State(jnp.zeros((5,)))

    def body(x):
        total.value = total.value + gain.value.sum()
        return x

    jaxpr = sl.jit(lambda: loop(body, XS)).trace().jaxpr
    carried = [
        var.aval.shape
        for eqn in jaxpr.eqns
        if eqn.primitive.name in ("scan", "while")
        for var in eqn.outvars
    ]
    if carried:  # Equinox's loops are calls of its own
        assert (7,) not in carried


EAGER = {
    "scan": lambda c: T.scan(c.step, INIT, XS),
    "checkpointed_scan": lambda c: T.checkpointed_scan(c.step, INIT, XS),
    "for_loop": lambda c: T.for_loop(c.go, XS),
    "checkpointed_for_loop": lambda c: T.checkpointed_for_loop(c.go, XS),
    "while_loop": lambda c: T.while_loop(c.is_small, c.grow, INIT),
    "bounded_while_loop": lambda c: T.bounded_while_loop(c.is_small, c.grow, INIT, max_steps=9),
}


@pytest.mark.parametrize("name", EAGER)
def test_the_body_runs_twice_at_most_in_a_first_eager_call_and_never_later(name):
    loop, runs = EAGER[name], []
    tick = runs.append

    class Counted(Cell):
        def step(self, carry, x):
            tick(1)
            return super().step(carry, x)

        def go(self, x):
            return self.step(1.0, x)[1]

        def is_small(self, x):
            return x < 4

        def grow(self, x):
            self.step(x, x)
            return x + 1

    cell = Counted()
    loop(cell)
    # Equinox runs the body of a checkpointed loop twice for each trace.
    assert 1 <= len(runs) <= (4 if "checkpointed" in name else 2)
    first, steps = len(runs), int(cell.steps.value)
    for _ in range(2):
        loop(cell)
    assert (len(runs), cell.steps.value) == (first, 3 * steps)
    other = Counted()
    other.w.value = jnp.zeros(2)
    loop(other)
    assert other.steps.value == steps


runs_of_global = 0
factor = 2.0


def test_a_body_that_counts_its_runs_in_a_global():
    global runs_of_global, factor
    runs_of_global, factor = 0, 2.0

    def body(x):
        global runs_of_global
        runs_of_global += 1
        return x * factor

    for _ in range(3):
        close(T.for_loop(body, XS), XS * 2)
    assert runs_of_global == 1
    factor = 3.0
    close(T.for_loop(body, XS), XS * 3)
    factor = 2.0
    close(T.for_loop(body, XS), XS * 2)


def test_a_number_that_the_body_closes_over_is_seen():
    rate = 1.0

    def body(x):
        return x * rate

    close(T.for_loop(body, XS), XS)
    rate = 5.0
    close(T.for_loop(body, XS), 5 * XS)


def test_another_shape_or_length_is_another_program():
    cell = Cell()
    body, runs = counted(cell.step)
    for xs in (XS, jnp.ones(4), jnp.ones((2, 2)), XS, jnp.ones(4)):
        T.scan(body, jnp.ones(2), xs)
    assert cell.steps.value == 3 + 4 + 2 + 3 + 4
    assert len(runs) <= 2 + 1 + 1


def test_a_body_that_appends_to_a_list_runs_no_more_often_than_others():
    runs = []

    def body(x):
        runs.append(1)
        return x

    T.for_loop(body, XS), T.for_loop(body, XS)
    assert len(runs) == 1


class Factor(sl.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor


@pytest.mark.parametrize(
    "make",
    [Factor, lambda k: Multiply(k).method, jnp.array, np.float32],
    ids=["module", "method", "array", "number"],
)
def test_a_name_that_stands_for_another_thing_is_seen(make):
    thing = make(2.0)

    def body(x):
        if callable(thing) and not isinstance(thing, sl.nn.Module):
            return thing(x)
        return x * getattr(thing, "factor", thing)

    close(T.for_loop(body, XS), 2 * XS)
    thing = make(3.0)
    close(T.for_loop(body, XS), 3 * XS)


def test_a_name_that_stands_for_another_state_is_seen():
    old = state = sl.State(jnp.zeros((), F32))

    def body(x):
        state.value = state.value + x
        return x

    T.for_loop(body, XS)
    state = sl.State(jnp.zeros((), F32))
    T.for_loop(body, XS)
    assert (old.value, state.value) == (XS.sum(), XS.sum())


def test_an_attribute_of_a_callable_object_is_seen():
    body = Multiply(2.0)
    close(T.for_loop(body, XS), 2 * XS)
    body.factor = 3.0
    close(T.for_loop(body, XS), 3 * XS)


def test_a_number_that_a_partial_function_closes_over_is_seen():
    rate = 2.0
    body = functools.partial(lambda k, x: k * rate * x, 1.0)
    close(T.for_loop(body, XS), 2 * XS)
    rate = 3.0
    close(T.for_loop(body, XS), 3 * XS)
