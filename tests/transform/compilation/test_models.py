"""`jit` of models and methods, with settings, keys and parts that aren't arrays."""

import copy
import functools
import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, counted
from tests.transform.compilation.net import Dropout, Net, plain_net, values_of

close = functools.partial(close, rtol=1e-6)

X = jnp.array([1.0, 2.0, 3.0])


# Other models, other programs.


def test_another_attribute_of_a_module_means_another_program_and_going_back_costs_nothing():
    model = Dropout()
    run, runs = counted(lambda x: model(x))
    f = sl.jit(run)
    assert f(1.0) == 6
    model.training = False
    assert f(1.0) == 3
    model.training = True
    assert f(1.0) == 6
    model.w.value = jnp.array(5.0)
    assert f(1.0) == 15
    assert len(runs) == 2


class Defaults(sl.nn.Module):
    """Reads what its class says as long as an instance says nothing else."""

    training = True
    bias = None

    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.array(2.0))

    def scale(self):
        return 1

    def __call__(self, x):
        y = self.w.value * x * self.scale()
        y = y * 10 if self.training else y
        y = y if self.bias is None else y + self.bias.value
        y = y + getattr(self, "shift", 0)
        y = y + self.offset.value if hasattr(self, "offset") else y
        return y + sum(value for name, value in vars(self).items() if name.startswith("more"))


@pytest.mark.parametrize("options", [{}, {"donate_states": True}], ids=str)
@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "training", False),
        lambda model: setattr(model, "bias", sl.ParamState(jnp.array(5.0))),
        lambda model: setattr(model, "shift", 7),
        lambda model: setattr(model, "offset", sl.State(jnp.array(9.0))),
        lambda model: setattr(model, "more", 11),
        lambda model: setattr(model, "scale", lambda: 3),
    ],
    ids=["flag", "state in place of None", "getattr", "hasattr", "vars", "method"],
)
def test_an_attribute_that_was_not_there_means_another_program(change, options):
    model = Defaults()
    run, runs = counted(lambda x: model(x))
    f = sl.jit(run, **options)
    for _ in range(20):
        assert f(1.0) == 20
    change(model)
    after = model(1.0)
    assert after != 20
    assert (f(1.0), f(1.0)) == (after, after)
    assert len(runs) == 2


def test_an_attribute_that_was_not_there_is_seen_by_a_loop_that_is_kept():
    model, xs = Defaults(), jnp.arange(3.0)
    before = sl.transform.for_loop(model, xs)
    model.training = False
    close(sl.transform.for_loop(model, xs), before / 10)


def test_replacing_a_state_object_is_seen():
    model = Dropout()
    f = sl.jit(lambda x: model(x))
    assert f(1.0) == 6
    old, model.w = model.w, sl.ParamState(jnp.array(10.0))
    assert f(1.0) == 30
    old.value = jnp.array(0.0)
    assert f(1.0) == 30
    model.w.value = jnp.array(20.0)
    assert f(1.0) == 60
    model.w = old
    assert f(1.0) == 0


def test_appending_a_layer_is_seen():
    model = Dropout()
    run, runs = counted(lambda x: model(x))
    f = sl.jit(run)
    f(1.0)
    model.layers.append(sl.ParamState(jnp.array(7.0)))
    assert (f(1.0), len(runs)) == (42, 2)
    assert set(f.states.read) == {model.w, *model.layers}


def test_another_shape_dtype_or_structure_of_a_value_means_another_trace():
    state = sl.State(jnp.ones(2))
    run, runs = counted(lambda x: jax.tree.map(lambda leaf: leaf * x, state.value))
    f = sl.jit(run)
    values = [jnp.ones(2), jnp.ones(3), jnp.arange(3), {"a": jnp.ones(1)}, (jnp.ones(1),) * 2, 2.0]
    for number, value in enumerate(values, 1):
        state.value = value
        for _ in range(2):
            close(f(2), jax.tree.map(lambda leaf: jnp.asarray(leaf * 2), value))
        assert len(runs) == number
    state.value = values[0]
    f(2)
    assert len(runs) == len(values)


