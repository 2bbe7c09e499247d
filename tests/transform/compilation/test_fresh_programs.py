"""A program is used only where a new trace would give the same one."""

import copy
import threading

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import traced_by


class Scale(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 1.0
        self.shape = (2,)
        self.weight = sl.ParamState(jnp.ones(()))


def test_a_call_in_another_thread_while_a_change_is_looked_at_is_not_stale():
    model, found = Scale(), []
    f = sl.jit(lambda: model.scale * model.weight.value)
    for _ in range(3):
        f()
    model.scale = 5.0

    def others(frame, event, _):
        if frame.f_code.co_name in ("attributes_unchanged", "_changed") and len(found) < 9:
            thread = threading.Thread(target=lambda: found.append(float(f())))
            thread.start()
            thread.join()
        return others

    with traced_by(others):
        f()
    assert found
    assert set(found) == {5.0}


@pytest.mark.parametrize(
    ("before", "after"), [((2,), (2.0,)), (0.0, -0.0), (1, True), ((1, (0.0,)), (1, (-0.0,)))]
)
def test_an_attribute_that_equals_what_it_was_need_not_be_the_same(before, after):
    model = Scale()
    model.shape = before
    f = sl.jit(lambda: jax.tree.map(lambda x: 1 / jnp.asarray(x), model.shape))
    expected = [repr(x) for x in jax.tree.leaves(jax.tree.map(lambda x: 1 / jnp.asarray(x), after))]
    f()
    model.shape = after
    assert [repr(x) for x in jax.tree.leaves(f())] == expected


def test_an_attribute_set_to_a_like_tuple_with_nan_makes_no_other_program():
    model, runs = Scale(), []
    model.shape = (1, float("nan"))
    f = sl.jit(lambda: (runs.append(1), model.weight.value * model.shape[0])[1])
    f()
    model.shape = (1, float("nan"))
    f()
    assert len(runs) == 1


@pytest.mark.parametrize("options", [{}, {"donate_states": True}], ids=str)
def test_a_trace_in_another_setting_of_jax_is_a_new_one(options):
    factor, state, unused = [2.0], sl.State(jnp.ones(())), sl.State(jnp.ones(()))

    @sl.jit(**options)
    def grow():
        if unused is None:
            unused.value += 1
        state.value *= factor[0]

    grow()
    assert state.value == 2
    factor[0] = 5.0
    jax.clear_caches()
    grow()
    assert state.value == 10


def test_what_is_compiled_ahead_of_time_raises_the_error_of_its_check():
    state = sl.State(jnp.zeros(()))

    @sl.jit
    def step(x):
        state.value += x
        sl.transform.jit_error_if(x < 0, "x is {}", x)

    compiled = step.lower(1.0).compile()
    with pytest.raises(ValueError, match=r"^x is -1\.0$"):
        compiled(-1.0)
    assert state.value == 0


def test_a_callback_that_a_later_trace_brings_is_waited_for():
    state = sl.State(jnp.zeros(()))

    def refuse(x):
        raise ValueError("refused")

    @sl.jit
    def step(x):
        state.value += x.sum()
        if x.shape == (2,):
            jax.debug.callback(refuse, x)

    step(jnp.ones(3))
    step(jnp.ones(3))
    for _ in range(2):
        with pytest.raises(Exception, match="refused"):
            step(jnp.ones(2))
    assert state.value == 6


def test_a_copy_of_a_guarded_function_counts_its_own_traces():
    f = sl.jit(lambda x: x + 1, max_traces=1)
    f(1.0)
    assert copy.copy(f)(1.0) == 2
