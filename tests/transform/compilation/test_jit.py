"""`jit` finds the states that a function touches, and makes them inputs and outputs."""

import functools
import re
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import close, counted, operations
from tests.transform.compilation.net import Net, plain_net, values_of

close = functools.partial(close, rtol=1e-6)

T = sl.transform
X = jnp.array([1.0, 2.0, 3.0])


# What it computes is what jax.jit computes of the pure form.


@settings(max_examples=15)
@given(
    st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3),
    st.integers(1, 3),
)
def test_values_are_those_of_jax_jit_over_the_pure_form(x, calls):
    net = Net()
    f, x = sl.jit(lambda x: net(x)), jnp.array(x, jnp.float32)
    values = values_of(net)
    for _ in range(calls):
        out, values = jax.jit(plain_net)(values, x)
        close(f(x), out)
    close(values_of(net), values)


@pytest.mark.parametrize("x", [1.5, 2, True, 1j, np.float32(3), np.arange(3), [1.0, (2, 3)], {}])
def test_arguments_are_promoted_as_by_jax_jit(x):
    def f(x):
        return jax.tree.map(lambda leaf: leaf * 2, x)

    ours, theirs = sl.jit(f)(x), jax.jit(f)(x)
    close(ours, theirs)
    weak = [[jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(t)] for t in (ours, theirs)]
    assert weak[0] == weak[1]


def test_keyword_arguments_and_defaults():
    scale = sl.State(jnp.array(2.0))

    @sl.jit
    def f(x, *, y=1.0, **more):
        return scale.value * x + y + sum(more.values())

    assert [f(1.0), f(1.0, y=2.0), f(x=1.0, y=3.0), f(1.0, z=5.0)] == [3, 4, 5, 8]


def test_the_wrapper_has_the_name_and_text_of_the_function():
    def energy(x):
        """Kinetic and potential."""
        return x

    f = sl.jit(energy)
    assert (f.__name__, f.__doc__, repr(f)) == ("energy", "Kinetic and potential.", "jit(energy)")
    assert "jit_energy" in f.lower(1.0).as_text()


def test_it_decorates_with_options_and_without():
    @sl.jit
    def one(x):
        return x + 1

    @sl.jit(max_traces=1)
    def two(x):
        return x + 2

    assert (one(1.0), two(1.0)) == (2, 3)


# How often the body runs.


def test_the_body_runs_once_at_first_never_later_and_once_for_another_shape_or_dtype():
    net = Net()
    run, runs = counted(lambda x: net(x))
    f = sl.jit(run)
    for x, expected in [(X, 1), (-X, 1), (jnp.ones((2, 3)), 2), (jnp.arange(3), 3), (X, 3)]:
        f(x)
        assert len(runs) == expected
    assert net.calls.value == 5


def test_the_body_runs_once_if_states_are_found_that_it_does_not_touch():
    net, other = Net(), Net()
    run, runs = counted(lambda x: net(x) if other else None)
    sl.jit(run)(X)
    assert len(runs) == 1


hidden: list = []


class Registered:
    registry: list = []  # noqa: RUF012


@pytest.mark.parametrize("where", ["weakref", "class attribute", "text"])
def test_the_body_runs_twice_if_a_state_cannot_be_found_beforehand(where):
    state = sl.State(jnp.array(1.0))
    Registered.registry[:] = hidden[:] = [state]
    look_up = {
        "weakref": functools.partial(lambda ref: ref(), _opaque(state)),
        "class attribute": lambda: Registered.registry[0],
        "text": lambda: globals()["hid" + "den"][0],
    }[where]

    def body(x):
        look_up().value += x
        return look_up().value

    run, runs = counted(body)
    f = sl.jit(run)
    assert [f(1.0), f(1.0)] == [2, 3]
    assert len(runs) == 2
    assert f.states.written == (state,)
    f(jnp.ones(()))  # strong, so another program; the state is known by now
    assert len(runs) == 3


class _opaque:
    __slots__ = ("ref",)

    def __init__(self, state):
        self.ref = weakref.ref(state)

    def __call__(self):
        return self.ref()


@pytest.mark.parametrize(
    "reach",
    ["closure", "global", "default", "partial", "bound", "list", "object", "weakref", "lens"],
)
def test_states_are_found_where_python_code_finds_things(reach):
    global module_state
    state = module_state = sl.State(jnp.array(1.0))
    holder = Net()
    holder.calls = state
    ref = weakref.ref(state)
    states = [{"a": (state,)}]
    bound = holder.states("calls")

    class Plain:
        def __init__(self):
            self.inner = {"s": state}

        def __call__(self, x):
            return self.inner["s"].value * x

        def method(self, x):
            return self(x)

    plain = Plain()
    fun = {
        "closure": lambda x: state.value * x,
        "global": lambda x: module_state.value * x,
        "default": lambda x, s=state: s.value * x,
        "partial": functools.partial(lambda s, x: s().value * x, lambda: state),
        "bound": plain.method,
        "list": lambda x: states[0]["a"][0].value * x,
        "object": plain,
        "weakref": lambda x: ref().value * x,
        "lens": lambda x: bound["calls"].value * x,
    }[reach]
    f = sl.jit(fun, max_traces=1)
    assert f(3.0) == 3
    state.value = jnp.array(2.0)
    assert f(3.0) == 6
    assert state in f.states.read


# What is an input, what is an output, what is a constant.


def test_a_state_found_for_nothing_is_no_input_of_the_program():
    net, unused = Net(), sl.State(jnp.ones(7))
    f = sl.jit(lambda x: net(x) if isinstance(unused, sl.State) else x)
    assert "7xf32" not in f.lower(X).as_text()
    assert set(f.states.read) == set(net.states().values())
    assert f.states.written == (net.calls,)


def test_before_the_first_call_no_states_are_known():
    net = Net()
    assert sl.jit(net).states == ((), ())


def test_a_state_that_is_only_written_is_touched():
    state = sl.State(jnp.zeros(3))

    @sl.jit
    def f(x):
        state.value = x

    f(X)
    assert f.states == ((state,), (state,))
    close(state.value, X)


def test_states_touched_in_one_program_and_not_in_another():
    a, b = sl.State(jnp.array(1.0), name="a"), sl.State(jnp.array(2.0), name="b")

    @sl.jit
    def f(x):
        if x.ndim:
            a.value = a.value + 1
            return a.value * x
        b.value = b.value + 1
        return b.value * x

    assert f(1.0) == 3
    close(f(jnp.ones(2)), 2 * jnp.ones(2))
    assert (f(1.0), a.value, b.value) == (4, 2, 4)
    assert set(f.states.read) == set(f.states.written) == {a, b}
    close(f(jnp.ones(2)), 3 * jnp.ones(2))
    assert (a.value, b.value) == (3, 4)


