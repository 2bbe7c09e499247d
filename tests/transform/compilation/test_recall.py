"""Equinox modules that go in and come out of compiled functions, again and again."""

import dataclasses
import gc
import pathlib
import sys
import threading
import weakref
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl

# What is cached of modules can't be seen from outside, but by how often things are compared.
from statelens.transform._core import _module_cache, _static
from tests.helpers import profiled_by, traced_by


class Model(eqx.Module):
    rows: list
    by_name: dict
    pair: tuple
    function: Any = jnp.tanh
    rate: float = 0.5

    def __call__(self, x):
        rows = sum(jnp.sum(row) for row in self.rows)
        return self.function(x) * rows + self.by_name["a"] * self.rate + self.pair[0]


def make():
    one = jnp.array(1.0)
    return Model([one, 2 * one], {"a": 3 * one}, (4 * one, None))


@sl.jit
def twice(model):
    return jax.tree.map(lambda leaf: 2 * leaf if eqx.is_array(leaf) else leaf, model), model(1.0)


call = sl.jit(lambda model, x: model(x))


def test_what_comes_out_goes_in_again():
    model = reference = make()
    for _ in range(5):
        expected = reference(1.0)
        reference = jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, reference)
        model, out = twice(model)
        np.testing.assert_allclose(out, expected, rtol=1e-6)
        assert eqx.tree_equal(model, reference)


def changed_row(model):
    model.rows[0] = jnp.array(10.0)


def more_rows(model):
    model.rows.append(jnp.array(10.0))


def fewer_rows(model):
    del model.rows[0]


def a_row_of_another_kind(model):
    model.rows[0] = jnp.arange(3.0)


def a_row_that_is_a_module(model):
    model.rows[0] = jnp.array(5.0)
    model.by_name["b"] = eqx.nn.Linear(1, 1, key=jax.random.key(0))


def changed_name(model):
    model.by_name["a"] = jnp.array(10.0)


CHANGES = [
    changed_row,
    more_rows,
    fewer_rows,
    a_row_of_another_kind,
    a_row_that_is_a_module,
    changed_name,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("is_returned", [True, False])
def test_lists_and_dictionaries_in_it_may_change(change, is_returned):
    model = make()
    call(model, 1.0)
    if is_returned:
        for _ in range(3):
            model, _ = twice(model)
        call(model, 1.0)
    change(model)
    np.testing.assert_allclose(call(model, 1.0), model(1.0), rtol=1e-6)
    expected = jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, model)
    assert eqx.tree_equal(twice(model)[0], expected)


class Deep(eqx.Module):
    levels: tuple


def test_a_list_deep_inside_may_change():
    deep = Deep(({"x": [make()]},))
    total = sl.jit(lambda deep: deep.levels[0]["x"][0].rows[0])
    assert total(deep) == 1
    assert total(deep) == 1
    deep.levels[0]["x"][0].rows[0] = jnp.array(7.0)
    assert total(deep) == 7
    deep.levels[0]["x"] = [eqx.tree_at(lambda m: m.rows[0], make(), jnp.array(8.0))]
    assert total(deep) == 8


def deep():
    one = jnp.array(1.0)
    return Deep(({"x": [make()], "y": ()}, [], ([one], [2 * one, 3 * one])))


def moved_to_the_list_before(model):
    before, after = model.levels[2]
    before.append(after.pop(0))


CHANGES_INSIDE = {
    "reversed": lambda model: model.levels[0]["x"][0].rows.reverse(),
    "a module more": lambda model: model.levels[0]["x"].append(make()),
    "a key renamed": lambda model: model.levels[0].update(z=model.levels[0].pop("x")),
    "an empty list filled": lambda model: model.levels[1].append(jnp.array(3.0)),
    "an item replaced": lambda model: model.levels[2][0].__setitem__(0, jnp.array(9.0)),
    "an item moved": moved_to_the_list_before,
    "a list emptied": lambda model: model.levels[2][1].clear(),
}


