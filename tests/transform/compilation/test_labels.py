"""A state's name, tags and further attributes are part of a program, as a module's are."""

import collections
import functools
import gc
import weakref

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import counted, crossed

T = sl.transform


class Synapse(sl.ParamState):
    rule = "plain"

    def __init__(self, value, **kwargs):
        super().__init__(value, **kwargs)
        self.decay = 1.0
        self.delays = [1.0]
        self.by_name = {"a": 1.0}
        self.kinds = {1.0}


class Model(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = Synapse(jnp.ones(()))
        self.other = sl.State(jnp.ones(()))


READS = {
    "an attribute": (lambda s: s.decay, lambda s: setattr(s, "decay", 3.0)),
    "one of the class": (lambda s: len(s.rule), lambda s: setattr(s, "rule", "oja")),
    "a list": (lambda s: sum(s.delays), lambda s: s.delays.append(3.0)),
    "a dictionary": (lambda s: sum(s.by_name.values()), lambda s: s.by_name.update(b=3.0)),
    "a set": (lambda s: sum(s.kinds), lambda s: s.kinds.add(3.0)),
    "a tag": (lambda s: 1.0 + len(s.tag), lambda s: setattr(s, "tag", frozenset({"slow"}))),
    "a name": (lambda s: 2.0 if s.name else 1.0, lambda s: setattr(s, "name", "w")),
}
TRANSFORMS = {
    "jit": sl.jit,
    "grad in jit": lambda f: sl.jit(sl.grad(lambda x: f(x) * x)),
    "scan in jit": lambda f: sl.jit(lambda x: T.for_loop(f, x[None])[0]),
    "jit in jit": lambda f: sl.jit(functools.partial(sl.jit(f))),
    "eager scan": lambda f: lambda x: T.for_loop(f, x[None])[0],
    "eager": lambda f: f,
}


@pytest.mark.parametrize(
    ("what", "transform"),
    crossed(READS, TRANSFORMS, of_first=list(READS)[:1], of_second=["jit", "eager scan"]),
)
@pytest.mark.parametrize("where", ["module", "bare"])
def test_a_label_that_changes_is_seen(where, transform, what):
    read, change = READS[what]
    model, state = Model(), Synapse(jnp.ones(()))
    held = (lambda: model.w) if where == "module" else (lambda: state)
    f = TRANSFORMS[transform](lambda x: x * held().value * read(held()))
    x = jnp.ones(())
    before = f(x)
    change(held())
    assert f(x) == TRANSFORMS["eager" if "grad" not in transform else transform](
        lambda x: x * held().value * read(held())
    )(x)
    assert f(x) != before


@pytest.mark.parametrize(
    "select",
    [
        lambda m: len(m.states(sl.tagged("slow"))),
        lambda m: len(sl.tagged("slow").paths(m)),
        lambda m: len(m.states(lambda path, unit: unit.tag)),
    ],
)
def test_a_selection_by_tags_of_states_that_are_not_touched_is_seen(select):
    model = Model()
    f = sl.jit(lambda: model.other.value * (1 + select(model)))
    assert f() == 1
    model.w.tag = frozenset({"slow"})
    assert f() == 2
    model.other.tag = frozenset({"slow"})
    assert f() == 3


def test_labels_that_stay_cost_no_trace():
    model = Model()
    run, runs = counted(lambda: model.w.value * model.w.decay)
    f = sl.jit(run)
    for _ in range(3):
        f()
        model.w.value += 1
        model.w.decay = 1.0
        Synapse(jnp.ones(())).decay = 2.0
    assert len(runs) == 1


def test_a_label_that_the_function_sets_itself_costs_no_trace():
    model = Model()

    def step():
        model.w.decay = model.w.decay + 1
        model.w.delays.append(1.0)
        return model.w.value * model.w.decay

    run, runs = counted(step)
    f = sl.jit(run)
    assert [f(), f(), f()] == [2, 2, 2]
    assert len(runs) == 1


def test_an_attribute_that_is_deleted_is_missed():
    model = Model()
    f = sl.jit(lambda: model.w.value * model.w.decay)
    f()
    del model.w.decay
    with pytest.raises(AttributeError, match="decay"):
        f()


def test_the_limit_of_traces_says_which_label():
    model = Model()
    f = sl.jit(lambda: model.w.value * model.w.decay, max_traces=1)
    f()
    model.w.decay = 2.0
    with pytest.raises(sl.RetraceError, match=r"'decay' of a Synapse was 1.0, and is 2.0"):
        f()


def test_programs_keep_no_state_alive_by_its_labels():
    model = Model()
    f = sl.jit(lambda m: m["w"].value * 2.0)
    holder = {"w": model.w}
    g = sl.jit(lambda: holder["w"].value * holder["w"].decay)
    f(holder), g()
    gone = weakref.ref(model.w)
    holder["w"] = model.w = Synapse(jnp.ones(()))
    g()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "container",
    [{1.0}, bytearray(b"\1"), collections.deque([1.0]), [{1.0}], ({1.0},), {"a": {1.0}}],
)
def test_a_container_of_a_module_that_changes_in_place_is_seen(container):
    module = sl.nn.Module()
    module.w, module.container = sl.State(jnp.ones(())), container
    inner = container["a"] if isinstance(container, dict) else container
    inner = inner[0] if isinstance(inner, (list, tuple)) else inner
    f = sl.jit(lambda: module.w.value * sum(inner_of(module.container)))
    assert f() == 1
    inner.add(2) if isinstance(inner, set) else inner.append(2)
    assert f() == 3


def inner_of(container):
    container = container["a"] if isinstance(container, dict) else container
    return container[0] if isinstance(container, (list, tuple)) else container
