"""A compiled function called many times: its states must not notice."""

import contextvars
import copy
import gc
import pickle
import sys
import threading
import time
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import seen_meanwhile

MANY = 12
"""So many calls that whatever is kept of a program is kept."""


class Counter(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = [sl.ParamState(jnp.zeros(2)), sl.ParamState(jnp.ones(2))]
        self.rate = sl.State(jnp.array(1.0))


def advance_function(model, **options):
    @sl.jit(**options)
    def advance(x):
        first, second = model.parts
        first.value += model.rate.value * x
        second.value += first.value
        return second.value.sum()

    return advance


def advanced(values, rate, x):
    first = values[0] + rate * x
    return [first, values[1] + first]


def values_of(model):
    return [np.asarray(part.value) for part in model.parts]


def run(function, *args, times=MANY, **kwargs):
    for _ in range(times):
        out = function(*args, **kwargs)
    return out


def make(donated=False):
    model = Counter()
    return model, advance_function(model, donate_states=donated or None)


both = pytest.mark.parametrize("donated", [False, True], ids=["kept", "donated"])


@both
def test_values_are_read_between_calls(donated):
    model, advance = make(donated)
    expected = [np.zeros(2), np.ones(2)]
    for _ in range(3 * MANY):
        out = advance(1.0)
        expected = advanced(expected, 1.0, 1.0)
        assert out == expected[1].sum()
        np.testing.assert_array_equal(values_of(model), expected)


@both
def test_values_are_right_after_calls_in_a_row_without_a_look(donated):
    model, advance = make(donated)
    run(advance, 1.0, times=3 * MANY)
    expected = [np.zeros(2), np.ones(2)]
    for _ in range(3 * MANY):
        expected = advanced(expected, 1.0, 1.0)
    np.testing.assert_array_equal(values_of(model), expected)


@both
def test_a_value_assigned_between_calls_counts(donated):
    model, advance = make(donated)
    run(advance, 1.0)
    model.parts[1].value = jnp.zeros(2)
    first = values_of(model)[0]
    run(advance, 1.0, times=1)
    np.testing.assert_array_equal(values_of(model)[1], first + 1)
    model.rate.value = jnp.array(0.0)
    first = values_of(model)[0]
    run(advance, 1.0)
    np.testing.assert_array_equal(values_of(model)[0], first)


OPERATIONS = (
    "advance",
    "advance often",
    "measure often",
    "assign",
    "read",
    "half",
    "eager",
    "copy",
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), max_size=12), st.booleans())
def test_functions_that_take_turns_with_the_same_states_see_the_same_values(operations, donated):
    model, advance = make(donated)
    measure = sl.jit(lambda: model.parts[0].value.sum() + model.rate.value)

    @sl.jit
    def half():
        model.parts[0].value = model.parts[0].value / 2

    values, rate = [np.zeros(2, np.float32), np.ones(2, np.float32)], np.float32(1)
    for operation in operations:
        match operation:
            case "advance" | "advance often":
                for _ in range(MANY if "often" in operation else 1):
                    advance(0.5)
                    values = advanced(values, rate, np.float32(0.5))
            case "measure often":
                assert np.allclose(run(measure), values[0].sum() + rate)
            case "assign":
                model.rate.value, rate = jnp.array(0.25), np.float32(0.25)
            case "read":
                np.testing.assert_allclose(model.parts[1].value, values[1], rtol=1e-6)
            case "half":
                half()
                values = [values[0] / 2, values[1]]
            case "eager":
                first = model.parts[0]
                grad = sl.grad(lambda: (first.value**2).sum(), first)()  # noqa: B023
                np.testing.assert_allclose(grad, 2 * values[0], rtol=1e-6)
            case "copy":
                np.testing.assert_allclose(values_of(copy.deepcopy(model))[0], values[0], rtol=1e-6)
                loaded = pickle.loads(pickle.dumps(model.parts[1]))
                np.testing.assert_allclose(loaded.value, values[1], rtol=1e-6)
    np.testing.assert_allclose(values_of(model), values, rtol=1e-6)
    assert model.rate.value == rate