@pytest.mark.parametrize("change", CHANGES_INSIDE)
def test_lists_deep_inside_of_what_a_loop_returns_may_change(change):
    def twice(model):
        return jax.tree.map(lambda leaf: 2 * leaf if eqx.is_array(leaf) else leaf, model)

    jitted = sl.jit(twice)
    model = reference = deep()
    for _ in range(4):
        before, model, reference = model, jitted(model), twice(reference)
        assert model.levels[1] is not before.levels[1]
    CHANGES_INSIDE[change](model)
    CHANGES_INSIDE[change](reference)
    for _ in range(2):
        model, reference = jitted(model), twice(reference)
        assert eqx.tree_equal(model, reference)


def test_a_state_in_a_module_may_change():
    class Holding(eqx.Module):
        state: sl.State
        weight: jax.Array

    model = Holding(sl.State(jnp.array(1.0)), jnp.array(2.0))
    total = sl.jit(lambda model: model.state.value + model.weight)
    assert total(model) == 3
    model.state.value = jnp.array(5.0)
    assert total(model) == 7


class Out(NamedTuple):
    model: Any
    state: Any
    extra: Any


def test_modules_among_other_outputs():
    optimizer = optax.adam(1e-2)

    def step(model, opt_state, x):
        grads = sl.grad(lambda model: model(x) ** 2, sl.inexact)(model)
        updates, opt_state = optimizer.update(grads, opt_state)
        model = sl.inexact.apply_updates(model, updates)
        return Out({"b": model, "a": [model.rows[0]]}, (opt_state,), (model(x), None, "text"))

    compiled = sl.jit(step)
    model = reference = make()
    opt_state = reference_state = optimizer.init(sl.inexact.partition(model)[0])
    for _ in range(4):
        out = compiled(model, opt_state, 0.3)
        expected = step(reference, reference_state, 0.3)
        leaves, others = map(jax.tree.leaves, (out, expected))
        assert jax.tree.structure(out) == jax.tree.structure(expected)
        for leaf, other in zip(leaves, others, strict=True):
            if eqx.is_array(other):
                np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-6)
            else:
                assert leaf is other
        model, (opt_state,) = out.model["b"], out.state
        reference, (reference_state,) = expected.model["b"], expected.state


def test_modules_in_nested_tuples_with_all_kinds_of_other_things():
    traces = []

    @sl.jit
    def step(state, scale):
        traces.append(scale)
        (model, count), other, text = state
        model, out = twice(model)
        return ((model, count + 1), other, text), out * scale

    def start(count=0, text="a"):
        return (make(), count), (None, jnp.ones(2)), text

    for begin in (start(), start(jnp.array(0)), start(text="b"), start()):
        state, reference = begin, begin[0][0]
        for number in range(3):
            expected = reference(1.0)
            reference = jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, reference)
            state, out = step(state, 1.0)
            np.testing.assert_allclose(out, expected, rtol=1e-6)
            assert state[0][1] == number + 1
            assert state[1][0] is None
            assert state[2] == begin[2]
        state[0][0].rows[0] = jnp.array(100.0)
        np.testing.assert_allclose(step(state, 1.0)[1], state[0][0](1.0), rtol=1e-6)
    before = len(traces)
    pair = step(start(), 1.0)[0]
    step((pair[0], pair[1], "a"), 1.0)
    step(((pair[0][0], pair[0][1]), (pair[1][0], jnp.ones(3)), "a"), 1.0)
    assert len(traces) == before + 1


class Pair(NamedTuple):
    first: Any
    second: Any


class OtherPair(NamedTuple):
    first: Any
    second: Any


