"""A compiled function never answers with what was true when it was traced."""

import copy
import gc
import pickle
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import counted

T = sl.transform


class Model(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.array(2.0))
        self.training = True

    def __call__(self, x):
        return self.w.value * x if self.training else 100 * self.w.value * x


@pytest.mark.parametrize("look", ["eval_shape", "lower", "trace"])
def test_a_look_at_the_function_does_not_make_an_old_program_good(look):
    model = Model()
    f = sl.jit(lambda x: model(x))
    assert f(1.0) == 2
    model.training = False
    getattr(f, look)(1.0)
    assert f(1.0) == 200
    model.w = sl.ParamState(jnp.array(50.0))
    getattr(f, look)(1.0)
    assert f(1.0) == 5000


def test_nor_does_a_trace_that_failed():
    model = Model()

    def refuse(x):
        if not model.training:
            raise ValueError("not now")
        return model(x)

    f = sl.jit(refuse)
    f(1.0)
    model.training = False
    for _ in range(2):
        with pytest.raises(ValueError, match="not now"):
            f(1.0)


def test_going_back_to_a_setting_costs_no_trace():
    model = Model()
    run, runs = counted(lambda x: model(x))
    f = sl.jit(run)
    for training in [True, False, True, False]:
        model.training = training
        assert f(1.0) == (2 if training else 200)
    assert len(runs) == 2


def test_a_setting_that_the_function_does_not_read_costs_no_trace():
    model = Model()
    model.step = 0
    run, runs = counted(lambda x: model.w.value * x)
    f = sl.jit(run)
    for _ in range(5):
        model.step += 1
        f(1.0)
    assert len(runs) == 1


def test_a_setting_that_the_function_sets_itself_costs_no_trace():
    model = Model()
    model.step = 0

    def fun(x):
        model.step = model.step + 1
        return model.w.value * x

    run, runs = counted(fun)
    f = sl.jit(run)
    f(1.0), f(1.0), f(1.0)
    assert len(runs) == 1