def test_old_values_are_freed():
    model, advance = make()
    run(advance, jnp.array(1.0))
    old = [weakref.ref(part.value) for part in model.parts]
    advance(jnp.array(1.0))
    assert [ref() for ref in old] == [None, None]


def test_values_outlive_the_function_and_keep_no_others_alive():
    model, advance = make()
    run(advance, 1.0)
    part, other = model.parts[0], weakref.ref(model.parts[1].value)
    expected = values_of(model)[0]
    del model, advance
    gc.collect()
    np.testing.assert_array_equal(part.value, expected)
    assert other() is None


@pytest.mark.parametrize("options", [{}, {"donate_states": True}])
def test_a_state_that_leads_to_the_function_is_no_leak(options):
    model = Counter()
    for state in (model.rate, *model.parts):
        state.owner = model
    model.advance = advance_function(model, **options)
    run(model.advance, 1.0)
    gone = weakref.ref(model)
    del model, state
    gc.collect()
    assert gone() is None


def test_a_plain_transform_around_calls_in_a_row_is_refused_and_loses_nothing():
    model, advance = make()
    run(advance, jnp.array(1.0))
    before = values_of(model)
    with pytest.raises(sl.TracerLeakError, match="a plain JAX transform is running"):
        jax.grad(advance)(1.0)
    np.testing.assert_array_equal(values_of(model), before)
    run(advance, jnp.array(1.0))
    assert not np.array_equal(values_of(model), before)


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize("first", [{}, {"name": "text"}, ()], ids=str)
@pytest.mark.parametrize("calls", [1, MANY])
def test_a_traced_value_behind_one_without_leaves_is_refused_too(first, calls):
    empty, total = sl.State(first), sl.State(jnp.array(0.0))

    @sl.jit
    def step(x):
        empty.value = dict(first) if isinstance(first, dict) else first
        total.value += x

    run(step, 1.0, times=calls)
    with pytest.raises(sl.TracerLeakError, match="a plain JAX transform is running"):
        jax.jit(lambda: (step(1.0), 1)[1])()
    assert total.value == calls


@pytest.mark.parametrize("is_written", [False, True])
def test_a_tree_that_gets_something_static_in_place(is_written):
    tree, total = sl.State({"w": jnp.array(1.0), "k": jnp.array(1.0)}), sl.State(jnp.array(0.0))

    @sl.jit
    def step(x):
        total.value += tree.value["w"] * x
        if is_written:
            tree.value = dict(tree.value)

    run(step, 1.0, times=2 * MANY)
    tree.value["k"] = "text"
    run(step, 1.0, times=2 * MANY)
    assert total.value == 4 * MANY
    assert tree.value["k"] == "text"


def in_a_row(**options):
    """Makes two states, a step of both that runs in a row, and what reads one of them."""
    first, second = sl.State(jnp.array(0.0)), sl.State(jnp.array(0.0))

    @sl.jit(**options)
    def step(x):
        first.value += x
        second.value += x

    measure = sl.jit(lambda x: first.value * x)
    run(measure, 1.0, times=4)
    run(step, 1.0, times=20)
    return first, second, step, measure


def interrupted(monkeypatch, owner, name):
    """Makes a method wait in all threads but this one; gives what tells that one waits."""
    method, this, waits = getattr(owner, name), threading.current_thread(), threading.Event()

    def slow(*args):
        out = method(*args)
        if threading.current_thread() is not this:
            waits.set()
            time.sleep(0.05)
        return out

    monkeypatch.setattr(owner, name, slow)
    return waits


def in_another_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.mark.parametrize("options", [{}], ids=["plain"])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"x": x}], ids=["array", "tree"])
def test_readers_in_other_threads_lose_nothing_and_see_nothing_old(options, wrap):
    other, total = sl.State(wrap(jnp.array(0.0))), sl.State(jnp.array(0.0))

    @sl.jit(**options)
    def step(x):
        other.value = jax.tree.map(lambda leaf: leaf + x, other.value)
        total.value += x

    seen, errors, is_done = [], [], threading.Event()

    def read():
        measure = sl.jit(lambda x: total.value + x)
        own = []
        seen.append(own)
        try:
            while not is_done.is_set():
                own.append(float(measure(0.0)))
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        run(step, 1.0, times=2000)
    finally:
        is_done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert total.value == jax.tree.leaves(other.value)[0] == 2000
    assert all(own == sorted(own) for own in seen)
    assert not errors


