"""Packed states: many values in one array between calls, and nobody must notice."""

import copy
import gc
import pickle
import re
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import on_four_devices
from hypothesis import given, settings
from hypothesis import strategies as st
from threads import seen_meanwhile

import statelens as sl

MANY = 12
"""So many calls that the buffers, too, stay where the program has left them."""


class Net(sl.nn.Module):
    """States of two dtypes that are written, and others that don't belong in a buffer."""

    def __init__(self):
        super().__init__()
        self.weights = [
            sl.ParamState(jnp.zeros(2), tag="a"),
            sl.ParamState(jnp.ones((2, 3)), tag="b"),
            sl.ParamState(jnp.ones((), jnp.float32), tag="c"),
        ]
        self.counts = [sl.State(jnp.zeros(2, int)), sl.State(jnp.ones((), jnp.int32))]
        self.rate = sl.State(jnp.ones(()), name="rate")
        self.tree = sl.State({"a": jnp.zeros(2)})


def advance_function(net, **options):
    @sl.jit(**{"pack_states": True, **options})
    def advance(x):
        first, second, third = net.weights
        first.value += net.rate.value * x
        second.value += first.value[:, None]
        third.value = third.value / 2
        for count in net.counts:
            count.value += 1
        net.tree.value = {"a": net.tree.value["a"] + x}
        return second.value.sum()

    return advance


def advanced(values, rate, x):
    first, second, third, *counts, tree = values
    first = first + rate * x
    return [first, second + first[:, None], third / 2, *(count + 1 for count in counts), tree + x]


START = [np.zeros(2), np.ones((2, 3)), np.ones(()), np.zeros(2, int), np.ones((), int), np.zeros(2)]


def states_of(net):
    return [*net.weights, *net.counts]


def values_of(net):
    return [*(np.asarray(state.value) for state in states_of(net)), np.asarray(net.tree.value["a"])]


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def run(function, *args, times=MANY):
    for _ in range(times):
        out = function(*args)
    return out


def inputs(function, *args):
    """What the program takes, as the text of its signature."""
    text = function.lower(*args).as_text()
    return re.findall(r"tensor<[^>]*>", re.search(r"@main\((.*?)\) ->", text, re.DOTALL)[1])


both = pytest.mark.parametrize("donated", [None, True], ids=["kept", "donated"])


@both
def test_what_is_written_goes_in_one_array_for_each_dtype(donated):
    net = Net()
    advance = advance_function(net, donate_states=donated)
    # The weights, the counts; the rate is only read, and the tree stays a tree.
    expected = sorted(["tensor<9xf32>", "tensor<3xi32>", "tensor<f32>", "tensor<2xf32>"])
    assert sorted(inputs(advance, jnp.ones(()))) == sorted([*expected, "tensor<f32>"])


@both
def test_values_are_read_between_calls(donated):
    net = Net()
    advance, expected = advance_function(net, donate_states=donated), START
    for _ in range(2 * MANY):
        out = advance(1.0)
        expected = advanced(expected, 1.0, 1.0)
        close(values_of(net), expected)
        assert out == expected[1].sum()
    run(advance, 1.0)
    for _ in range(MANY):
        expected = advanced(expected, 1.0, 1.0)
    close(values_of(net), expected)
    assert [str(state.value.dtype) for state in states_of(net)] == ["float32"] * 3 + ["int32"] * 2


