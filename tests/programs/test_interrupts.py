"""An interrupt leaves the states of a call old or new, all of them, and never deleted."""

import collections
import contextlib
import contextvars
import random
import signal
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.programs.interrupts import InterruptAt

T = sl.transform


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (sl.ParamState(jnp.full(3, float(i))) for i in range(3))
        self.tree = sl.State({"x": jnp.zeros(2), "n": [jnp.zeros(2)]})
        self.rng = sl.random.RandomState(0)

    def step(self, x):
        for cell in (self.a, self.b, self.c):
            cell.value = cell.value + x

    def step_all(self, x):
        self.step(x)
        self.tree.value = jax.tree.map(lambda leaf: leaf + x, self.tree.value)
        self.rng.split_key()


STEPS = {
    "jit": lambda net: sl.jit(net.step),
    "jit, donating": lambda net: sl.jit(net.step, donate_states=True),
    "jit of trees and keys, donating": lambda net: sl.jit(net.step_all, donate_states=True),
    "grad": lambda net: sl.grad(lambda x: (net.step_all(x), x)[1]),
    "vmap": lambda net: lambda x: T.vmap(lambda _: net.step(x))(jnp.zeros(2)),
    "for_loop": lambda net: lambda x: T.for_loop(net.step_all, x[None]),
    "cond": lambda net: lambda x: T.cond(True, net.step, lambda x: None, x),
    "checkpoint": lambda net: T.checkpoint(net.step),
    "assign": lambda net: lambda x: net.states(sl.ParamState).update(lambda value: value + x),
}

X = jnp.array(1.0)


def values_of(net):
    return jax.tree.map(np.asarray, [net.a.value, net.b.value, net.c.value])


def is_whole(before, after):
    def moved(by):
        return all(np.array_equal(old + by, new) for old, new in zip(before, after, strict=True))

    return moved(0) or moved(1)


def check_at(step, net, number):
    """Interrupts a step at an instruction."""
    before = values_of(net)
    with InterruptAt(number):
        step(X)
    assert is_whole(before, values_of(net)), f"torn at instruction {number}"
    # Nothing of the call is active any longer: what is written is there to stay.
    net.a.value = net.a.value


def count_of(step):
    for _ in range(2):  # Python counts all of them the second time only
        with InterruptAt() as interrupt:
            step(X)
    return interrupt.count


def places(count, cases):
    """Chooses so many of the instructions, all over."""
    return sorted(random.Random(0).sample(range(count), min(cases, count)))