def test_parameters_are_never_constants():
    big = sl.ParamState(jnp.full(5, 1234.5))
    model = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    f = sl.jit(lambda model, x: model(x).sum() + big.value)
    lowered = f.lower(model, jnp.ones(2))
    assert "1.2345" not in lowered.as_text()
    assert lowered.as_text().count("tensor<5xf32>") > 0
    close(f(model, jnp.ones(2)), model(jnp.ones(2)).sum() + 1234.5 * jnp.ones(5))
    big.value = jnp.zeros(5)
    close(f(model, jnp.ones(2)), model(jnp.ones(2)).sum() + jnp.zeros(5))


def test_only_states_that_are_written_are_outputs():
    net = Net()
    outs = jax.tree.leaves(sl.jit(lambda x: net(x)).trace(X).out_info)
    assert sorted((out.shape, out.dtype.name) for out in outs) == [((), "int32"), ((3,), "float32")]


def test_the_program_is_the_hand_written_one():
    net = Net()
    ours = sl.jit(lambda x: net(x)).lower(X)
    theirs = jax.jit(plain_net).lower(values_of(net), X)
    by_hand = jax.jit(lambda w, b, c, x: (jnp.tanh(x @ w + b), c + 1)).lower(*values_of(net), X)
    assert operations(ours) == operations(theirs) == operations(by_hand)
    arguments = [
        len(re.findall(r"%arg\d+: tensor", low.as_text().partition("-> (")[0]))
        for low in (ours, by_hand)
    ]
    assert arguments[0] == arguments[1] == 4


def test_a_training_step_is_the_hand_written_one():
    net = Net()

    @sl.jit
    def step(x):
        grads, value = sl.grad(lambda: jnp.sum(net(x) ** 2), [net.w, net.b], return_value=True)()
        net.w.value -= 0.1 * grads[0]
        net.b.value -= 0.1 * grads[1]
        return value

    @jax.jit
    def by_hand(w, b, calls, x):
        def loss(params):
            return jnp.sum(jnp.tanh(x @ params[0] + params[1]) ** 2)

        value, grads = jax.value_and_grad(loss)((w, b))
        return value, w - 0.1 * grads[0], b - 0.1 * grads[1], calls + 1

    values = values_of(net)
    assert operations(step.lower(X)) == operations(by_hand.lower(*values, X))
    for _ in range(3):
        expected, *values = by_hand(*values, X)
        close(step(X), expected)
    close(values_of(net), tuple(values))


# Nothing changes where the call fails.


def test_nothing_changes_when_the_function_raises_while_it_is_traced():
    net = Net()
    before = values_of(net)

    @sl.jit
    def f(x):
        net.w.value = 2 * net.w.value
        net(x)
        raise KeyError("boom")

    for _ in range(2):
        with pytest.raises(KeyError, match="boom"):
            f(X)
    assert all(a is b for a, b in zip(values_of(net), before, strict=True))


@pytest.mark.parametrize("check", [eqx.error_if, T.error_if], ids=["equinox", "statelens"])
def test_nothing_changes_when_the_program_raises_while_it_runs(check):
    net = Net()

    @sl.jit
    def f(x):
        net.w.value = 2 * net.w.value
        return check(net(x), jnp.any(x > 10), "x is large")

    f(X)
    before = values_of(net)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="x is large"):
            jax.block_until_ready(f(100 * X))
        assert all(a is b for a, b in zip(values_of(net), before, strict=True))
    f(X)
    assert net.calls.value == 2


def test_a_value_that_python_branches_on_is_refused_as_by_jax():
    flag = sl.State(jnp.array(True))
    f = sl.jit(lambda x: x if flag.value else -x)
    with pytest.raises(jax.errors.TracerBoolConversionError, match="boolean conversion of traced"):
        f(1.0)


def test_looking_up_a_bound_lens_touches_what_it_selects():
    net = Net()
    bound = net.states("b")
    f = sl.jit(lambda x: bound["b"].value * x)
    f(X)
    assert f.states.read == (net.b,)


# Other models, other programs.


class Dropout(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.array(2.0))
        self.layers = [sl.ParamState(jnp.array(3.0))]
        self.training = True

    def __call__(self, x):
        for layer in self.layers:
            x = layer.value * x
        return self.w.value * x if self.training else x


def test_another_attribute_of_a_module_means_another_program_and_going_back_costs_nothing():
    model = Dropout()
    run, runs = counted(lambda x: model(x))
    f = sl.jit(run)
    assert f(1.0) == 6
    model.training = False
    assert f(1.0) == 3
    model.training = True
    assert f(1.0) == 6
    model.w.value = jnp.array(5.0)
    assert f(1.0) == 15
    assert len(runs) == 2


class Defaults(sl.nn.Module):
    """Reads what its class says as long as an instance says nothing else."""

    training = True
    bias = None

    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.array(2.0))

    def scale(self):
        return 1

    def __call__(self, x):
        y = self.w.value * x * self.scale()
        y = y * 10 if self.training else y
        y = y if self.bias is None else y + self.bias.value
        y = y + getattr(self, "shift", 0)
        y = y + self.offset.value if hasattr(self, "offset") else y
        return y + sum(value for name, value in vars(self).items() if name.startswith("more"))


@pytest.mark.parametrize("options", [{}, {"donate_states": True}], ids=str)
@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "training", False),
        lambda model: setattr(model, "bias", sl.ParamState(jnp.array(5.0))),
        lambda model: setattr(model, "shift", 7),
        lambda model: setattr(model, "offset", sl.State(jnp.array(9.0))),
        lambda model: setattr(model, "more", 11),
        lambda model: setattr(model, "scale", lambda: 3),
    ],
    ids=["flag", "state in place of None", "getattr", "hasattr", "vars", "method"],
)
def test_an_attribute_that_was_not_there_means_another_program(change, options):
    model = Defaults()
    run, runs = counted(lambda x: model(x))
    f = sl.jit(run, **options)
    for _ in range(20):
        assert f(1.0) == 20
    change(model)
    after = model(1.0)
    assert after != 20
    assert (f(1.0), f(1.0)) == (after, after)
    assert len(runs) == 2


