"""What plain JAX transforms may do to states: read them, which warns, and never leave a tracer."""

import copy
import functools
import gc
import inspect
import pathlib
import pickle
import sys
import threading
import types
import warnings
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import crossed

T = sl.transform

X = jnp.arange(3.0)

# Each is given a function of one number, and calls it once it has traced it.
TRACING = {
    "jit": lambda f: jax.jit(f),
    "scan": lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, jnp.zeros(2))[0],
    "while_loop": lambda f: lambda x: jax.lax.while_loop(lambda y: y < 0, f, x),
    "fori_loop": lambda f: lambda x: jax.lax.fori_loop(0, 2, lambda _, y: f(y), x),
    "cond": lambda f: lambda x: jax.lax.cond(x > 0, f, lambda y: y, x),
    "map": lambda f: lambda x: jax.lax.map(f, x[None]),
    "checkpoint": lambda f: jax.checkpoint(f),
    "filter_jit": lambda f: eqx.filter_jit(lambda x: f(x)),
    "vmap of jit": lambda f: lambda x: jax.vmap(jax.jit(f))(x[None]),
    "grad of jit": lambda f: jax.grad(jax.jit(f)),
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
}
# These run the function each time.
RUNNING = {
    "grad": lambda f: jax.grad(f),
    "vmap": lambda f: lambda x: jax.vmap(f)(x[None]),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,)),
    "vjp": lambda f: lambda x: jax.vjp(f, x),
}
ALL = TRACING | RUNNING
ONE = jnp.array(1.0)


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = sl.ParamState(jnp.array(2.0))
        self.layer = eqx.nn.Linear(3, 3, key=jax.random.key(0))
        self.gains = {"a": [jnp.ones(2)], "n": np.zeros(2)}
        self.tree = sl.State({"a": [jnp.ones(2)], "n": np.zeros(2)})

    def scale(self, x):
        return x * self.weight.value

    def write(self, x):
        self.weight.value = x


# What our own transforms are given closes over the state.
OURS = {
    "grad": lambda f: sl.grad(f),
    "value_and_grad": lambda f: sl.grad(f, return_value=True),
    "jvp": lambda f: lambda x: T.jvp(f, (x,), (x,)),
    "vjp": lambda f: lambda x: T.vjp(f, x)[0],
    "linearize": lambda f: lambda x: T.linearize(f, x)[0],
    "hessian": lambda f: T.hessian(f),
    "jacrev": lambda f: T.jacrev(f),
    "jacfwd": lambda f: T.jacfwd(f),
    "per_example_grad": lambda f: lambda x: T.per_example_grad(f)(x[None])[0],
    "vmap": lambda f: lambda x: T.vmap(f)(x[None])[0],
    "map": lambda f: lambda x: T.map(f, x[None])[0],
    "cond": lambda f: lambda x: T.cond(x > 0, f, lambda y: y, x),
    "switch": lambda f: lambda x: T.switch(0, [f, lambda y: y], x),
    "ifelse": lambda f: lambda x: T.ifelse([x > 0], [f, lambda y: y], x),
    "scan": lambda f: lambda x: T.scan(lambda c, _: (f(c), None), x, X)[0],
    "for_loop": lambda f: lambda x: T.for_loop(f, x[None])[0],
    "while_loop": lambda f: lambda x: T.while_loop(lambda y: y < 0, f, x),
    "bounded_while_loop": lambda f: (
        lambda x: T.bounded_while_loop(lambda y: y < 0, f, x, max_steps=2)
    ),
    "checkpointed_scan": lambda f: (
        lambda x: T.checkpointed_scan(lambda c, _: (f(c), None), x, X)[0]
    ),
    "checkpoint": lambda f: T.checkpoint(f),
    "checkify": lambda f: lambda x: T.checkify(f)(x)[1],
    "custom_vjp": lambda f: ruled(f),
    "functionalize": lambda f: lambda x: sl.functionalize(f, sl.State(x))(x, x)[0],
    "thread": lambda f: lambda x: sl.thread(lambda tree: f(tree["x"]))({"x": x})[0],
    "overlay": lambda f: lambda x: overlaid(f, x),
    "grad of scan": lambda f: sl.grad(lambda x: T.scan(lambda c, _: (f(c), None), x, X)[0]),
    "scan of grad": lambda f: lambda x: T.scan(lambda c, _: (sl.grad(f)(c), None), x, X)[0],
}