def test_a_program_does_not_run_in_an_overlay_that_has_ended():
    state = sl.State(jnp.array(1.0))

    @sl.jit
    def step():
        state.value += 1
        return state.value

    run(step)
    with sl.overlay({state: jnp.array(50.0)}):
        context = contextvars.copy_context()
    with pytest.raises(sl.EndedFrameError, match="has ended since"):
        context.run(step)
    assert state.value == 1 + MANY


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"x": x}], ids=["array", "tree"])
def test_a_traced_value_behind_one_that_is_not_is_refused_too(wrap):
    count, last = sl.State(jnp.array(0.0)), sl.State(jnp.array(0.0))

    @sl.jit
    def step(tree):
        count.value += 1
        last.value = sum(jax.tree.leaves(tree)) + last.value * count.value
        return last.value

    run(step, wrap(jnp.array(1.0)))
    before = float(last.value)
    with pytest.raises(sl.TracerLeakError, match="a plain JAX transform is running"):
        jax.grad(lambda x: step(wrap(x)))(1.0)
    assert last.value == before
    assert count.value == MANY


def test_states_can_be_differentiated_through_calls_in_a_row():
    model, advance = make()
    run(advance, jnp.array(1.0))
    assert sl.grad(advance, model.rate)(jnp.array(1.0)) == 2


def test_an_error_in_calls_in_a_row_leaves_the_states_as_they_were():
    model, advance = make()
    run(advance, jnp.array(1.0))
    before = values_of(model)
    with pytest.raises((TypeError, ValueError), match="shape"):
        advance(jnp.ones(3))
    np.testing.assert_array_equal(values_of(model), before)
    run(advance, jnp.array(0.0))
    np.testing.assert_array_equal(values_of(model)[0], before[0])


def test_other_shapes_and_other_writes_in_a_row():
    total, last = sl.State(jnp.array(0.0)), sl.State(jnp.array(0.0))

    @sl.jit
    def add(x):
        total.value += x.sum()
        if x.ndim:
            last.value = x[-1] + 0 * total.value
        return total.value + last.value

    few, many, expected = jnp.array(1.0), jnp.array([1.0, 2.0]), 0.0
    add(many)
    for times in (MANY, 1, MANY):
        expected = float(total.value)
        assert run(add, few, times=times) == expected + times + 2
        assert run(add, many, times=times) == expected + 4 * times + 2
        assert last.value == 2
    last.value = jnp.array(0.0)
    assert run(add, few) == total.value
    assert last.value == 0


class Table(eqx.Module):
    rows: list
    function: object = eqx.field(default=jnp.sin)


def array_or_table(state):
    """Functions that put an array or a tree in a state, and that show which it is."""

    @sl.jit
    def put(x):
        state.value = x if x.ndim else Table([x, x])

    @sl.jit
    def shown():
        return state.value.rows[0] if isinstance(state.value, Table) else state.value

    return put, shown


def test_a_state_that_holds_a_tree_or_an_array_by_turns():
    state = sl.State(jnp.array(0.0))

    put, shown = array_or_table(state)
    for times in (MANY, MANY, 1):
        run(put, jnp.ones(2), times=times)
        np.testing.assert_array_equal(run(shown, times=times), [1, 1])
        run(put, jnp.array(3.0), times=times)
        assert run(shown, times=times) == 3
        assert state.value.rows[1] == 3
        assert run(shown, times=times) == 3


@pytest.mark.parametrize("is_known", [False, True])
def test_a_tree_that_takes_an_arrays_place_in_a_row_is_seen_by_others(is_known):
    state = sl.State(jnp.ones(2))

    put, shown = array_or_table(state)
    if is_known:
        put(jnp.array(3.0))
    run(put, jnp.ones(2))
    np.testing.assert_array_equal(run(shown), [1, 1])
    run(put, jnp.ones(2))
    put(jnp.array(3.0))
    assert state.value.rows[1] == 3
    assert shown() == 3


