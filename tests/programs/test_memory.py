"""What a program has dropped is let go: no cache of ours keeps an object of the user's.

JAX's own caches keep what is static in the structure of an argument until they are cleared, ours
being nodes of such a structure. So they are cleared before it is looked what is alive; a control
shows that plain JAX keeps it up to then.
"""

import functools
import gc
import logging
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

T = sl.transform
pytestmark = pytest.mark.slow

XS = jnp.arange(3.0)


class Box:
    """Any object of the user's."""

    value = 2.0

    def is_chosen(self, path, unit):
        return True


class Net(sl.nn.Module):
    def __init__(self, box=None):
        super().__init__()
        self.w, self.n = sl.ParamState(jnp.ones(3)), sl.State(jnp.zeros(()))
        self.box = box

    def __call__(self, x=1.0):
        self.n.value = self.n.value + 1
        return jnp.sum(self.w.value * x)

    @sl.jit
    def step(self, x):
        return self(x)


class Layer(eqx.Module):
    w: jax.Array
    fun: object

    @sl.jit
    def step(self, x):
        return self.w * x


def layer():
    return Layer(jnp.full(3, 2.0), lambda x: x)


# Bodies, each with what has to be let go after it has run.


def over_an_array():
    array, total = jnp.full(3, 2.0), sl.State(jnp.zeros(()))

    def body(x=1.0):
        total.value = total.value + array[0]
        return x * 1.0

    return body, [array, total, body]


def over_an_object():
    box = Box()
    return lambda x=1.0: x * box.value, [box]


def over_a_list():
    box = Box()
    boxes = [box, {"a": [box]}]
    return lambda x=1.0: x * boxes[0].value * boxes[1]["a"][0].value, [box]


def over_an_array_of_numpys():
    array = np.ones(3)
    return lambda x=1.0: x * array[0], [array]


def over_a_module():
    net = Net(Box())
    return lambda x=1.0: net(x) * 0 + x, [net, net.w, net.w.value, net.box]


def over_an_equinox_module():
    inner = layer()
    return lambda x=1.0: inner.fun(inner.w[0]) * x, [inner, inner.w, inner.fun]


def of_a_partial_function():
    box = Box()
    return functools.partial(lambda box, x=1.0: x * box.value, box), [box]


BODIES = [
    over_an_array,
    over_an_object,
    over_a_list,
    over_an_array_of_numpys,
    over_a_module,
    over_an_equinox_module,
    of_a_partial_function,
]


def _often(f):
    for _ in range(3):
        f(1.0)


RUNS = {
    "jit": lambda f: _often(sl.jit(f)),
    "jit that donates": lambda f: _often(sl.jit(f, donate_states=True)),
    "ahead of time": lambda f: sl.jit(f).lower(1.0).compile()(1.0),
    "grad": lambda f: sl.grad(f)(1.0),
    "hessian": lambda f: T.hessian(f)(1.0),
    "per_example_grad": lambda f: T.per_example_grad(f)(XS),
    "vjp": lambda f: T.vjp(f, 1.0),
    "for_loop": lambda f: T.for_loop(f, XS),
    "scan": lambda f: T.scan(lambda c, x: (c, f(x)), 0.0, XS),
    "checkpointed_for_loop": lambda f: T.checkpointed_for_loop(f, XS),
    "while_loop": lambda f: T.while_loop(lambda c: c < 1, lambda c: 1.0 + 0 * f(c), 0.0),
    "cond": lambda f: T.cond(True, f, lambda x: x * 1.0, 1.0),
    "vmap": lambda f: T.vmap(f)(XS),
    "map": lambda f: T.map(f, XS, batch_size=2),
    "checkpoint": lambda f: T.checkpoint(f)(1.0),
    "checkify": lambda f: T.checkify(f)(1.0),
    "eval_shape": lambda f: T.eval_shape(f, 1.0),
    "make_jaxpr": lambda f: T.make_jaxpr(f)(1.0),
    "a loop in jit": lambda f: sl.jit(lambda: T.for_loop(f, XS))(),
    "jit in a loop": lambda f: T.for_loop(sl.jit(f), XS),
}


def alive(run, *, clear=True):
    """Runs something that gives objects; lists which of them are alive when it has dropped them."""
    references = [weakref.ref(each) for each in run()]
    if clear:
        jax.clear_caches()
    gc.collect()
    gc.collect()  # what ends with a function, by the first one, may be in cycles
    return [reference() for reference in references if reference() is not None]


