"""`scan`, `for_loop`, `while_loop` and their kin, against `jax.lax` on the pure form."""

import functools
import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import Boom, close, counted, operations

close = functools.partial(close, rtol=1e-5, atol=1e-6)

T = sl.transform
F32 = jnp.float32


class Cell(sl.nn.Module):
    """A leaky unit: `h` is written, `w` is only read, `steps` counts."""

    def __init__(self):
        super().__init__()
        self.h = sl.HiddenState(jnp.array([0.5, -0.5], F32), name="h")
        self.w = sl.ParamState(jnp.array([0.9, 0.3], F32), name="w")
        self.steps = sl.State(jnp.zeros((), jnp.int32), name="steps")

    def step(self, carry, x):
        self.h.value = jnp.sin(self.w.value * self.h.value) + x
        self.steps.value += 1
        return carry * 0.5 + x, self.h.value * carry

    def go(self, x):
        return self.step(1.0, x)[1]


def plain_step(w, carry, x):
    h, steps, c = carry
    h = jnp.sin(w * h) + x
    return (h, steps + 1, c * 0.5 + x), h * c


def values_of(cell):
    return cell.h.value, cell.steps.value


def lax_scan(cell, init, xs, **options):
    (h, steps, carry), ys = jax.lax.scan(
        functools.partial(plain_step, cell.w.value), (*values_of(cell), init), xs, **options
    )
    return (carry, ys), (h, steps)


INIT = jnp.array(1.0, F32)
XS = jnp.array([0.5, -1.0, 2.0], F32)
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


LOOPS = {
    "scan": lambda body, xs: T.scan(lambda c, x: (c, body(x)), 0.0, xs),
    "for_loop": lambda body, xs: T.for_loop(body, xs),
    "checkpointed_scan": lambda body, xs: T.checkpointed_scan(lambda c, x: (c, body(x)), 0.0, xs),
    "checkpointed_for_loop": lambda body, xs: T.checkpointed_for_loop(body, xs),
    "while_loop": lambda body, xs: T.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, body(c[1])), (0, xs[0])
    ),
    "bounded_while_loop": lambda body, xs: T.bounded_while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, body(c[1])), (0, xs[0]), max_steps=4
    ),
}
every_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


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
    assert 1 <= len(runs) <= (3 if "checkpointed" in name else 2)
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


class Multiply:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return x * self.factor

    def method(self, x):
        return x * self.factor


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


# What is carried and made.


def test_an_equinox_model_with_functions_in_the_carry():
    mlp = eqx.nn.MLP(2, 2, 3, 1, activation=jax.nn.softplus, key=jax.random.key(0))

    def train(model, x):
        gradient = eqx.filter_grad(lambda m: jnp.sum(m(x) ** 2))(model)
        model = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))
        return model, jnp.sum(model(x))

    xs = jnp.ones((3, 2))
    model, losses = T.scan(train, mlp, xs)
    assert model.activation is mlp.activation
    expected = mlp
    for x in xs:
        expected, loss = train(expected, x)
    close(losses[-1], loss)
    close(eqx.filter(model, eqx.is_array), eqx.filter(expected, eqx.is_array))
    close(T.checkpointed_scan(train, mlp, xs)[1], losses)
    close(sl.jit(lambda m, xs: T.scan(train, m, xs)[1])(mlp, xs), losses)
    (last, _) = T.while_loop(
        lambda c: c[1] < 3, lambda c: (train(c[0], xs[0])[0], c[1] + 1), (mlp, 0)
    )
    close(last.layers[0].weight, model.layers[0].weight)


@pytest.mark.parametrize("loop", [T.scan, T.checkpointed_scan], ids=["scan", "checkpointed"])
def test_a_facade_module_in_the_carry(loop):
    def body(cell, x):
        return cell, cell.step(INIT, x)[1]

    start, other = Cell(), Cell()
    _, after = lax_scan(other, INIT, XS)
    end, _ = loop(body, start, XS)
    close(values_of(end), after)
    assert isinstance(end, Cell)
    assert start.steps.value == 0
    end.step(INIT, 1.0)
    assert (end.steps.value, start.steps.value) == (4, 0)


def test_a_facade_module_as_the_value_of_a_while_loop():
    def body(cell):
        cell.step(INIT, 1.0)
        return cell

    start = Cell()
    end = T.while_loop(lambda cell: cell.steps.value < 4, body, start)
    assert (end.steps.value, start.steps.value) == (4, 0)


def test_states_that_are_made_inside_of_a_body():
    outer = sl.State(jnp.zeros(()))

    def body(carry, x):
        inner = sl.State(x)
        inner.value = inner.value * 2
        outer.value = outer.value + inner.value
        return carry, inner

    _, stacked = T.scan(body, 0.0, XS)
    close((outer.value, stacked.value), (2 * XS.sum(), 2 * XS))
    stacked.value = jnp.zeros(3)
    close(outer.value, 2 * XS.sum())


def test_random_states_are_split_step_by_step():
    rng = sl.random.RandomState(0)

    def plain(key, _):
        key, sub = jax.random.split(key)
        return key, jax.random.normal(sub)

    _, drawn = jax.lax.scan(plain, jax.random.key(0), None, 6)
    close(T.for_loop(lambda x: rng.normal(), jnp.arange(3)), drawn[:3])
    close(T.checkpointed_for_loop(lambda: rng.normal(), length=3), drawn[3:])
    rng.seed(0)
    total = T.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] + rng.normal()), (0, 0.0))[1]
    close(total, drawn[:4].sum())


# Errors.