def ruled(fun):
    fun = T.custom_vjp(fun)
    fun.def_fwd(lambda perturbed, x: (x, None))
    fun.def_bwd(lambda residuals, cotangent, perturbed, x: (cotangent,))
    return fun


def overlaid(fun, x):
    with sl.overlay():
        return fun(x)


READS = {
    "state": lambda net: lambda x: x * net.weight.value,
    "layer": lambda net: lambda x: x * net.layer.bias[0],
    "container": lambda net: lambda x: x * net.tree.value["a"][0][0],
    "held container": lambda net: lambda x: x * net.gains["a"][0][0],
    "all values": lambda net: lambda x: x * net.states().values_dict()[("weight",)],
    "all of a view": lambda net: (
        lambda x: x * sl.lens("tree.a[0]").bind(net).values_dict()[("tree", "a", 0)][0]
    ),
    "method": lambda net: net.scale,
    "compiled": lambda net: sl.jit(net.scale),
    "compiled, a pair": lambda net: lambda x: sl.jit(lambda x: (net.scale(x), x))(x)[0],
}


@pytest.mark.parametrize(
    ("transform", "reads"), crossed(TRACING, READS, of_first=["jit", "scan"], of_second=["state"])
)
def test_a_read_in_a_trace_warns(transform, reads):
    net = Net()
    fun = ALL[transform](READS[reads](net))
    with pytest.warns(sl.StaleStateWarning, match="the value is a constant of the trace"):
        fun(ONE)


