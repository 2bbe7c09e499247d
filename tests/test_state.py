"""The state as a ported program finds it."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

KINDS = [
    sl.State,
    sl.ParamState,
    sl.HiddenState,
    sl.ShortTermState,
    sl.LongTermState,
    sl.BatchState,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_a_pytree_node_that_keeps_its_kind(kind):
    state = kind({"w": jnp.ones(2)}, name="table", tag=("slow", "decay"))
    doubled = jax.tree.map(lambda x: 2 * x, state)
    assert type(doubled) is kind
    assert doubled is not state
    assert (doubled.name, doubled.tag) == ("table", frozenset({"slow", "decay"}))
    np.testing.assert_array_equal(doubled.value["w"], [2.0, 2.0])


def test_repr_shows_kind_shape_name_and_tag():
    state = sl.ParamState(jnp.ones((2, 3)), name="w", tag="decay")
    assert repr(state) == "ParamState(f32[2,3], name='w', tag='decay')"


@pytest.mark.parametrize(
    "value", [jnp.ones((3, 3)), jnp.ones(2, jnp.int32), {"a": jnp.ones(1)}, 1.5, None]
)
def test_any_structure_shape_and_dtype_may_be_assigned(value):
    state = sl.State(jnp.zeros(2))
    state.value = value
    assert state.value is value


def test_states_inside_a_value_are_refused():
    state = sl.State(jnp.zeros(2))
    with pytest.raises(sl.StateTypeError, match="a state's value is a pytree of arrays"):
        state.value = [sl.State(1.0)]
    assert state.value.shape == (2,)


@pytest.mark.parametrize("duplicate", [sl.State.copy, copy.copy, copy.deepcopy])
def test_a_copy_is_assigned_on_its_own(duplicate):
    state = sl.State({"a": jnp.zeros(2)}, name="s")
    again = duplicate(state)
    again.value["a"] = jnp.ones(2)
    assert again.name == "s"
    np.testing.assert_array_equal(state.value["a"], [0.0, 0.0])


def test_states_pickle_shared_and_with_keys():
    state = sl.State(jax.random.key(0), tag="key")
    one, two = pickle.loads(pickle.dumps([state, state]))
    assert one is two
    assert one.tag == {"key"}
    assert jnp.all(jax.random.key_data(one.value) == jax.random.key_data(state.value))


def test_a_state_is_equal_to_itself_only():
    one, other = sl.State(jnp.ones(2)), sl.State(jnp.ones(2))
    assert one == one
    assert one != other
    assert len({one, other}) == 2
    assert one


def test_a_kind_of_one_s_own_keeps_its_attributes():
    class Membrane(sl.HiddenState):
        def __init__(self, value, threshold):
            super().__init__(value)
            self.threshold = threshold

    state = jax.jit(lambda s: jax.tree.map(jnp.negative, s))(Membrane(jnp.ones(2), 0.5))
    assert type(state) is Membrane
    assert state.threshold == 0.5
