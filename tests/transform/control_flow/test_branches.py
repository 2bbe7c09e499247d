"""`cond`, `switch` and `ifelse`, against `jax.lax` on the pure form."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import Boom, close, operations

close = functools.partial(close, rtol=1e-6)

T = sl.transform
F32 = jnp.float32


class World(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = sl.ParamState(jnp.array(2.0, F32), name="a")
        self.b = sl.ParamState(jnp.array(3.0, F32), name="b")
        self.c = sl.ParamState(jnp.array(5.0, F32), name="c")

    def write_a(self, x):
        self.a.value = self.b.value * x
        return x + self.a.value

    def write_b(self, x):
        self.b.value = self.a.value - x
        return x * self.b.value

    def only_read(self, x):
        return self.c.value * x


def plain_a(values, x):
    _, b, c = values
    return x + b * x, (b * x, b, c)


def plain_b(values, x):
    a, _, c = values
    return x * (a - x), (a, a - x, c)


def plain_read(values, x):
    return values[2] * x, values


PLAIN = [plain_a, plain_b, plain_read]
X = jnp.array(4.0, F32)


def values_of(world):
    return world.a.value, world.b.value, world.c.value


def branches_of(world):
    return [world.write_a, world.write_b, world.only_read]


# Against jax.lax.


@settings(max_examples=10)
@given(st.lists(st.booleans(), min_size=1, max_size=3), st.floats(-2, 2, width=32))
def test_cond(preds, x):
    world, x = World(), jnp.array(x, F32)
    values = values_of(world)
    for pred in preds:
        out, values = jax.lax.cond(pred, plain_a, plain_b, values, x)
        close(T.cond(pred, world.write_a, world.write_b, x), out)
        close(values_of(world), values)


@settings(max_examples=10)
@given(st.lists(st.integers(-3, 5), min_size=1, max_size=3), st.floats(-2, 2, width=32))
def test_switch_and_its_clamped_index(indices, x):
    world, x = World(), jnp.array(x, F32)
    values = values_of(world)
    for index in indices:
        out, values = jax.lax.switch(index, PLAIN, values, x)
        close(T.switch(index, branches_of(world), x), out)
        close(values_of(world), values)


@settings(max_examples=10)
@given(st.lists(st.booleans(), min_size=2, max_size=3), st.sampled_from([bool, int, jnp.asarray]))
def test_ifelse(conditions, kind):
    world = World()
    first = next((i for i, c in enumerate(conditions) if c), 2)
    if len(conditions) == 3 and not any(conditions):
        first, check = 0, False
    else:
        check = True
    out, values = PLAIN[first](values_of(world), X)
    given_conditions = list(map(kind, conditions))
    close(T.ifelse(given_conditions, branches_of(world), X, check_cond=check), out)
    close(values_of(world), values)


@pytest.mark.parametrize(
    ("pred", "taken"),
    [
        (True, 1), (False, 0), (0, 0), (1, 1), (-2, 1), (0.0, 0), (0.5, 1), (jnp.nan, 1),
        (np.bool_(True), 1), (np.int8(0), 0), (jnp.array(3), 1), (np.array(0.0), 0),
    ],
)  # fmt: skip
def test_predicates_as_numbers(pred, taken):
    hits = sl.State(jnp.zeros((), jnp.int32))

    def yes():
        hits.value += 1
        return 1

    assert T.cond(pred, yes, lambda: 0) == taken == hits.value
    assert jax.lax.cond(bool(pred), lambda: 1, lambda: 0) == taken


@pytest.mark.parametrize("index", [1, np.int64(1), np.uint8(1), jnp.array(1)])
def test_indices_of_all_kinds(index):
    assert T.switch(index, [lambda: 0, lambda: 10, lambda: 20]) == 10


def test_one_branch_alone():
    world = World()
    close(T.switch(7, [world.write_a], X), plain_a(values_of(World()), X)[0])
    close(T.ifelse([True], [world.write_b], X), plain_b(values_of(world), X)[0])
    assert T.ifelse([], [lambda: 3]) == 3


def test_operands_and_outputs_of_any_structure():
    seen = sl.State({"n": jnp.zeros(2), "m": (jnp.zeros(()),)})
    mlp = eqx.nn.MLP(2, 1, 3, 1, activation=jnp.sin, key=jax.random.key(0))

    def yes(model, batch):
        seen.value = {**seen.value, "n": batch["x"]}
        return {"y": model(batch["x"]), "model": model, "text": "same"}, None

    def no(model, batch):
        return {"y": jnp.zeros(1), "model": model, "text": "same"}, None

    batch = {"x": jnp.ones(2)}
    out, none = T.cond(jnp.array(True), yes, no, mlp, batch)
    close(out["y"], mlp(batch["x"]))
    assert (out["model"].activation, out["text"], none) == (jnp.sin, "same", None)
    close(seen.value, {"n": jnp.ones(2), "m": (jnp.zeros(()),)})


# The union of what is written.


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_each_branch_writes_another_state(taken):
    world = World()
    f = sl.jit(lambda index, x: T.switch(index, branches_of(world), x))
    expected, values = PLAIN[taken](values_of(world), X)
    close(f(taken, X), expected)
    close(values_of(world), values)
    assert set(f.states.written) == {world.a, world.b}
    assert set(f.states.read) == {world.a, world.b, world.c}


def test_a_state_that_no_branch_writes_is_closed_over_and_never_baked():
    world = World()
    for value in (5.0, 7.0):
        world.c.value = jnp.array(value, F32)
        before = world.c.value
        assert T.cond(True, world.only_read, world.write_a, X) == 4 * value
        assert world.c.value is before


def test_both_branches_write_nothing():
    world = World()
    before = values_of(world)
    T.cond(False, world.only_read, lambda x: x, X)
    assert all(map(lambda a, b: a is b, values_of(world), before))


def test_a_state_that_is_made_in_a_branch_is_an_output():
    def make(x):
        state = sl.HiddenState(x, name="made")
        state.value = state.value + 1
        return state

    out = T.cond(True, make, lambda x: sl.HiddenState(x, name="made"), X)
    assert (out.value, out.name) == (5, "made")


@pytest.mark.parametrize("number", [1, 1.5, True, np.float32(2)])
def test_numbers_that_branches_return_have_the_types_that_jax_gives_them(number):
    expected = jax.lax.cond(True, lambda x: number, lambda x: number, X)
    out = T.cond(True, lambda x: number, lambda x: number, X)
    assert (out, out.dtype, out.weak_type) == (expected, expected.dtype, expected.weak_type)


@pytest.mark.parametrize("number", [1.5, np.float32(2)])
def test_numbers_that_branches_write_take_the_type_of_the_state(number):
    state = sl.State(jnp.array(4.0, F32))
    for pred in (True, False):
        T.cond(pred, lambda x: setattr(state, "value", number), lambda x: None, X)
        assert (state.value, state.value.dtype) == (number, F32)


@pytest.mark.parametrize(
    "run",
    [
        lambda reset: T.cond(True, reset, lambda x: None, X),
        lambda reset: T.switch(0, [lambda x: None, reset], X),
        lambda reset: T.for_loop(reset, jnp.ones(2)),
        lambda reset: T.scan(lambda c, x: (c, reset(x)), X, jnp.ones(2)),
        lambda reset: T.while_loop(lambda i: i < 2, lambda i: (reset(i), i + 1)[1], 0),
    ],
    ids=["cond", "switch", "for_loop", "scan", "while_loop"],
)
def test_a_whole_number_written_to_a_float_state_is_refused_by_the_name_of_the_state(run):
    state = sl.State(jnp.array(4.0, F32), name="voltage")

    def reset(x):
        state.value = 0

    with pytest.raises(sl.StructureError, match="'voltage'"):
        run(reset)


def test_weak_outputs_take_the_type_of_the_others():
    out = T.cond(True, lambda x: 1.0, lambda x: x, X)
    assert (out, out.dtype) == (1, F32)
    assert T.switch(0, [lambda x: 0, lambda x: jnp.int32(x)], X).dtype == jnp.int32


# Refusals.


def test_a_state_that_branches_leave_with_different_kinds_is_named():
    world = World()

    def grow(x):
        world.a.value = jnp.ones(3)
        return x + x

    message = r"(?s)'a'\) as float32\[3?\], another one as float32\[3?\]"
    for run in (
        lambda: T.cond(True, grow, world.write_b, X),
        lambda: T.switch(0, [world.only_read, world.write_b, grow], X),
        lambda: T.ifelse([True], [world.only_read, grow], X),
        lambda: sl.jit(lambda: T.cond(True, grow, world.write_b, X))(),
    ):
        with pytest.raises(sl.StructureError, match=message):
            run()
    close(values_of(world), values_of(World()))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda x: (x, x), r"another's: it is a tuple of 2, not float32\[\]\n"),
        (lambda x: jnp.ones(2), r"another's: it is float32\[2\], not float32\[\]\n"),
        (lambda x: jnp.int32(1), r"another's: it is int32\[\], not float32\[\]\n"),
        (lambda x: None, r"another's: it is None, not float32\[\]\n"),
    ],
    ids=["structure", "shape", "dtype", "none"],
)
def test_outputs_that_differ_are_shown(other, match):
    world = World()
    with pytest.raises(sl.StructureError, match=match):
        T.cond(True, world.write_a, other, X)
    with pytest.raises(sl.StructureError, match="asked switch to run one of 3 branches"):
        T.switch(0, [world.write_a, world.write_b, other], X)
    close(values_of(world), values_of(World()))


def test_texts_that_differ_are_refused():
    with pytest.raises(sl.StructureError, match=r"another's: '\[1\]' is 'no', not 'yes'\n"):
        T.cond(True, lambda: (1.0, "yes"), lambda: (1.0, "no"))


@pytest.mark.parametrize(
    ("run", "error", "match"),
    [
        (lambda: T.cond(jnp.ones(2), abs, abs, X), sl.ArgumentTypeError, r"pred\nit is of shape"),
        (lambda: T.cond(None, abs, abs, X), sl.ArgumentTypeError, r"by pred\nit is a NoneType"),
        (lambda: T.cond(True, abs, 1.0), sl.ArgumentTypeError, r"cond for false_fun=1.0"),
        (lambda: T.switch(0.0, [abs], X), sl.ArgumentTypeError, r"float32, not an integer"),
        (lambda: T.switch(True, [abs], X), sl.ArgumentTypeError, r"bool, not an integer"),
        (lambda: T.switch(0, [], X), sl.ArgumentError, r"there is none"),
        (lambda: T.switch(0, abs, X), sl.ArgumentTypeError, r"not a list of functions"),
        (lambda: T.switch(0, [abs, 1], X), sl.ArgumentTypeError, r"branches\[1\]=1"),
        (lambda: T.ifelse([True], [abs] * 3, X), sl.ArgumentError, r"conditions=1\n.*3 branches"),
        (lambda: T.ifelse([True] * 2, [abs], X), sl.ArgumentError, r"conditions=2\n.*1 branches"),
        (lambda: T.ifelse([False] * 2, [abs] * 2, X), sl.ArgumentError, r"no condition is"),
        (lambda: T.ifelse(True, [abs, abs], X), sl.ArgumentError, r"conditions=bool"),
        (lambda: T.ifelse([jnp.ones(2)], [abs], X), sl.ArgumentTypeError, r"of shape \(2,\)"),
    ],
)
def test_refusals(run, error, match):
    with pytest.raises(error, match=match):
        run()


@pytest.mark.parametrize("taken", [0, 1])
def test_an_exception_in_any_branch_leaves_states_alone(taken):
    world = World()
    before = values_of(world)

    def fails(x):
        world.write_b(x)
        raise Boom("thrown")

    for run in (
        lambda: T.switch(taken, [world.write_a, fails], X),
        lambda: sl.jit(lambda i: T.switch(i, [world.write_a, fails], X))(taken),
    ):
        with pytest.raises(Boom, match=r"^thrown"):
            run()
        assert all(a is b for a, b in zip(values_of(world), before, strict=True))


def test_writes_to_states_of_an_operand_are_refused():
    world = World()
    with pytest.raises(sl.FrozenTreeError, match=r"(?s)'a'.*thread"):
        T.cond(True, lambda w: w.write_a(1.0), lambda w: 0.0, world)
    assert T.cond(True, lambda w: w.only_read(2.0), lambda w: jnp.zeros(()), world) == 10


# One inside another.


def branches_by_hand(a, b, c):
    def first(x):
        new = b * x
        return x + new, new, b

    def second(x):
        new = a - x
        return x * new, a, new

    return [first, second, lambda x: (c * x, a, b)]


def test_in_jit_it_is_the_hand_written_program():
    world = World()
    f = sl.jit(lambda pred, x: T.cond(pred, world.write_a, world.write_b, x))

    @jax.jit
    def by_hand(a, b, pred, x):
        branches = branches_by_hand(a, b, None)
        return jax.lax.cond(pred, *branches[:2], x)

    theirs = by_hand.lower(world.a.value, world.b.value, True, X)
    assert operations(f.lower(True, X)) == operations(theirs)
    for pred in (True, False):
        values = values_of(world)
        expected = jax.lax.cond(pred, plain_a, plain_b, values, X)
        close((f(pred, X), values_of(world)), expected)


def test_switch_in_jit_is_the_hand_written_program():
    world = World()
    f = sl.jit(lambda i, x: T.switch(i, branches_of(world), x))

    @jax.jit
    def by_hand(a, b, c, i, x):
        return jax.lax.switch(i, branches_by_hand(a, b, c), x)

    theirs = by_hand.lower(*values_of(world), 1, X)
    assert operations(f.lower(1, X)) == operations(theirs)


@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize("jitted", [False, True])
def test_gradients_go_through_the_branch_that_is_taken(taken, jitted):
    world = World()
    params = [world.a, world.b, world.c]
    gradient = sl.grad(
        lambda i, x: T.switch(i, branches_of(world), x), params, 1, return_value=True
    )
    expected = jax.value_and_grad(lambda v, x: PLAIN[taken](v, x)[0], (0, 1))(values_of(world), X)
    after = PLAIN[taken](values_of(world), X)[1]
    (by_states, by_x), value = (sl.jit(gradient) if jitted else gradient)(taken, X)
    close((value, (tuple(by_states), by_x)), expected)
    close(values_of(world), after)


def test_both_lanes_of_vmap_by_functionalize():
    world = World()
    pure = sl.functionalize(
        lambda pred, x: T.cond(pred, world.write_a, world.write_b, x), [world.a, world.b, world.c]
    )
    preds, xs = jnp.array([True, False]), jnp.stack([X, 2 * X])
    out, new = jax.vmap(pure, (None, 0, 0))(list(values_of(world)), preds, xs)
    for lane, plain in enumerate((plain_a, plain_b)):
        expected, values = plain(values_of(world), xs[lane])
        close((out[lane], [v[lane] for v in new]), (expected, list(values)))
    close(values_of(world), values_of(World()))


def test_nested_branches():
    world = World()

    def inner(x):
        return T.ifelse([x > 10, x > 3], [world.only_read, world.write_a, world.write_b], x)

    f = sl.jit(lambda i, x: T.switch(i, [inner, lambda x: T.cond(x > 0, inner, inner, x)], x))
    for run in (f, lambda i, x: T.switch(i, [inner, world.write_b], x)):
        for x, plain in [(11.0, plain_read), (4.0, plain_a), (1.0, plain_b)]:
            x, values = jnp.array(x, F32), values_of(world)
            close((run(0, x), values_of(world)), plain(values, x))


def test_a_branch_in_a_loop_and_a_loop_in_a_branch():
    spikes, v = sl.State(jnp.zeros((), jnp.int32)), sl.State(jnp.array(0.0, F32))

    def fire():
        spikes.value += 1
        v.value = jnp.zeros((), F32)

    def step(x):
        v.value = v.value + x
        T.cond(v.value > 1, fire, lambda: None)
        return v.value

    xs = jnp.full(5, 0.75, F32)
    expected = [0.75, 0.0, 0.75, 0.0, 0.75]
    assert T.for_loop(step, xs).tolist() == expected
    assert spikes.value == 2
    v.value = jnp.zeros((), F32)
    run = sl.jit(lambda on: T.cond(on, lambda: T.for_loop(step, xs), lambda: xs))
    assert (run(False).tolist(), spikes.value) == (xs.tolist(), 2)
    assert (run(True).tolist(), spikes.value) == (expected, 4)


def test_random_states_are_split_in_the_branch_that_is_taken():
    rng = sl.random.RandomState(0)
    key, sub = jax.random.split(jax.random.key(0))
    assert T.cond(False, rng.normal, lambda: jnp.zeros(())) == 0
    close(jax.random.key_data(rng.value), jax.random.key_data(jax.random.key(0)))
    close(T.cond(True, rng.normal, lambda: jnp.zeros(())), jax.random.normal(sub))
    close(jax.random.key_data(rng.value), jax.random.key_data(key))


# How often Python runs.


@pytest.mark.parametrize("name", ["cond", "switch", "ifelse"])
def test_a_second_eager_call_runs_no_python(name):
    runs = []
    tick = runs.append

    class Counted(World):
        def write_a(self, x):
            tick("a")
            return super().write_a(x)

        def write_b(self, x):
            tick("b")
            return super().write_b(x)

    world = Counted()

    def run(first, x):
        if name == "cond":
            return T.cond(first, world.write_a, world.write_b, x)
        if name == "switch":
            return T.switch(0 if first else 1, [world.write_a, world.write_b], x)
        return T.ifelse([first, True], [world.write_a, world.write_b], x)

    run(True, X)
    count = len(runs)
    assert count <= 2 * 3
    for first in (False, True, False):
        values = values_of(world)
        expected = (plain_a if first else plain_b)(values, 2 * X)
        close((run(first, 2 * X), values_of(world)), expected)
    assert len(runs) == count


def test_a_number_that_a_branch_closes_over_is_seen():
    rate = 2.0

    def yes(x):
        return rate * x

    def no(x):
        return x

    assert T.cond(True, yes, no, X) == 8
    rate = 3.0
    assert T.cond(True, yes, no, X) == 12


def test_without_jit_only_the_branch_taken_runs():
    world, runs = World(), []

    def noted(name, fun):
        def run(x):
            runs.append(name)
            float(x)  # no tracer
            return fun(x)

        return run

    yes, no = noted("yes", world.write_a), noted("no", world.write_b)
    values = values_of(world)
    with jax.disable_jit():
        for run, plain in [
            (lambda: T.cond(True, yes, no, X), plain_a),
            (lambda: T.switch(5, [yes, no], X), plain_b),
            (lambda: T.ifelse([False, True], [yes, no], X), plain_b),
        ]:
            expected, values = plain(values, X)
            close((run(), values_of(world)), (expected, values))
        assert runs == ["yes", "no", "no"]
        with pytest.raises(sl.FrozenTreeError, match="thread"):
            T.cond(True, lambda w: w.write_a(1.0), lambda w: 0.0, world)
    close(values_of(world), values)
