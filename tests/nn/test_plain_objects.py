"""Attributes that are plain objects, whose fields change in place."""

import argparse
import collections
import dataclasses
import enum
import functools
import gc
import operator
import types
import weakref
from typing import Any

import equinox as eqx
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


@dataclasses.dataclass
class Run:
    """What a program reads, beside what changes at each step."""

    factor: float = 2.0
    step: int = 0
    history: list = dataclasses.field(default_factory=list)
    inner: Any = None

    def log(self, loss):
        self.step += 1
        self.history.append(loss)
        self.last = loss

    @property
    def scale(self):
        return self.factor

    def scaled(self, x):
        return x * self._scale()

    def _scale(self):
        return self.factor


def scale_by_name(run):
    name = "".join(["fac", "tor"])
    return getattr(run, name)


READS = {
    "a field": lambda run: run.factor,
    "a property": lambda run: run.scale,
    "a method": lambda run: run.scaled(1.0),
    "a method of its class": lambda run: Run.scaled(run, 1.0),
    "a method, bound later": lambda run: (lambda fun: fun(1.0))(run.scaled),
    "another function": lambda run: factor_of(run),
    "a function in a list": lambda run: ACCESSORS[0](run),
    "a name that is made": scale_by_name,
    "the dictionary of fields": lambda run: vars(run)["factor"],
    "all fields": lambda run: dataclasses.asdict(run)["factor"],
    "a copy": lambda run: dataclasses.replace(run).factor,
    "a pattern": lambda run: factor_by_pattern(run),
    "a default": lambda run: factor_if_any(run),
    "a getter": lambda run: operator.attrgetter("factor")(run),
    "a getter that was made before": lambda run: get_factor(run),
    "a function by another name": lambda run: alike(run).factor,
    "a class in a dictionary": lambda run: CLASSES["lookup"](run).factor(),
    "a layer of Equinox's": lambda run: Layer(run)(),
    "an operator of a layer": lambda run: Layer(run) * 1.0,
    "a function that caches": lambda run: cached_factor(Held(run)),
    "a function that dispatches": lambda run: dispatched(run),
    "a partial method": lambda run: Lookup(run).partial(),
    "a derivative": lambda run: jax.grad(lambda x: x * factor_of(run))(1.0),
    "a rule of JAX's": lambda run: jax.grad(lambda x: ruled(Held(run), x))(1.0),
}


def factor_of(run):
    return (lambda: run.factor)()


ACCESSORS = [factor_of]


get_factor = operator.attrgetter("factor")
alike = dataclasses.replace


class Held:
    def __init__(self, run):
        self.run = run


class Lookup(Held):
    def factor(self):
        return self._factor(0)

    def _factor(self, _):
        return self.run.factor

    partial = functools.partialmethod(_factor, 0)


CLASSES = {"lookup": Lookup}


class Layer(eqx.Module):
    run: Run

    def __call__(self):
        return self.run.factor

    def __mul__(self, other):
        return self.run.factor * other


@functools.lru_cache
def cached_factor(held):
    return held.run.factor


@functools.singledispatch
def dispatched(run):
    raise NotImplementedError


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def ruled(held, x):
    return x


@ruled.defjvp
def _(held, primals, tangents):
    return primals[0], held.run.factor * tangents[0]


def factor_by_pattern(run):
    match run:
        case Run(factor=factor):
            return factor


def factor_if_any(run):
    return 0.0 if not hasattr(run, "factor") else scale_by_name(run)


@dispatched.register
def _(run: Run):
    return run.factor


class Reader(Model):
    def __init__(self, read, run):
        super().__init__(run)
        self.read = read

    def __call__(self, x):
        return x * self.read(self.config) * self.weight.value


@pytest.mark.parametrize("within", [lambda run: run, lambda run: Run(inner=[run])])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_field_is_seen_however_it_is_read(read, within):
    run = Run()
    inner = (lambda one: one.inner[0]) if within(run) is not run else (lambda one: one)
    fun = sl.jit(Reader(lambda one: read(inner(one)), within(run)))
    assert fun(ONE) == 2
    run.factor = 3.0
    assert fun(ONE) == 3


@pytest.mark.parametrize("name", ["a field", "a property", "a method", "another function"])
def test_a_field_that_nobody_reads_may_change_at_each_step(name):
    run = Run()
    fun, traces = counted(Reader(READS[name], run))
    for _ in range(3):
        run.log(fun(ONE))
        run.inner = Run()
    assert len(traces) == 1
    run.factor = 3.0
    assert fun(ONE) == 3


def test_of_a_field_that_is_read_what_nobody_reads_may_change_too():
    model = Model(Options())
    model.config.inner = Run()
    traces = []

    @sl.jit
    def fun(x):
        traces.append(1)
        return x * model.config.inner.factor

    for step in range(3):
        assert fun(ONE) == 2
        model.config.inner.log(step)
    assert len(traces) == 1


def test_a_compiled_function_in_another_one_may_read_a_field_that_the_other_does_not_name():
    model = Model(Run())
    inner = {"fun": sl.jit(lambda x: x * model.config.factor)}
    fun = sl.jit(lambda x: inner["fun"](x) + model.config.step)
    assert fun(ONE) == 2
    model.config.factor = 3.0
    assert fun(ONE) == 3


def test_numbers_in_a_long_list_are_seen():
    model = Model(Options())
    model.log = [0.0] * 2_000 + [(1.0,)]
    fun = sl.jit(lambda x: x + model.log[1_500])
    assert fun(ONE) == 1
    model.log[1_500] = 1.0
    assert fun(ONE) == 2
    model.log[1_500] = True
    assert fun(ONE) == 2


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


def test_a_function_that_becomes_none_is_seen():
    model = Model(Options())
    model.log = lambda x: x
    fun = sl.jit(lambda x: x if model.log is None else model.log(x) + 1)
    assert fun(ONE) == 2
    model.log = None
    gc.collect()
    assert fun(ONE) == 1


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


LEADING_BACK = {
    "not at all": lambda model: None,
    "by a field": lambda model: setattr(model.config, "model", model),
    "by a list": lambda model: setattr(model.config, "models", [0, model]),
    "by an object": lambda model: setattr(model.config, "inner", Data(model)),
    "by a closure": lambda model: setattr(model.config, "fun", lambda: model),
    "by a function": lambda model: setattr(model, "config", with_scale(lambda: model)),
}


def with_scale(fun):
    fun.scale = 2.0
    return fun


@pytest.mark.parametrize("lead_back", LEADING_BACK.values(), ids=LEADING_BACK)
def test_a_program_keeps_neither_the_object_nor_the_model(lead_back):
    model = Model(Options())
    lead_back(model)
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