OPERATIONS = (
    "advance",
    "advance often",
    "measure often",
    "assign",
    "assign packed",
    "assign another shape",
    "read",
    "half",
    "half of all",
    "eager",
    "inside",
    "copy",
    "fail",
    "new function",
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), max_size=12), st.booleans())
def test_functions_that_take_turns_with_the_same_states_see_the_same_values(operations, donated):
    net, options = Net(), {"donate_states": donated}
    advance = advance_function(net, **options)
    first = net.weights[0]
    measure = sl.jit(lambda: first.value.sum() + net.rate.value)

    @sl.jit
    def half():
        first.value = first.value / 2

    @sl.jit(pack_states=True)
    def half_of_all():
        for state in net.weights:
            state.value = state.value / 2

    values, rate = START, 1.0
    for operation in operations:
        match operation:
            case "advance" | "advance often":
                for _ in range(MANY if "often" in operation else 1):
                    advance(0.5)
                    values = advanced(values, rate, 0.5)
            case "measure often":
                np.testing.assert_allclose(run(measure), values[0].sum() + rate, rtol=1e-6)
            case "assign":
                net.rate.value, rate = jnp.array(0.25, jnp.float32), 0.25
            case "assign packed":
                first.value, values = jnp.full(2, 3.0), [np.full(2, 3.0), *values[1:]]
            case "assign another shape":
                columns = 5 - values[1].shape[1]  # 2 and 3 by turns
                net.weights[1].value = jnp.ones((2, columns))
                values = [values[0], np.ones((2, columns)), *values[2:]]
            case "read":
                np.testing.assert_allclose(net.weights[1].value, values[1], rtol=1e-6)
            case "half":
                half()
                values = [values[0] / 2, *values[1:]]
            case "half of all":
                half_of_all()
                values = [*(value / 2 for value in values[:3]), *values[3:]]
            case "eager":
                grad = sl.grad(lambda: (first.value**2).sum(), first)()
                np.testing.assert_allclose(grad, 2 * values[0], rtol=1e-6)
            case "inside":
                sl.transform.for_loop(advance, jnp.array([0.5, 1.0]))
                values = advanced(advanced(values, rate, 0.5), rate, 1.0)
            case "copy":
                close(values_of(copy.deepcopy(net)), values)
                loaded = pickle.loads(pickle.dumps(net.weights[1]))
                np.testing.assert_allclose(loaded.value, values[1], rtol=1e-6)
            case "fail":
                with pytest.raises((TypeError, ValueError), match=r"(?i)shape|broadcast"):
                    advance(jnp.ones(7))
            case "new function":
                advance = advance_function(net, **options)
    close(values_of(net), values)
    assert net.rate.value == rate


def test_the_body_runs_once_for_each_trace():
    net, runs = Net(), []

    @sl.jit(pack_states=True)
    def step(x):
        runs.append(x)
        for state in net.weights:
            state.value = state.value + x.sum()

    run(step, jnp.ones(()))
    assert len(runs) == 1
    net.weights[0].value = jnp.ones(2)
    run(step, jnp.ones(()))
    assert len(runs) == 1
    run(step, jnp.ones(3))
    assert len(runs) == 2
    net.weights[0].value = jnp.ones(4)
    run(step, jnp.ones(3))
    assert len(runs) == 3
    net.weights[0].value = jnp.ones(2)
    run(step, jnp.ones(()))
    assert len(runs) == 3
    np.testing.assert_array_equal(net.weights[0].value, np.full(2, 1.0 + MANY))


def test_the_body_runs_twice_if_it_touches_a_state_that_cannot_be_found():
    hidden, runs = iter([sl.State(jnp.zeros(2)), sl.State(jnp.zeros(3))]), []
    cells = {}

    class Opaque:
        def __getitem__(self, key):
            return cells.setdefault(key, None) or cells.__setitem__(key, next(hidden)) or cells[key]

    opaque = Opaque()

    def body():
        runs.append(0)
        for key in "ab":
            opaque[key].value += 1

    step = sl.jit(body, pack_states=True)
    run(step)
    assert len(runs) <= 2
    np.testing.assert_array_equal(cells["b"].value, np.full(3, MANY))


@pytest.mark.parametrize(
    ("spec", "packed"),
    [
        (lambda net: sl.ParamState, "9xf32"),
        (lambda net: sl.tagged("a") | sl.tagged("c"), "3xf32"),
        (lambda net: net.states("weights[1:]"), "7xf32"),
        (lambda net: net.counts, "3xi32"),
        (lambda net: [net.rate, *net.weights[:2]], "8xf32"),
    ],
    ids=["class", "tag", "bound", "list", "one that is only read"],
)
def test_the_states_to_pack_are_chosen(spec, packed):
    net = Net()
    advance = advance_function(net, pack_states=spec(net))
    assert f"tensor<{packed}>" in inputs(advance, jnp.ones(()))
    run(advance, 1.0)
    expected = START
    for _ in range(MANY):
        expected = advanced(expected, 1.0, 1.0)
    close(values_of(net), expected)