def test_an_attribute_that_was_not_there_is_seen_by_a_loop_that_is_kept():
    model, xs = Defaults(), jnp.arange(3.0)
    before = sl.transform.for_loop(model, xs)
    model.training = False
    close(sl.transform.for_loop(model, xs), before / 10)


def test_replacing_a_state_object_is_seen():
    model = Dropout()
    f = sl.jit(lambda x: model(x))
    assert f(1.0) == 6
    old, model.w = model.w, sl.ParamState(jnp.array(10.0))
    assert f(1.0) == 30
    old.value = jnp.array(0.0)
    assert f(1.0) == 30
    model.w.value = jnp.array(20.0)
    assert f(1.0) == 60
    model.w = old
    assert f(1.0) == 0


def test_appending_a_layer_is_seen():
    model = Dropout()
    run, runs = counted(lambda x: model(x))
    f = sl.jit(run)
    f(1.0)
    model.layers.append(sl.ParamState(jnp.array(7.0)))
    assert (f(1.0), len(runs)) == (42, 2)
    assert set(f.states.read) == {model.w, *model.layers}


def test_another_shape_dtype_or_structure_of_a_value_means_another_trace():
    state = sl.State(jnp.ones(2))
    run, runs = counted(lambda x: jax.tree.map(lambda leaf: leaf * x, state.value))
    f = sl.jit(run)
    values = [jnp.ones(2), jnp.ones(3), jnp.arange(3), {"a": jnp.ones(1)}, (jnp.ones(1),) * 2, 2.0]
    for number, value in enumerate(values, 1):
        state.value = value
        for _ in range(2):
            close(f(2), jax.tree.map(lambda leaf: jnp.asarray(leaf * 2), value))
        assert len(runs) == number
    state.value = values[0]
    f(2)
    assert len(runs) == len(values)


def test_a_state_of_things_that_are_no_arrays():
    state = sl.State({"name": "adam", "rate": jnp.array(0.5), "none": None})
    run, runs = counted(lambda x: x * state.value["rate"] + len(state.value["name"]))
    f = sl.jit(run)
    assert [f(1.0), f(2.0)] == [4.5, 5.0]
    state.value = {**state.value, "name": "sgd"}
    assert f(1.0) == 3.5
    assert len(runs) == 2


# Methods.


def test_a_method_of_a_facade_module():
    class Model(Net):
        @sl.jit
        def step(self, x):
            runs.append(1)
            return self(x)

    runs: list[int] = []
    one, other = Model(), Model()
    other.w.value = jnp.zeros((3, 3))
    close(one.step(X), plain_net(values_of(Net()), X)[0])
    close(other.step(X), jnp.tanh(other.b.value))
    one.step(X), other.step(X)
    assert (len(runs), one.calls.value, other.calls.value) == (2, 2, 2)
    assert set(one.step.states.written) == {one.calls}
    assert Model.step.__name__ == "step"


def test_a_method_of_a_plain_class():
    class Counter:
        def __init__(self, start):
            self.count = sl.State(jnp.array(start))

        @sl.jit
        def add(self, x):
            runs.append(1)
            self.count.value += x
            return self.count.value

    runs: list[int] = []
    one, other = Counter(0), Counter(10)
    assert [one.add(1), one.add(2), other.add(1), one.add(1)] == [1, 3, 11, 4]
    assert len(runs) == 2
    assert one.add.states.read == (one.count,)


def test_a_method_of_an_equinox_module():
    class Scale(eqx.Module):
        w: jax.Array
        power: int
        f: object

        @sl.jit
        def step(self, x):
            runs.append(1)
            return self.f(self.w * x) ** self.power

    runs: list[int] = []
    model = Scale(jnp.array(3.0), 2, jnp.negative)
    assert model.step(2.0) == 36
    model = eqx.tree_at(lambda m: m.w, model, jnp.array(1.0))
    assert (model.step(2.0), len(runs)) == (4, 1)
    model = eqx.tree_at(lambda m: m.power, model, 3)
    assert (model.step(2.0), len(runs)) == (-8, 2)
    assert model.step(x=2.0) == -8


def test_a_jitted_method_does_not_keep_its_object_alive():
    class Model(Net):
        @sl.jit
        def step(self, x):
            return self(x)

    model, count = Model(), sum(isinstance(o, Model) for o in gc.get_objects())
    assert count == 1
    model.step(X)
    refs = weakref.ref(model), weakref.ref(model.w)
    del model
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


# Arguments.


def test_equinox_models_with_functions_and_numbers_in_them():
    mlp = eqx.nn.MLP(2, 1, 4, 2, activation=jax.nn.gelu, key=jax.random.key(0))
    dropout = eqx.nn.Dropout(0.5)
    run, runs = counted(lambda model, layer, x: layer(jax.vmap(model)(x), key=jax.random.key(1)))
    f, xs = sl.jit(run), jnp.ones((3, 2))
    theirs = eqx.filter_jit(lambda m, d, x: d(jax.vmap(m)(x), key=jax.random.key(1)))
    close(f(mlp, dropout, xs), theirs(mlp, dropout, xs))
    other = eqx.nn.MLP(2, 1, 4, 2, activation=jax.nn.gelu, key=jax.random.key(2))
    close(f(other, dropout, xs), theirs(other, dropout, xs))
    assert len(runs) == 1
    close(f(mlp, eqx.nn.Dropout(0.25), xs), theirs(mlp, eqx.nn.Dropout(0.25), xs))
    close(f(mlp, eqx.nn.Dropout(0.5, inference=True), xs), jax.vmap(mlp)(xs))
    assert len(runs) == 3


def test_a_model_comes_back_as_it_went_in():
    mlp = eqx.nn.MLP(2, 1, 4, 2, key=jax.random.key(0))
    double = sl.jit(lambda model: sl.inexact.update(model, lambda x: 2 * x))
    after = double(mlp)
    assert after.activation is mlp.activation
    close(after.layers[0].weight, 2 * mlp.layers[0].weight)
    assert jax.tree.structure(after) == jax.tree.structure(mlp)


def test_functions_texts_and_none_are_part_of_the_program():
    run, runs = counted(lambda f, mode, nothing, x: f(x) if mode == "f" and nothing is None else x)
    f = sl.jit(run)
    assert f(jnp.sin, "f", None, 0.5) == jnp.sin(0.5)
    assert f(jnp.cos, "f", None, 0.5) == jnp.cos(0.5)
    assert f(jnp.cos, "g", None, 0.5) == 0.5
    assert f(jnp.cos, "f", 1.0, 0.5) == 0.5
    assert f(jnp.sin, "f", None, 0.25) == jnp.sin(0.25)
    assert len(runs) == 4