def test_a_list_that_grows_between_calls_in_a_row():
    model = Counter()
    total = sl.jit(lambda: sum(part.value.sum() for part in model.parts))
    assert run(total) == 2
    model.parts.append(sl.ParamState(jnp.full(2, 3.0)))
    assert run(total) == 8
    del model.parts[0]
    assert run(total) == 8


def test_a_list_that_a_row_of_calls_meets_later_is_seen_to_grow():
    model, view = Counter(), Counter()
    view.parts = model.parts[1:]

    @sl.jit
    def total(x):
        parts = [*model.parts, *view.parts] if x.ndim else model.parts
        return sum(part.value.sum() for part in parts)

    assert run(total, jnp.array(0.0)) == 2
    assert total(jnp.ones(1)) == 4
    view.parts.append(model.parts[1])
    assert total(jnp.ones(1)) == 6
    assert run(total, jnp.ones(1)) == 6
    del view.parts[0]
    assert total(jnp.ones(1)) == 4


def test_an_attribute_set_between_calls_in_a_row():
    model, advance = make()
    run(advance, 1.0)
    model.parts = model.parts[::-1]
    before = values_of(model)
    advance(1.0)
    np.testing.assert_array_equal(values_of(model), advanced(before, 1.0, 1.0))


def test_a_tree_that_is_changed_in_place_between_calls_in_a_row():
    table, plain = sl.State(Table([jnp.zeros(2)])), sl.State({"a": jnp.zeros(2)})
    total = sl.jit(lambda: table.value.rows[0].sum() + plain.value["a"].sum())
    assert run(total) == 0
    table.value.rows[0] = jnp.ones(2)
    plain.value["a"] = jnp.ones(2)
    assert run(total) == 4
    tree = table.value
    run(total)
    tree.rows[0] = jnp.full(2, 2.0)
    assert total() == 6


def halved(tree, times):
    return jax.tree.map(lambda leaf: leaf / 2**times if eqx.is_array(leaf) else leaf, tree)


def test_equinox_layers_written_in_a_row():
    layer = sl.State(eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0)))
    reference = layer.value

    @sl.jit
    def halve(x):
        layer.value = jax.tree.map(
            lambda leaf: leaf / 2 if eqx.is_array(leaf) else leaf, layer.value
        )
        return layer.value(x)

    for _ in range(MANY):
        out = halve(jnp.ones(2))
    reference = halved(reference, MANY)
    np.testing.assert_allclose(out, reference(jnp.ones(2)), rtol=1e-6)
    held = layer.value
    held.layers[0].weight.block_until_ready()
    assert eqx.tree_equal(held, reference)
    run(halve, jnp.ones(2))
    reference = halved(reference, MANY)
    assert eqx.tree_equal(layer.value, reference)


@both
def test_arguments_of_all_kinds_in_a_row(donated):
    total = sl.State(jnp.array(0.0))

    @sl.jit(donate_states=donated or None, static_argnames="sign")
    def add(*numbers, sign=1, tree=()):
        total.value += sign * (sum(numbers) + sum(jax.tree.leaves(tree)))
        return total.value

    one = jnp.array(1.0)
    expected = 0.0
    for args, kwargs in [
        ((), {}),
        ((one,), {}),
        ((one, 1.0), {}),
        ((one, 2, one), {}),
        ((one, one, one, one), {}),
        ((np.float32(1), True), {}),
        ((one,), {"tree": {"a": one, "b": [one]}}),
        ((one, one), {"sign": -1}),
    ]:
        for _ in range(MANY):
            expected += kwargs.get("sign", 1) * float(
                sum(args) + sum(jax.tree.leaves(kwargs.get("tree", ())))
            )
            assert add(*args, **kwargs) == expected
    assert total.value == expected