@pytest.mark.parametrize("spec", [None, False])
def test_nothing_is_packed_unless_it_is_asked_for(spec):
    net = Net()
    advance = advance_function(net, pack_states=spec)
    assert len(inputs(advance, jnp.ones(()))) == 8


def test_what_can_not_be_packed_is_passed_as_it_is():
    rng = sl.random.RandomState(0)
    one, tree, number = sl.State(jnp.zeros(2)), sl.State([jnp.zeros(2)]), sl.State(2)
    legacy = sl.State(jax.random.key(0))

    @sl.jit(pack_states=True)
    def step():
        one.value += rng.normal(size=2)
        tree.value = [one.value]
        number.value = number.value * 2
        legacy.value = jax.random.split(legacy.value)[0]

    run(step)
    twin = sl.random.RandomState(0)
    np.testing.assert_allclose(one.value, sum(twin.normal(size=2) for _ in range(MANY)), rtol=1e-5)
    np.testing.assert_array_equal(tree.value[0], one.value)
    assert number.value == 2 ** (MANY + 1)
    assert jnp.issubdtype(legacy.value.dtype, jax.dtypes.prng_key)


def test_arrays_of_numpy_are_packed_and_stay_where_they_are_if_the_first_call_fails():
    states = [sl.State(np.ones(2)), sl.State(np.ones(3))]
    before = [state.value for state in states]

    @sl.jit(pack_states=True)
    def step(x):
        jax.debug.callback(check, x)
        for state in states:
            state.value = state.value + x

    def check(x):
        if x < 0:
            raise RuntimeError("negative")

    with pytest.raises(RuntimeError, match="negative"):
        step(-1.0)
    assert [state.value for state in states] == before
    assert "tensor<5xf32>" in inputs(step, 1.0)
    run(step, 1.0)
    np.testing.assert_array_equal(states[1].value, np.full(3, 1.0 + MANY))


def test_weak_types_are_what_they_are_without_packing():
    def types(**options):
        states = [sl.State(jnp.asarray(1.0)), sl.State(jnp.asarray(2.0)), sl.State(jnp.ones(()))]
        found = []

        @sl.jit(**options)
        def step(x):
            for state in states:
                state.value = state.value * 2 + x

        for x in (1.0, 1.0, np.float32(1), np.float32(1)):
            step(x)
            found += [(state.value.weak_type, float(state.value)) for state in states]
        return found

    assert types(pack_states=True) == types()


def test_empty_arrays_and_many_dtypes():
    kinds = [bool, jnp.int8, jnp.uint32, jnp.float16, jnp.bfloat16, jnp.complex64]
    states = [sl.State(jnp.ones(shape, kind)) for kind in kinds for shape in [(0,), (), (2, 0), 3]]

    @sl.jit(pack_states=True)
    def flip():
        for state in states:
            state.value = ~state.value if state.value.dtype == bool else -state.value

    run(flip, times=MANY + 1)
    for state, kind in zip(states, np.repeat(kinds, 4), strict=True):
        one = np.ones(state.value.shape, kind)
        assert state.value.dtype == kind
        np.testing.assert_array_equal(state.value, ~one if kind is bool else -one)


@both
def test_an_error_leaves_the_states_as_they_were(donated):
    net = Net()
    advance = advance_function(net, donate_states=donated)
    run(advance, 1.0)
    before = values_of(net)
    with pytest.raises((TypeError, ValueError), match=r"(?i)shape|broadcast"):
        advance(jnp.ones(7))
    close(values_of(net), before)
    run(advance, 0.0, times=1)
    close(values_of(net)[:1], before[:1])


def test_an_error_while_the_program_runs_leaves_the_states_as_they_were():
    net = Net()

    def check(x):
        if x < 0:
            raise RuntimeError("negative")

    @sl.jit(pack_states=True)
    def step(x):
        jax.debug.callback(check, x)
        for state in net.weights:
            state.value = state.value + x

    run(step, 1.0)
    before = values_of(net)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="negative"):
            step(-1.0)
        close(values_of(net), before)
    step(1.0)
    close(values_of(net)[:3], [value + 1 for value in before[:3]])


