"""Frames: nothing leaks, nothing is lost, and no thread or task disturbs another."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import Boom

WAIT = 60


class Cells:
    """Several states of several forms, and their values by identity."""

    def __init__(self):
        self.w = sl.State(jnp.asarray(2.0), name="w")
        self.table = sl.State({"a": jnp.zeros(2), "b": [jnp.ones(())]})
        self.table_parts = self.table.value, dict(self.table.value), list(self.table.value["b"])
        self.count = sl.State(0)
        self.numpy = sl.State(np.zeros(2))
        self.module = sl.nn.Module()
        self.module.array = self.array = jnp.zeros(())

    def write_all(self, x):
        self.w.value = self.w.value * x
        self.table.value["a"] = self.table.value["a"] + x
        self.table.value["b"].append(x)
        self.count.value += 1
        self.numpy.value[:] = 7
        self.module.array = self.module.array + x

    def assert_as_before(self):
        whole, parts, inner = self.table_parts
        assert self.w.value == 2.0
        assert self.table.value is whole
        assert all(self.table.value[key] is part for key, part in parts.items())
        assert self.table.value["b"] == inner
        assert self.count.value == 0
        assert self.numpy.value.tolist() == [0.0, 0.0]
        assert self.module.array is self.array


# When something fails.


def fail_in_the_middle(cells):
    cells.write_all(3.0)
    raise Boom("in the middle")


def fail_inside(cells):
    cells.write_all(3.0)
    inner = lambda: (cells.write_all(4.0), 1 / 0)  # noqa: E731
    return sl.grad(inner, cells.w)()


def succeed_inside_and_fail(cells):
    def inner():
        cells.write_all(4.0)
        return cells.w.value

    sl.grad(inner, cells.w)()
    assert cells.count.value == 1
    raise Boom("after an inner call")


def fail_in_overlay(cells):
    with sl.overlay({cells.w: jnp.asarray(5.0)}) as trial:
        cells.write_all(4.0)
        trial.commit()
    assert cells.count.value == 1
    raise Boom("after a commit")


def return_a_vector(cells):
    cells.write_all(3.0)
    return jnp.ones(2) * cells.w.value


def fail_in_scan(cells):
    cells.write_all(3.0)
    jax.lax.scan(lambda carry, x: (carry, carry @ x), cells.w.value, jnp.ones(3))


FAILURES = [
    (fail_in_the_middle, Boom, "in the middle"),
    (fail_inside, ZeroDivisionError, "division by zero"),
    (succeed_inside_and_fail, Boom, "after an inner call"),
    (fail_in_overlay, Boom, "after a commit"),
    (return_a_vector, sl.DifferentiationError, r"shape \(2,\)"),
    (fail_in_scan, (TypeError, ValueError), "(?i)matmul|dot"),
]
failures = pytest.mark.parametrize(("fail", "error", "text"), FAILURES)
RUNS = {
    "grad": lambda fun, cells: sl.grad(fun, cells.w)(),
    "grad by an argument": lambda fun, cells: sl.grad(lambda x: fun())(1.0),
    "value_and_grad": lambda fun, cells: sl.value_and_grad(fun, [cells.w])(),
    "grad of grad": lambda fun, cells: sl.grad(sl.grad(fun, cells.w), cells.w)(),
    "thread": lambda fun, cells: sl.thread(lambda tree: sl.grad(fun, cells.w)())({}),
    "functionalize": lambda fun, cells: sl.functionalize(sl.grad(fun, cells.w), cells.w)(1.0),
}


@failures
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_failure_leaves_every_cell_as_it_was(run, fail, error, text):
    cells = Cells()
    with pytest.raises(error, match=text):
        run(lambda: fail(cells), cells)
    cells.assert_as_before()


def test_a_state_untouched_fails_after_the_body_and_commits_nothing():
    cells, other = Cells(), sl.State(jnp.ones(()))
    with pytest.raises(sl.UntouchedStateError, match="'other'\nthe function never read"):
        sl.grad(lambda: (cells.write_all(1.0), cells.w.value)[1], {"w": cells.w, "other": other})()
    cells.assert_as_before()


def test_an_interrupt_leaves_every_cell_as_it_was():
    cells = Cells()

    def loss():
        cells.write_all(1.0)
        raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        sl.grad(loss, cells.w)()
    cells.assert_as_before()
    assert sl.grad(lambda: cells.w.value**2, cells.w)() == 4.0


def test_after_a_failure_the_next_call_is_as_the_first():
    cells, fail = Cells(), [True]

    def loss():
        cells.count.value += 1
        if fail.pop():
            raise Boom("first call")
        return cells.w.value

    gradient = sl.grad(loss, cells.w)
    with pytest.raises(Boom, match="first call"):
        gradient()
    fail.append(False)
    assert gradient() == 1.0
    assert cells.count.value == 1


def test_success_commits_all_kinds_of_writes():
    cells = Cells()
    sl.grad(lambda x: (cells.write_all(x), x)[1])(3.0)
    assert (cells.w.value, cells.count.value, cells.module.array) == (6.0, 1, 3.0)
    assert cells.table.value["a"].tolist() == [3.0, 3.0]
    assert cells.table.value["b"] == [1.0, 3.0]
    assert cells.numpy.value.tolist() == [7.0, 7.0]


# Threads.


def in_threads(*functions):
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result(WAIT) for future in [pool.submit(f) for f in functions]]


def test_threads_trace_over_the_same_cells_at_once():
    state, meeting = sl.State(jnp.zeros(())), threading.Barrier(2)

    def work(x):
        def loss(x):
            state.value = state.value + x
            meeting.wait(WAIT)  # both have written
            first = state.value * x
            state.value = state.value * 10
            meeting.wait(WAIT)  # both have written again
            return first + state.value

        def run():
            out = sl.grad(loss, return_value=True)(x)
            meeting.wait(WAIT)  # both have committed
            return out

        return run

    # x**2 + 10 x
    assert in_threads(work(2.0), work(3.0)) == [(14.0, 24.0), (16.0, 39.0)]
    assert state.value in (20.0, 30.0)
    assert isinstance(state.value, jax.Array)


def test_threads_differentiate_the_same_state_at_once():
    state, meeting = sl.State(jnp.asarray(2.0)), threading.Barrier(2)

    def work(power):
        def loss():
            meeting.wait(WAIT)
            value = state.value**power
            meeting.wait(WAIT)
            return value

        return sl.grad(loss, state)

    assert in_threads(work(2), work(3)) == [4.0, 12.0]


def test_another_thread_reads_and_writes_the_cell_while_one_traces():
    state, seen = sl.State(jnp.asarray(1.0)), []

    def other():
        seen.append(state.value)
        state.value = jnp.asarray(5.0)
        seen.append(state.value)

    def loss(x):
        state.value = state.value * x
        in_threads(other)
        seen.append(jnp.shape(state.value))
        return state.value

    assert sl.grad(loss)(2.0) == 1.0
    assert seen == [1.0, 5.0, ()]
    assert state.value == 2.0


def test_an_overlay_is_one_thread_s_own():
    state = sl.State(1)
    with sl.overlay({state: 2}):
        assert in_threads(lambda: state.value) == [1]
        assert state.value == 2


# Tasks.


def test_tasks_do_not_see_each_other_s_frames():
    state = sl.State(0)

    async def task(value):
        with sl.overlay({state: value}) as trial:
            for _ in range(3):
                await asyncio.sleep(0)
                state.value += 1
            return state.value, list(trial.writes.values())

    async def both():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(task(value)) for value in (10, 20)]
        return [task.result() for task in tasks]

    assert asyncio.run(both()) == [(13, [13]), (23, [23])]
    assert state.value == 0


def test_a_task_started_in_an_overlay_reads_through_it():
    state = sl.State(0)

    async def read():
        return state.value

    async def main():
        with sl.overlay({state: 5}):
            return await asyncio.create_task(read())

    assert asyncio.run(main()) == 5


# Overlays.


def test_an_overlay_shows_other_values_and_drops_its_writes():
    state, other = sl.State(1), sl.State(2)
    with sl.overlay({state: 10}) as trial:
        other.value = state.value + other.value
        assert (state.value, other.value) == (10, 12)
    assert (state.value, other.value) == (1, 2)
    assert trial.writes == {other: 12}


def test_reading_is_no_write():
    state = sl.State({"a": jnp.ones(1)})
    with sl.overlay({state: {"a": jnp.zeros(1)}}) as trial:
        _ = state.value["a"]
    assert trial.writes == {}


def test_commit_writes_what_was_written_and_not_what_was_overlaid():
    state, written = sl.State(1), sl.State(2)
    with sl.overlay({state: 10}) as trial:
        written.value = 20
        trial.commit()
    assert (state.value, written.value) == (1, 20)


def test_commit_may_come_after_the_block():
    state = sl.State(1)
    with sl.overlay() as trial:
        state.value = 2
    assert state.value == 1
    trial.commit()
    assert state.value == 2


def test_an_exception_drops_what_was_not_committed():
    a, b = sl.State(1), sl.State(1)

    def block():
        with sl.overlay() as trial:
            a.value = 2
            trial.commit()
            b.value = 2
            raise Boom("late")

    with pytest.raises(Boom, match="late"):
        block()
    assert (a.value, b.value) == (2, 1)


def test_overlays_nest():
    state = sl.State(1)
    with sl.overlay({state: 10}) as outer:
        with sl.overlay() as inner:
            state.value += 1
            assert state.value == 11
        assert state.value == 10
        inner.commit()
        assert state.value == 11
        assert outer.writes == {state: 11}
    assert state.value == 1


def test_an_overlay_may_be_keyed_by_a_view():
    tree = {"s": sl.State({"w": 1.0, "b": jnp.zeros(())})}
    [view] = sl.lens("s.b").bind(tree).values()
    with sl.overlay({view: jnp.ones(())}):
        assert tree["s"].value == {"w": 1.0, "b": 1.0}
    assert tree["s"].value["b"] == 0.0


def test_an_overlay_around_a_gradient_and_inside_one():
    w, seen = sl.State(jnp.asarray(2.0)), sl.State(jnp.zeros(()))

    def loss():
        with sl.overlay({w: w.value * 2}):
            inner = w.value**2
        seen.value = w.value
        return inner

    with sl.overlay({w: jnp.asarray(3.0)}) as trial:
        assert sl.grad(loss, w)() == 24.0
    assert trial.writes == {seen: 3.0}
    assert (w.value, seen.value) == (2.0, 0.0)


def test_an_overlay_of_what_is_no_state_is_refused():
    with pytest.raises(sl.StateTypeError, match=r"asked to overlay 'w'\nthat is a str"):
        sl.overlay({"w": 1.0})


# States made inside.


def test_a_state_made_inside_lives_in_the_call():
    def loss(x):
        local = sl.State(x)
        local.value = local.value**2
        return local.value

    assert sl.grad(loss)(3.0) == 6.0
    assert jax.jit(sl.grad(loss))(3.0) == 6.0


def test_a_state_made_inside_and_returned_has_its_value():
    gradient, made = sl.grad(lambda x: (x**2, sl.State(x, name="made")), has_aux=True)(3.0)
    assert (gradient, made.value, made.name) == (6.0, 3.0, "made")
    made.value = 4.0
    assert made.value == 4.0


def test_a_state_made_inside_without_a_traced_value_outlives_the_call():
    made = []
    sl.grad(lambda x: (made.append(sl.State(1)), x)[1])(3.0)
    assert made[0].value == 1
    made[0].value = 2
    assert made[0].value == 2
