"""Attributes that are plain objects, whose fields change in place."""

import argparse
import collections
import dataclasses
import enum
import functools
import gc
import types
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import statelens as sl

T = sl.transform
ONE = jnp.ones(())


class Options:
    scale = 2.0  # of the class, until it is set


class Slotted:
    __slots__ = ("__hidden", "scale")

    def __init__(self):
        self.scale = 2.0


class Derived(Slotted):
    __slots__ = ("more",)


@dataclasses.dataclass
class Data:
    scale: float = 2.0


@dataclasses.dataclass(frozen=True)
class Frozen:
    inner: Any


class Side(enum.Enum):
    LEFT = 1


class Model(sl.nn.Module):
    config: Any
    log: Any
    weight: sl.ParamState

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.weight = sl.ParamState(jnp.ones(()))

    def __call__(self, x):
        return x * options_of(self.config).scale * self.weight.value


def options_of(config):
    """Finds the object that has the scale."""
    while not hasattr(config, "scale"):
        if isinstance(config, collections.UserDict):
            config = config["inner"]
        elif isinstance(config, (list, tuple, collections.deque)):
            config = config[0]
        elif isinstance(config, dict):
            config = config["a"]
        else:
            config = config.inner
    return config


CONFIGS = {
    "namespace": lambda: types.SimpleNamespace(scale=2.0),
    "arguments": lambda: argparse.Namespace(scale=2.0),
    "class": Options,
    "slots": Slotted,
    "derived": Derived,
    "dataclass": Data,
    "in a list": lambda: [Options()],
    "in a dictionary": lambda: {"a": (Data(),)},
    "in a deque": lambda: collections.deque([Data()]),
    "in a frozen one": lambda: Frozen(Slotted()),
    "in an object": lambda: types.SimpleNamespace(inner=[{"a": Options()}]),
    "in a user's dictionary": lambda: collections.UserDict(inner=Options()),
}


def by_grad(grad):
    return lambda x: grad(x)["weight",]


def within_jit(fun):
    return sl.jit(lambda x: fun(x))


PROGRAMS = {
    "closure": lambda model: sl.jit(lambda x: model(x)),
    "bound": sl.jit,
    "argument": lambda model: functools.partial(sl.jit(lambda m, x: m(x)), model),
    "states first": lambda model: sl.jit(lambda x: (model.states(), model(x))[1]),
    "for_loop": lambda model: lambda x: T.for_loop(model, x[None])[0],
    "grad": lambda model: by_grad(sl.jit(sl.grad(model, model.states(sl.ParamState)))),
    "inner jit": lambda model: within_jit(sl.jit(lambda x: model(x))),
}


@pytest.mark.parametrize("make", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_field_that_changes_is_seen(program, make):
    model = Model(make())
    fun = program(model)
    assert fun(ONE) == fun(ONE) == 2
    options_of(model.config).scale = 3.0
    assert fun(ONE) == fun(ONE) == 3


def counted(model):
    traces = []

    @sl.jit
    def fun(x):
        traces.append(1)
        return model(x)

    return fun, traces


def test_what_does_not_change_is_compiled_once():
    model = Model(Options())
    fun, traces = counted(model)
    for _ in range(3):
        fun(ONE)
        model.config.scale = 2.0
        gc.collect()
    assert len(traces) == 2  # the class had it first


def test_fields_of_objects_that_nobody_reads_do_not_matter():
    model = Model(Options())
    model.log = types.SimpleNamespace(losses=[])
    traces = []

    @sl.jit
    def fun(x):
        traces.append(1)
        return sl.grad(model, model.states(sl.ParamState))(x)

    for _ in range(3):
        model.log.losses.append(fun(ONE))
        model.log.last = None
    assert len(traces) == 1


class Computed:
    scale = 2.0

    @functools.cached_property
    def table(self):
        return [1, 2]


class Value:
    """What is a value, such as a unit: it says what it equals, and notes its hash."""

    scale = 2.0

    def __eq__(self, other):
        return isinstance(other, Value)

    def __hash__(self):
        self.known = True
        return 1


@pytest.mark.parametrize(
    ("config", "use"),
    [
        (Computed(), lambda config: config.table),
        (Value(), hash),
        (types.SimpleNamespace(scale=2.0, side=Side.LEFT), lambda config: config.side.name),
    ],
)
def test_what_is_only_kept_so_as_not_to_be_computed_again_does_not_matter(config, use):
    model = Model(config)
    fun, traces = counted(model)
    fun(ONE)
    use(config)
    fun(ONE)
    assert len(traces) == 1


def test_what_the_function_itself_sets_is_done():
    model = Model(types.SimpleNamespace(scale=2.0, calls=0))

    @sl.jit
    def fun(x):
        model.config.calls += 1
        return model(x)

    assert [fun(ONE).item() for _ in range(3)] == [2, 2, 2]
    assert model.config.calls == 1
    model.config.scale = 4.0
    assert fun(ONE) == 4


def test_an_object_that_becomes_none_or_is_taken_away_is_seen():
    model = Model(types.SimpleNamespace(scale=2.0, bias=Data(1.0)))

    @sl.jit
    def fun(x: jax.Array) -> jax.Array:
        bias: Any = getattr(model.config, "bias", 5.0)
        return x * (0.0 if bias is None else bias if isinstance(bias, float) else bias.scale)

    assert fun(ONE) == 1
    model.config.bias = None
    assert fun(ONE) == 0
    del model.config.bias
    assert fun(ONE) == 5


def test_objects_may_refer_to_one_another_and_to_the_model():
    model = Model(types.SimpleNamespace(scale=2.0))
    model.config.model, model.config.itself = model, model.config
    fun = sl.jit(lambda x: model(x))
    assert fun(ONE) == 2
    model.config.scale = 3.0
    assert fun(ONE) == 3


def test_a_program_keeps_neither_the_object_nor_the_model():
    model = Model(Options())
    models = [model]
    fun = sl.jit(lambda x: models[0](x))
    fun(ONE)
    models.clear()
    ended = weakref.ref(model), weakref.ref(model.config), weakref.ref(model.weight)
    del model
    gc.collect()
    gc.collect()  # the program ends with the model, and the state with the program
    assert [each() for each in ended] == [None, None, None]


def test_modules_that_a_function_makes_may_have_such_objects():
    traces = []

    @sl.jit
    def fun(x):
        traces.append(1)
        return Model(Frozen([Data()]))(x)

    for _ in range(3):
        assert fun(ONE) == 2
        gc.collect()
    assert len(traces) == 1


def test_an_object_in_an_attribute_of_a_state_is_seen():
    class Noted(sl.State):
        note: Any

    state = Noted(jnp.ones(()))
    state.note = [Data()]
    fun = sl.jit(lambda x: x * state.note[0].scale * state.value)
    assert fun(ONE) == 2
    state.note[0].scale = 3.0
    assert fun(ONE) == 3


def test_what_is_compiled_ahead_of_time_refuses_to_run_on():
    model = Model(Data())
    compiled = sl.jit(lambda x: model(x)).lower(ONE).compile()
    assert compiled(ONE) == 2
    model.config.scale = 3.0
    with pytest.raises(sl.StateLensError, match="compiled"):
        compiled(ONE)
