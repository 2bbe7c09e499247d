"""A name that led a compiled function to its states is followed: a model made again is seen."""

import collections
import dataclasses
import functools
import gc
import types
import weakref

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import counted, crossed

T = sl.transform


class Model(sl.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.w = sl.ParamState(jnp.array(weight))

    def __call__(self, x):
        return self.w.value + x


class Slotted:
    __slots__ = ("model",)

    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return self.model(x)


class Private:
    __slots__ = ("__model",)

    def __init__(self, model):
        self.set(model)

    def set(self, model):
        self.__model = model

    def __call__(self, x):
        return self.__model(x)


@dataclasses.dataclass
class Trainer:
    model: object

    def __call__(self, x):
        return self.model(x)


class Holder(sl.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.config = types.SimpleNamespace(model=model)

    def __call__(self, x):
        return self.config.model(x)


def by_global(model):
    module = types.ModuleType("cells_of_a_notebook")
    exec("def f(x): return model(x)", vars(module))
    module.model = model
    return module.f, lambda new: setattr(module, "model", new)


def by_a_global_of_another_function(model):
    module = types.ModuleType("cells_of_a_notebook")
    exec("def f(x): return g(x)\ndef g(x): return (lambda: model(x))()", vars(module))
    module.model = model
    return module.f, lambda new: setattr(module, "model", new)


def by_an_attribute_of_a_python_module(model):
    holder = types.ModuleType("models")
    holder.model = model
    module = types.ModuleType("cells_of_a_notebook")
    exec("def f(x): return models.model(x)", vars(module))
    module.models = holder
    return module.f, lambda new: setattr(holder, "model", new)


def by_an_attribute_of_a_class(model):
    class Registry:
        current = model

    return (lambda x: Registry.current(x)), lambda new: setattr(Registry, "current", new)


def by_closure(model):
    def rebind(new):
        nonlocal model
        model = new

    return (lambda x: model(x)), rebind


def by_dictionary(model):
    models = {"step": 0, "net": model}
    return (lambda x: models["net"](x)), lambda new: models.update(net=new)


def by_list(model):
    models = [0, model]
    return (lambda x: models[1](x)), lambda new: models.__setitem__(1, new)


def by_deque(model):
    models = collections.deque([model])
    return (lambda x: models[0](x)), lambda new: models.__setitem__(0, new)


def by_plain_object(model):
    trainer = Trainer(model)
    return trainer, lambda new: setattr(trainer, "model", new)


def by_slots(model):
    slotted = Slotted(model)
    return slotted, lambda new: setattr(slotted, "model", new)


def by_private_slots(model):
    private = Private(model)
    return private, private.set


def by_a_tuple(model):
    models = 0, (model,)

    def rebind(new):
        nonlocal models
        models = 0, (new,)

    return (lambda x: models[1][0](x)), rebind


def by_a_list_made_anew(model):
    models = [model, model]

    def rebind(new):
        nonlocal models
        models = [new, new]

    return (lambda x: models[1](x)), rebind


def by_a_dictionary_made_anew(model):
    models = {"step": 0, "net": model}

    def rebind(new):
        nonlocal models
        models = {"step": 0, "net": new}

    return (lambda x: models["net"](x)), rebind


def by_a_function_made_anew(model):
    def made(model):
        return lambda x: model(x)

    apply = made(model)

    def rebind(new):
        nonlocal apply
        apply = made(new)

    return (lambda x: apply(x)), rebind


def by_a_plain_object_that_its_model_leads_to(model):
    def led_to(model):
        trainer = Trainer(model)
        if model is not None:
            model.trainer = trainer
        return trainer

    trainer = led_to(model)

    def rebind(new):
        nonlocal trainer
        trainer = led_to(new)

    return (lambda x: trainer.model(x)), rebind


def by_slots_made_anew(model):
    slotted = Slotted(model)

    def rebind(new):
        nonlocal slotted
        slotted = Slotted(new)

    return (lambda x: slotted.model(x)), rebind


def by_a_default(model):
    def fun(x, model=model):
        return model(x)

    return fun, lambda new: setattr(fun, "__defaults__", (new,))


def by_a_keyword_of_a_partial(model):
    fun = functools.partial(lambda x, model: model(x), model=model)
    return (lambda x: fun(x)), lambda new: fun.keywords.update(model=new)


def beside_rows(model):
    rows = [(number,) for number in range(30_000)]

    def rebind(new):
        nonlocal model
        model = new

    return (lambda x: model(x) + 0 * len(rows)), rebind


def beside_rows_by_name(model):
    rows = [{"id": number, "text": [""]} for number in range(30_000)]

    def rebind(new):
        nonlocal model
        model = new

    return (lambda x: model(x) + 0 * len(rows)), rebind


def by_a_method(model):
    trainer = Trainer(model)
    return trainer.__call__, lambda new: setattr(trainer, "model", new)


def by_a_partial(model):
    trainer = Trainer(model)
    fun = functools.partial(lambda trainer, x: trainer(x), trainer)
    return fun, lambda new: setattr(trainer, "model", new)


def by_a_plain_object_in_a_module(model):
    holder = Holder(model)
    return (lambda x: holder(x)), lambda new: setattr(holder.config, "model", new)


def by_another_compiled_function(model):
    fun, rebind = by_closure(model)
    inner = sl.jit(fun)
    return (lambda x: inner(x)), rebind


WAYS = [value for name, value in list(globals().items()) if name.startswith(("by_", "beside_"))]
TRANSFORMS = {
    "jit": sl.jit,
    "grad in jit": lambda f: sl.jit(sl.grad(lambda x: 0.5 * f(x) ** 2)),
    "vmap in jit": lambda f: sl.jit(lambda x: T.vmap(f)(x[None])[0]),
    "scan in jit": lambda f: sl.jit(lambda x: T.for_loop(f, x[None])[0]),
    "eager scan": lambda f: lambda x: T.for_loop(f, x[None])[0],
}


@pytest.mark.parametrize(
    ("way", "transform"),
    crossed(WAYS, TRANSFORMS, of_first=WAYS[:2], of_second=["jit", "eager scan"]),
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_model_made_anew_is_seen(way, transform):
    fun, rebind = way(Model(1.0))
    f = TRANSFORMS[transform](fun)
    x = jnp.array(2.0)
    assert [f(x), f(x)] == [3, 3]
    rebind(Model(100.0))
    assert [f(x), f(x)] == [102, 102]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_so_is_a_bare_state(way):
    fun, rebind = way(lambda x: old.value + x)
    old, new = sl.State(jnp.array(1.0)), sl.State(jnp.array(100.0))
    f = sl.jit(fun)
    assert f(2.0) == 3
    rebind(lambda x: new.value + x)
    assert f(2.0) == 102


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_the_name_led_to_is_let_go(way):
    model = Model(1.0)
    fun, rebind = way(model)
    f = sl.jit(fun)
    f(2.0)
    gone = weakref.ref(model.w)
    model = Model(100.0)
    rebind(model)
    f(2.0)
    gc.collect()
    assert gone() is None


# But for a default, which the signature of the compiled function has too.
@pytest.mark.parametrize("way", [way for way in WAYS if way is not by_a_default])
def test_so_it_is_before_the_function_is_called_again(way):
    model = Model(1.0)
    fun, rebind = way(model)
    f = sl.jit(fun)
    assert f(2.0) == 3
    gone = weakref.ref(model), weakref.ref(model.w)
    del model
    rebind(None)
    gc.collect()
    gc.collect()  # the program ends with the model, and the state with the program
    assert [each() for each in gone] == [None, None]


def test_training_goes_on_with_the_new_model():
    models = [Model(1.0)]

    @sl.jit(donate_states=True)
    def step():
        models[0].w.value += 1

    step()
    old = models[0]
    models[0] = Model(10.0)
    step()
    step()
    assert (old.w.value, models[0].w.value) == (2, 12)


def test_what_else_is_beside_the_model_may_change():
    bag = {"model": Model(1.0), "step": 0, "log": []}
    trainer = Trainer(bag["model"])
    run, runs = counted(lambda x: bag["model"](x) + trainer(x))
    f = sl.jit(run)
    for step in range(4):
        f(2.0)
        bag["step"], trainer.loss = step, jnp.array(step)
        bag["log"].append(step)
        bag[f"ema {step}"] = trainer.average = Model(0.0)
    assert len(runs) == 1


def test_a_name_that_is_deleted_is_missed():
    module = types.ModuleType("cells_of_a_notebook")
    exec("def f(x): return model(x)", vars(module))
    module.model = Model(1.0)
    f = sl.jit(module.f)
    f(2.0)
    del module.model
    with pytest.raises(NameError, match="model"):
        f(2.0)


def test_a_function_that_is_written_anew_is_seen_where_it_led_to_states():
    model = Model(1.0)

    layer = model.__call__
    f = sl.jit(lambda x: layer(x))
    assert f(2.0) == 3
    layer = lambda x: 10 * model(x)  # noqa: E731

    assert f(2.0) == 30


def test_the_limit_of_traces_says_which_name():
    model = Model(1.0)
    f = sl.jit(lambda x: model(x), max_traces=1)
    f(2.0)
    model = Model(100.0)
    with pytest.raises(sl.StateLensError, match="the name 'model' leads to another Model"):
        f(2.0)


def test_a_compiled_program_refuses_to_run_for_another_model():
    model = Model(1.0)
    compiled = sl.jit(lambda x: model(x)).lower(2.0).compile()
    assert compiled(2.0) == 3
    model = Model(100.0)
    with pytest.raises(sl.StateLensError, match="the name 'model' leads to another Model"):
        compiled(2.0)
