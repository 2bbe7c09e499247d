"""To look at states (their paths, classes, tags, shapes) is not to touch them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

T = sl.transform


class Net(sl.nn.Module):
    """Two states, one of several leaves, and two Equinox layers."""

    def __init__(self):
        super().__init__()
        self.b = sl.ParamState(jnp.array(1.0), tag="slow")
        self.w = sl.ParamState({"x": jnp.ones((2, 2)), "y": np.ones(3)})
        keys = jax.random.split(jax.random.key(0))
        self.first, self.second = (eqx.nn.Linear(2, 2, key=key) for key in keys)


def read(look):
    """What a compiled function reads that looks at a net."""
    net = Net()
    names = {net.b: "b", net.w: "w"}
    f = sl.jit(lambda x: (look(net), x)[1])
    f(1.0)
    return [names.get(cell, cell.name) for cell in f.states.read]


def by_shape(path, unit):
    return not isinstance(unit, sl.State) and unit.ndim == 2


LOOKS = {
    "making one": lambda net: net.states("b"),
    "binding one": lambda net: sl.lens("b").bind(net),
    "how many": lambda net: len(net.states()),
    "the paths": lambda net: list(net.states(...)),
    "whether there is one": lambda net: ("b",) in net.states(),
    "a state itself": lambda net: net.states()["w"],
    "the states": lambda net: [*net.states().values(), *net.states().items()],
    "a part of a state": lambda net: net.states("w.x")["w.x"],
    "a slice": lambda net: sl.lens("w.x")[0].bind(net)["w.x"],
    "an array of a layer": lambda net: net.states("first.weight")["first.weight"],
    "by class": lambda net: len(net.states(sl.ParamState)),
    "by the class of a node": lambda net: len(net.states(eqx.nn.Linear)),
    "by tag": lambda net: len(net.states(sl.tagged("slow"))),
    "by shape": lambda net: len(net.states(sl.ndim == 2)),
    "by dtype": lambda net: len(net.states(sl.inexact)),
    "by name": lambda net: len(net.states(sl.name == "weight")),
    "by predicate": lambda net: len(net.states(by_shape)),
    "by accessor": lambda net: len(sl.at(lambda net: net.first).bind(net)),
    "by a node of a path": lambda net: len(net.states(sl.lens("first") / "weight")),
    "splitting": lambda net: [len(part) for part in net.states(...).split(sl.ParamState, ...)],
    "comparing": lambda net: net.states() == net.states(...),
    "the paths of nodes": lambda net: sl.nodes(eqx.nn.Linear).paths(net),
    "the paths of a lens": lambda net: sl.lens("**.weight").paths(net),
    "a mask": lambda net: sl.lens("**.weight").mask(net),
    "counting": lambda net: (sl.lens(...).count(net), sl.inexact.nbytes(net)),
    "a picture": lambda net: (repr(net), repr(net.states())),
    "the modules": lambda net: net.nodes(),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_touches_nothing(look):
    assert read(look) == []


READS = {
    "a value": (lambda net: net.states()["b"].value, ["b"]),
    "values by path": (lambda net: net.states(sl.tagged("slow")).values_dict(), ["b"]),
    "all values by path": (lambda net: net.states().values_dict(), ["b", "w"]),
    "a bound lens as a tree": (lambda net: jax.tree.leaves(net.states("w")), ["w"]),
    "a part of a state": (lambda net: net.states("w.x")["w.x"].value, ["w"]),
    "an array of a layer": (lambda net: net.states("second.bias")["second.bias"].value, ["second"]),
    "a predicate of the user": (
        lambda net: len(net.states(lambda path, unit: path == ("b",) and unit.value.ndim == 0)),
        ["b"],
    ),
    "what is resolved": (lambda net: sl.path.resolve(net, ("w", "x")), ["w"]),
    "what is resolved in a layer": (lambda net: sl.path.resolve(net, ("first",)), ["first"]),
    "assigning": (lambda net: net.states("b").assign({"b": 2.0}), ["b"]),
}


@pytest.mark.parametrize(("look", "expected"), READS.values(), ids=READS)
def test_reading_touches_what_is_read(look, expected):
    assert read(look) == expected


class Hidden:
    """Holds a state where `jit` can't find it beforehand."""

    __slots__ = ("state",)


def test_a_difference_is_one_of_numbers_and_reads_them():
    hidden = Hidden()
    hidden.state = sl.State(jnp.ones(2))
    f = sl.jit(lambda x: x * len(sl.diff(hidden.state, jnp.ones(2))))
    with pytest.raises(jax.errors.TracerArrayConversionError, match="on traced array"):
        f(1.0)