@pytest.mark.parametrize("name", RUNS)
def test_what_a_body_closes_over_is_let_go(name):
    for make in BODIES:

        def run(make=make):
            body, dropped = make()
            RUNS[name](body)
            return dropped

        assert alive(run) == [], make.__name__


def function_leaf():
    model = layer()
    f = sl.jit(lambda model, x: model.fun(model.w * x))
    f(model, 1.0), f(model, 1.0)
    return [model, model.fun, model.w]


def function_leaf_of_a_dictionary():
    model = {"fun": lambda x: x, "w": jnp.full(3, 2.0)}
    sl.jit(lambda model: model["fun"](model["w"]))(model)
    return list(model.values())


def function_leaf_of_an_output():
    model = layer()
    return [model.fun, sl.jit(lambda model: model)(model)]


def function_leaf_of_a_gradient():
    model = layer()
    sl.grad(lambda model: model.fun(model.w).sum(), sl.inexact)(model)
    return [model, model.fun]


def function_leaf_of_a_carry():
    model = layer()
    T.scan(lambda model, x: (model, model.fun(x)), model, XS)
    return [model, model.fun]


def function_in_a_state():
    state = sl.State({"w": jnp.full(3, 2.0), "fun": lambda x: x})
    f = sl.jit(lambda x: state.value["fun"](x * state.value["w"]))
    f(1.0), f(1.0)
    return [state, state.value["fun"]]


def function_argument():
    fun = functools.partial(lambda box, x: x, Box())
    f = sl.jit(lambda fun, x: fun(x))
    f(fun, 1.0), f(fun, 1.0)
    return [fun, fun.args[0]]


def function_operand():
    fun = functools.partial(lambda box, x: x, Box())
    T.cond(True, lambda fun: fun(1.0), lambda fun: 0.0, fun)
    return [fun, fun.args[0]]


def static_argument():
    box = Box()
    f = sl.jit(lambda x, box: x, static_argnums=1)
    f(1.0, box), f(1.0, box)
    return [box]


def method_of_a_module():
    net = Net(Box())
    net.step(1.0), net.step(1.0)
    return [net, net.w, net.box]


def method_of_an_equinox_module():
    model = layer()
    model.step(1.0), model.step(1.0)
    return [model, model.w, model.fun]


def module_held_by_another():
    net = sl.nn.Module()
    net.inner = layer()
    f = sl.jit(lambda x: net.inner.w * x)
    f(1.0), f(1.0)
    return [net, net.inner, net.inner.fun]


def check():
    box = Box()

    def refuse(x):
        raise ValueError(f"{box} {x}")

    f = sl.jit(lambda x: T.jit_error_if(x > 5, refuse, x))
    f(1.0), f(1.0)
    logging.disable()  # JAX logs the error, and pytest keeps what is logged
    with pytest.raises(ValueError, match="Box"):
        f(10.0)
    logging.disable(logging.NOTSET)
    return [box, refuse]


def states_that_are_met_late():
    array, total = jnp.full(3, 2.0), sl.State(jnp.zeros(()))
    totals = iter([total] * 100)

    def count(x):
        state = next(totals)
        state.value = state.value + array.sum()
        return x

    _often(sl.jit(count)), T.for_loop(count, XS), T.vmap(count)(XS), T.checkpoint(count)(1.0)
    return [array, total, count]


def rules():
    array, w, count = jnp.full(3, 2.0), sl.ParamState(jnp.array(2.0)), sl.State(jnp.zeros(()))

    @T.custom_vjp(states=w)
    def scale(x):
        count.value = count.value + array.sum()
        return w.value * x

    @scale.def_fwd
    def forward(perturbed, x):
        count.value = count.value + 1
        return w.value * x, array * x

    @scale.def_bwd
    def backward(residuals, cotangent, perturbed, x):
        return cotangent * count.value * residuals.sum(), (cotangent * array.sum(),)

    @T.custom_jvp(states=w)
    def move(x):
        count.value = count.value + array.sum()
        return w.value * x

    @move.def_jvp
    def moved(primals, tangents):
        return w.value * primals[1][0] * array.sum(), tangents[0] * count.value

    for fun in (scale, move):
        sl.grad(fun, w)(1.0), sl.jit(sl.grad(fun, w))(1.0), T.vmap(fun)(XS)
    return [array, w, w.value, count, scale, forward, backward, move, moved]


