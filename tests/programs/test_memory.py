"""What a program has dropped is let go: no cache of ours keeps an object of the user's.

JAX's own caches keep what is static in the structure of an argument until they are cleared, ours
being nodes of such a structure. So they are cleared before it is looked what is alive; a control
shows that plain JAX keeps it up to then.
"""

import functools
import gc
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
    return [model, model.w]


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
    return [box, refuse]


def threaded():
    net = Net(Box())
    sl.jit(sl.thread(lambda net, x: net(x)))(net, 1.0)
    return [net, net.w]


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
    threaded,
    random_state,
]


@pytest.mark.parametrize("run", OTHERS, ids=lambda run: run.__name__)
def test_what_a_call_was_given_is_let_go(run):
    assert alive(run) == []


def test_plain_jax_keeps_what_is_static_until_its_caches_are_cleared():
    def run():
        box = Box()
        jax.jit(lambda x, box: x, static_argnums=1)(1.0, box)
        return [box]

    assert len(alive(run, clear=False)) == 1
    assert alive(run) == []
