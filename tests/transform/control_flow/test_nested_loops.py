"""Loops in loops and in other transforms; what one loop knows of the last one."""

import functools

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close, counted, operations
from tests.transform.control_flow.cell import (
    F32,
    INIT,
    XS,
    Cell,
    lax_scan,
    plain_step,
    values_of,
)

close = functools.partial(close, rtol=1e-5, atol=1e-6)

T = sl.transform


# The states of the last loop over the same code are the first guess for the next one; a guess
# must have no effect but on the number of runs.


def over_a_new_state(x):
    cell = sl.nn.Module()
    cell.total = sl.State(x)

    def body(y):
        cell.total.value = cell.total.value + y
        return cell.total.value

    return cell, T.for_loop(body, jnp.arange(3.0))


def test_a_compiled_function_that_makes_its_state_takes_two_shapes():
    f = sl.jit(over_a_new_state)
    f(jnp.ones(1))
    cell, ys = f(jnp.ones(2))
    close((cell.total.value, ys.shape), (jnp.full(2, 4.0, F32), (3, 2)))


def test_two_derivatives_of_a_function_that_makes_its_state():
    kept = []

    def f(x):
        cell, ys = over_a_new_state(x)
        kept.append(cell)
        return ys[-1]

    assert (sl.grad(f)(1.0), jax.grad(f)(1.0)) == (1, 1)


def adding_to(state):
    def body(x):
        state.value = state.value + x
        return x

    return body


def test_a_loop_over_the_same_code_does_not_make_other_states_touched():
    a, b = sl.State(jnp.zeros(()), name="a"), sl.State(jnp.zeros(()), name="b")
    T.for_loop(adding_to(a), XS)

    def loss(x):
        T.for_loop(adding_to(b), XS)
        return x

    with pytest.raises(sl.UntouchedStateError, match=r"by the state 'a'"):
        sl.grad(loss, a)(1.0)


def test_the_body_runs_twice_at_most_for_another_state_too():
    states = [sl.State(jnp.zeros(())) for _ in range(2)]
    counts = []
    for state in states:
        body, runs = counted(adding_to(state))
        T.for_loop(body, XS)
        counts.append(len(runs))
    assert max(counts) <= 2


def test_two_states_in_loops_over_the_same_code():
    a, b = sl.State(jnp.zeros(())), sl.State(jnp.zeros(2))
    for _ in range(2):
        T.for_loop(adding_to(a), XS)
        T.for_loop(adding_to(b), XS)
    close((a.value, b.value), (2 * XS.sum(), jnp.full(2, 2 * XS.sum())))


# One inside another.


def plain_nested(w, h, steps, xs):
    def outer(carry, x):
        inner_carry, ys = jax.lax.scan(
            functools.partial(plain_step, w), (*carry, INIT), x * jnp.ones(2)
        )
        return inner_carry[:2], ys.sum()

    return jax.lax.scan(outer, (h, steps), xs)


def nested(cell):
    def outer(x):
        return T.scan(cell.step, INIT, x * jnp.ones(2))[1].sum()

    return lambda xs: T.for_loop(outer, xs)


def test_nested_loops():
    cell = Cell()
    after, ys = plain_nested(cell.w.value, *values_of(cell), XS)
    close(nested(cell)(XS), ys)
    close(values_of(cell), after)
    close(nested(cell)(XS), plain_nested(cell.w.value, *after, XS)[1])


def test_nested_loops_in_jit_are_the_hand_written_program():
    cell = Cell()
    ours = sl.jit(nested(cell)).lower(XS)
    theirs = jax.jit(plain_nested).lower(cell.w.value, *values_of(cell), XS)
    assert operations(ours) == operations(theirs)


def test_a_loop_in_jit_is_the_hand_written_program():
    cell = Cell()
    body, runs = counted(cell.step)
    f = sl.jit(lambda xs: T.scan(body, INIT, xs))

    def by_hand(w, h, steps, xs):
        (h, steps, c), ys = jax.lax.scan(functools.partial(plain_step, w), (h, steps, INIT), xs)
        return h, steps, c, ys

    theirs = jax.jit(by_hand).lower(cell.w.value, *values_of(cell), XS)
    assert operations(f.lower(XS)) == operations(theirs)
    expected, after = lax_scan(cell, INIT, XS)
    close(f(XS), expected)
    close(values_of(cell), after)
    before = len(runs)
    f(XS)
    assert len(runs) == before <= 2
    assert set(f.states.written) == {cell.h, cell.steps}