def test_looking_finds_what_jit_did_not_find_beforehand():
    hidden = Hidden()
    hidden.state = sl.State(jnp.ones(2))
    f = sl.jit(lambda x: x * sl.lens(...).count(hidden.state))
    assert f(1.0) == 2
    hidden.state.value = jnp.ones(3)
    assert f(1.0) == 3


@pytest.mark.parametrize("name", ["w", "first.weight"])
def test_a_state_beside_one_that_is_read_through_a_bound_lens_is_untouched(name):
    net = Net()
    bound = net.states()

    def loss():
        return len(bound) * bound["b"].value ** 2

    states = {"b": net.b, **net.states(name)}
    written = name.replace("first.", r"first'?\.?'?")
    with pytest.raises(sl.UntouchedStateError, match=rf"state '{written}.*\nthe function never"):
        sl.grad(loss, states)()
    np.testing.assert_allclose(sl.grad(loss, states, check_states=False)()["b"], 4.0)


def test_states_looked_up_inside_a_jitted_step_are_trained():
    net = Net()

    @sl.jit
    def step(x):
        params = net.states("b", "first.**")
        grads = sl.grad(lambda: jnp.sum(net.first(x)) * net.b.value, params[0])()
        for path, state in params[0].items():
            state.value -= grads[path]

    step(jnp.ones(2))
    assert step.states.written == (net.b,)
    assert [cell.name for cell in step.states.read if cell is not net.b] == ["first"]


# A program that followed from a look is good as long as it would follow from another.


def test_a_program_that_chose_by_shape_is_made_anew_when_a_shape_changes():
    states = {"a": sl.State(jnp.ones(2)), "b": sl.State(jnp.ones((2, 2)))}
    traces = []

    @sl.jit
    def f(x):
        traces.append(1)
        return x * sum(s.value.sum() for s in sl.lens(sl.ndim == 2).bind(states).values())

    assert [f(1.0), f(1.0)] == [4, 4]
    states["a"].value = 3 * jnp.ones((1, 1))
    assert [f(1.0), f(1.0)] == [7, 7]
    states["a"].value = 5 * jnp.ones((1, 1))
    assert f(1.0) == 9
    assert len(traces) == 2


def test_a_program_that_looked_into_a_state_is_made_anew_when_its_structure_changes():
    states = {"a": sl.State({"x": jnp.ones(2)}), "b": sl.State(jnp.ones(2))}
    traces = []

    @sl.jit
    def f(x):
        traces.append(1)
        return x * len(sl.lens("**.{x,b}").bind(states))

    assert [f(1.0), f(1.0)] == [2, 2]
    states["a"].value = {"y": jnp.ones(2)}
    assert [f(1.0), f(1.0)] == [1, 1]
    assert len(traces) == 2


def test_values_that_change_in_nothing_that_was_looked_at_cost_no_trace():
    net, traces = Net(), []

    @sl.jit
    def f(x):
        traces.append(1)
        return x * len(net.states(sl.ndim == 2)) * net.b.value

    f(1.0)
    net.b.value = net.b.value + 1
    net.w.value = jax.tree.map(lambda x: 2 * x, net.w.value)
    net.first = eqx.nn.Linear(2, 2, key=jax.random.key(9))
    assert f(1.0) == 6
    assert len(traces) == 1


@pytest.mark.parametrize("inner", [lambda f: f, sl.jit], ids=["", "jit"])
def test_lanes_of_a_vmap_look_at_their_own_shapes_and_cost_one_trace(inner):
    state, traces = sl.State(jnp.arange(6.0).reshape(3, 2)), []

    def f(x):
        traces.append(1)
        chosen = sl.lens(sl.ndim == 1).bind({"s": state})
        return x * sum(s.value.sum() for s in chosen.values())

    mapped = sl.jit(T.vmap(inner(f), in_states=state))
    for _ in range(3):
        np.testing.assert_allclose(mapped(jnp.ones(3)), [1.0, 5.0, 9.0])
    once = len(traces)
    state.value = state.value + 1
    np.testing.assert_allclose(mapped(jnp.ones(3)), [3.0, 7.0, 11.0])
    assert len(traces) == once


@pytest.mark.parametrize(
    "look", [lambda m: m.states("**"), sl.lens("**").paths], ids=["states", "lens"]
)
@pytest.mark.parametrize("inner", [lambda f: f, T.vmap, T.checkpoint], ids=["jit", "vmap", "remat"])
def test_a_look_at_a_module_that_is_an_argument_ends_with_the_call(look, inner):
    module = sl.nn.Module()
    module.layer, module.w = jnp.ones(2), sl.State(jnp.ones(2))
    module.myself = module  # so that it isn't gone at once

    @sl.jit
    def f(module, x):
        return inner(lambda x: x * len(look(module)))(x)

    for _ in range(2):
        assert f(module, jnp.ones(1)) == 2