def test_arguments_that_are_trees_in_a_row():
    total = sl.State(jnp.array(0.0))

    @sl.jit
    def add(layer, scale):
        total.value += layer(jnp.ones(2)).sum() * scale["scale"]
        return total.value

    layers = [eqx.nn.Linear(2, 2, key=jax.random.key(seed)) for seed in (0, 1)]
    expected = 0.0
    for layer in (*layers, layers[0]):
        for _ in range(MANY):
            expected += float(layer(jnp.ones(2)).sum()) * 2
            np.testing.assert_allclose(add(layer, {"scale": 2.0}), expected, rtol=1e-5)


def test_a_thread_may_read_while_another_one_runs_and_writes():
    model, advance = make()

    def run_and_write():
        for number in range(300):
            advance(1.0)
            if number % 20 == 0:
                model.rate.value = jnp.array(1.0)

    seen = seen_meanwhile(lambda: float(model.parts[0].value[0]), run_and_write)
    assert values_of(model)[0][0] == 300
    assert seen == sorted(seen)


def test_a_callback_that_writes_in_the_middle_of_a_call_is_overwritten_by_it():
    state, other = sl.State(jnp.array(0.0)), sl.State(jnp.array(0.0))

    def write():
        other.value = jnp.array(5.0)

    @sl.jit
    def step():
        jax.debug.callback(write, ordered=True)
        state.value += 1
        return state.value + other.value

    for _ in range(MANY):
        step()
    jax.effects_barrier()
    assert state.value == MANY
    assert other.value == 5
    assert step() == MANY + 6


def test_random_states_draw_on_in_a_row():
    rng, twin = sl.random.RandomState(0), sl.random.RandomState(0)
    draw = sl.jit(lambda: rng.normal(size=()))
    drawn = [float(draw()) for _ in range(2 * MANY)]
    assert drawn == [float(twin.normal(size=())) for _ in range(2 * MANY)]
    rng.seed(0)
    assert float(draw()) == drawn[0]


def test_no_trace_is_made_for_calls_in_a_row():
    model = Counter()
    advance = advance_function(model, max_traces=1)
    run(advance, 1.0, times=3 * MANY)
    values_of(model)
    model.rate.value = jnp.array(2.0)
    run(advance, 1.0, times=3 * MANY)
    assert len(advance.states.written) == 2


@pytest.mark.parametrize(
    ("options", "args"),
    [
        ({"static_argnums": 0}, (3,)),
        ({"static_argnums": 1}, (1.0, 3)),
        ({"static_argnames": "n"}, (1.0, 3)),
        ({"static_argnames": "n"}, (3,)),
    ],
)
@pytest.mark.parametrize("writes", [False, True])
def test_static_arguments_in_a_row(options, args, writes):
    total = sl.State(jnp.array(0.0))

    def add(x, n):
        assert isinstance(n, int)
        if not writes:
            return total.value + n * x
        for _ in range(n):
            total.value += x
        return total.value

    step = sl.jit(add if len(args) == 2 else (lambda n: add(1.0, n)), max_traces=1, **options)
    for count in range(1, 2 * MANY):
        assert step(*args) == (3 * count if writes else 3)


def test_a_static_argument_of_a_method_in_a_row():
    class Model(Counter):
        @sl.jit(static_argnums=1)
        def advance(self, n):
            for _ in range(n):
                self.rate.value += 1

    model = Model()
    run(model.advance, 2)
    assert model.rate.value == 1 + 2 * MANY


def tree_first():
    """Makes a state that holds a tree, and a step of no argument that writes it."""
    tree = sl.State({"a": jnp.array(0.0)})

    @sl.jit
    def step():
        tree.value = {"a": tree.value["a"] + 1}
        return {"a": tree.value["a"], "label": "text"}

    return tree, step


def test_what_a_step_returns_in_a_row_is_put_together_where_a_state_holds_a_tree():
    _, step = tree_first()
    assert run(step, times=2 * MANY) == {"a": 2 * MANY, "label": "text"}


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_a_traced_tree_is_refused_in_a_row_of_calls_without_arguments():
    tree, step = tree_first()
    run(step, times=2 * MANY)
    with pytest.raises(sl.TracerLeakError, match="a plain JAX transform is running"):
        jax.jit(lambda: step()["a"])()
    assert tree.value == {"a": 2 * MANY}
    assert run(step)["a"] == 3 * MANY