FEW_OR_MANY = [pytest.param(20, id="few"), pytest.param(1000, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("cases", FEW_OR_MANY)
def test_at_an_instruction_of_a_later_call(name, cases):
    net = Net()
    step = STEPS[name](net)
    for _ in range(3):
        step(X)
    count = count_of(step)
    assert count > 100
    for number in places(count, cases):
        check_at(step, net, number)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jit", "jit of trees and keys, donating", "for_loop"])
def test_at_an_instruction_of_a_first_call(name):
    for number in places(count_of(STEPS[name](Net())), 30):
        net = Net()
        check_at(STEPS[name](net), net, number)


@pytest.mark.parametrize("cases", FEW_OR_MANY)
def test_at_an_instruction_of_the_commit_of_an_overlay(cases):
    net = Net()
    trial = sl.overlay()
    with trial:
        net.step(X)
    count = count_of(lambda _: trial.commit())
    for number in places(count, cases):
        net = Net()
        with sl.overlay() as trial:
            net.step(X)
        check_at(lambda _, trial=trial: trial.commit(), net, number)


@pytest.mark.parametrize("cases", FEW_OR_MANY)
def test_at_an_instruction_of_an_overlay(cases):
    net = Net()

    def step(_):
        with sl.overlay():
            net.a.value = net.a.value + 1

    def is_active_after(number):
        with InterruptAt(number):
            step(X)
        net.a.value = net.a.value * 1
        return contextvars.Context().run(lambda: net.a.value) is not net.a.value

    before = values_of(net)
    count = count_of(step)
    active = [n for n in places(count, cases) if contextvars.copy_context().run(is_active_after, n)]
    # Python itself leaves two places: when `__enter__` returns, and when `__exit__` begins.
    assert len(active) <= 3
    assert jax.tree.all(jax.tree.map(np.array_equal, before, values_of(net)))


def test_a_call_that_donates_gives_keys_and_warns_of_nothing():
    net = Net()
    key = sl.State({"key": jax.random.key(1), "n": jnp.zeros(2)})

    @sl.jit(donate_states=True)
    def step(x):
        net.step_all(x)
        key.value = {"key": jax.random.fold_in(key.value["key"], 1), "n": key.value["n"] + x}
        return {"x": x, "key": key.value["key"]}

    expected = jax.random.key(1)
    for _ in range(3):
        old = net.a.value
        out = step(X)
        expected = jax.random.fold_in(expected, 1)
        assert old.is_deleted()
        for found in (out["key"], key.value["key"]):
            assert (jax.random.key_data(found) == jax.random.key_data(expected)).all()


class Layer(eqx.Module):
    w: jax.Array
    fun: object


def layers_come_and_go(net):
    step = sl.jit(lambda layer, x: (net.step_all(x), Layer(layer.w * x, layer.fun))[1])
    layer = Layer(jnp.ones(3), jnp.sin)
    return lambda x: step(layer, x)


def modules_come_and_go(net):
    step = sl.jit(net.step_all)

    def run(x):
        with sl.overlay():
            for _ in range(20):
                sl.nn.Module().layers = [sl.nn.Module()]
        step(x)

    return run


UNDER_SIGNALS = {
    "jit": STEPS["jit"],
    "jit, donating": STEPS["jit of trees and keys, donating"],
    "layers come and go": layers_come_and_go,
    "modules come and go": modules_come_and_go,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNDER_SIGNALS)
def test_at_a_thousand_signals(name, monkeypatch):
    net = Net()
    net.rng.value = net.rng.value  # made before anything is interrupted
    step = UNDER_SIGNALS[name](net)
    step(X)
    rng = random.Random(0)
    before_signals = signal.getsignal(signal.SIGALRM)
    is_armed = False
    swallowed = []

    def interrupt(*_):
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise KeyboardInterrupt

    def note(error):
        # Not by what JAX has Python call when garbage is collected.
        if not getattr(error.object, "__module__", "").startswith("jax"):
            swallowed.append(error.object)

    def step_until_interrupted():
        nonlocal is_armed, steps
        is_armed = True
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 2e-3))
        while is_armed:
            step(X)
            steps += 1

    signal.signal(signal.SIGALRM, interrupt)
    monkeypatch.setattr(sys, "unraisablehook", note)
    came = collections.Counter()
    try:
        for _ in range(1000):
            before = values_of(net)
            steps = 0
            with contextlib.suppress(KeyboardInterrupt):
                step_until_interrupted()
            moved = map(np.subtract, values_of(net), before)
            counts = {float(difference.flat[0]) for difference in moved}
            assert counts <= {float(steps)} or counts <= {float(steps + 1)}
            came[counts.pop() > steps] += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_signals)
    assert came[False] > 100
    assert swallowed == []


@pytest.mark.parametrize("check", [T.error_if, T.jit_error_if], ids=["error_if", "jit_error_if"])
def test_a_check_that_fails_in_a_call_that_donates(check):
    state = sl.State(jnp.ones(2))

    def add(v):
        if check is T.error_if:
            v = check(v, jnp.any(v < 0), "v is negative")
        else:
            check(jnp.any(v < 0), "v is negative")
        state.value = state.value + v

    add = sl.jit(add, donate_states=True)
    add(jnp.ones(2))
    for _ in range(2):
        with pytest.raises(Exception, match="v is negative"):
            add(-jnp.ones(2))
        assert (state.value == 2).all()