def test_a_state_whose_array_was_donated_to_a_program_that_failed_can_be_assigned_again():
    states = [sl.State(jnp.ones(2)), sl.State(jnp.ones(3))]

    def check(x):
        if x < 0:
            raise RuntimeError("negative")

    @sl.jit(pack_states=True, donate_states=True)
    def step(x):
        jax.debug.callback(check, x)
        for state in states:
            state.value = state.value + x

    step(1.0)
    with pytest.raises(RuntimeError, match="negative"):
        step(-1.0)
    assert all(state.value.is_deleted() for state in states)
    for state in states:
        state.value = jnp.zeros(2)
    run(step, 1.0)
    np.testing.assert_array_equal(states[1].value, np.full(2, MANY))


def test_states_that_are_donated_and_others_are_packed_by_themselves():
    net = Net()
    advance = advance_function(net, donate_states=sl.tagged("a") | sl.tagged("b"))
    assert {"tensor<8xf32>", "tensor<3xi32>"} <= set(inputs(advance, jnp.ones(())))
    held, expected = net.weights[0].value, START
    for _ in range(2 * MANY):
        advance(1.0)
        expected = advanced(expected, 1.0, 1.0)
    close(values_of(net), expected)
    np.testing.assert_array_equal(held, np.zeros(2))
    read = net.weights[0].value
    advance(1.0)
    assert not read.is_deleted()


def test_a_trace_that_writes_some_of_the_packed_states():
    states = [sl.State(jnp.zeros(n)) for n in (1, 2, 3)]

    @sl.jit(pack_states=True, static_argnames="which")
    def step(which):
        for number in which:
            states[number].value += 1

    expected = [0, 0, 0]
    for which in [(0, 1, 2), (1,), (0, 2), (), (0, 1, 2)]:
        run(lambda: step(which=which))  # noqa: B023
        expected = [n + MANY * (number in which) for number, n in enumerate(expected)]
        assert [float(state.value.max()) for state in states] == expected


def test_a_trace_that_only_reads_states_whose_values_were_assigned_by_numpy():
    states = [sl.State(jnp.zeros(n)) for n in (1, 2)]

    @sl.jit(pack_states=True, static_argnames="writes")
    def step(writes):
        for state in states if writes else ():
            state.value += 1
        return sum(state.value.sum() for state in states)

    assert step(writes=True) == 3
    for state in states:
        state.value = np.full(state.value.shape, 2, np.float32)
    for _ in range(MANY):
        assert step(writes=False) == 6
    assert isinstance(states[0].value, np.ndarray)
    assert step(writes=True) == 9


def test_what_is_donated_but_not_written_is_not_lost_when_another_state_leaves_the_buffer():
    one, two = sl.State(jnp.zeros(2)), sl.State(jnp.full(3, 5, jnp.float32))

    @sl.jit(pack_states=True, donate_states=True, static_argnames="both")
    def step(x, both):
        one.value = x + 0 * one.value.sum()
        if both:
            two.value += 1
        return jnp.full(5, x[0])  # it can take the place of what is donated

    step(jnp.ones(2), both=True)
    step(jnp.ones(4), both=False)
    np.testing.assert_array_equal(two.value, np.full(3, 6.0))
    np.testing.assert_array_equal(one.value, np.ones(4))


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@both
def test_a_trace_that_gives_a_packed_state_another_shape_or_a_tree(donated):
    one, two = sl.State(jnp.zeros(2)), sl.State(jnp.zeros(3))

    @sl.jit(pack_states=True, donate_states=donated)
    def step(x):
        two.value = two.value + 1
        one.value = [x] if x.ndim == 2 else x

    for x in [jnp.ones(2), jnp.ones(4), jnp.ones((1, 1)), jnp.ones(2), jnp.ones(2, int)]:
        for times in (1, 2, MANY):
            before = np.asarray(two.value)
            run(step, x, times=times)
            np.testing.assert_array_equal(two.value, before + times)
            (leaf,) = jax.tree.leaves(one.value)
            assert (leaf.shape, leaf.dtype) == (x.shape, x.dtype)


