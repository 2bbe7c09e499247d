"""A bound lens is a value that a module may hold: it looks at its module, and owns nothing."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import statelens as sl
from tests.helpers import counted, written


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.ones(2))
        self.b = sl.State(jnp.zeros(2))
        self.layer = eqx.nn.Linear(1, 1, key=jax.random.key(0))
        self.all_params = self.states(sl.ParamState)

    def __call__(self, x):
        return jnp.sum(self.w.value * self.layer(x))


class Outer(sl.nn.Module):
    """Lenses at what comes later in the order of attributes, in all kinds of containers."""

    def __init__(self):
        super().__init__()
        self.net = Net()
        self.a_lens = self.net.states("w")
        self.in_list = [self.net.all_params, {"w": self.net.states("w")}]


PATHS = ["b", "layer.weight", "layer.bias", "w"]


def test_it_adds_no_path():
    net = Net()
    assert written(net.states()) == ["b", "w"]
    assert written(sl.lens("**").paths(net)) == PATHS
    assert written(net.all_params) == ["layer.weight", "layer.bias", "w"]
    assert written(Outer().states()) == ["net.b", "net.w"]
    assert written(Outer().nodes()) == ["", "net"]
    assert len(jax.tree.leaves(Outer())) == 4


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: jax.tree.map(lambda x: x, m),
        lambda m: jax.tree.map(lambda x: x, jax.tree.map(lambda x: x, m)),
        lambda m: sl.lens("net.b").set(m, {"net.b": jnp.ones(2)}),
        lambda m: sl.combine(*sl.lens("net.w").partition(m)),
        lambda m: sl.jit(lambda m: m)(m),
    ],
)
def test_in_a_copy_it_looks_at_the_copy(duplicate):
    outer = Outer()
    again = duplicate(outer)
    assert again.net is not outer.net
    for bound in (again.a_lens, *again.in_list[:1], again.in_list[1]["w"], again.net.all_params):
        assert isinstance(bound, sl.BoundLens)
        assert bound.module is again.net
    assert jax.tree.structure(duplicate(again)) == jax.tree.structure(again)


def test_it_is_used_in_and_outside_of_calls():
    net = Net()
    optimizer = optax.sgd(0.1)

    def step(x):
        grads = sl.grad(lambda: net(x), net.all_params)()
        net.all_params.apply_updates(optimizer.update(grads, optimizer.init(grads))[0])
        return len(net.all_params)

    run, runs = counted(step)
    f = sl.jit(run)
    for _ in range(3):
        before = net.w.value
        assert f(jnp.ones(1)) == 3
        assert jnp.any(net.w.value != before)
    assert len(runs) == 1
    net.extra = sl.ParamState(jnp.ones(()))
    assert sl.jit(lambda: len(net.all_params))() == 4


def test_it_goes_with_its_module_as_an_argument():
    net = Net()
    f = sl.jit(lambda net: net.all_params["w"].value * len(net.all_params))
    assert [f(net).tolist(), f(net).tolist()] == [[3, 3], [3, 3]]
    gradient = sl.grad(lambda net: jnp.sum(net.all_params["w"].value ** 2), "w")(net)
    assert gradient.w.value.tolist() == [2, 2]
    after = sl.thread(lambda net: net.all_params.update(lambda value: 2 * value))(net)[1]
    assert (after.w.value.tolist(), net.w.value.tolist()) == ([2, 2], [1, 1])


@pytest.mark.parametrize("of", [lambda net: net.states("w"), sl.lens("w").bind])
def test_it_may_look_at_states_of_another_tree(of):
    state = sl.State(jnp.ones(2))
    tree = sl.nn.Module()
    tree.w = state
    holder = sl.nn.Module()
    holder.bound = of(tree)
    assert written(holder.states()) == []
    assert jax.tree.map(lambda x: x, holder).bound["w"] is state
    f = sl.jit(lambda holder: holder.bound["w"].value * 2)
    assert f(holder).tolist() == [2, 2]
    state.value = jnp.zeros(2)
    assert f(holder).tolist() == [0, 0]


def test_it_may_look_at_states_in_a_dictionary():
    net = Net()
    net.others = sl.lens("*").bind({"w": net.w, "free": sl.State(jnp.ones(1))})
    again = jax.tree.map(lambda x: 2 * x, net)
    assert again.others["w"] is again.w
    assert again.others["free"] is net.others["free"]
    assert written(net.states()) == ["b", "w"]


def test_it_is_shown_by_what_it_selects():
    assert "all_params=states('@ParamState')," in repr(Net())


def test_a_map_of_jax_over_states_goes_over_values_or_over_states_as_is_asked():
    module = sl.nn.Module()
    module.a, module.b = sl.ParamState(jnp.ones(2)), sl.State(jnp.zeros(3))
    states = module.states()
    ported = jax.tree.map(lambda s: s.value, states, is_leaf=lambda s: isinstance(s, sl.State))
    values = jax.tree.map(lambda value: value, states)
    assert list(ported) == list(values) == list(states.to_dict_values()) == [("a",), ("b",)]
    assert all(ported[path] is values[path] is states[path].value for path in states)