def test_states_that_a_function_argument_closes_over_are_found():
    state = sl.State(jnp.array(2.0))

    def inner(x):
        state.value += 1
        return state.value * x

    run, runs = counted(lambda g, x: g(x))
    f = sl.jit(run)
    assert [f(inner, 1.0), f(inner, 1.0)] == [3, 4]
    assert len(runs) == 1


def test_what_cannot_be_hashed_is_refused_by_the_name_of_the_argument():
    f = sl.jit(lambda a, b: b, static_argnums=0)
    with pytest.raises(sl.ArgumentTypeError, match=r"argument 0 part of the program(?s:.*)a list"):
        f([1], 2.0)
    g = sl.jit(lambda *, mode: mode, static_argnames="mode")
    with pytest.raises(sl.ArgumentTypeError, match=r"argument 'mode'.*(?s:.*)tuple in place of a"):
        g(mode=[1])
    with pytest.raises(sl.ArgumentTypeError, match=r"argument 1 at '\[0\]\.a'(?s:.*)a set"):
        sl.jit(lambda x, y: x)(1.0, [{"a": {1}}])


def test_static_argnums():
    run, runs = counted(lambda n, x, shape: x**n * jnp.ones(shape))
    f = sl.jit(run, static_argnums=(0, 2))
    close(f(2, 3.0, (2,)), jnp.full(2, 9.0))
    close(f(2, 4.0, (2,)), jnp.full(2, 16.0))
    close(f(3, 2.0, (1, 1)), jnp.full((1, 1), 8.0))
    assert len(runs) == 2


def test_static_argnames_by_position_and_by_keyword():
    def power(x, n, *, times=1):
        assert isinstance(n, int)
        assert isinstance(times, int)
        runs.append(1)
        return times * x**n

    runs: list[int] = []
    f = sl.jit(power, static_argnames=("n", "times"))
    assert [f(2.0, 3), f(2.0, n=3), f(2.0, 3, times=2), f(2.0, n=3, times=2)] == [8, 8, 16, 16]
    assert f(x=3.0, n=2) == 9
    assert len(runs) <= 5
    runs.clear()
    assert [f(5.0, 3), f(5.0, n=3), f(1.0, n=3, times=2)] == [125, 125, 2]
    assert not runs


@pytest.mark.parametrize("pair", [(1, 1.0), (1, True), (0.0, False)])
def test_static_values_of_different_types_are_different(pair):
    f = sl.jit(lambda s: jnp.asarray(s), static_argnums=0)
    for value in pair:
        assert f(value).dtype == jnp.asarray(value).dtype


def test_positional_arguments_are_not_mistaken_for_keywords():
    f = sl.jit(lambda x, y: x - y)
    assert [f(3.0, 1.0), f(3.0, y=1.0), f(y=1.0, x=3.0), f(x=1.0, y=3.0)] == [2, 2, 2, -2]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        f(1.0)


# Donation.


def test_arguments_are_donated():
    f = sl.jit(lambda x, y: (x + 1, y * 2), donate_argnums=0)
    x, y = jnp.ones(3), jnp.ones(4)
    close(f(x, y), (jnp.full(3, 2.0), jnp.full(4, 2.0)))
    assert (x.is_deleted(), y.is_deleted()) == (True, False)
    g = sl.jit(lambda x, y: (x + 1, y * 2), donate_argnames="y")
    x, y, z = jnp.ones(3), jnp.ones(4), jnp.ones(4)
    g(x, y), g(x, y=z)
    assert (x.is_deleted(), y.is_deleted(), z.is_deleted()) == (False, True, True)


def step_of(net):
    def step(x):
        net.w.value = net.w.value + x
        net.b.value = net.b.value + x
        return jnp.sum(x)

    return step


@pytest.mark.parametrize(
    ("spec", "deleted"),
    [
        (lambda net: True, "wb"),
        (lambda net: sl.ParamState, "wb"),
        (lambda net: sl.tagged("big"), "w"),
        (lambda net: net.states("w"), "w"),
        (lambda net: [net.b], "b"),
        (lambda net: net.b, "b"),
        (lambda net: {"x": net.w}, "w"),
        (lambda net: sl.HiddenState, ""),
        (lambda net: False, ""),
    ],
    ids=["all", "class", "tag", "bound", "list", "one", "dict", "other class", "none"],
)
def test_states_are_donated(spec, deleted):
    net = Net()
    net.w = sl.ParamState(jnp.ones((3, 3)), tag="big")
    run, runs = counted(step_of(net))
    f = sl.jit(run, donate_states=spec(net))
    for number in range(3):
        before = {"w": net.w.value, "b": net.b.value, "calls": net.calls.value}
        f(jnp.ones(3))
        assert {name for name, x in before.items() if x.is_deleted()} == set(deleted)
        close(net.w.value, jnp.full((3, 3), 2.0 + number))
    assert len(runs) == 1


def test_a_state_whose_array_another_one_has_too_is_not_donated():
    net = Net()
    net.b.value = net.w.value
    f = sl.jit(
        lambda x: (net.w.value * x, setattr(net.w, "value", net.b.value + 1)), donate_states=net.w
    )
    for _ in range(2):
        with pytest.raises(
            sl.ArgumentError, match=r"donate the array of ParamState.*\n.*ParamState.*same array"
        ):
            f(X)
    assert not net.w.value.is_deleted()
    net.b.value = jnp.copy(net.w.value)
    f(X)
    assert net.w.value is not net.b.value


def test_a_state_whose_array_is_an_argument_too_is_not_donated():
    state = sl.State(jnp.ones(3), name="weight")
    f = sl.jit(lambda x: setattr(state, "value", state.value + x), donate_states=True)
    with pytest.raises(
        sl.ArgumentError, match=r"name='weight'.*\nargument 0 has the very same array"
    ):
        f(state.value)
    f(jnp.ones(3))
    assert (state.value == 2).all()


def test_a_state_that_is_only_read_is_never_donated():
    net = Net()
    f = sl.jit(lambda x: net(x), donate_states=True)
    for _ in range(2):
        before = values_of(net)
        f(X)
        assert [x.is_deleted() for x in before] == [False, False, True]


