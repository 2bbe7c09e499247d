"""The facade's module and frames where mutable things meet transforms."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import written


class Scale(sl.nn.Module):
    def __init__(self, factor=1.0, function=jnp.tanh):
        super().__init__()
        self.factor = sl.ParamState(jnp.asarray(factor))
        self.function = function
        self.settings = {"power": 1}
        self.method = self.forward

    def forward(self, x):
        return self.factor.value * x ** self.settings["power"]

    def __call__(self, x):
        return self.function(self.forward(x))


def through_jax(module):
    return jax.tree.map(lambda x: x, module)


def test_a_container_changed_in_place_is_seen():
    module = through_jax(Scale())
    module.settings["power"] = 2
    expected = jax.grad(lambda w: jnp.tanh(w * 9.0))(1.0)
    gradient = sl.grad(lambda m: m(3.0), "factor")(module)
    np.testing.assert_allclose(gradient.factor.value, expected)


def test_a_module_replaced_in_a_list_is_seen():
    module = sl.nn.Module()
    module.layers = [Scale(), Scale()]
    module = through_jax(module)
    module.layers[0] = Scale(function=jnp.sin)
    np.testing.assert_allclose(jax.jit(lambda m: m.layers[0](1.0))(module), jnp.sin(1.0))
    module.layers[1] = module.layers[0]
    again = through_jax(module)
    assert again.layers[0] is again.layers[1]


def test_a_shared_module_that_is_untied_in_place_is_two():
    module = sl.nn.Module()
    one = Scale(1.0)
    module.layers = [one, one]
    module = through_jax(module)
    module.layers[1] = Scale(2.0)
    again = through_jax(module)
    assert [layer.factor.value for layer in again.layers] == [1.0, 2.0]


def test_labels_in_the_place_of_arrays_are_still_leaves():
    module = sl.nn.Module()
    module.layer = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    labels = jax.tree.map(lambda x: "sgd", module)
    assert jax.tree.leaves(labels) == ["sgd", "sgd"]
    assert jax.tree.structure(labels) == jax.tree.structure(module)


def test_a_class_attribute_does_not_hide_an_array():
    class Recurrent(sl.nn.Module):
        hidden = None

        def __init__(self):
            super().__init__()
            self.hidden = jnp.zeros(3)

    assert Recurrent().hidden.shape == (3,)


def test_a_dataclass_can_be_a_module():
    @dataclasses.dataclass(eq=False, repr=False)
    class Layer(sl.nn.Module):
        table: jax.Array = None

    layer = Layer(jnp.ones(2))
    assert layer.table.shape == (2,)
    assert through_jax(layer).table.shape == (2,)


@pytest.mark.parametrize("name", ["states", "nodes", "assign", "update"])
def test_the_module_s_own_methods_are_not_overwritten(name):
    with pytest.raises(sl.ArgumentError, match=f"'{name}' of a Module\nevery nn.Module has"):
        setattr(sl.nn.Module(), name, jnp.zeros(3))


def add_array(module, x):
    module.cache = x


def add_state(module, x):
    module.extra = sl.State(x)


def delete_state(module, x):
    del module.factor


@pytest.mark.parametrize("change", [add_array, add_state, delete_state])
def test_states_are_not_added_or_deleted_in_a_call(change):
    module = Scale()
    before = list(vars(module))

    def loss(x):
        change(module, x)
        return module(x)

    for run in (sl.grad(loss), jax.jit(loss)):
        with pytest.raises(sl.FrozenTreeError, match="of a Scale\na transform is running"):
            run(1.0)
        assert list(vars(module)) == before
        assert module(0.0) == 0.0


def test_modules_made_in_a_call_are_free():
    def loss(x):
        module = Scale()
        module.factor = sl.ParamState(x)
        module.cache = x
        return module(module.cache)

    expected = jax.grad(lambda x: jnp.tanh(x * x))(0.5)
    np.testing.assert_allclose(sl.grad(loss)(0.5), expected)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.5), expected)


def test_a_threaded_module_may_grow():
    def visit(module, x):
        module.cache = x
        return x

    before = Scale()
    _, after = sl.thread(visit)(before, jnp.ones(2))
    assert after.cache.shape == (2,)
    assert not hasattr(before, "cache")


def test_an_array_attribute_is_committed_after_the_call():
    module = Scale()
    module.cache = jnp.zeros(())

    def loss(x):
        module.cache = module.cache + x
        return module(x) * module.cache

    sl.grad(loss)(2.0)
    assert module.cache == 2.0
    with pytest.raises(ZeroDivisionError):
        sl.grad(lambda x: (loss(x), 1 / 0)[0])(2.0)
    assert module.cache == 2.0


def test_a_bound_method_as_an_attribute_follows_its_module():
    module = Scale()
    gradient = jax.grad(lambda m: m.method(3.0))(module)
    assert gradient.factor.value == 3.0
    scaled = sl.lens("factor").update(module, lambda w: 5 * w)
    assert scaled.method(1.0) == 5.0
    assert list(module.states()) == [("factor",)]


def test_numpy_values_are_not_changed_in_place_past_a_frame():
    state = sl.State({"a": np.zeros(2)})
    plain = sl.State(np.zeros(2))
    with sl.overlay() as trial:
        state.value["a"] += 1
        plain.value += 1
        assert plain.value.tolist() == [1, 1]
    assert state.value["a"].tolist() == plain.value.tolist() == [0, 0]
    assert trial.writes[state]["a"].tolist() == [1, 1]


def test_a_key_renamed_in_place_is_a_write():
    state = sl.State({"a": jnp.ones(1)})

    def loss(x):
        values = state.value
        values["b"] = values.pop("a")
        return x

    sl.grad(loss)(1.0)
    assert list(state.value) == ["b"]


def test_shared_modules_have_a_bounded_number_of_paths():
    nodes = [sl.nn.Module() for _ in range(12)]
    for node in nodes:
        node.all = nodes
        node.own = sl.State(0.0)
    # With all paths that lead to each state, this would not end.
    assert len(nodes[0].states()) == 12


def test_nothing_is_committed_when_the_result_cannot_be_made():
    class Pair(tuple):
        def __new__(cls, a, b):
            return super().__new__(cls, (a, b))

    a, b, count = sl.State(1.0), sl.State(2.0), sl.State(0)

    def loss():
        count.value += 1
        return a.value * b.value

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        sl.grad(loss, Pair(a, b))()
    assert count.value == 0


def test_assign_is_all_or_nothing():
    module = Scale()
    module.other = sl.State(jnp.zeros(()))
    with pytest.raises(sl.StateTypeError, match="without states in it"):
        module.assign({"factor": jnp.zeros(()), "other": [sl.State(1.0)]}, replace=True)
    assert module.factor.value == 1.0


def test_combine_checks_the_shape_of_a_part():
    focus, rest = sl.lens("w")[0:3].partition({"w": jnp.arange(4.0)})
    with pytest.raises(sl.StructureError, match=r"part in 'w'\nit is float32\[\].*float32\[3\]"):
        sl.combine({"w": jnp.array(9.0)}, rest)
    assert sl.combine(focus, rest)["w"].tolist() == [0, 1, 2, 3]


def test_an_excluded_option_does_not_make_an_empty_focus_legal():
    with pytest.raises(sl.SelectionError, match="selects nothing"):
        sl.grad(lambda t: t["enc"]["w"], "**.w & ~enc.**?")({"enc": {"w": jnp.ones(())}})


def test_an_accessor_leads_into_a_state():
    tree = {"s": sl.State({"w": jnp.ones(1), "b": jnp.ones(1)})}
    assert (sl.at(lambda m: m["s"]) / "w").paths(tree) == (("s", "w"),)


def test_an_accessor_that_fails_is_explained():
    with pytest.raises(sl.SelectionError, match=r"raised TypeError(.|\n)*at\(.*\)\[0\]"):
        sl.at(lambda m: m["w"][0]).paths({"w": jnp.ones(2)})


@pytest.mark.parametrize("leaf_filter", [eqx.is_array, eqx.is_inexact_array])
def test_equinox_filters_are_lenses(leaf_filter):
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    ours, theirs = sl.lens(leaf_filter).partition(model)[0], eqx.filter(model, leaf_filter)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def test_a_mask_may_be_deeper_than_a_half():
    tree = {"a": jnp.ones(1), "b": jnp.ones(1)}
    focus, _ = sl.lens("a").partition(tree)
    assert sl.lens({"a": True, "b": False}).paths(focus) == (("a",),)


def test_a_parameter_added_later_is_seen():
    module = Scale()
    states = module.states(sl.ParamState)
    module.shift = sl.ParamState(jnp.zeros(()))
    gradient = sl.grad(lambda: module(1.0) + module.shift.value, states)()
    assert list(gradient) == [("factor",), ("shift",)]


def test_a_gradient_that_was_taken_before_sees_what_was_added_and_replaced():
    module = Scale()
    states = module.states(sl.ParamState)
    gradient = sl.grad(lambda: sum(jnp.sum(cell.value**2) for cell in states.values()), states)
    assert list(gradient()) == [("factor",)]
    module.shift = sl.ParamState(jnp.zeros(()))
    assert list(gradient()) == [("factor",), ("shift",)]
    module.shift = sl.ParamState(jnp.ones(()))
    assert gradient()["shift",] == 2


def test_jit_does_not_retrace_a_module():
    traces = []

    @jax.jit
    def step(module):
        traces.append(1)
        return jax.tree.map(lambda x: x + 1, module)

    module = Scale()
    for _ in range(3):
        module = step(module)
    module.factor.value = 0 * module.factor.value
    step(module)
    step(Scale())
    # Another object's own method and dictionary are no other structure.
    assert len(traces) == 1


# An attribute that holds states.


@pytest.mark.parametrize("value", [jnp.zeros(()), np.zeros(()), 0.0, 1])
@pytest.mark.parametrize("kind", [sl.ParamState, sl.BatchState])
def test_a_number_in_the_place_of_a_state_is_refused(kind, value):
    module = sl.nn.Module()
    module.scale = kind(jnp.ones(()))
    match = rf"is a {kind.__name__}, which would be dropped(.|\n)*model.scale.value = "
    with pytest.raises(sl.StateTypeError, match=match):
        module.scale = value
    assert written(module.states()) == ["scale"]


@pytest.mark.parametrize("states", [lambda w: [w], lambda w: {"a": (w, 1.0)}], ids=["list", "dict"])
def test_values_in_the_place_of_states_are_refused(states):
    module = sl.nn.Module()
    module.parts = states(sl.State({"w": jnp.ones(2)}))
    with pytest.raises(sl.StateTypeError, match=r"a container of states, which would be dropped"):
        module.parts = states({"w": jnp.ones(2)})
    module.whole = sl.State({"w": jnp.ones(2)})
    with pytest.raises(sl.StateTypeError, match=r"is a State, which would be dropped"):
        module.whole = {"w": jnp.zeros(2)}


def test_a_state_may_be_replaced_removed_and_then_be_an_array():
    module = sl.nn.Module()
    module.scale = sl.State(jnp.ones(()))
    module.scale = sl.State(jnp.zeros(()))
    module.scale = None
    module.scale = sl.State(jnp.zeros(()))
    module.scale = lambda: 1.0
    module.scale = sl.State(jnp.zeros(()))
    del module.scale
    module.scale = jnp.ones(())
    assert written(module.states()) == []


def test_a_number_in_the_place_of_a_state_is_refused_in_a_call_too():
    module = sl.nn.Module()
    module.scale = sl.State(jnp.ones(()))

    @sl.jit
    def step(x):
        module.scale = x

    with pytest.raises(sl.StateTypeError, match=r"model.scale.value = "):
        step(1.0)


# assign.


def test_assign_is_strict_where_that_is_asked():
    module = Scale()
    module.other = sl.State(jnp.zeros(()))
    match = r"there is none for 'other'(.|\n)*without strict=True"
    for target in (module, module.states()):
        with pytest.raises(sl.PathError, match=match):
            target.assign({"factor": jnp.zeros(())}, strict=True)
        assert module.factor.value == 1.0
        target.assign(module.states().values_dict(), strict=True)


def test_assign_refuses_two_values_for_one_path():
    with pytest.raises(sl.PathError, match=r"as 'factor' and as \('factor',\)"):
        Scale().assign({"factor": jnp.zeros(()), ("factor",): jnp.ones(())})
