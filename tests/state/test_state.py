"""The state as a ported program finds it."""

import copy
import dataclasses
import operator
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


# More of the same: what a state refuses, and what it is to JAX.

USES = {
    "state + 1": lambda s: s + 1,
    "1 - state": lambda s: 1 - s,
    "state @ x": lambda s: s @ jnp.ones(2),
    "x @ state": lambda s: jnp.ones((2, 2)) @ s,
    "np @ state": lambda s: np.ones((2, 2)) @ s,
    "state += 1": lambda s: operator.iadd(s, 1),
    "state ** 2": lambda s: s**2,
    "-state": lambda s: -s,
    "state < 1": lambda s: s < 1,
    "state[0]": lambda s: s[0],
    "state[0] = 1": lambda s: operator.setitem(s, 0, 1),
    "iter(state)": iter,
    "float(state)": float,
    "jnp.sum": jnp.sum,
    "jnp.exp": jnp.exp,
    "jnp.asarray": jnp.asarray,
    "jnp.stack": lambda s: jnp.stack([s, s]),
    "jnp.where": lambda s: jnp.where(True, s, 0.0),
    "jax.nn.relu": jax.nn.relu,
    "np.asarray": np.asarray,
    "np.mean": np.mean,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_its_use_as_an_array_says_what_to_write(use):
    state = sl.ParamState(jnp.ones(2), name="w")
    with pytest.raises(sl.StateTypeError, match=r"ParamState\(.*name='w'\)(.|\n)*write \.value"):
        use(state)
    assert state.value.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("value", [sl.State(1.0), {"a": [sl.State(1.0)]}, (1, sl.State(2.0))])
def test_a_state_of_states_is_refused_when_it_is_made(value):
    with pytest.raises(sl.StateTypeError, match=r"a ParamState of State\((.|\n)*other.value"):
        sl.ParamState(value)


def test_repr_sorts_several_tags():
    assert repr(sl.State(None, tag=["b", "a"])) == "State(None, tag=['a', 'b'])"


def test_jax_names_its_leaves_by_value():
    [(path, _)] = jax.tree_util.tree_leaves_with_path(sl.State({"w": jnp.ones(1)}))
    assert jax.tree_util.keystr(path) == ".value['w']"


def test_it_goes_in_and_out_of_jit_as_a_value():
    state = sl.ParamState(jnp.ones(2), name="w")
    out = jax.jit(lambda s: s.with_value(s.value * 3))(state)
    assert repr(out) == repr(state)
    assert out.value.tolist() == [3.0, 3.0]
    assert state.value.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda states: pickle.loads(pickle.dumps(states))]
)
@pytest.mark.parametrize("kind", KINDS)
def test_copies_keep_kind_name_tags_and_sharing(duplicate, kind):
    state = kind({"a": jnp.arange(2.0), "k": jax.random.key(1)}, name="n", tag="t")
    one, two = duplicate([state, state])
    assert one is two
    assert one is not state
    assert repr(one) == repr(state)
    assert one.value["a"].tolist() == [0.0, 1.0]
    assert jnp.all(jax.random.key_data(one.value["k"]) == jax.random.key_data(state.value["k"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_made_by_a_typed_class_is_a_state_as_any_other(kind):
    plain, typed = kind(jnp.zeros(2), name="n"), kind[jax.Array](jnp.zeros(2), name="n")
    assert type(typed) is kind
    assert jax.tree.structure(typed) == jax.tree.structure(plain)
    assert typed.metadata == plain.metadata
    for again in (typed.copy(), copy.deepcopy(typed), pickle.loads(pickle.dumps(typed))):
        assert jax.tree.structure(again) == jax.tree.structure(plain)


def test_a_class_of_typed_states_is_a_pytree_of_its_own():
    class Position(sl.ParamState[jax.Array]):
        pass

    state = Position(jnp.zeros(2))
    (leaf,), treedef = jax.tree.flatten(state)
    assert type(treedef.unflatten([leaf])) is Position
    assert isinstance(state, sl.ParamState)


def test_a_deep_copy_inside_a_frame_has_the_frame_s_value():
    state = sl.State(jnp.zeros(()))
    with sl.overlay({state: jnp.ones(())}):
        again = copy.deepcopy(state)
    assert again.value == 1.0
    assert state.value == 0.0


def change_in_place(state, x):
    state.value["a"] = state.value["a"] + x
    state.value["new"] = x


def test_a_dictionary_changed_in_place_in_a_call_is_committed_after_it():
    state = sl.State({"a": jnp.zeros(())})
    before = state.value

    def loss(x):
        change_in_place(state, x)
        assert set(before) == {"a"}
        return state.value["a"] * x

    assert sl.grad(loss)(3.0) == 6.0
    assert state.value == {"a": 3.0, "new": 3.0}


def test_a_dictionary_changed_in_place_stays_as_it_was_if_the_call_fails():
    state = sl.State({"a": jnp.zeros(())})

    def loss(x):
        change_in_place(state, x)
        raise ZeroDivisionError("in the middle")

    with pytest.raises(ZeroDivisionError, match="in the middle"):
        sl.grad(loss)(3.0)
    assert state.value == {"a": 0.0}


def test_a_dictionary_that_is_differentiated_may_be_changed_in_place():
    state = sl.State({"a": jnp.asarray(2.0)})

    def loss():
        state.value["a"] = state.value["a"] ** 2
        return state.value["a"]

    assert sl.grad(loss, state)() == {"a": 4.0}
    assert state.value == {"a": 4.0}


# Identity.


class Equal(sl.State):
    def __eq__(self, other):
        return bool(jnp.all(self.value == other.value))

    __hash__ = sl.State.__hash__


class Unhashable(sl.ParamState):
    def __eq__(self, other):
        return True


class Hashed(sl.State):
    def __hash__(self):
        return hash(self.name)


@dataclasses.dataclass
class Record(sl.State):
    decay: jax.Array

    def __post_init__(self):
        super().__init__(jnp.ones(()))


class Like(np.lib.mixins.NDArrayOperatorsMixin, sl.State):
    pass


class Below(Equal):
    pass


@pytest.mark.parametrize("kind", [Equal, Unhashable, Hashed, Record, Like, Below])
def test_states_that_are_not_told_apart_by_identity_are_refused(kind):
    with pytest.raises(sl.StateTypeError, match=r"__eq__ or __hash__, .* would be taken for one"):
        kind(jnp.ones(()))


def test_a_class_with_an_inherited_identity_is_taken():
    class Named:
        def __repr__(self):
            return "named"

    class Both(Named, sl.State):
        pass

    a, b = Both(jnp.ones(())), Both(jnp.ones(()))
    assert a == a
    assert a != b
    assert len({a, b}) == 2


def test_keys_that_do_not_sort_are_named_with_their_state():
    state = sl.State({"a": jnp.ones(2)}, name="gains")
    with pytest.raises(sl.StructureError, match="a dictionary in a State named 'gains'"):
        state.value = {1: jnp.ones(2), "a": jnp.ones(2)}
    with pytest.raises(sl.StructureError, match="a dictionary in a ParamState\n"):
        sl.ParamState({1: jnp.ones(2), "a": jnp.ones(2)})
    state.value[1] = jnp.ones(2)
    with pytest.raises(sl.StructureError, match="a dictionary in a State named 'gains'"):
        state.copy()
    with pytest.raises(sl.StructureError, match=r"in argument 0, that at \.value"):
        sl.jit(lambda state: state.value["a"])(state)
    with pytest.raises(sl.StructureError, match="a dictionary in a State named 'gains'"):
        jax.jit(lambda x: state.value["a"])(1.0)
    module = sl.nn.Module()
    module.state = state
    assert "4 in State" in repr(module)


def test_keys_that_do_not_sort_are_named_with_the_path_of_their_state():
    state = sl.State({"a": jnp.ones(2)}, name="gains")
    states = sl.lens(...).bind({"w": state})
    with pytest.raises(sl.StructureError, match="a dictionary in the value for 'w'"):
        states.assign({"w": {1: jnp.ones(2), "a": jnp.ones(2)}})
    state.value[1] = jnp.ones(2)
    with pytest.raises(sl.StructureError, match="a dictionary in what is at 'w'"):
        states.assign({"w": {"a": jnp.ones(2)}})
    with pytest.raises(sl.StructureError, match="a dictionary in 'gains'"):
        sl.grad(lambda: 0.0, state)()


def test_keys_that_do_not_sort_are_named_with_the_state_of_a_view():
    state = sl.State({"a": jnp.ones(2)}, name="gains")
    (view,) = sl.lens("gains.a").bind({"gains": state}).units().values()
    state.value[1] = jnp.ones(2)
    for use in (
        lambda: view.value,
        lambda: setattr(view, "value", jnp.zeros(2)),
        lambda: sl.grad(lambda: 0.0, {"a": view})(),
        lambda: sl.lens("gains.a").bind({"gains": state}).count(),
    ):
        with pytest.raises(sl.StructureError, match="a dictionary in a State named 'gains'"):
            use()


def test_a_state_that_a_trace_puts_into_a_value_in_place_is_refused():
    state = sl.State({"a": jnp.ones(2)})

    @sl.jit
    def fun(x):
        state.value["a"] = sl.State(x)

    with pytest.raises(sl.StateTypeError, match="without states in it"):
        fun(jnp.ones(2))
