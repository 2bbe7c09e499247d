"""What loops carry and make, and what is refused."""

import functools
import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import Boom, close
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