def test_what_lies_in_lists_and_dictionaries_of_a_module_is_seen():
    class Stack(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [Model(), Model(), Model()]
            self.config = {"p": 1.0, "q": {"deep": [1.0]}}

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x * self.config["p"] * self.config["q"]["deep"][0]

    stack = Stack()
    f = sl.jit(lambda x: stack(x))
    assert f(1.0) == 8
    stack.layers.pop()
    assert f(1.0) == 4
    stack.layers.append(Model())
    assert f(1.0) == 8
    stack.config["p"] = 10.0
    assert f(1.0) == 80
    stack.config["q"]["deep"][0] = 2.0
    assert f(1.0) == 160
    stack.layers[0].training = False
    assert f(1.0) == 16000


def test_an_array_may_take_the_place_of_a_module_in_a_list():
    model = Model()
    model.layers = [Model()]
    f = sl.jit(lambda x: x * sum(isinstance(each, Model) for each in model.layers))
    assert (f(1.0), f(1.0)) == (1, 1)
    model.layers[0] = np.ones(3)
    assert f(1.0) == 0


def test_a_module_in_a_static_argument_is_looked_at_in_each_call():
    one, other = Model(), Model()
    f = sl.jit(lambda g, x: g(x))
    assert (f(one.__call__, 1.0), f(other.__call__, 1.0)) == (2, 2)
    other.training = False
    assert (f(one.__call__, 1.0), f(other.__call__, 1.0)) == (2, 200)


def test_settings_are_seen_through_a_jitted_function_in_a_jitted_function():
    model = Model()
    inner = sl.jit(lambda x: model(x))
    outer = sl.jit(lambda x: inner(x) + 1)
    assert (inner(1.0), outer(1.0), outer(1.0)) == (2, 3, 3)
    model.training = False
    assert outer(1.0) == 201


def test_states_that_hold_other_things_than_arrays_for_some_arguments():
    state = sl.State(jnp.float32(0))

    def fun(x):
        state.value = x if x.ndim == 0 else (x, "batch")
        return x

    f = sl.jit(fun)
    f(1.0), f(1.0)
    f(jnp.ones(2))
    assert state.value[1] == "batch"
    f(1.0), f(1.0)
    assert state.value == 1


def test_eager_loops_over_methods_of_plain_objects_see_their_attributes():
    class Simulation:
        def __init__(self):
            self.h = sl.State(jnp.zeros(()))
            self.dt = 1.0

        def step(self, carry, x):
            self.h.value = self.h.value + self.dt
            return carry, None

    simulation = Simulation()
    old, new = simulation.h, sl.State(jnp.zeros(()))
    T.scan(simulation.step, 0.0, None, 3)
    simulation.h, simulation.dt = new, 5.0
    T.scan(simulation.step, 0.0, None, 3)
    assert (old.value, new.value) == (3, 15)


def test_eager_loops_see_what_lies_in_a_closed_over_dictionary():
    a, b = sl.State(jnp.zeros(())), sl.State(jnp.zeros(()))
    current = {"state": a}

    def body(x):
        current["state"].value += 1
        return x

    T.for_loop(body, jnp.arange(3))
    current["state"] = b
    T.for_loop(body, jnp.arange(3))
    assert (a.value, b.value) == (3, 3)


def test_eager_loops_see_the_settings_of_a_facade_module():
    model = Model()
    assert T.for_loop(model, jnp.ones(2)).tolist() == [2, 2]
    model.training = False
    assert T.for_loop(model, jnp.ones(2)).tolist() == [200, 200]


def test_unrelated_loops_cost_a_compiled_function_no_trace():
    w, other = sl.State(jnp.ones(())), sl.State(jnp.zeros(()))

    def body(x):
        other.value += 1
        return x

    run, runs = counted(lambda x: T.for_loop(lambda y: w.value * y, x))
    f = sl.jit(run)
    f(jnp.ones(2))
    T.for_loop(body, jnp.arange(3))
    sl.State(0.0)
    f(jnp.ones(2))
    assert len(runs) == 1
    assert set(f.states.read) == {w}


def test_programs_keep_no_model_alive():
    class Child(sl.nn.Module):
        def __init__(self, parent):
            super().__init__()
            self.parent = parent
            self.w = sl.ParamState(jnp.ones(()))

    class Parent(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.child = Child(self)

        @sl.jit
        def jitted(self, x):
            return self.child.parent.child.w.value * x

        def step(self, x):
            return self.child.parent.child.w.value * x

    parent = Parent()
    parent.jitted(1.0)
    T.for_loop(parent.step, jnp.ones(2))
    gone = weakref.ref(parent)
    del parent
    gc.collect()
    assert gone() is None


def test_a_jitted_method_keeps_its_object_for_as_long_as_it_is_held():
    step = Model().__call__
    assert sl.jit(step)(1.0) == 2

    class Plain:
        __slots__ = ("w",)

        def __init__(self):
            self.w = sl.State(jnp.array(3.0))

        @sl.jit
        def f(self, x):
            return self.w.value * x

    assert Plain().f(2.0) == 6
    bound = Plain().f
    assert bound(2.0) == 6
    assert bound.states.read


@pytest.mark.parametrize("base", [sl.nn.Module, eqx.Module, object], ids=lambda c: c.__name__)
def test_positions_count_self_in_all_kinds_of_methods(base):
    class Power(base):
        @sl.jit(static_argnums=1)
        def by_number(self, n, x):
            return x**n if isinstance(n, int) else None

        @sl.jit(static_argnames="n")
        def by_name(self, x, n):
            return x**n if isinstance(n, int) else None

    assert Power().by_number(3, 2.0) == 8
    assert Power().by_name(2.0, 3) == 8
    assert Power().by_name(2.0, n=3) == 8


def test_a_model_with_a_jitted_attribute_pickles_after_a_call():
    holder = {"f": sl.jit(Model().__call__)}
    holder["f"](1.0)
    assert pickle.loads(pickle.dumps(Model())).w.value == 2
    assert copy.copy(holder["f"])(1.0) == 2


def test_an_error_of_one_program_is_not_taken_for_that_of_another():
    @jax.jit
    def boom(x):
        T.jit_error_if(x > 0, "neg")
        return x

    with pytest.raises(Exception, match="neg"):
        jax.block_until_ready(boom(1.0))
    f = sl.jit(lambda x: T.error_if(x, x > 0, "negative rate in layer 3"))
    for _ in range(3):
        with pytest.raises(RuntimeError, match=r"^negative rate in layer 3$"):
            f(1.0)


def test_a_check_that_only_some_arguments_bring_in_is_waited_for():
    count = sl.State(jnp.zeros(()))

    @sl.jit(static_argnames="strict")
    def f(x, strict):
        count.value += 1
        return T.error_if(x, x > 0, "positive") if strict else x

    f(1.0, strict=False), f(1.0, strict=False)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^positive$"):
            f(1.0, strict=True)
    assert count.value == 2
