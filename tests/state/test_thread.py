"""`functionalize`, `thread` and `diff`: purity, seen from outside."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import close

close = functools.partial(close, rtol=1e-4)

# Random programs over states of several shapes, one a dictionary, with a branch in them.

SHAPES = {"scalar": (), "vector": (3,), "tree": {"u": (2,), "v": ()}}
reads_and_writes = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "change in place", "both", "nothing"]),
        st.sampled_from(list(SHAPES)),
        st.floats(-2, 2, width=32),
    ),
    max_size=8,
)


def make():
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return {
        name: sl.State(jax.tree.map(jnp.ones, shape, is_leaf=is_shape))
        for name, shape in SHAPES.items()
    }


def program(states, steps):
    def run(x):
        total = x
        for kind, name, factor in steps:
            state = states[name]
            if kind in ("read", "both"):
                total = total + factor * sum(map(jnp.sum, jax.tree.leaves(state.value)))
            if kind in ("write", "both"):
                state.value = jax.tree.map(lambda v, f=factor, t=total: f * v + t, state.value)
            if kind == "change in place" and name == "tree":
                state.value["u"] = state.value["u"] * factor + total
        return total

    return run


def values_of(states):
    return {name: state.value for name, state in states.items()}


def assert_pure_form_is_stateful_run(steps, x, run):
    states, stateful = make(), make()
    before = values_of(states)
    pure = run(sl.functionalize(program(states, steps), states))
    out, after = pure(before, x)
    close((out, after), (program(stateful, steps)(x), values_of(stateful)))
    assert all(state.value is before[name] for name, state in states.items())


@given(steps=reads_and_writes, x=st.floats(-2, 2, width=32))
def test_the_pure_form_is_the_stateful_run(steps, x):
    assert_pure_form_is_stateful_run(steps, x, lambda f: f)


@given(steps=reads_and_writes, x=st.floats(-2, 2, width=32))
@settings(max_examples=25)
def test_the_pure_form_is_the_stateful_run_under_jit(steps, x):
    assert_pure_form_is_stateful_run(steps, x, jax.jit)


@given(steps=reads_and_writes, x=st.floats(-2, 2, width=32))
@settings(max_examples=25)
def test_two_pure_calls_are_two_stateful_runs(steps, x):
    states, stateful = make(), make()
    pure = sl.functionalize(program(states, steps), states)
    _, values = pure(values_of(states), x)
    out, values = pure(values, x)
    program(stateful, steps)(x)
    close((out, values), (program(stateful, steps)(x), values_of(stateful)))


@given(steps=reads_and_writes, x=st.floats(-2, 2, width=32))
@settings(max_examples=25)
def test_a_pure_form_in_a_stateful_function_is_still_pure(steps, x):
    states = make()
    before = values_of(states)
    pure = sl.functionalize(program(states, steps), states)
    with sl.overlay() as trial:
        pure(values_of(states), x)
        assert trial.writes == {}
    assert all(state.value is before[name] for name, state in states.items())


# functionalize.


@pytest.mark.parametrize(
    ("given_as", "before", "after"),
    [
        (lambda s: s, 5.0, 10.0),
        (lambda s: [s], [5.0], [10.0]),
        (lambda s: (s,), (5.0,), (10.0,)),
        (lambda s: {"a": [s]}, {"a": [5.0]}, {"a": [10.0]}),
        (lambda s: sl.lens("s").bind({"s": s}), {("s",): 5.0}, {("s",): 10.0}),
    ],
    ids=["one", "list", "tuple", "nested", "bound"],
)
def test_values_come_in_the_form_of_the_states(given_as, before, after):
    state = sl.State(jnp.asarray(1.0))

    def double():
        state.value = 2 * state.value

    assert sl.functionalize(double, given_as(state))(before) == (None, after)
    assert state.value == 1.0


def test_a_view_may_be_functionalized():
    tree = {"s": sl.State({"w": jnp.ones(()), "b": jnp.zeros(())})}

    def grow():
        tree["s"].value["w"] = tree["s"].value["w"] + 1
        return tree["s"].value["b"]

    pure = sl.functionalize(grow, sl.lens("s.w").bind(tree))
    assert pure({("s", "w"): jnp.asarray(5.0)}) == (0.0, {("s", "w"): 6.0})


def test_values_of_another_form_are_refused():
    a, b = sl.State(1.0), sl.State(2.0)
    pure = sl.functionalize(lambda: a.value + b.value, {"a": a, "b": b})
    with pytest.raises(sl.StructureError, match=r"'a', 'b'(.|\n)*'a', 'c'"):
        pure({"a": 1.0, "c": 2.0})


def test_a_state_that_is_written_has_to_be_given():
    a, b = sl.State(jnp.ones(2)), sl.State(jnp.zeros(()), name="b")

    def fun():
        b.value = a.value.sum()

    with pytest.raises(sl.SelectionError, match=r"'fun'\nit wrote State\(f32\[\], name='b'\)"):
        sl.functionalize(fun, a)(jnp.ones(2))
    assert b.value == 0.0


def test_a_state_that_is_only_read_need_not_be_given():
    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.asarray(3.0))
    assert sl.functionalize(lambda: a.value * b.value, a)(jnp.asarray(5.0)) == (15.0, 5.0)


def test_keyword_arguments_and_the_name_are_kept():
    a = sl.State(1.0)

    def fun(x, *, y):
        """Doc."""
        return a.value + x + y

    pure = sl.functionalize(fun, [a])
    assert pure([10.0], 1.0, y=2.0) == (13.0, [10.0])
    assert (pure.__name__, pure.__doc__) == ("fun", "Doc.")


def test_it_goes_through_scan_vmap_and_grad_of_plain_jax():
    total = sl.State(jnp.zeros(()))

    def add(x):
        total.value = total.value + x
        return total.value**2

    pure = sl.functionalize(add, total)
    carry, outs = jax.lax.scan(lambda v, x: pure(v, x)[::-1], jnp.zeros(()), jnp.arange(4.0))
    assert (carry, outs.tolist()) == (6.0, [0.0, 1.0, 9.0, 36.0])
    assert jax.vmap(pure, (None, 0))(jnp.ones(()), jnp.arange(2.0))[1].tolist() == [1.0, 2.0]
    assert jax.grad(lambda v: pure(v, 3.0)[0])(1.0) == 8.0
    assert total.value == 0.0


def test_compiled_once_for_all_values():
    total, traces = sl.State(jnp.zeros(())), []

    def add(x):
        traces.append(1)
        total.value = total.value + x

    pure = jax.jit(sl.functionalize(add, [total]))
    values = [jnp.zeros(())]
    for x in range(4):
        _, values = pure(values, jnp.float32(x))
    assert values == [6.0]
    assert len(traces) == 1


# thread.


class Counter(eqx.Module):
    count: sl.State
    scale: jax.Array

    def __call__(self, x):
        self.count.value += 1
        return x * self.scale


def counter():
    return Counter(sl.State(jnp.zeros((), jnp.int32), name="count"), jnp.asarray(2.0))


def test_thread_gives_the_tree_as_the_function_left_it():
    before = counter()
    out, after = sl.thread(Counter.__call__)(before, 3.0)
    assert out == 6.0
    assert (after.count.value, before.count.value) == (1, 0)
    assert after.count.name == "count"
    assert after.scale is before.scale
    assert jax.tree.structure(after) == jax.tree.structure(before)


def test_thread_goes_through_jit_and_scan():
    def body(tree, x):
        out, tree = sl.thread(Counter.__call__)(tree, x)
        return tree, out

    after, outs = jax.jit(lambda t, xs: jax.lax.scan(body, t, xs))(counter(), jnp.arange(3.0))
    assert after.count.value == 3
    assert outs.tolist() == [0.0, 2.0, 4.0]


def test_thread_keeps_sharing():
    shared = sl.State(jnp.zeros(()))

    def visit(tree):
        tree["a"].value += 1
        tree["b"].value += 10

    _, after = sl.thread(visit)({"a": shared, "b": shared})
    assert after["a"] is after["b"]
    assert after["a"].value == 11.0
    assert shared.value == 0.0


def test_thread_commits_states_that_are_closed_over():
    outside = sl.State(jnp.zeros(()))

    def visit(tree, x):
        outside.value = x
        return tree["n"].value

    sl.thread(visit)({"n": sl.State(1.0)}, jnp.asarray(2.0))
    assert outside.value == 2.0


def test_thread_leaves_all_as_it_was_when_the_function_fails():
    tree, outside = {"n": sl.State(1.0)}, sl.State(1.0)

    def visit(tree):
        tree["n"].value = outside.value = 2.0
        raise ZeroDivisionError("in the middle")

    with pytest.raises(ZeroDivisionError, match="in the middle"):
        sl.thread(visit)(tree)
    assert tree["n"].value == outside.value == 1.0


def test_thread_with_an_auxiliary_output():
    fun = lambda tree: (tree["n"].value, "aux")  # noqa: E731
    out, (aux, after) = sl.thread(fun, has_aux=True)({"n": sl.State(1.0)})
    assert (out, aux, after["n"].value) == (1.0, "aux", 1.0)


def test_thread_with_an_auxiliary_output_wants_a_pair():
    with pytest.raises(sl.ArgumentTypeError, match=r"has_aux=True(.|\n)*a float, not a pair"):
        sl.thread(lambda tree: 1.0, has_aux=True)({})


def test_threads_nest():
    def outer(tree):
        inner = {"n": tree["n"]}
        _, after = sl.thread(lambda t: setattr(t["n"], "value", t["n"].value + 1))(inner)
        tree["n"].value = after["n"].value * 10

    _, after = sl.thread(outer)({"n": sl.State(1.0)})
    assert after["n"].value == 20.0


# diff.


def test_diff_says_which_states_a_call_changed():
    before = counter()
    _, after = sl.thread(Counter.__call__)(before, 3.0)
    changes = sl.diff(before, after)
    assert list(changes) == [("count",)]
    change = changes["count",]
    assert (change.before, change.after, change.by) == (0, 1, 1.0)
    assert sl.diff(before, before) == {}


def test_diff_of_values_before_and_after_a_stateful_call():
    w, untouched = sl.State(jnp.array([1.0, 2.0])), sl.State(jnp.ones(1))
    tree = {"w": w, "other": untouched}
    before = {name: state.value for name, state in tree.items()}

    def loss():
        w.value = w.value * jnp.array([1.0, 3.0])
        return w.value.sum()

    sl.grad(loss, w)()
    changes = sl.diff(before, {name: state.value for name, state in tree.items()})
    assert {path: change.by for path, change in changes.items()} == {("w",): 4.0}