@every_loop
def test_an_exception_leaves_states_alone(loop):
    total, noted = sl.State(jnp.zeros(())), []

    def body(x):
        total.value = total.value + x
        noted.append(1)
        raise Boom("thrown")

    before = total.value
    for run in (loop, lambda *args: sl.jit(lambda: loop(*args))()):
        with pytest.raises(Boom, match=r"^thrown"):
            run(body, XS)
        assert total.value is before
    assert noted


@every_loop
def test_a_failed_check_at_run_time_leaves_states_alone(loop):
    total = sl.State(jnp.zeros((), F32))

    def body(x):
        total.value = total.value + eqx.error_if(x, x < 10, "x is small")
        return x

    before = total.value
    for run in (loop, lambda *args: sl.jit(lambda: loop(*args))()):
        with pytest.raises(RuntimeError, match="x is small"):
            jax.block_until_ready(run(body, XS))
        assert total.value is before


@every_loop
def test_a_state_that_changes_its_shape_is_named(loop):
    wide = sl.State(jnp.ones(2), name="wide")

    def body(x):
        wide.value = jnp.concatenate([wide.value, wide.value])
        return x

    with pytest.raises(
        sl.StructureError,
        match=r"(?s)carry State\(.*'wide'\).*is float32\[2\] before a step, and float32\[4\] after",
    ):
        loop(body, XS)
    assert wide.value.shape == (2,)


@pytest.mark.parametrize("bound", [None, 3])
def test_a_condition_that_writes_is_refused(bound):
    state = sl.State(jnp.zeros(()), name="asked")
    loop = T.while_loop if bound is None else functools.partial(T.bounded_while_loop, max_steps=3)

    def go_on(x):
        state.value = state.value + 1
        return x < 3

    with pytest.raises(sl.SelectionError, match=r"(?s)cond_fun wrote State\(.*'asked'.*body_fun"):
        loop(go_on, lambda x: x + 1, 0.0)
    assert state.value == 0


@pytest.mark.parametrize(
    ("run", "error", "match"),
    [
        (lambda: T.scan(lambda c, x: c, 0.0, XS), sl.ArgumentTypeError, r"not a pair"),
        (lambda: T.scan(lambda c, x: (1, 2, 3), 0.0, XS), sl.ArgumentTypeError, r"tuple of 3, not"),
        (lambda: T.for_loop(lambda x, y: x, XS, jnp.ones(4)), sl.ArgumentError, r"shape \(4,\)"),
        (lambda: T.scan(lambda c, x: (c, x), 0.0, XS, 5), sl.ArgumentError, r"5 steps\n.*\(3,\)"),
        (lambda: T.for_loop(lambda: 1.0), sl.ArgumentError, r"no length\nInstead"),
        (lambda: T.checkpointed_scan(lambda c, x: (c, x), 0.0), sl.ArgumentError, r"no length"),
        (lambda: T.for_loop(lambda x: x, 1.0), sl.ArgumentError, r"(?s)one number.*arange"),
        (
            lambda: T.scan(lambda c, x: (jnp.ones(2), x), jnp.ones(1), XS),
            sl.StructureError,
            r"carry the carry.*\nafter a step it is float32\[2\], not float32\[1\]",
        ),
        (
            lambda: T.scan(lambda c, x: ((c, c), x), jnp.ones(1), XS),
            sl.StructureError,
            r"after a step it is a tuple of 2, not float32\[1\]",
        ),
        (
            lambda: T.while_loop(lambda x: x, lambda x: x, 1.0),
            sl.ArgumentTypeError,
            r"cond_fun ret",
        ),
    ],
)
def test_refusals(run, error, match):
    with pytest.raises(error, match=match):
        run()


def test_writes_to_states_in_what_is_scanned_over_are_refused():
    batch = sl.State(jnp.ones(3), name="batch")

    def body(carry, x):
        x["s"].value = 2 * x["s"].value
        return carry, x["s"].value

    with pytest.raises(sl.FrozenTreeError, match=r"(?s)'batch'.*thread"):
        T.scan(body, 0.0, {"s": batch})
    close(T.scan(lambda c, x: (c, x["s"].value), 0.0, {"s": batch})[1], jnp.ones(3))


@every_loop
def test_loops_run_under_disable_jit(loop):
    gain, total = sl.State(jnp.array(2.0, F32)), sl.State(jnp.array(0.0, F32))

    def body(x):
        total.value = total.value + gain.value
        return x

    with jax.disable_jit():
        loop(body, XS)
    assert total.value == 6


def test_what_is_staged_keeps_no_function_alive():
    def make():
        state = sl.State(jnp.zeros(()))

        def body(x):
            state.value = state.value + x
            return x

        T.for_loop(body, XS)
        return weakref.ref(body), weakref.ref(state)

    refs = make()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


scale = 1.0


def scaled(x):
    return scale * x


def test_a_number_in_a_function_that_the_body_calls_is_seen():
    global scale
    scale = 2.0

    def body(x):
        return scaled(x)

    close(T.for_loop(body, XS), 2 * XS)
    scale = 3.0
    close(T.for_loop(body, XS), 3 * XS)


class Counting(Multiply):
    runs = 0

    def __call__(self, x):
        Counting.runs += 1
        return super().__call__(x)

    def method(self, x):
        return self(x)


@pytest.mark.parametrize("body", [Counting(2.0), Counting(2.0).method])
def test_an_object_that_stays_as_it_is_is_run_once(body):
    Counting.runs = 0
    for _ in range(3):
        T.for_loop(body, XS)
    assert Counting.runs == 1


def drawing_from(random):
    return lambda x: x + random.normal()


def test_a_key_that_another_function_of_the_same_code_drew_from_is_not_split():
    first, second = sl.random.RandomState(0), sl.random.RandomState(1)
    T.vmap(drawing_from(first))(XS)
    before = first.value
    T.vmap(drawing_from(second))(XS)
    assert (first.value == before).all()