def test_a_state_of_things_that_are_no_arrays():
    state = sl.State({"name": "adam", "rate": jnp.array(0.5), "none": None})
    run, runs = counted(lambda x: x * state.value["rate"] + len(state.value["name"]))
    f = sl.jit(run)
    assert [f(1.0), f(2.0)] == [4.5, 5.0]
    state.value = {**state.value, "name": "sgd"}
    assert f(1.0) == 3.5
    assert len(runs) == 2


# Methods.


def test_a_method_of_a_facade_module():
    class Model(Net):
        @sl.jit
        def step(self, x):
            runs.append(1)
            return self(x)

    runs: list[int] = []
    one, other = Model(), Model()
    other.w.value = jnp.zeros((3, 3))
    close(one.step(X), plain_net(values_of(Net()), X)[0])
    close(other.step(X), jnp.tanh(other.b.value))
    one.step(X), other.step(X)
    assert (len(runs), one.calls.value, other.calls.value) == (2, 2, 2)
    assert set(one.step.states.written) == {one.calls}
    assert Model.step.__name__ == "step"


def test_a_method_of_a_plain_class():
    class Counter:
        def __init__(self, start):
            self.count = sl.State(jnp.array(start))

        @sl.jit
        def add(self, x):
            runs.append(1)
            self.count.value += x
            return self.count.value

    runs: list[int] = []
    one, other = Counter(0), Counter(10)
    assert [one.add(1), one.add(2), other.add(1), one.add(1)] == [1, 3, 11, 4]
    assert len(runs) == 2
    assert one.add.states.read == (one.count,)


def test_a_method_of_an_equinox_module():
    class Scale(eqx.Module):
        w: jax.Array
        power: int
        f: object

        @sl.jit
        def step(self, x):
            runs.append(1)
            return self.f(self.w * x) ** self.power

    runs: list[int] = []
    model = Scale(jnp.array(3.0), 2, jnp.negative)
    assert model.step(2.0) == 36
    model = eqx.tree_at(lambda m: m.w, model, jnp.array(1.0))
    assert (model.step(2.0), len(runs)) == (4, 1)
    model = eqx.tree_at(lambda m: m.power, model, 3)
    assert (model.step(2.0), len(runs)) == (-8, 2)
    assert model.step(x=2.0) == -8


def test_a_jitted_method_does_not_keep_its_object_alive():
    class Model(Net):
        @sl.jit
        def step(self, x):
            return self(x)

    model, count = Model(), sum(isinstance(o, Model) for o in gc.get_objects())
    assert count == 1
    model.step(X)
    refs = weakref.ref(model), weakref.ref(model.w)
    del model
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


# Random numbers.


def test_a_random_state_is_an_input_and_an_output():
    rng = sl.random.RandomState(0)
    run, runs = counted(lambda: rng.normal(size=(2,)))
    f = sl.jit(run)
    key, drawn = jax.random.key(0), []
    for _ in range(3):
        key, sub = jax.random.split(key)
        drawn.append(jax.random.normal(sub, (2,)))
    close([f() for _ in range(3)], drawn)
    assert f.states.written == (rng,)
    assert len(runs) == 1
    rng.seed(0)
    close(f(), drawn[0])
    assert len(runs) == 1


def test_the_default_random_state_is_found():
    with sl.random.seed_context(3):
        eager = [sl.random.uniform() for _ in range(2)]
    run, runs = counted(lambda: sl.random.uniform())
    f = sl.jit(run)
    with sl.random.seed_context(3):
        compiled = [f() for _ in range(2)]
    close(compiled, eager)
    assert len(runs) <= 2


# Calls while a plain transform of JAX is running.


def counting():
    count = sl.State(jnp.zeros((), jnp.int32), name="count")

    @sl.jit
    def tick():
        count.value += 1

    return count, tick


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("transform", [jax.grad, lambda f: lambda x: jax.vmap(f)(jnp.ones(3))])
def test_a_program_that_has_run_for_good_keeps_what_it_wrote(transform, is_warm):
    count, tick = counting()
    if is_warm:
        tick(), tick()
    before = int(count.value)
    transform(lambda x: (tick(), x * x)[1])(1.0)
    assert count.value == before + 1


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint, jax.make_jaxpr])
def test_a_program_that_is_only_traced_is_refused(transform, is_warm):
    count, tick = counting()
    if is_warm:
        tick(), tick()
    before = int(count.value)
    with pytest.raises(sl.TracerLeakError, match=r"name='count'"):
        transform(lambda x: (tick(), x * x)[1])(1.0)
    assert count.value == before