def test_nested_tuples_of_one_structure_are_not_taken_for_others():
    one, two = jnp.array(1.0), jnp.arange(2.0)
    model, other = twice(make())[0], twice(make())[0]
    faster = twice(dataclasses.replace(make(), rate=2.0))[0]
    trees = [
        ((model, one), (None, two)),
        ((model, one), (two, None)),
        ((model, two), (None, one)),
        ((model, None), (None, two)),
        ((model, one, two), (None, two)),
        ((model, one), (None,)),
        (Pair(model, one), (None, two)),
        (OtherPair(model, one), (None, two)),
        Pair((model, one), (None, two)),
        ((one, model), (None, two)),
        ((model, (one,)), (None, two)),
        ((model, ()), (None, two)),
        ((other, one), (None, two)),
        ((faster, one), (None, two)),
        ((model, model), (other, faster)),
        ((model, faster), (other, model)),
        ((model, 3), (None, 4.0)),
        ((model, True), (None, np.float32(2))),
        ((model, [one]), (None, two)),
        ((model, "text"), (None, two)),
        ((model, one), ("text", two)),
        ((Pair, one), (model, two)),
    ]

    def doubled(tree):
        return jax.tree.map(lambda x: 2 * x if eqx.is_array_like(x) else x, tree)

    compiled = sl.jit(lambda tree: doubled(tree))
    # As often as it takes for calls in a row; then one of each, and many more than are known.
    for tree in 10 * trees[:1] + [tree for tree in trees for _ in range(2)] + 2 * trees[::-1]:
        out, expected = compiled(tree), doubled(tree)
        assert jax.tree.structure(out) == jax.tree.structure(expected)
        for leaf, other in zip(jax.tree.leaves(out), jax.tree.leaves(expected), strict=True):
            assert leaf is other or np.array_equal(leaf, other)


def arguments():
    one, two = jnp.array(1.0), jnp.arange(2.0)
    model, other = twice(make())[0], twice(make())[0]
    return [
        (model, (model, one), two),
        (other, (other, two), one),
        (make(), (model, one), two),
        (model, (make(), one), two),
        (model, (model, one), np.arange(2.0)),
        (model, (model, one), 2.0),
        (model, (model, one), True),
        (model, (model, one), [two]),
        (model, [model, one], two),
        (model, one, (model, two)),
        (one, (model, one), two),
        (None, (model, one), two),
        (model, {"a": model}, {"b": [one, (two,)]}),
        ((), ((),), (None, ())),
        (model, (model, one)),
        (model, (model, one), two, two),
        (one, (two, 3.0, None), (model,), model),
    ]


def summed(*args, scale=1.0):
    return scale * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(args) if eqx.is_array_like(leaf))


@pytest.mark.parametrize("first", range(len(arguments())))
def test_arguments_that_are_not_alike_come_between_calls_in_a_row(first):
    compiled, every = sl.jit(summed), arguments()
    for args in 12 * [every[first]] + every + every[::-1]:
        np.testing.assert_allclose(compiled(*args), summed(*args), rtol=1e-6)
        np.testing.assert_allclose(compiled(*args, scale=2.0), 2 * summed(*args), rtol=1e-6)
        assert jax.grad(lambda x: compiled(*args[1:], x))(3.0) == 1.0  # noqa: B023


class Swapped(NamedTuple):
    first: Any
    second: Any
    model: Any


jax.tree_util.register_pytree_node(
    Swapped,
    lambda node: ((node.second, node.first, node.model), None),
    lambda _, children: Swapped(children[1], children[0], children[2]),
)


class Reversed(NamedTuple):
    first: Any
    second: Any
    model: Any

    def __iter__(self):
        return iter((self.second, self.first, self.model))


@pytest.mark.parametrize("cls", [Swapped, Reversed])
def test_tuples_are_taken_apart_as_jax_flattens_them(cls):
    model, one, two = twice(make())[0], jnp.array(1.0), jnp.array(2.0)
    difference = sl.jit(lambda node: node.first - node.second)
    for _ in range(3):
        assert difference(cls(one, one, model)) == 0
    assert difference(cls(one, two, model)) == -1


class Nested(eqx.Module):
    node: Any


@pytest.mark.parametrize("cls", [Swapped, Reversed])
def test_lists_in_them_may_change_where_a_module_holds_them(cls):
    model = Nested(cls(jnp.array(1.0), [jnp.array(5.0)], None))
    second = sl.jit(lambda model: model.node.second[0])
    for value in (5.0, 5.0, 2.0):
        model.node.second[0] = jnp.array(value)
        assert second(model) == value


def test_more_structures_of_tuples_than_are_kept_are_all_taken_apart():
    models = [twice(dataclasses.replace(make(), rate=float(n)))[0] for n in range(20)]
    apply = sl.jit(lambda pair: pair[0](pair[1]))
    for _ in range(10):
        apply((models[0], 0.5))
    for _ in range(3):
        for model in models:
            assert apply((model, 0.5)) == model(0.5)