def test_a_program_that_was_compiled_ahead_of_time():
    net = Net()
    compiled = advance_function(net).lower(1.0).compile()
    expected = START
    for _ in range(3):
        compiled(1.0)
        expected = advanced(expected, 1.0, 1.0)
        close(values_of(net), expected)
    net.weights[0].value = jnp.zeros(2)
    compiled(1.0)
    expected = advanced([np.zeros(2), *expected[1:]], 1.0, 1.0)
    close(values_of(net), expected)
    with sl.overlay({net.weights[0]: jnp.ones(2)}) as trial:
        compiled(1.0)
    close([trial.writes[net.weights[0]]], [np.full(2, 2.0)])
    close(values_of(net), expected)


def test_a_program_compiled_for_another_shape_says_so():
    states = [sl.State(jnp.zeros((2, 3)), name="table"), sl.State(jnp.zeros(3))]

    @sl.jit(pack_states=True)
    def step():
        for state in states:
            state.value += 1

    compiled = step.lower().compile()
    compiled()
    states[0].value = jnp.zeros((3, 2))
    with pytest.raises(
        sl.StructureError, match=r"'table'.*\n.*float32 of shape \(2, 3\)\n.*compile the function"
    ):
        compiled()
    assert states[0].value.shape == (3, 2)
    step()
    assert (states[0].value == 1).all()


def test_looking_at_shapes_runs_nothing():
    net = Net()
    advance = advance_function(net)
    assert advance.eval_shape(1.0).shape == ()
    assert "concatenate" in str(advance.trace(1.0).jaxpr)
    close(values_of(net), START)
    assert set(advance.states.written) == {*states_of(net), net.tree}
    assert net.rate in advance.states.read


def test_without_jit_it_is_the_same():
    net = Net()
    advance = advance_function(net)
    run(advance, 1.0)
    with jax.disable_jit():
        advance(1.0)
    expected = START
    for _ in range(MANY + 1):
        expected = advanced(expected, 1.0, 1.0)
    close(values_of(net), expected)


def test_inside_of_other_transforms_each_state_has_a_value_by_itself():
    states = [sl.State(jnp.ones(())), sl.State(jnp.ones(2))]

    @sl.jit(pack_states=True)
    def step(x):
        states[0].value = states[0].value * x
        states[1].value = states[1].value + 1
        return states[0].value

    run(step, 2.0)
    start = float(states[0].value)
    assert sl.grad(step, states[0])(3.0) == 3
    assert sl.grad(step, argnums=0)(3.0) == 3 * start
    outer = sl.jit(lambda x: step(x) + 1)
    assert outer(2.0) == 18 * start + 1
    # One of them differs from lane to lane, and the other doesn't.
    lanes = sl.transform.vmap(step, out_states=states[0])
    lanes(jnp.arange(3.0))
    np.testing.assert_array_equal(states[0].value, 18 * start * jnp.arange(3.0))
    assert states[1].value.shape == (2,)
    states[0].value = jnp.ones(())
    assert step(2.0) == 2


def test_a_plain_transform_around_it_is_refused_and_loses_nothing():
    net = Net()
    advance = advance_function(net)
    run(advance, 1.0)
    before = values_of(net)
    for transform in (jax.grad, jax.jit):
        with pytest.raises(sl.TracerLeakError, match="a plain JAX transform is running"):
            transform(advance)(1.0)
        close(values_of(net), before)
    assert jax.jit(lambda x: net.weights[0].value * x)(2.0).shape == (2,)
    assert jax.jit(lambda x: net.weights[1].value * x)(2.0).shape == (2, 3)
    close(values_of(net), before)
    net.weights[0].value = jnp.zeros(2)
    with pytest.raises(sl.TracerLeakError, match="a plain JAX transform is running"):
        jax.jit(advance)(1.0)
    close(values_of(net), [np.zeros(2), *before[1:]])
    advance(1.0)
    close(values_of(net), advanced([np.zeros(2), *before[1:]], 1.0, 1.0))


