"""Python numbers in nodes of other libraries: traced as `jax.jit` has it, weak types and all."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import counted

u = pytest.importorskip("saiunit")

T = sl.transform
XS = jnp.arange(3.0)
REST, ROOM = -65.0 * u.mV, jnp.float32(1.0) * u.mV


def millivolts(quantity):
    return jnp.asarray(quantity.to_decimal(u.mV)).tolist()


@pytest.fixture
def v():
    return sl.HiddenState(REST, name="v")


def raised(v):
    v.value = v.value + 1.0 * u.mV


IN_A_STATE = {
    "for_loop": lambda v: T.for_loop(lambda x: raised(v), XS),
    "checkpointed_for_loop": lambda v: T.checkpointed_for_loop(lambda x: raised(v), XS),
    "scan": lambda v: T.scan(lambda c, x: (raised(v), None), None, XS),
    "while_loop": lambda v: T.while_loop(
        lambda i: v.value < -62.0 * u.mV, lambda i: (raised(v), i + 1)[1], 0
    ),
    "bounded_while_loop": lambda v: T.bounded_while_loop(
        lambda i: i < 3, lambda i: (raised(v), i + 1)[1], 0, max_steps=5
    ),
    "cond": lambda v: [T.cond(x >= 0, lambda: raised(v), lambda: None) for x in XS],
    "switch": lambda v: [T.switch(0, [lambda: raised(v), lambda: None]) for _ in XS],
    "map": lambda v: T.map(lambda x: raised(v), XS),
    "jit": lambda v: [sl.jit(functools.partial(raised, v))() for _ in XS],
    "vmap": lambda v: [T.vmap(lambda x: raised(v))(XS) for _ in XS],
}


@pytest.mark.parametrize("name", IN_A_STATE)
def test_a_state_of_a_quantity_of_a_number(name, v):
    IN_A_STATE[name](v)
    assert millivolts(v.value) == -62.0


CARRIED = {
    "scan": lambda step, start: T.scan(lambda c, x: (step(c), c), start, XS)[0],
    "checkpointed_scan": lambda step, start: T.checkpointed_scan(
        lambda c, x: (step(c), c), start, XS
    )[0],
    "while_loop": lambda step, start: T.while_loop(lambda c: c < -62 * u.mV, step, start),
    "bounded_while_loop": lambda step, start: T.bounded_while_loop(
        lambda c: c < -62 * u.mV, step, start, max_steps=5
    ),
}


@pytest.mark.parametrize("by", [1.0 * u.mV, ROOM], ids=["a number", "an array"])
@pytest.mark.parametrize("name", CARRIED)
def test_a_carry_that_begins_as_a_number_is_promoted(name, by):
    assert millivolts(CARRIED[name](lambda c: c + by, REST)) == -62.0


@pytest.mark.parametrize("start", [3, 3.0])
def test_a_carry_is_promoted_as_jax_does(start):
    def step(carry, x):
        return carry + 1.5 * u.mV, carry

    ours, theirs = (scan(step, start * u.mV, XS) for scan in (T.scan, jax.lax.scan))
    for one, other in zip(ours, theirs, strict=True):
        assert millivolts(one) == millivolts(other)
        assert one.mantissa.dtype == other.mantissa.dtype


RETURNED = {
    "for_loop": lambda f: T.for_loop(lambda x: f(), XS),
    "scan": lambda f: T.scan(lambda c, x: (c, f()), 0.0, XS)[1],
    "map": lambda f: T.map(lambda x: f(), XS),
    "map in chunks": lambda f: T.map(lambda x: f(), XS, batch_size=2),
    "vmap": lambda f: T.vmap(lambda x: f())(XS),
}


@pytest.mark.parametrize("name", RETURNED)
def test_an_output_is_stacked(name):
    assert millivolts(RETURNED[name](lambda: REST)) == [-65.0] * 3


@pytest.mark.parametrize("choose", [T.cond, lambda p, f, g: T.ifelse([p, True], [f, g])])
def test_branches_that_return_a_number_and_an_array(choose):
    for pred, expected in ((True, -65.0), (False, 1.0)):
        assert millivolts(choose(jnp.asarray(pred), lambda: REST, lambda: ROOM)) == expected


def test_one_trace_serves_all_values(v):
    run, runs = counted(functools.partial(raised, v))
    step = sl.jit(run)
    for _ in range(5):
        step()
    v.value = -70.0 * u.mV
    step()
    assert (len(runs), millivolts(v.value)) == (1, -69.0)
    run, runs = counted(lambda x: 2 * x)
    double = sl.jit(run)
    assert [millivolts(double(x * u.mV)) for x in (1.0, 2.0, 3.0)] == [2.0, 4.0, 6.0]
    assert len(runs) == 1


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rate"], meta_fields=["name"])
@dataclasses.dataclass
class Settings:
    rate: float
    name: str


class Layer(eqx.Module):
    settings: Settings
    scale: float


def test_numbers_are_traced_outside_of_modules_and_static_in_them():
    run, runs = counted(lambda s: 2 * s.rate)
    double = sl.jit(run)
    assert [float(double(Settings(rate, "a"))) for rate in (1.0, 2.0)] == [2.0, 4.0]
    assert len(runs) == 1
    run, runs = counted(lambda layer: type(layer.settings.rate) is type(layer.scale) is float)
    look = sl.jit(run)
    assert [look(Layer(Settings(rate, "a"), 1.0)) for rate in (1.0, 2.0, 1.0)] == [True] * 3
    assert len(runs) == 2


def test_what_differs_in_branches_is_named_with_its_type():
    with pytest.raises(sl.StructureError, match=r"int32\[\].*float32\[\]|float32\[\].*int32\[\]"):
        T.cond(jnp.asarray(True), lambda: REST, lambda: jnp.int32(1) * u.mV)