def test_a_module_that_another_thread_meets_first_is_good_for_both():
    model = make()
    expected = model(1.0)
    call(model, 1.0)
    fresh = jax.tree.map(lambda leaf: leaf, model)
    code, found = _module_cache.put.__code__, []

    def others(frame, event, _):
        if frame.f_code is code and event in ("line", "return") and len(found) < 9:
            thread = threading.Thread(target=lambda: found.append(call(fresh, 1.0)))
            thread.start()
            thread.join()
        return others

    with traced_by(others):
        call(fresh, 1.0)
    assert set(map(float, found)) == {float(expected)}


@pytest.mark.parametrize("leaf", ["rows", "pair"])
def test_it_is_forgotten_with_its_arrays(leaf):
    model, _ = twice(make())
    call(model, 1.0)
    array, module = weakref.ref(getattr(model, leaf)[0]), weakref.ref(model)
    del model
    gc.collect()
    assert module() is None
    assert array() is None


def test_other_objects_in_its_place_are_not_taken_for_it():
    outs = []
    for number in range(50):
        model = eqx.tree_at(lambda m: m.rows[0], make(), jnp.array(float(number)))
        outs.append(float(call(model, 0.0)))
        del model
    assert outs == [1.5 + 4.0] * 50
    outs = []
    for number in range(50):
        model, _ = twice(eqx.tree_at(lambda m: m.pair, make(), (jnp.array(float(number)),)))
        outs.append(float(call(model, 0.0)))
        del model
    assert outs == [3.0 + 2 * number for number in range(50)]


def test_a_donated_module_is_gone_and_the_next_one_is_good():
    step = sl.jit(lambda model: eqx.tree_at(lambda m: m.rows[0], model, model.rows[0] + 1))
    donating = sl.jit(lambda model: step(model), donate_argnums=0)
    model = donating(make())
    for _ in range(4):
        old, model = model, donating(model)
    assert model.rows[0] == 6
    assert old.rows[0].is_deleted()
    with pytest.raises((RuntimeError, ValueError), match="deleted"):
        call(old, 1.0)


def test_numbers_and_functions_of_a_module_stay_part_of_the_program():
    traces = []

    @sl.jit
    def out(model):
        traces.append(model.rate)
        return model(1.0)

    model = make()
    other = eqx.tree_at(lambda m: m.rate, model, 2.0)
    for _ in range(2):
        np.testing.assert_allclose(out(model), model(1.0), rtol=1e-6)
        np.testing.assert_allclose(out(other), other(1.0), rtol=1e-6)
    assert traces == [0.5, 2.0]


def test_inside_of_traces_modules_are_remembered_for_nobody_else():
    inner = sl.jit(lambda model: jax.tree.map(lambda x: 2 * x, sl.inexact.partition(model)[0]))

    @jax.jit
    def outer(x):
        model = eqx.tree_at(lambda m: m.rows[0], make(), x)
        first = inner(model)
        return inner(model).rows[0] + first.rows[0]

    assert outer(1.0) == 4
    assert outer(jnp.arange(2.0))[1] == 4
    assert jax.grad(outer)(3.0) == 4


class Configured(eqx.Module):
    x: jax.Array
    config: Any = eqx.field(static=True)


@dataclasses.dataclass(frozen=True)
class Config:
    name: str
    note: str = dataclasses.field(compare=False)


EQUAL = [
    (1, 1.0),
    (1, True),
    (0.0, -0.0),
    (((2, 1),), ((2, 1.0),)),
    (Config("a", "before"), Config("a", "after")),
]


def same(one, other):
    assert repr(one) == repr(other)


@pytest.mark.parametrize(("before", "after"), EQUAL)
def test_what_equals_something_static_is_not_taken_for_it(before, after):
    x = jnp.arange(3)
    change = sl.jit(lambda model: Configured(model.x, after))
    for _ in range(12):
        same(change(Configured(x, before)).config, after)

    state = sl.State(Configured(x, before))

    @sl.jit
    def write():
        state.value = Configured(state.value.x, after)

    for _ in range(12):
        write()
        same(state.value.config, after)

    inner = sl.jit(lambda model: (model.x, repr(model.config)))
    outer = sl.jit(lambda model: inner(Configured(model.x, after)))
    same(outer(Configured(x, before))[1], repr(after))