def test_an_unbound_lens_donates_in_the_first_argument():
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    before = model.layers[0].weight, model.layers[1].weight, model.layers[0].bias
    f = sl.jit(
        lambda model, x: sl.inexact.update(model, lambda leaf: leaf + x),
        donate_states="**.weight",
    )
    expected = jax.tree.map(np.array, eqx.filter(model, eqx.is_array))
    after = f(model, 1.0)
    assert [x.is_deleted() for x in before] == [True, True, False]
    close(
        eqx.filter(after, eqx.is_array),
        jax.tree.map(lambda leaf: jnp.asarray(leaf + 1), expected),
    )
    again = f(after, 1.0)
    assert after.layers[0].weight.is_deleted()
    assert again.activation is model.activation


def test_an_argument_may_have_any_name():
    state = sl.State(jnp.array(1.0))
    f = sl.jit(lambda x, self, given: x + self + given + state.value)
    for _ in range(12):
        assert f(1.0, self=2.0, given=3.0) == 7


@pytest.mark.parametrize(
    "options",
    [{}, {"donate_argnums": 1}, {"donate_states": "layers[0].bias"}, {"donate_argnames": "more"}],
)
def test_messages_of_jax_name_leaves_by_paths(options):
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))

    names = {
        "model": "model.layers[1].weight",
        "pair": "pair['a'][0]",
        "rest": "rest[0]",
        "flag": "flag",
        "more": "more['more']",
    }
    for wanted, name in names.items():

        def step(model, pair, *rest, flag, wanted=wanted, **more):
            found = {"model": model.layers[1].weight, "pair": pair["a"][0], "rest": rest[0]}
            return 0 if jnp.sum({**found, "flag": flag, **more}[wanted]) > 0 else 1

        pair = {"a": (jnp.ones(2), jnp.zeros(2)), "b": "text"}
        with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
            sl.jit(step, **options)(model, pair, 1.0, flag=2.0, more=jnp.ones(3))
        assert f"the value of the argument {name}.\n" in str(caught.value)


def test_names_in_messages_need_not_be_different():
    class Pair:
        def __init__(self, a, b):
            self.a, self.b = a, b

    key = jax.tree_util.GetAttrKey("k")
    jax.tree_util.register_pytree_with_keys(
        Pair, lambda pair: (((key, pair.a), (key, pair.b)), None), lambda _, parts: Pair(*parts)
    )
    state = sl.State(jnp.ones(2))
    f = sl.jit(lambda state_0, pair: state_0 + state.value + pair.a - 2 * pair.b)
    for _ in range(12):
        np.testing.assert_array_equal(f(1.0, Pair(jnp.ones(2), jnp.ones(2))), jnp.ones(2))


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("donated", [{"donate_argnums": 1}, {"donate_argnames": "y"}])
@pytest.mark.parametrize("call", [lambda f, x, y: f(x, y), lambda f, x, y: f(y=y, x=x)])
def test_a_second_program_donates_no_other_argument(is_late, donated, call):
    state, runs = sl.State(jnp.zeros(3)), []
    # What an iterator is going to give isn't found before the function runs.
    where = iter([state] * 9) if is_late else [state]

    def step(x, y):
        runs.append(x)
        cell = where[0] if isinstance(where, list) else next(where)
        cell.value = cell.value + x["a"]
        return x["a"] - 2 * y

    f = sl.jit(step, donate_states=True, **donated)
    for number in range(1, 15):
        x, y = {"a": jnp.full(3, 10.0), "b": "text"}, jnp.full(3, 1.0)
        np.testing.assert_array_equal(call(f, x, y), jnp.full(3, 8.0))
        np.testing.assert_array_equal(state.value, jnp.full(3, 10.0 * number))
        assert not x["a"].is_deleted()
    assert len(runs) == 1 + is_late


@pytest.mark.parametrize("options", [{"donate_argnums": 0}, {"donate_argnames": "x"}])
def test_nothing_is_passed_for_a_donated_argument_that_is_not_given(options):
    calls = sl.State(jnp.array(0))

    def count(*args, x=None):
        calls.value += 1
        return jnp.array(len(args) + (x is not None))

    f = sl.jit(count, max_traces=2, **options)
    assert [int(f()) for _ in range(20)] == [0] * 20
    assert [int(f(jnp.ones(2))) for _ in range(20)] == [1] * 20
    assert calls.value == 40


def test_keywords_in_another_order_are_no_other_trace():
    f = sl.jit(lambda **named: named["b"]["w"] - named["a"], max_traces=1)
    for _ in range(12):
        assert f(a=1.0, b={"w": 3.0, "text": "t"}) == 2
        assert f(b={"w": 3.0, "text": "t"}, a=1.0) == 2


def test_messages_of_jax_count_arguments_as_the_caller_does():
    states = [sl.State(jnp.array(1.0)) for _ in range(3)]

    def total(x, is_state=False):
        found = sum(state.value for state in states)
        return found if (states[1].value if is_state else x) > 0 else -found

    for _ in range(2):
        with pytest.raises(jax.errors.TracerBoolConversionError, match=r"argument x\."):
            sl.jit(total)(1.0)
    with pytest.raises(jax.errors.TracerBoolConversionError, match=r"argument state_1"):
        sl.jit(total, static_argnames="is_state")(1.0, is_state=True)
    compiled = sl.jit(lambda x, y: x + y + states[0].value).lower(1.0, jnp.ones(2)).compile()
    with pytest.raises(TypeError, match=r"'y' compiled with float32\[2\]"):
        compiled(1.0, jnp.ones(3))


@pytest.mark.parametrize(
    ("stage", "instead"),
    [("trace", r"its \.lower\(\)\.compile\(\)"), ("lower", r"its \.compile\(\)")],
)
def test_a_stage_that_is_not_compiled_says_how_it_comes_to_be(stage, instead):
    f = sl.jit(lambda x: 2 * x)
    with pytest.raises(sl.ArgumentTypeError, match=f"(?s)isn't compiled yet.*{instead}"):
        getattr(f, stage)(X)(X)


def test_an_unbound_lens_donates_where_a_state_that_the_function_leads_to_is_not_touched():
    touched, other = sl.State(jnp.arange(3.0)), sl.State(jnp.ones(5))

    def fun(tree, x, is_other=False):
        if is_other:
            other.value += x
        touched.value += x
        return {**tree, "a": tree["a"] * touched.value}

    f = sl.jit(fun, donate_states="a")
    tree = {"a": jnp.full(3, 2.0), "b": jnp.zeros(2)}
    for number in range(1, 4):
        before, expected = tree["a"], tree["a"] * (touched.value + 1.0)
        tree = f(tree, 1.0)
        close(tree["a"], expected)
        assert before.is_deleted()
        close(touched.value, jnp.arange(3.0) + number)
    assert f.states == ((touched,), (touched,))