def test_a_traced_argument_leaks_into_no_state():
    seen = sl.State(jnp.zeros(()), name="seen")
    total = sl.State(jnp.zeros(()), name="total")

    @sl.jit
    def note(x):
        total.value += 1.0
        seen.value = x

    note(1.0), note(1.0)
    with pytest.raises(sl.TracerLeakError, match=r"name='(seen|total)'"):
        jax.grad(lambda x: (note(x), x * x)[1])(2.0)
    assert (seen.value, total.value) == (1, 2)


# Values with parts that aren't arrays stay taken apart between calls.


class Layered(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
        self.config = sl.State({"act": jnp.tanh, "x": jnp.ones(2)}, name="config")

    def __call__(self, x):
        self.config.value = {**self.config.value, "x": self.config.value["x"] + 1}
        return self.mlp(x) * self.config.value["act"](self.config.value["x"])


def test_a_value_with_static_parts_is_whole_whenever_it_is_looked_at():
    model = Layered()
    f, x = sl.jit(model), jnp.ones(2)
    for n in range(1, 5):
        expected = eqx.filter_jit(model.mlp)(x) * jnp.tanh(jnp.ones(2) + n)
        np.testing.assert_allclose(f(x), expected, rtol=1e-6)
        if n % 2:
            assert model.config.value["act"] is jnp.tanh
            assert (model.config.value["x"] == n + 1).all()
            assert model.config.value is model.config.value


def test_what_is_changed_in_place_in_a_value_with_static_parts_is_seen():
    model = Layered()
    f, x = sl.jit(model), jnp.ones(2)
    f(x), f(x)
    model.config.value["x"] = jnp.zeros(2)
    f(x)
    assert (model.config.value["x"] == 1).all()
    model.config.value = {"act": jnp.sin, "x": jnp.zeros(2)}
    np.testing.assert_allclose(f(x), model.mlp(x) * jnp.sin(jnp.ones(2)), rtol=1e-6)


def test_a_state_that_held_an_array_takes_another_structure():
    state = sl.State(jnp.ones(2))
    f = sl.jit(lambda: jax.tree.map(lambda x: 2 * x, state.value))
    f(), f()
    state.value = {"a": jnp.ones(2), "f": jnp.tanh}
    with pytest.raises(TypeError):
        f()
    state.value = {"a": jnp.ones(2)}
    assert (f()["a"] == 2).all()
    g = sl.jit(lambda: setattr(state, "value", (state.value["a"], jnp.tanh)))
    f(), g()
    assert state.value[1] is jnp.tanh


def test_two_programs_take_turns_with_a_state_of_two_structures():
    state = sl.State(jnp.ones(2))
    give = sl.jit(lambda: setattr(state, "value", (jnp.zeros(2), jnp.tanh)))

    def first():
        return state.value[0] if isinstance(state.value, tuple) else state.value

    take = sl.jit(lambda: 2 * first())
    give(), give()
    for _ in range(3):
        assert state.value[1] is jnp.tanh
        state.value = jnp.ones(2)
        assert [take().tolist() for _ in range(3)] == [[2, 2]] * 3
        give()
        assert state.value[1] is jnp.tanh
        assert [take().tolist() for _ in range(3)] == [[0, 0]] * 3


def test_copies_of_a_value_that_was_taken_apart():
    model = Layered()
    f = sl.jit(model)
    f(jnp.ones(2)), f(jnp.ones(2))
    copied = copy.deepcopy(model)
    assert copied.config.value["act"](0.5) == jnp.tanh(0.5)
    assert (copied.config.value["x"] == 3).all()
    close(
        jax.tree.leaves(eqx.filter(copied.mlp, eqx.is_array)),
        jax.tree.leaves(eqx.filter(model.mlp, eqx.is_array)),
    )


def test_a_compiled_function_says_how_a_states_value_differs():
    state = sl.State({"a": jnp.ones(2)})
    compiled = sl.jit(lambda: sum(jax.tree.leaves(state.value))).lower().compile()
    state.value = {"b": jnp.ones(2)}
    with pytest.raises(TypeError, match="a State differs: it is a dict of b, not a dict of a"):
        compiled()