NUMBERS = {
    "float": 2.0,
    "int": 2,
    "complex": 2j,
    "numpy scalar": np.float32(2),
    "numpy array": np.array(2.0),
    "nested": {"rate": [2.0]},
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("transform", ["jit", "scan"])
def test_a_number_of_python_or_numpy_that_is_read_in_a_trace_warns(transform, number):
    state = sl.State(number)

    def read(x):
        return x * jnp.real(jax.tree.leaves(state.value)[0])

    with pytest.warns(sl.StaleStateWarning, match="the value is a constant of the trace"):
        TRACING[transform](read)(ONE)
    with sl.overlay(), pytest.warns(sl.StaleStateWarning, match="is a constant of the trace"):
        TRACING[transform](lambda x: read(x) + 1)(ONE)
    sl.jit(TRACING[transform](lambda x: read(x) + 2))(ONE)


@pytest.mark.parametrize("labels", [True, np.bool_(True), "slow", {"a": False, "b": "fast"}, None])
def test_labels_and_flags_that_are_read_in_a_trace_do_not_warn(labels):
    state = sl.State(labels)
    jax.jit(lambda x: x + len(jax.tree.leaves(state.value)))(ONE)


@pytest.mark.parametrize(
    ("transform", "reads"), crossed(RUNNING, READS, of_first=["grad"], of_second=["state"])
)
def test_a_read_where_the_function_runs_each_time_does_not(transform, reads):
    net = Net()
    ALL[transform](READS[reads](net))(ONE)


@pytest.mark.parametrize("ours", OURS.values(), ids=OURS)
@pytest.mark.parametrize("plain", ["jit", "scan", "cond", "checkpoint"])
def test_a_read_in_a_transform_of_ours_in_a_trace_warns(plain, ours):
    net = Net()
    inner = ours(net.scale)
    fun = TRACING[plain](lambda x: jnp.asarray(jax.tree.leaves(inner(x))[0]) * 1.0)
    with pytest.warns(sl.StaleStateWarning, match="the value is a constant of the trace") as told:
        fun(ONE)
    assert {warning.filename for warning in told} == {__file__}


@pytest.mark.parametrize("ours", OURS.values(), ids=OURS)
def test_a_read_in_a_transform_of_ours_that_runs_each_time_does_not(ours):
    net = Net()
    fun = ours(net.scale)
    RUNNING["vmap"](fun)(ONE)
    for plain in ("jit", "scan"):  # in a call of ours, that takes the state as an input
        sl.jit(TRACING[plain](lambda x: jnp.asarray(jax.tree.leaves(fun(x))[0]) * 1.0))(ONE)


def test_what_an_overlay_has_in_a_trace_does_not_warn():
    net = Net()

    @jax.jit
    def f(x):
        with sl.overlay({net.weight: x}):
            net.tree.value = {"a": x}
            return net.scale(x) + net.tree.value["a"]

    assert f(ONE) == 2


def test_the_warning_names_the_state_the_place_and_the_remedy():
    rate = sl.State(ONE, name="rate")

    @jax.jit
    def f(x):
        return x * rate.value

    with pytest.warns(sl.StaleStateWarning) as caught:
        f(ONE)
    (warning,) = caught
    assert warning.filename == __file__
    assert warning.lineno == f.__wrapped__.__code__.co_firstlineno + 2
    assert "State(weak_f32[], name='rate')" in str(warning.message)
    assert "statelens.transform.scan" in str(warning.message)
    assert "statelens.functionalize(fun, states)" in str(warning.message)


def test_a_place_warns_once():
    rate = sl.State(ONE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            jax.jit(lambda x: x * rate.value)(ONE)
    assert len(caught) == 1


def test_the_warning_is_an_error_for_those_who_ask():
    rate = sl.State(ONE)
    with pytest.raises(sl.StaleStateWarning, match="constant of the trace") as caught:
        jax.jit(lambda x: x * rate.value)(ONE)
    assert isinstance(caught.value, sl.StateLensError)
    assert caught.traceback[-1].path.samefile(__file__)


@pytest.mark.parametrize("transform", TRACING.values(), ids=TRACING)
def test_what_our_transforms_take_as_input_does_not_warn(transform):
    net = Net()
    step = sl.jit(lambda x: transform(net.scale)(x) + x * net.layer.bias[0])
    for weight in (1.0, 3.0):
        net.weight.value = jnp.array(weight)
        step(ONE)


def test_what_is_passed_in_or_made_in_the_trace_does_not_warn():
    net = Net()
    assert jax.jit(lambda net, x: net.scale(x))(net, ONE) == 2
    assert sl.functionalize(net.scale, net.states())(net.states().values_dict(), ONE)[0] == 2

    @jax.jit
    def make(x):
        state = sl.State({"a": x * 2})
        state.value["a"] += 1
        return state.value["a"]

    assert make(ONE) == 3


@pytest.mark.parametrize("transform", TRACING.values(), ids=TRACING)
def test_an_untraced_value_inside_of_our_transform_warns(transform):
    net = Net()
    run = T.vmap(lambda x: transform(net.scale)(x))
    with pytest.warns(sl.StaleStateWarning, match="constant of the trace"):
        run(ONE[None])
    with sl.overlay(), pytest.warns(sl.StaleStateWarning, match="constant of the trace"):
        transform(net.scale)(ONE)


CHANGES = {
    "dict": lambda value, x: value.update(a=x),
    "list": lambda value, x: value["a"].append(x),
    "item": lambda value, x: value["a"].__setitem__(0, x),
    "new key": lambda value, x: value.update(b=x),
    "deleted": lambda value, x: value.pop("a"),
    "numpy": lambda value, x: value["n"].__setitem__(0, 7.0),
}
HOLDERS = {
    "state": (lambda net: net.tree.value, "a State"),
    "attribute": (lambda net: net.gains, "the attribute 'gains'"),
}


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize(
    ("transform", "change"), crossed(ALL, CHANGES, of_first=["jit", "grad"], of_second=["dict"])
)
def test_a_change_in_place_is_refused_and_leaves_the_state_whole(transform, change, holder):
    net = Net()
    value_of, named = HOLDERS[holder]

    def fun(x):
        CHANGES[change](value_of(net), x)
        return x

    ALL[transform](fun)(ONE)
    message = f"asked to change in place what .*{named}.* holds"
    with pytest.raises(sl.TracerLeakError, match=message):
        value_of(net)
    value = value_of(net)
    assert value.keys() == {"a", "n"}
    assert len(value["a"]) == 1
    assert (value["a"][0] == 1).all()
    assert (value["n"] == 0).all()


def test_a_change_in_place_is_refused_at_once_where_the_state_is_read_again():
    net = Net()

    @jax.grad
    def fun(x):
        net.tree.value["a"] = x
        return net.tree.value["a"]

    with pytest.raises(sl.TracerLeakError, match="asked to change in place"):
        fun(ONE)


def changed_in_a_trace(value, x=ONE):
    """A state whose value plain JAX has changed in place."""
    state = sl.State(value, name="tree")

    @jax.jit
    def fun(x):
        if isinstance(state.value, np.ndarray):
            state.value[...] = 7
        else:
            state.value["a"] = x
        return x

    fun(x)
    return state


NEXT = {
    "read": lambda state: state.value,
    "read all": lambda state: sl.lens(...).bind({"s": state}).values_dict(),
    "write": lambda state: setattr(state, "value", {"a": ONE}),
    "assign": lambda state: sl.lens(...).bind({"s": state}).assign({"s": {"a": ONE}}, replace=True),
    "flatten": lambda state: jax.tree.leaves(state),
    "copy": lambda state: copy.copy(state),
    "compiled": lambda state: sl.jit(lambda: jax.tree.map(jnp.sin, state.value))(),
    "compiled write": lambda state: sl.jit(lambda: setattr(state, "value", {"a": ONE}))(),
    "grad": lambda state: sl.grad(lambda x: x * jax.tree.leaves(state.value)[0])(ONE),
    "vmap": lambda state: T.vmap(lambda x: x * jax.tree.leaves(state.value)[0])(X),
    "scan": lambda state: T.scan(lambda c, _: (c * jax.tree.leaves(state.value)[0], None), ONE, X),
    "overlay": lambda state: overlaid(lambda x: state.value, ONE),
    "write in an overlay": lambda state: overlaid(lambda x: setattr(state, "value", x), ONE),
}


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize("value", [{"a": ONE}, np.array(1.0)], ids=["dict", "numpy"])
@pytest.mark.parametrize("comes_next", NEXT.values(), ids=NEXT)
def test_a_change_in_place_is_refused_whatever_comes_next(comes_next, value):
    state = changed_in_a_trace(value)
    with pytest.raises(sl.TracerLeakError, match="in place what a State named 'tree' holds"):
        comes_next(state)
    comes_next(state)
    assert (jax.tree.leaves(state.value)[0] == 1).all()


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize("value", [{"a": ONE}, np.array(1.0)], ids=["dict", "numpy"])
def test_a_change_in_place_is_refused_by_a_program_that_has_run_before(value):
    state = sl.State(value, name="tree")
    compiled = sl.jit(lambda: jax.tree.leaves(state.value)[0] * 2)
    for _ in range(3):
        assert compiled() == 2

    def change(x):
        CHANGES["numpy"]({"n": state.value[None]}, x) if isinstance(value, np.ndarray) else (
            state.value.update(a=x)
        )
        return x

    for _ in range(2):
        jax.jit(lambda x: change(x))(ONE)
        with pytest.raises(sl.TracerLeakError, match="in place what a State named 'tree' holds"):
            compiled()
        assert compiled() == 2


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_a_change_in_place_is_refused_though_the_state_was_read_again_before_it():
    net = Net()

    @jax.jit
    def fun(x):
        first = net.tree.value
        jax.jit(lambda y: y * net.tree.value["a"][0][0])(x)
        assert net.tree.value is first
        first["a"] = x
        return x

    fun(ONE)
    with pytest.raises(sl.TracerLeakError, match="asked to change in place"):
        net.tree.value  # noqa: B018


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_a_change_in_place_is_refused_in_the_thread_that_made_it():
    state = sl.State({"a": ONE})
    elsewhere = []

    def look_elsewhere():
        thread = threading.Thread(target=lambda: elsewhere.append(state.value))
        thread.start()
        thread.join()

    @jax.jit
    def fun(x):
        state.value["a"] = x
        look_elsewhere()
        return x

    fun(ONE)
    look_elsewhere()
    assert elsewhere == [{"a": 1}, {"a": 1}]
    with pytest.raises(sl.TracerLeakError, match="asked to change in place"):
        state.value  # noqa: B018


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_what_is_shown_of_a_state_neither_refuses_a_change_nor_forgets_it():
    state = changed_in_a_trace({"a": ONE})
    assert repr(state) == "State({'a': weak_f32[]}, name='tree')"
    with sl.overlay():
        assert repr(state) == "State({'a': weak_f32[]}, name='tree')"
    with pytest.raises(sl.TracerLeakError, match="asked to change in place"):
        state.value  # noqa: B018


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_a_read_in_a_trace_neither_leaks_nor_keeps_the_state():
    def read():
        state = sl.State({"a": ONE})
        jax.jit(lambda x: x * state.value["a"])(ONE)
        sl.jit(lambda: jax.jit(lambda x: x * state.value["a"])(ONE))()
        return weakref.ref(state)

    with jax.checking_leaks():
        end = read()
    gc.collect()
    assert end() is None


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_a_trace_sees_what_was_changed_in_place_outside_of_it():
    state = sl.State({"a": ONE, "n": np.zeros(1)})
    value = state.value
    for now in (1.0, 3.0):
        value["a"], value["n"][0] = jnp.array(now), now
        for _ in range(2):
            assert jax.jit(lambda x: x * state.value["a"] + state.value["n"][0])(ONE) == 2 * now
    assert state.value is value


def committed(fun, x):
    with sl.overlay() as overlay:
        out = fun(x)
        overlay.commit()
    return out


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize("read_again", [False, True])
@pytest.mark.parametrize("ours", ["grad", "vmap", "scan", "jit", "overlay"])
@pytest.mark.parametrize("plain", ["jit", "grad", "vmap", "checkpoint"])
def test_a_change_in_place_is_refused_inside_of_a_transform_of_ours(plain, ours, read_again):
    state = sl.State({"a": ONE})
    around = {**OURS, "jit": sl.jit, "overlay": lambda f: lambda x: committed(f, x)}[ours]

    def change(x):
        state.value["a"] = x
        return x

    def fun(x):
        out = ALL[plain](lambda x: change(x))(x)
        return jnp.sum(out) + (state.value["a"] if read_again else 0)

    with pytest.raises(sl.TracerLeakError, match="asked to change in place"):
        around(fun)(ONE)
    assert state.value == {"a": 1}


def test_a_body_with_a_trace_in_another_program_says_so():
    weight = sl.ParamState(ONE, name="weight")

    def body(c, x):
        return c * weight.value, None

    def loss(x):
        return jax.lax.scan(body, x, jnp.zeros(2))[0]

    sl.jit(loss)(ONE)
    with pytest.raises(Exception, match=r"unexpected tracer|takes up") as caught:
        sl.grad(loss, grad_states=weight)(ONE)
    notes = "".join(getattr(caught.value, "__notes__", ())) + str(caught.value)
    assert "'body'" in notes
    assert "takes up" in notes
    assert "statelens.transform.scan" in notes


def test_what_an_earlier_trace_has_read_is_only_a_guess_where_a_state_is_untouched():
    weight = sl.ParamState(ONE, name="weight")

    def body(c, x):
        return c * weight.value, None

    sl.jit(lambda: jax.lax.scan(body, ONE, jnp.zeros(2))[0])()
    message = (
        "the function never read or wrote it. It was read by 'body' .*, which plain JAX has traced "
        "in another call of a transform of statelens. If it takes up that trace again here: use"
    )
    with pytest.raises(sl.UntouchedStateError, match=message):
        sl.grad(lambda: jnp.zeros(()), grad_states=weight)()


class Decay(sl.nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = sl.ParamState(jnp.array(rate))
        self.count = sl.State(jnp.array(0))

    def field(self, t, y, args):
        """What `diffrax` integrates."""
        return -self.rate.value * y

    def counted(self, y):
        self.count.value += 1
        return y


class Term(eqx.Module):
    """Keeps a function as a leaf, as `diffrax.ODETerm` does."""

    field: object


@eqx.filter_jit
def euler(term, y):
    return y + 0.1 * term.field(0.0, y, None)


def test_a_method_takes_its_states_along():
    decay = Decay(1.0)
    solve = lambda y: euler(Term(decay.field), y)  # noqa: E731
    compiled, other = sl.jit(solve), sl.jit(lambda y: 2 * solve(y))
    by_rate = sl.grad(solve, grad_states=decay.rate)
    for rate in (1.0, 3.0):
        decay.rate.value = jnp.array(rate)
        expected = np.float32(1 - 0.1 * rate)
        assert np.isclose(solve(1.0), expected)
        assert np.isclose(compiled(1.0), expected)
        assert np.allclose(compiled(jnp.ones(2)), expected)
        assert np.isclose(other(1.0), 2 * expected)
        assert np.isclose(by_rate(1.0), -0.1)
        assert np.isclose(sl.jit(by_rate)(1.0), -0.1)


@pytest.mark.parametrize("name", ["__call__", "update", "train", "states"])
def test_a_method_takes_its_states_along_whatever_its_name(name):
    def scaled(self, y):
        return self.rate.value * y

    decay = type("Scaled", (Decay,), {name: scaled})(2.0)
    call = eqx.filter_jit(lambda method, y: method(y))
    assert call(getattr(decay, name), 1.0) == 2.0
    decay.rate.value = jnp.array(3.0)
    assert call(getattr(decay, name), 1.0) == 3.0
    # What every module can do is no part of a model.
    assert type(decay.assign) is types.MethodType


def test_a_solver_of_diffrax_takes_a_method():
    diffrax = pytest.importorskip("diffrax")
    decay = Decay(1.0)

    def solve(y):
        term = diffrax.ODETerm(decay.field)
        solution = diffrax.diffeqsolve(term, diffrax.Euler(), 0.0, 1.0, 0.1, y, max_steps=20)
        return solution.ys[0]

    compiled = sl.jit(solve)
    for rate in (1.0, 3.0):
        decay.rate.value = jnp.array(rate)
        for fun in (solve, compiled, sl.jit(lambda y: solve(y) + 0)):
            assert np.isclose(fun(1.0), (1 - 0.1 * rate) ** 10)


def test_a_write_of_a_method_that_plain_jax_has_made_again_is_refused():
    decay = Decay(1.0)
    with pytest.raises(sl.TracerLeakError, match="asked to assign a value to State"):
        eqx.filter_jit(lambda method, y: method(y))(decay.counted, ONE)


def test_a_method_is_what_a_method_of_python_is():
    decay = Decay(1.0)
    method = decay.field
    assert method == decay.field
    assert hash(method) == hash(decay.field)
    assert method != Decay(1.0).field
    assert method != decay.counted
    assert method.__self__ is decay
    assert method.__name__ == "field"
    assert method.__func__ is Decay.field
    assert repr(method) == "<bound method Decay.field of a Decay>"
    assert list(inspect.signature(method).parameters) == ["t", "y", "args"]
    assert method.__doc__ == "What `diffrax` integrates."
    assert method.__module__ == __name__
    assert method(t=0.0, y=3.0, args=None) == -3.0
    compiled = sl.jit(method)
    assert (compiled.__doc__, compiled.__module__) == (method.__doc__, __name__)
    assert functools.partial(method, 0.0)(3.0, None) == -3.0
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        _ = method.other


def test_a_method_may_call_itself_many_times():
    class Chain(Decay):
        def deep(self, n):
            return n if n == 0 else self.deep(n - 1)

    assert Chain(1.0).deep(sys.getrecursionlimit() * 2 // 5) == 0


def test_a_method_of_a_module_may_be_an_attribute_of_a_class():
    class User:
        field = Decay(1.0).field

    assert User().field(0.0, 3.0, None) == -3.0


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_method_is_copied_with_its_module(copied):
    decay = Decay(2.0)
    node, method = copied((decay, decay.field))
    assert method.__self__ is node
    assert method.__func__ is Decay.field
    assert method == node.field


def test_a_method_is_shown_by_its_name_wherever_it_lies():
    decay = Decay(1.0)
    decay.term = Term(decay.field)
    shown = "field=<bound method Decay.field of a Decay>"
    assert shown in repr(decay.term)
    assert shown in repr(decay)


def test_a_method_that_a_module_holds_moves_with_it():
    decay = Decay(1.0)
    decay.callback = decay.field
    doubled = jax.tree.map(lambda leaf: 2 * leaf, decay)
    assert doubled.callback.__self__ is doubled
    assert doubled.callback(0.0, 1.0, None) == -2
    assert copy.deepcopy(decay).callback(0.0, 1.0, None) == -1
    assert "callback=<bound method Decay.field of a Decay>" in repr(decay)


def test_a_loop_over_a_method_traces_it_once():
    runs = []

    class Counter(Decay):
        def step(self, x):
            runs.append(1)
            return self.rate.value * x

    counter = Counter(2.0)
    for _ in range(3):
        assert (T.for_loop(counter.step, X) == 2 * X).all()
    assert len(runs) == 1


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_an_error_in_a_method_is_told_at_the_users_line():
    decay = Decay(1.0)
    with pytest.raises(sl.TracerLeakError, match="asked to assign") as caught:
        jax.jit(decay.counted)(ONE)
    package = pathlib.Path(sl.__file__).parent
    assert not [entry for entry in caught.traceback if package in entry.path.parents]
    assert caught.traceback[-1].path.samefile(__file__)


class Held(eqx.Module):
    rate: sl.State

    def scaled(self, x):
        return x * self.rate.value


def test_a_warning_is_told_at_the_users_line_where_equinox_has_read_a_state():
    held = Held(sl.State(ONE))
    with pytest.warns(sl.StaleStateWarning) as told:
        jax.jit(lambda x: held.scaled(x))(ONE)
    assert {warning.filename for warning in told} == {__file__}