def test_donation_inside_of_another_transform_deletes_nothing_that_is_still_needed():
    state = sl.State(jnp.ones(3))
    inner = sl.jit(lambda x: setattr(state, "value", state.value * x), donate_states=True)
    before = state.value

    def fails(x):
        inner(x)
        raise ValueError("after the call")

    with pytest.raises(ValueError, match="after the call"):
        sl.grad(fails)(2.0)
    with sl.overlay():
        inner(2.0)
    assert state.value is before
    assert not before.is_deleted()


# Ahead of time.


def test_lowered_and_compiled_it_reads_and_commits():
    net = Net()
    compiled = sl.jit(lambda x: net(x)).lower(X).compile()
    assert net.calls.value == 0
    close(compiled(X), plain_net(values_of(net), X)[0])
    net.w.value = jnp.zeros((3, 3))
    close(compiled(X), jnp.tanh(net.b.value))
    assert net.calls.value == 2
    assert compiled.cost_analysis()


def test_compiled_for_another_structure_it_says_what_differs():
    net = Net()
    net.memory = sl.State({"mean": jnp.zeros(3)})

    def predict(self, model, x, number, *, scale=1.0):
        return scale * model["layer"](x) + self.memory.value["mean"] + number

    layer, bare = (
        eqx.nn.Linear(3, 3, use_bias=bias, key=jax.random.key(0)) for bias in (True, False)
    )
    f = sl.jit(MethodType(predict, net), static_argnums=2)
    lowered = f.lower({"layer": layer}, X, 1, scale=2.0)
    compiled = lowered.compile()
    expected = 2 * layer(X) + 1
    close(compiled({"layer": layer}, X, 1, scale=2.0), expected)

    def refuses(message, model, *args, **kwargs):
        with pytest.raises(sl.ArgumentTypeError, match=message):
            compiled(model, X, *args, **kwargs)

    refuses(r"0 differs: .*'layer.bias' is None, not float32\[3\]", {"layer": bare}, 1, scale=2.0)
    refuses("'layer' is abs, not a Linear of weight, bias", {"layer": abs}, 1, scale=2.0)
    refuses("it is a dict of layer, more, not a dict of layer", {"layer": layer, "more": X}, 1)
    refuses("argument 2 differs: it is 2, not 1", {"layer": layer}, 2, scale=2.0)
    refuses("argument 2 is missing; argument 'scale' is missing", {"layer": layer})
    refuses("argument 'by' is one too many", {"layer": layer}, 1, scale=2.0, by=1.0)
    net.memory.value = {"variance": jnp.ones(3)}
    refuses("'memory' differs: it is a dict of variance, not", {"layer": layer}, 1, scale=2.0)
    net.memory.value = {"mean": jnp.ones(3)}
    close(compiled({"layer": layer}, X, 1, scale=2.0), expected + 1)
    with pytest.raises(TypeError, match="not callable"):
        lowered({"layer": bare}, X, 1, scale=2.0)


def test_compiled_for_another_structure_of_what_is_donated_it_says_so():
    layer = eqx.nn.Linear(3, 3, key=jax.random.key(0))
    f = sl.jit(lambda model, x: (model(x), model), donate_states="weight")
    compiled = f.lower(layer, X).compile()
    with pytest.raises(sl.ArgumentTypeError, match="donated of argument 0 differs: it is None, no"):
        compiled(eqx.nn.MLP(3, 3, 3, 1, key=jax.random.key(0)), X)
    close(compiled(layer, X)[1].bias, layer.bias)


def test_lowering_takes_shapes_and_runs_nothing():
    net = Net()
    run, runs = counted(lambda x: net(x))
    f = sl.jit(run)
    lowered = f.lower(jax.ShapeDtypeStruct((3,), jnp.float32))
    close(lowered.compile()(X), plain_net(values_of(Net()), X)[0])
    f(X)
    assert len(runs) == 1


def test_trace_and_eval_shape():
    net = Net()
    f = sl.jit(lambda x: {"y": net(x)})
    jaxpr = f.trace(X).jaxpr
    assert sum(eqn.primitive.name == "tanh" for eqn in jaxpr.eqns) == 1
    assert f.eval_shape(X) == {"y": jax.ShapeDtypeStruct((3,), jnp.float32)}
    assert net.calls.value == 0


def test_clear_cache():
    net = Net()
    run, runs = counted(lambda x: net(x))
    f = sl.jit(run)
    f(X)
    f.clear_cache()
    assert f.states == ((), ())
    f(X)
    assert (len(runs), net.calls.value) == (2, 2)


def test_a_trace_too_many_is_refused_with_what_has_changed():
    state = sl.State(jnp.ones(3), name="gain")
    f = sl.jit(lambda x, y: state.value * x + y["k"], max_traces=1)
    f(1.0, {"k": 2.0})
    f(3.0, {"k": 4.0})
    with pytest.raises(
        sl.RetraceError,
        match=r"(?s)at most 1 traces of .*argument 1 at 'k' was ~float32\[\], and is float32\[3\]",
    ):
        f(1.0, {"k": X})
    state.value = jnp.ones(3, jnp.int32)
    with pytest.raises(
        sl.RetraceError, match=r"state 'gain' was float32\[3\], and is int32\[3\].*\n"
    ):
        f(1.0, {"k": 2.0})
    close(state.value, jnp.ones(3, jnp.int32))
    f.clear_cache()
    f(1.0, {"k": 2.0})


def test_a_trace_too_many_names_states_by_path_and_attributes_of_modules():
    model = Net()
    f = sl.jit(lambda x: model(x), max_traces=1)
    f(X)
    path = next(iter(model.states(sl.ParamState)))
    state = model.states()[path]
    kind = f"float32[{','.join(map(str, state.value.shape))}]"
    before, state.value = state.value, state.value.astype(jnp.bfloat16)
    with pytest.raises(sl.RetraceError) as caught:
        f(X)
    named = (
        f"state '{sl.path.format(path)}' was {kind}, and is {kind.replace('float32', 'bfloat16')}"
    )
    assert f"needed: {named}\n" in str(caught.value)
    state.value = before
    f(X)

    model = Dropout()
    g = sl.jit(lambda x: model(x), max_traces=1)
    g(1.0)
    model.training = False
    match = "'training' of a Dropout was True, and is False\n"
    with pytest.raises(sl.RetraceError, match=match):
        g(1.0)
    model.training, model.w = True, sl.ParamState(jnp.array(2.0))
    with pytest.raises(sl.RetraceError, match="'w' of a Dropout was a ParamState, and is another"):
        g(1.0)