def threaded():
    net = Net(Box())
    sl.jit(sl.thread(lambda net, x: net(x)))(net, 1.0)
    return [net, net.w, net.box]


def random_state():
    rng = sl.random.RandomState(0)
    sl.jit(lambda: rng.normal(size=(2,)))()
    T.vmap(lambda x: x * rng.normal())(XS)
    return [rng]


OTHERS = [
    function_leaf,
    function_leaf_of_a_dictionary,
    function_leaf_of_an_output,
    function_leaf_of_a_gradient,
    function_leaf_of_a_carry,
    function_in_a_state,
    function_argument,
    function_operand,
    static_argument,
    method_of_a_module,
    method_of_an_equinox_module,
    module_held_by_another,
    check,
    states_that_are_met_late,
    rules,
    threaded,
    random_state,
]


@pytest.mark.parametrize("run", OTHERS, ids=lambda run: run.__name__)
def test_what_a_call_was_given_is_let_go(run):
    assert alive(run) == []


class Fixed(eqx.Module):
    """A module of the user's, with something that JAX takes for a part of the structure."""

    w: jax.Array
    box: object = eqx.field(static=True)


def fixed():
    return Fixed(jnp.full(3, 2.0), Box())


class Labelled(sl.State):
    """A state with an attribute of the user's."""

    def __init__(self, value, box):
        super().__init__(value)
        self.box = box


def selected_by(make):
    """Selects by a lens in all ways; gives what must end with the lens and the tree."""

    def run():
        array = jnp.ones(())
        tree = {"a": jnp.ones(2), "b": sl.State({"c": jnp.ones(3)})}
        lens, dropped = make(array, tree)
        for _ in range(2):
            lens.partition(tree), lens.get(tree), lens.mask(tree), lens.paths(tree)
            lens.set(tree, lens.get(tree)), lens[...].paths(tree), (lens | "a").count(tree)
        return [array, *dropped]

    return run


def by_predicate(array, tree):
    def is_chosen(path, unit):
        return array.ndim == 0

    return sl.lens(is_chosen), [is_chosen]


def by_filter(array, tree):
    def is_chosen(leaf):
        return array.ndim == 0

    return sl.lens(is_chosen), [is_chosen]


def by_accessor(array, tree):
    def access(tree):
        return tree["a"] if array.ndim == 0 else None

    return sl.at(access), [access]


def by_method(array, tree):
    box = Box()
    box.array = array
    return sl.lens(box.is_chosen), [box]


def by_all_of_these(array, tree):
    one, other = by_predicate(array, tree), by_accessor(array, tree)
    return ~(~one[0] | (one[0] - other[0])), [*one[1], *other[1]]


def by_booleans_with_something_static():
    box = Box()
    lens = sl.lens(Fixed(True, box))
    lens.partition(Fixed(jnp.ones(2), box)), lens.partition(Fixed(jnp.ones(2), box))
    return [box]


def in_something_static():
    model = fixed()
    sl.inexact.partition(model), sl.lens("**.w").partition([model, {"a": model}])
    return [model, model.w, model.box]


def in_a_value_with_something_static():
    state = sl.State(fixed())
    for lens in (sl.lens("a.w"), sl.inexact):
        lens.partition({"a": state}), lens.bind({"a": state})
    return [state, state.value, state.value.box]


def in_states_with_attributes():
    state = Labelled(jnp.ones(2), Box())
    sl.lens(lambda path, unit: True).partition([state]), sl.tagged("a").mask([state])
    return [state, state.box]


def in_a_module_of_ours():
    net = Net(Box())
    net.states("w"), net.states(lambda path, unit: True), sl.lens("w").bind(net)
    return [net, net.box, net.w]


def by_groups():
    model, box = fixed(), Box()
    groups = sl.groups({"a": lambda path, unit: box is not None})
    groups.partition(model), groups.partition(model)
    return [model, model.box, box]


def by_diff():
    model, other = fixed(), fixed()
    sl.diff(model, other)
    return [model, other, model.box, other.box]


SELECTIONS = [
    *map(selected_by, [by_predicate, by_filter, by_accessor, by_method, by_all_of_these]),
    by_booleans_with_something_static,
    in_something_static,
    in_a_value_with_something_static,
    in_states_with_attributes,
    in_a_module_of_ours,
    by_groups,
    by_diff,
]