def test_a_while_loop_in_jit_is_the_hand_written_program():
    total, limit = sl.State(jnp.zeros((), F32)), sl.State(jnp.array(9.0, F32))

    def body(x):
        total.value = total.value + x
        return x + 1

    def by_hand(total, limit, x):
        return jax.lax.while_loop(
            lambda c: c[0] < limit, lambda c: (c[0] + c[1], c[1] + 1), (total, x)
        )

    f = sl.jit(lambda x: T.while_loop(lambda x: total.value < limit.value, body, x))
    theirs = jax.jit(by_hand).lower(total.value, limit.value, INIT)
    assert operations(f.lower(INIT)) == operations(theirs)
    assert (f(INIT), total.value) == (5, 10)
    limit.value = jnp.array(12.0, F32)
    assert (f(INIT), total.value) == (3, 13)


def test_jit_in_a_loop():
    cell = Cell()
    inner = sl.jit(cell.step)
    expected, after = lax_scan(cell, INIT, XS)
    for _ in range(2):
        for name in ("h", "steps"):
            getattr(cell, name).value = getattr(Cell(), name).value
        close(T.scan(inner, INIT, XS), expected)
        close(values_of(cell), after)
    close(T.scan(lambda c, x: inner(c, x), INIT, XS)[0], expected[0])


BOUNDED = "bounded_while_loop"
DERIVED = {
    "scan": lambda c, xs: T.scan(c.step, INIT, xs),
    "checkpointed_scan": lambda c, xs: T.checkpointed_scan(c.step, INIT, xs, checkpoints=2),
    "for_loop": lambda c, xs: T.for_loop(c.go, xs),
    "checkpointed_for_loop": lambda c, xs: T.checkpointed_for_loop(c.go, xs),
    "bounded_while_loop": lambda c, xs: T.bounded_while_loop(
        lambda i: i < len(xs), lambda i: (c.step(1.0, xs[i]), i + 1)[1], 0, max_steps=5
    ),
}


@pytest.mark.parametrize(
    ("name", "jitted"), [*((name, True) for name in DERIVED), ("scan", False), (BOUNDED, False)]
)
def test_gradients_by_states_read_and_written_and_by_arguments(name, jitted):
    cell = Cell()

    def plain_loss(h, w, xs):
        (h, _, _), _ = jax.lax.scan(
            functools.partial(plain_step, w), (h, cell.steps.value, INIT), xs
        )
        return jnp.sum(h**2)

    def loss(xs):
        DERIVED[name](cell, xs)
        return jnp.sum(cell.h.value**2)

    value, (by_h, by_w, by_xs) = jax.value_and_grad(plain_loss, (0, 1, 2))(
        cell.h.value, cell.w.value, XS
    )
    gradient = sl.grad(loss, [cell.h, cell.w], 0, return_value=True)
    close((sl.jit(gradient) if jitted else gradient)(XS), (([by_h, by_w], by_xs), value))
    assert cell.steps.value == 3


def test_the_derivative_of_a_while_loop_goes_forward():
    x = sl.State(jnp.array(3.0))

    def run():
        T.while_loop(lambda i: i < 3, lambda i: (setattr(x, "value", x.value**2), i + 1)[1], 0)
        return x.value

    close(T.jacfwd(run, x)(), jnp.array(8 * 3.0**7))


def test_a_derivative_inside_of_a_loop():
    w, seen = sl.ParamState(jnp.array(3.0, F32)), sl.State(jnp.zeros((), jnp.int32))

    def descend(x):
        def loss():
            seen.value += 1
            return (w.value - x) ** 2

        grads, value = sl.grad(loss, w, return_value=True)()
        w.value = w.value - 0.25 * grads
        return value

    def plain(w, x):
        value, g = jax.value_and_grad(lambda w: (w - x) ** 2)(w)
        return w - 0.25 * g, value

    after, values = jax.lax.scan(plain, w.value, XS)
    close(T.for_loop(descend, XS), values)
    close((w.value, seen.value), (after, jnp.array(3)))


@pytest.mark.parametrize("name", ["scan", "checkpointed_for_loop"])
def test_loops_in_vmap_by_functionalize(name):
    cell = Cell()
    pure = sl.functionalize(lambda xs: DERIVED[name](cell, xs), {"h": cell.h, "n": cell.steps})
    hs, xs = jnp.stack([cell.h.value, jnp.ones(2)]), jnp.stack([XS, 2 * XS])
    axes = ({"h": 0, "n": None}, 0)
    out, new = jax.vmap(pure, axes)({"h": hs, "n": cell.steps.value}, xs)
    for lane in range(2):
        one = Cell()
        one.h.value = hs[lane]
        expected, after = lax_scan(one, INIT, xs[lane])
        close((new["h"][lane], new["n"][lane]), after)
        if name == "scan":
            close((out[0][lane], out[1][lane]), expected)
    assert cell.steps.value == 0


def test_a_loop_in_statelens_vmap():
    cell = Cell()
    f = T.vmap(lambda x: T.for_loop(lambda y: cell.w.value * x * y, XS))
    close(f(jnp.ones(4)), jnp.broadcast_to(XS[:, None] * cell.w.value, (4, 3, 2)))