def test_a_value_that_was_read_is_the_same_object_until_the_next_call():
    net = Net()
    advance = advance_function(net)
    run(advance, 1.0)
    read = net.weights[1].value
    assert net.weights[1].value is read
    net.weights[0].value = jnp.zeros(2)
    assert net.weights[1].value is read
    run(advance, 1.0)
    assert net.weights[1].value is not read


def test_old_values_are_freed():
    net = Net()
    advance = advance_function(net)
    run(advance, jnp.array(1.0))
    old = [weakref.ref(state.value) for state in net.weights]
    advance(jnp.array(1.0))
    assert [ref() for ref in old] == [None] * 3


def test_values_outlive_the_function_and_keep_no_other_states_alive():
    net = Net()
    advance = advance_function(net)
    run(advance, 1.0)
    state, other = net.weights[0], weakref.ref(net.weights[1])
    expected = values_of(net)[0]
    run(advance, 0.0, times=1)
    del net, advance
    gc.collect()
    assert other() is None
    np.testing.assert_array_equal(state.value, expected)
    step = sl.jit(lambda: setattr(state, "value", state.value + 1))
    run(step)
    np.testing.assert_array_equal(state.value, expected + MANY)


@pytest.mark.parametrize("is_read", [False, True])
def test_states_of_a_function_that_is_gone_are_assigned_and_taken(is_read):
    net = Net()
    advance = advance_function(net)
    run(advance, 1.0)
    expected = START
    for _ in range(MANY):
        expected = advanced(expected, 1.0, 1.0)
    if is_read:
        values_of(net)
    advance.clear_cache()
    del advance
    gc.collect()
    net.weights[0].value, expected = jnp.zeros(2), [np.zeros(2), *expected[1:]]
    third, last = net.weights[2], net.counts[1]
    total = sl.jit(lambda: third.value + last.value)
    np.testing.assert_allclose(run(total), expected[2] + expected[4], rtol=1e-6)
    close(values_of(net), expected)
    run(advance_function(net), 1.0, times=1)
    close(values_of(net), advanced(expected, 1.0, 1.0))


def test_functions_and_states_are_copied():
    net = Net()
    advance = advance_function(net)
    run(advance, 1.0)
    twin = copy.deepcopy(net)
    close(values_of(twin), values_of(net))
    run(advance_function(twin), 1.0)
    before = values_of(net)
    assert not np.array_equal(values_of(twin)[0], before[0])
    loaded = pickle.loads(pickle.dumps(net.weights))
    close([state.value for state in loaded], before[:3])