class _Positive(sl.nn.Module):
    def __call__(self, x):
        return x if x > 0 else -x

    @sl.jit
    def method(self, x):
        return x if x > 0 else -x


def _positive(sign, x):
    return x if x > 0 else sign * x


@pytest.mark.parametrize(
    "function",
    [
        lambda: sl.jit(lambda x: x if x > 0 else -x),
        lambda: sl.jit(_Positive()),
        lambda: _Positive().method,
        lambda: sl.jit(functools.partial(_positive, -1)),
    ],
    ids=["function", "object", "method", "partial"],
)
def test_messages_of_jax_say_where_the_function_is(function):
    with pytest.raises(
        jax.errors.TracerBoolConversionError, match=r"tracing the function .*:\d+"
    ) as e:
        function()(1.0)
    assert f" at {__file__}:" in str(e.value)


# One inside another.


def test_jit_in_jit():
    net = Net()
    run, runs = counted(lambda x: net(x))
    inner = sl.jit(run)
    outer = sl.jit(lambda x: inner(inner(x)))
    values, x = values_of(net), X
    for _ in range(2):
        x, values = plain_net(values, x)
    close(outer(X), x)
    close(values_of(net), values)
    assert (outer.states.written, set(outer.states.read)) == (
        (net.calls,),
        set(net.states().values()),
    )
    outer(X), inner(X)
    assert (len(runs), net.calls.value) == (1, 5)


def test_in_jax_jit_by_functionalize():
    net = Net()
    pure = sl.functionalize(sl.jit(lambda x: net(x)), net.states())
    values = net.states().values_dict()
    out, new = jax.jit(pure)(values, X)
    close(out, plain_net(values_of(net), X)[0])
    assert (new["calls",], net.calls.value) == (1, 0)


def test_in_jax_jit_by_itself_a_write_is_refused():
    net = Net()
    f = sl.jit(lambda x: net(x))
    f(X)
    with pytest.raises(sl.TracerLeakError, match=r"(?s)plain JAX transform.*statelens.jit"):
        jax.jit(lambda x: f(x))(X)
    assert net.calls.value == 1


def loss_of(net):
    return lambda x: jnp.sum(net(x) ** 2)


def plain_gradient(net):
    def loss(w, b):
        return jnp.sum(plain_net((w, b, 0), X)[0] ** 2)

    return list(jax.grad(loss, (0, 1))(net.w.value, net.b.value))


def test_jit_in_grad():
    net = Net()
    run, runs = counted(loss_of(net))
    gradient = sl.grad(sl.jit(run), [net.w, net.b])
    close(gradient(X), plain_gradient(net))
    close(gradient(X), plain_gradient(net))
    assert (len(runs), net.calls.value) == (1, 2)


def test_grad_in_jit():
    net = Net()
    run, runs = counted(loss_of(net))
    gradient = sl.jit(lambda x: sl.grad(run, [net.w, net.b])(x))
    close(gradient(X), plain_gradient(net))
    close(gradient(X), plain_gradient(net))
    assert (len(runs), net.calls.value) == (1, 2)
    decorated = sl.jit(sl.grad(loss_of(net), [net.w, net.b], argnums=0))
    close(decorated(X)[0], plain_gradient(net))


def test_grad_by_an_argument_through_jit():
    net = Net()
    f = sl.jit(loss_of(net))
    expected = jax.grad(lambda x: jnp.sum(plain_net(values_of(net), x)[0] ** 2))(X)
    close(sl.grad(f)(X), expected)
    close(sl.jit(sl.grad(sl.jit(f)))(X), expected)
    assert net.calls.value == 2


def test_vmap_of_jit_by_functionalize():
    net = Net()
    pure = sl.functionalize(sl.jit(lambda x: net(x)), net.states())
    xs = jnp.stack([X, -X])
    out, new = jax.vmap(pure, (None, 0))(net.states().values_dict(), xs)
    close(out, jnp.tanh(xs @ net.w.value + net.b.value))
    assert new["calls",].tolist() == [1, 1]


def test_a_module_that_is_made_inside_is_returned_whole():
    @sl.jit
    def make(scale):
        net = Net()
        net.w.value = scale * net.w.value
        net(X)
        return net, {"loose": sl.HiddenState(scale, name="loose", tag="t")}

    net, rest = make(2.0)
    close(net.w.value, 2 * Net().w.value)
    assert (net.calls.value, net.w.name, type(rest["loose"])) == (1, "w", sl.HiddenState)
    assert (rest["loose"].value, rest["loose"].tag) == (2, frozenset({"t"}))
    assert not make.states.read
    other, _ = make(3.0)
    close(other.w.value, 3 * Net().w.value)
    assert other.w is not net.w
    net(X)
    f = sl.jit(lambda x: net(x))
    f(X)
    assert (net.calls.value, other.calls.value) == (3, 1)


def test_a_returned_state_is_a_new_one_and_the_old_one_is_written():
    state = sl.State(jnp.array(1.0))

    @sl.jit
    def f():
        state.value = state.value + 1
        return state

    out = f()
    assert (state.value, out.value) == (2, 2)


def test_writes_to_states_of_an_argument_are_refused():
    net = Net()
    f = sl.jit(lambda net, x: net(x))
    with pytest.raises(sl.FrozenTreeError, match=r"(?s)calls.*statelens\.thread"):
        f(net, X)
    assert net.calls.value == 0
    out, after = sl.jit(sl.thread(lambda net, x: net(x)))(net, X)
    close(out, plain_net(values_of(net), X)[0])
    assert (net.calls.value, after.calls.value) == (0, 1)
    close(sl.jit(lambda net, x: x @ net.w.value)(net, X), X @ net.w.value)


def test_without_jit_it_runs_in_python():
    net = Net()
    run, runs = counted(lambda x: float(net(x)[0]) if x[0] > 0 else None)
    f = sl.jit(run)
    with jax.disable_jit():
        assert isinstance(f(X), float)
        f(X)
        assert (len(runs), net.calls.value) == (2, 2)

        @sl.jit
        def fails(x):
            net(x)
            raise ValueError("later")

        with pytest.raises(ValueError, match="later"):
            fails(X)
        with pytest.raises(sl.FrozenTreeError, match="thread"):
            sl.jit(lambda net: net(X))(net)
    assert net.calls.value == 2