@pytest.mark.parametrize(("before", "after"), EQUAL)
def test_two_functions_have_nothing_static_in_common(before, after):
    x = jnp.arange(3)
    for config in (before, after, before):
        seen = []
        look = sl.jit(lambda model: seen.append(model.config) or model.x)  # noqa: B023
        look(Configured(x, config))
        same(seen, [config])


@pytest.mark.parametrize("depth", [10, 100, 900])
def test_nested_tuples_may_be_deep(depth):
    def nested(x):
        for _ in range(depth):
            x = (x,)
        return x

    add = sl.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree))
    tree = nested(jnp.array(0.0))
    for _ in range(12):
        tree = add(tree)
    assert jax.tree.leaves(tree) == [12.0]


@pytest.mark.parametrize("by", ["position", "keyword"])
def test_errors_of_later_calls_end_at_the_users_line_too(by):
    step = sl.jit(lambda model: 1)
    call = step if by == "position" else lambda model: step(model=model)
    for _ in range(12):
        call(Configured(jnp.ones(2), 1))
    with pytest.raises(TypeError, match=r"unhashable|can't be hashed") as caught:
        call(Configured({1}, 1))  # type: ignore[arg-type]
    assert caught.traceback[-1].path == pathlib.Path(__file__)


def test_errors_of_nodes_that_are_returned_show_nothing_of_this_library():
    class Picky:
        refuses = False

        def __init__(self, x):
            self.x = x

        def unflatten(self, children):
            if Picky.refuses:
                raise ValueError("refused")
            return Picky(*children)

    jax.tree_util.register_pytree_node(Picky, lambda node: ((node.x,), None), Picky.unflatten)
    step = sl.jit(lambda x: (Configured(Picky(x), 1), x))  # type: ignore[arg-type]
    for _ in range(12):
        step(1.0)
    Picky.refuses = True
    with pytest.raises(ValueError, match="refused") as caught:
        step(1.0)
    assert {entry.path for entry in caught.traceback} == {pathlib.Path(__file__)}


def test_arguments_by_keyword_may_come_in_any_order_and_number():
    step = sl.jit(lambda a=None, b=None, **more: (twice(a)[0], b, more))
    other = eqx.tree_at(lambda m: m.rate, make(), 2.0)
    a, b = make(), (other, 1.0)
    for number in range(30):
        names = [f"x{number % 7}", "c"][: number % 3]
        given = {"b": b, "a": a} if number % 2 else {"a": a, "b": b}
        before = a
        a, b, more = step(**given, **dict.fromkeys(names, (other, number)))
        assert eqx.tree_equal(a, twice(before)[0], typematch=True)
        assert eqx.tree_equal(b[0], other, typematch=True)
        assert {name: (value[0].rate, value[1]) for name, value in more.items()} == dict.fromkeys(
            names, (2.0, number)
        )


def codes_called(run):
    """Lists the code of the Python functions that are called."""
    codes = []
    with profiled_by(
        lambda frame, event, _: codes.append(frame.f_code) if event == "call" else None
    ):
        run()
    return codes


def test_later_calls_compare_nothing_static_in_python(monkeypatch):
    state = sl.State((make(), 0))
    compared = []
    equals = _static.Static.__eq__

    def counted(self, other):
        compared.append(self)
        return equals(self, other)

    monkeypatch.setattr(_static.Static, "__eq__", counted)

    @sl.jit
    def by_state():
        model, number = state.value
        state.value = model, number + 1

    @sl.jit
    def by_argument(model, number):
        return model, number + 1

    out = make(), 0
    for step in range(20):
        if step == 2:
            compared.clear()
        by_state()
        out = by_argument(*out)
    assert not compared
    assert state.value[1] == out[1] == 20


def test_a_module_may_end_after_the_names_of_this_library_have(monkeypatch):
    model = twice(make())[0]
    errors = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    # As Python does it with the names of a file, when it ends.
    monkeypatch.setattr(_module_cache, "_entries", None)
    del model
    gc.collect()
    assert not errors