class Walker(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.position, self.steps = sl.State(jnp.zeros(2)), sl.State(jnp.zeros(()))
        self.speed = sl.State(jnp.ones(2))

    @sl.jit(pack_states=True)
    def walk(self, x):
        self.position.value += self.speed.value * x
        self.steps.value = self.steps.value + jnp.ones(())


def test_a_method_packs_the_states_of_each_object():
    walkers = Walker(), Walker()
    for walker, x in zip(walkers, (1.0, 2.0), strict=True):
        run(walker.walk, x)
    for walker, x in zip(walkers, (1.0, 2.0), strict=True):
        np.testing.assert_array_equal(walker.position.value, np.full(2, MANY * x))
        assert walker.steps.value == MANY


def test_two_functions_that_pack_the_same_states_take_turns():
    states = [sl.State(jnp.zeros(n)) for n in (1, 2, 3)]

    def function(part, step):
        def run():
            for state in part:
                state.value += step

        return sl.jit(run, pack_states=True)

    up, down = function(states, 2), function(states[1:], -1)
    for times in (1, MANY, 2):
        before = [float(state.value[0]) for state in states]
        run(up, times=times)
        run(down, times=times)
        run(up, times=1)
        found = [float(state.value[0]) for state in states]
        assert found == [n + 2 * (times + 1) - times * bool(k) for k, n in enumerate(before)]


@pytest.mark.parametrize("times", [2, MANY])
def test_a_program_that_has_run_before_the_states_were_packed_goes_on(times):
    net = Net()
    advance, first = advance_function(net), net.weights[0]
    total = sl.jit(lambda: first.value.sum())
    assert run(total, times=times) == 0
    advance(1.0)
    assert run(total, times=times) == 2
    advance(1.0)
    assert run(total, times=times) == 4


def test_states_that_are_made_in_a_trace_are_not_packed():
    def fun(x):
        states = [sl.State(x), sl.State(2 * x)]

        @sl.jit(pack_states=True)
        def step():
            for state in states:
                state.value = 2 * state.value

        step(), step()
        return states[0].value + states[1].value

    for transform in (jax.jit, sl.jit, jax.vmap):
        np.testing.assert_array_equal(transform(fun)(jnp.ones(2)), [12, 12])
    assert jax.grad(fun)(1.0) == 12


def test_an_attribute_of_a_module_that_changes_between_calls():
    net = Net()
    advance = advance_function(net)
    run(advance, 1.0)
    net.weights = [net.weights[0], sl.ParamState(jnp.ones((2, 3))), net.weights[2]]
    before = values_of(net)
    run(advance, 1.0, times=2)
    close(values_of(net), advanced(advanced(before, 1.0, 1.0), 1.0, 1.0))


def test_a_training_step_with_a_layer_of_equinox_beside_it():
    layer = sl.State(eqx.nn.Linear(2, 2, key=jax.random.key(0)))
    scale, shift = sl.ParamState(jnp.ones(2)), sl.ParamState(jnp.zeros(2))

    def step_function(layer, scale, shift, **options):
        @sl.jit(**options)
        def step(x):
            def loss():
                return jnp.sum((layer.value(x) * scale.value + shift.value - 1) ** 2)

            grads, value = sl.grad(loss, [scale, shift], return_value=True)()
            for state, grad in zip((scale, shift), grads, strict=True):
                state.value -= 0.1 * grad
            return value

        return step

    twins = copy.deepcopy((layer, scale, shift))
    packed = step_function(layer, scale, shift, pack_states=True)
    plain = step_function(*twins)
    for _ in range(MANY):
        np.testing.assert_allclose(packed(jnp.ones(2)), plain(jnp.ones(2)), rtol=1e-5)
    np.testing.assert_allclose(scale.value, twins[1].value, rtol=1e-5)


def test_a_thread_may_read_while_another_one_runs_and_writes():
    net = Net()
    advance = advance_function(net)

    def run_and_write():
        for number in range(200):
            advance(1.0)
            if number % 20 == 0:
                net.weights[2].value = jnp.ones((), jnp.float32)

    seen = seen_meanwhile(lambda: float(net.weights[0].value[0]), run_and_write)
    assert net.weights[0].value[0] == 200
    assert seen == sorted(seen)


def test_values_that_lie_on_several_devices_are_not_packed():
    on_four_devices("""
    import jax, jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec as P
    import statelens as sl

    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def step_of(states):
        @sl.jit(pack_states=True)
        def step(x):
            for state in states:
                state.value = state.value + x
        return step

    def run(x):
        for _ in range(12):
            step(x)

    states = [sl.State(jnp.ones(8)), sl.State(jnp.ones(8)), sl.State(jnp.ones(8))]
    step = step_of(states)
    run(1.0)
    for state in states[:2]:
        state.value = jax.device_put(state.value, NamedSharding(mesh, P("x")))
    spread = states[0].value.sharding
    states[2].value = jax.device_put(states[2].value, NamedSharding(mesh, P()))
    run(1.0)
    assert states[0].value.sharding.is_equivalent_to(spread, 1)
    assert "concatenate" not in str(step.trace(1.0).jaxpr)
    assert all((state.value == 25).all() for state in states)
    one, other = jax.devices()[:2]
    states = [sl.State(jax.device_put(jnp.ones(2), device)) for device in (one, one, other)]
    try:
        step_of(states)(1.0)
    except ValueError as error:
        assert "devices" in str(error), error
    else:
        raise AssertionError
    assert [state.value.device for state in states] == [one, one, other]
    """)