@pytest.mark.parametrize("known", [False, True])
def test_two_threads_call_at_once(known):
    net = Net()
    f = sl.jit(lambda x: net.w.value.sum() + loss_of(net)(x))
    if known:
        f(X)
    results, barrier = [], threading.Barrier(2)
    expected = net.w.value.sum() + jnp.sum(plain_net(values_of(net), X)[0] ** 2)

    def work():
        barrier.wait(timeout=30)
        results.extend(f(X) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 10
    np.testing.assert_allclose(results, expected, rtol=1e-6)
    # What both have read before either has written counts once, as with `+=` in Python.
    assert 1 <= int(net.calls.value) - known <= 10


# Random numbers.


def test_a_random_state_is_an_input_and_an_output():
    rng = sl.random.RandomState(0)
    run, runs = counted(lambda: rng.normal(size=(2,)))
    f = sl.jit(run)
    key, drawn = jax.random.key(0), []
    for _ in range(3):
        key, sub = jax.random.split(key)
        drawn.append(jax.random.normal(sub, (2,)))
    close([f() for _ in range(3)], drawn)
    assert f.states.written == (rng,)
    assert len(runs) == 1
    rng.seed(0)
    close(f(), drawn[0])
    assert len(runs) == 1


def test_the_default_random_state_is_found():
    with sl.random.seed_context(3):
        eager = [sl.random.uniform() for _ in range(2)]
    run, runs = counted(lambda: sl.random.uniform())
    f = sl.jit(run)
    with sl.random.seed_context(3):
        compiled = [f() for _ in range(2)]
    close(compiled, eager)
    assert len(runs) <= 2


# Calls while a plain transform of JAX is running.


def counting():
    count = sl.State(jnp.zeros((), jnp.int32), name="count")

    @sl.jit
    def tick():
        count.value += 1

    return count, tick


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("transform", [jax.grad, lambda f: lambda x: jax.vmap(f)(jnp.ones(3))])
def test_a_program_that_has_run_for_good_keeps_what_it_wrote(transform, is_warm):
    count, tick = counting()
    if is_warm:
        tick(), tick()
    before = int(count.value)
    transform(lambda x: (tick(), x * x)[1])(1.0)
    assert count.value == before + 1


@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint, jax.make_jaxpr])
def test_a_program_that_is_only_traced_is_refused(transform, is_warm):
    count, tick = counting()
    if is_warm:
        tick(), tick()
    before = int(count.value)
    with pytest.raises(sl.TracerLeakError, match=r"name='count'"):
        transform(lambda x: (tick(), x * x)[1])(1.0)
    assert count.value == before


def test_a_traced_argument_leaks_into_no_state():
    seen = sl.State(jnp.zeros(()), name="seen")
    total = sl.State(jnp.zeros(()), name="total")

    @sl.jit
    def note(x):
        total.value += 1.0
        seen.value = x

    note(1.0), note(1.0)
    with pytest.raises(sl.TracerLeakError, match=r"name='(seen|total)'"):
        jax.grad(lambda x: (note(x), x * x)[1])(2.0)
    assert (seen.value, total.value) == (1, 2)


# Values with parts that aren't arrays stay taken apart between calls.


class Layered(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
        self.config = sl.State({"act": jnp.tanh, "x": jnp.ones(2)}, name="config")

    def __call__(self, x):
        self.config.value = {**self.config.value, "x": self.config.value["x"] + 1}
        return self.mlp(x) * self.config.value["act"](self.config.value["x"])


def test_a_value_with_static_parts_is_whole_whenever_it_is_looked_at():
    model = Layered()
    f, x = sl.jit(model), jnp.ones(2)
    for n in range(1, 5):
        expected = eqx.filter_jit(model.mlp)(x) * jnp.tanh(jnp.ones(2) + n)
        np.testing.assert_allclose(f(x), expected, rtol=1e-6)
        if n % 2:
            assert model.config.value["act"] is jnp.tanh
            assert (model.config.value["x"] == n + 1).all()
            assert model.config.value is model.config.value


def test_what_is_changed_in_place_in_a_value_with_static_parts_is_seen():
    model = Layered()
    f, x = sl.jit(model), jnp.ones(2)
    f(x), f(x)
    model.config.value["x"] = jnp.zeros(2)
    f(x)
    assert (model.config.value["x"] == 1).all()
    model.config.value = {"act": jnp.sin, "x": jnp.zeros(2)}
    np.testing.assert_allclose(f(x), model.mlp(x) * jnp.sin(jnp.ones(2)), rtol=1e-6)


def test_a_state_that_held_an_array_takes_another_structure():
    state = sl.State(jnp.ones(2))
    f = sl.jit(lambda: jax.tree.map(lambda x: 2 * x, state.value))
    f(), f()
    state.value = {"a": jnp.ones(2), "f": jnp.tanh}
    with pytest.raises(TypeError):
        f()
    state.value = {"a": jnp.ones(2)}
    assert (f()["a"] == 2).all()
    g = sl.jit(lambda: setattr(state, "value", (state.value["a"], jnp.tanh)))
    f(), g()
    assert state.value[1] is jnp.tanh


def test_two_programs_take_turns_with_a_state_of_two_structures():
    state = sl.State(jnp.ones(2))
    give = sl.jit(lambda: setattr(state, "value", (jnp.zeros(2), jnp.tanh)))

    def first():
        return state.value[0] if isinstance(state.value, tuple) else state.value

    take = sl.jit(lambda: 2 * first())
    give(), give()
    for _ in range(3):
        assert state.value[1] is jnp.tanh
        state.value = jnp.ones(2)
        assert [take().tolist() for _ in range(3)] == [[2, 2]] * 3
        give()
        assert state.value[1] is jnp.tanh
        assert [take().tolist() for _ in range(3)] == [[0, 0]] * 3


def test_copies_of_a_value_that_was_taken_apart():
    model = Layered()
    f = sl.jit(model)
    f(jnp.ones(2)), f(jnp.ones(2))
    copied = copy.deepcopy(model)
    assert copied.config.value["act"](0.5) == jnp.tanh(0.5)
    assert (copied.config.value["x"] == 3).all()
    close(
        jax.tree.leaves(eqx.filter(copied.mlp, eqx.is_array)),
        jax.tree.leaves(eqx.filter(model.mlp, eqx.is_array)),
    )


def test_a_compiled_function_says_how_a_states_value_differs():
    state = sl.State({"a": jnp.ones(2)})
    compiled = sl.jit(lambda: sum(jax.tree.leaves(state.value))).lower().compile()
    state.value = {"b": jnp.ones(2)}
    with pytest.raises(TypeError, match="a State differs: it is a dict of b, not a dict of a"):
        compiled()
