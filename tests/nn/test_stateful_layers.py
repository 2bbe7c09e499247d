"""Equinox's layers that have state, as plain attributes of a facade module."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, counted, written

T = sl.transform
BATCHES = jax.random.normal(jax.random.key(0), (3, 4, 3))
X = BATCHES[0]


class Net(sl.nn.Module):
    def __init__(self, mode="batch"):
        super().__init__()
        self.norm, self.norm_state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode=mode)
        linear = eqx.nn.Linear(3, 2, key=jax.random.key(1))
        self.linear, self.linear_state = eqx.nn.make_with_state(eqx.nn.SpectralNorm)(
            linear, "weight", key=jax.random.key(2)
        )

    def one(self, x):
        x, self.norm_state = self.norm(x, self.norm_state)
        x, self.linear_state = self.linear(x, self.linear_state)
        return x

    def __call__(self, xs):
        return T.vmap(self.one, axis_name="batch")(xs)


def by_hand(mode):
    """The outputs and states of all batches, with Equinox and JAX alone."""
    net = Net(mode)
    states = net.norm_state, net.linear_state

    def one(x, states):
        x, norm = net.norm(x, states[0])
        x, linear = net.linear(x, states[1])
        return x, (norm, linear)

    outs = []
    for xs in BATCHES:
        out, states = jax.vmap(one, (0, None), (0, None), axis_name="batch")(xs, states)
        outs.append(out)
    return jnp.stack(outs), states


@pytest.fixture(params=["ema", "batch"])
def mode(request):
    return request.param


def threaded(net):
    step, outs = jax.jit(sl.thread(Net.__call__)), []
    tree = net
    for xs in BATCHES:
        out, tree = step(tree, xs)
        outs.append(out)
    net.norm_state, net.linear_state = tree.norm_state, tree.linear_state
    return jnp.stack(outs)


WAYS = {
    "eagerly": lambda net: jnp.stack(list(map(net, BATCHES))),
    "jit": lambda net: jnp.stack(list(map(sl.jit(lambda xs: net(xs)), BATCHES))),
    "jit that donates": lambda net: jnp.stack(
        list(map(sl.jit(lambda xs: net(xs), donate_states=True), BATCHES))
    ),
    "for_loop": lambda net: T.for_loop(lambda xs: net(xs), BATCHES),
    "scan": lambda net: T.scan(lambda carry, xs: (carry, net(xs)), 0, BATCHES)[1],
    "checkpoint": lambda net: jnp.stack([T.checkpoint(lambda x: net(x))(xs) for xs in BATCHES]),
    "thread": threaded,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_statistics_are_those_of_equinox(way, mode):
    net = Net(mode)
    out, states = by_hand(mode)
    np.testing.assert_allclose(WAYS[way](net), out, rtol=1e-4, atol=1e-5)
    close((net.norm_state, net.linear_state), states, rtol=1e-4)


def test_what_is_differentiated_commits_its_statistics(mode):
    net = Net(mode)
    params = net.states(sl.trainable)
    names = ["linear.layer.weight", "linear.layer.bias", "norm.weight", "norm.bias"]
    assert written(params) == names

    @sl.jit
    def step(xs):
        grads = sl.grad(lambda: jnp.sum(net(xs) ** 2), params)()
        params.apply_updates(jax.tree.map(lambda grad: -1e-3 * grad, grads))
        return grads

    grads = step(X)
    assert grads.keys() == params.keys()
    assert all(bool(jnp.any(grad)) for grad in grads.values())
    other = Net(mode)
    other(X)
    close(net.norm_state, other.norm_state, rtol=1e-5)


def test_the_statistics_are_neither_trained_nor_parameters(mode):
    net = Net(mode)
    for spec in (sl.ParamState, sl.params, sl.trainable):
        assert not [path for path in written(net.states(spec)) if "state" in path]
    assert len(sl.lens("norm_state.**").paths(net)) == 3


def test_in_evaluation_they_are_used_and_stay(mode):
    net = Net(mode)
    call, runs = counted(lambda xs: net(xs))
    compiled = sl.jit(call)
    for xs in BATCHES:
        compiled(xs)
    net.eval()
    before = net.norm_state
    normalised = sl.nn.inference_mode(net.norm)
    out = compiled(X)
    close(net.norm_state, before)
    first, _ = normalised(X[0], net.norm_state)
    np.testing.assert_allclose(out[0], net.linear(first, net.linear_state)[0], rtol=1e-4)
    net.train()
    compiled(X)
    assert not eqx.tree_equal(net.norm_state, before)
    assert len(runs) == 2


@pytest.mark.parametrize(
    "again", [lambda net: pickle.loads(pickle.dumps(net)), copy.deepcopy, copy.copy]
)
def test_a_copy_has_its_own(again, mode):
    net = Net(mode)
    net(X)
    other = again(net)
    close(other.norm_state, net.norm_state)
    before = net.norm_state
    np.testing.assert_allclose(other(BATCHES[1]), copy.deepcopy(net)(BATCHES[1]), rtol=1e-5)
    close(net.norm_state, before)
    assert not eqx.tree_equal(other.norm_state, before)


def fails(net):
    net(X)
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "run",
    [
        lambda net: fails(net),
        lambda net: sl.jit(lambda: fails(net))(),
        lambda net: sl.grad(lambda: fails(net), net.states(sl.trainable))(),
        lambda net: T.for_loop(lambda xs: fails(net), BATCHES),
    ],
)
def test_a_call_that_fails_leaves_a_module_that_works(run):
    net = Net()
    with pytest.raises(ZeroDivisionError):
        run(net)
    assert net(X).shape == (4, 2)


@pytest.mark.parametrize("holder", ["attribute", "state"])
def test_what_is_done_with_the_statistics_does_not_reach_the_module(holder):
    net = Net()
    kept = sl.BatchState(net.linear_state)
    read = (lambda: net.linear_state) if holder == "attribute" else (lambda: kept.value)
    before = read()
    first, after = net.linear(X[0], read())  # its `set` takes what it is called on
    second, _ = net.linear(X[0], read())
    np.testing.assert_array_equal(first, second)
    close(read(), before)
    with sl.overlay({}):
        net.linear(X[0], read())
        close(read(), before)
    assert not eqx.tree_equal(after, before)


def test_it_may_be_held_in_a_state():
    net = Net()
    net.norm_state = sl.BatchState(
        eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="ema")[1]
    )
    net.norm, _ = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="ema")

    @sl.jit
    def call(xs):
        def one(x):
            y, net.norm_state.value = net.norm(x, net.norm_state.value)
            return y

        return T.vmap(one, axis_name="batch")(xs)

    expected = by_hand("ema")[1][0]
    for xs in BATCHES:
        call(xs)
    close(net.norm_state.value, expected, rtol=1e-4)