@pytest.mark.parametrize("run", SELECTIONS)
def test_what_a_lens_has_seen_is_let_go_though_no_cache_is_cleared(run):
    assert alive(run, clear=False) == []


@sl.jit
def of_a_module(model, x):
    return model.w * x


def static_field():
    model = fixed()
    of_a_module(model, 1.0), of_a_module(model, 1.0)
    sl.grad(lambda model: model.w.sum(), sl.inexact)(model)
    T.vmap(lambda model: model.w, in_axes=None, axis_size=2)(model)
    T.scan(lambda model, x: (model, x), model, XS), T.checkpoint(of_a_module)(model, 1.0)
    return [model, model.w, model.box]


def static_leaf():
    model = layer()
    of_a_module(model, 1.0), of_a_module(model, 1.0)
    return [model, model.w, model.fun]


def static_output():
    f = sl.jit(lambda x: Fixed(x, Box()))
    return [f(1.0).box, f(jnp.ones(2)).box]


def static_output_of_states():
    state = sl.State(fixed())

    def renew(x):
        state.value = Fixed(state.value.w * x, Box())

    f = sl.jit(renew)
    f(1.0)
    return [state, state.value.box]


@pytest.mark.parametrize("run", [static_output, static_output_of_states])
def test_what_is_static_in_what_a_function_gives_is_let_go_with_it(run):
    assert alive(run) == []


def test_a_function_keeps_what_is_static_in_what_its_last_programs_gave():
    net = sl.nn.Module()

    @sl.jit
    def f(x):
        return Fixed(x, net.box)

    def run():
        boxes = [Box() for _ in range(80)]
        for net.box in boxes:
            assert f(1.0).box is net.box
        net.box = None
        return boxes

    assert len(alive(run)) <= 64


@pytest.mark.parametrize("run", [static_field, static_leaf])
def test_what_is_static_is_let_go_while_the_function_lives(run):
    assert alive(run) == []


# What compiled functions of this file reach, which go on living.
MODELS, NAMED, HOLDER = [], {}, sl.nn.Module()


@sl.jit
def in_a_list(x):
    return MODELS[0](x)


@sl.jit
def in_a_dictionary(x):
    return NAMED["net"](x) + NAMED["nets"][0](x)


@sl.jit
def in_a_module(x):
    return HOLDER.nets[0](x) + HOLDER.net(x)


def emptied_list():
    MODELS[:] = [Net(Box())]
    _often(in_a_list)
    net = MODELS.pop()
    return [net, net.w, net.w.value, net.box]


def emptied_dictionary():
    NAMED.update(net=Net(Box()), nets=[Net()])
    _often(in_a_dictionary)
    net, other = NAMED.pop("net"), NAMED["nets"].pop()
    return [net, net.w, net.w.value, net.box, other]


def emptied_module():
    HOLDER.nets, HOLDER.net = [Net()], Net(Box())
    _often(in_a_module)
    net, other = HOLDER.net, HOLDER.nets.pop()
    del HOLDER.net
    return [net, net.w, net.w.value, net.box, other]


def name_that_ends():
    global LAST
    LAST = Net(Box())
    _often(by_name)
    net = LAST
    del LAST
    return [net, net.w, net.w.value, net.box]


@sl.jit
def by_name(x):
    return LAST(x)


@pytest.mark.parametrize("run", [emptied_list, emptied_dictionary, emptied_module, name_that_ends])
def test_what_a_function_reached_is_let_go_though_it_is_not_called_again(run):
    assert alive(run) == []
    assert alive(run) == []  # and the function is compiled for another model


def test_plain_jax_keeps_what_is_static_in_a_node_until_its_caches_are_cleared():
    @jax.jit
    def f(model):
        return model.w

    def run():
        model = fixed()
        f(model)
        return [model.box]

    assert len(alive(run, clear=False)) == 1
    assert alive(run) == []


def test_plain_jax_keeps_what_is_static_until_its_caches_are_cleared():
    def run():
        box = Box()
        jax.jit(lambda x, box: x, static_argnums=1)(1.0, box)
        return [box]

    assert len(alive(run, clear=False)) == 1
    assert alive(run) == []


def test_plain_jax_keeps_for_good_what_a_trace_closed_over_that_failed():
    def run():
        array = jnp.full(3, 2.0)

        @jax.jit
        def fail(x):
            raise ValueError(array.sum() * x)

        with pytest.raises(ValueError, match="JitTracer"):
            fail(1.0)
        return [array]

    assert len(alive(run)) == 1
