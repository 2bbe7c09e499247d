"""The promises that the library stands on, each seen through the public API."""

import asyncio
import copy
import functools
import pickle
import threading
import traceback

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import Boom, close

close = functools.partial(close, rtol=1e-6)

XS = jnp.linspace(-1.0, 1.0, 5).reshape(-1, 1)
YS = 3.0 * XS + 1.0


class Regressor(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = sl.ParamState(jnp.zeros((1, 1)))
        self.bias = sl.ParamState(jnp.zeros((1,)))
        self.calls = sl.State(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls.value += 1
        return x @ self.weight.value + self.bias.value


class Norm(eqx.Module):
    mean: sl.State
    scale: jax.Array

    def __init__(self):
        self.mean = sl.State(jnp.zeros(1))
        self.scale = jnp.ones(1)

    def __call__(self, x):
        self.mean.value = 0.9 * self.mean.value + 0.1 * x.mean(0)
        return (x - self.mean.value) * self.scale


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def plain_loss(params, x, y):
    return jnp.mean((x @ params["weight"] + params["bias"] - y) ** 2)


PLAIN = {"bias": jnp.zeros((1,)), "weight": jnp.zeros((1, 1))}


# The return table, bound and unbound, against plain JAX.


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("return_value", [False, True])
@pytest.mark.parametrize("argnums", [None, 1, (1, 2), np.int64(2)])
def test_unbound_return_table(jitted, x64, has_aux, return_value, argnums):
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        params = {k: jnp.full(v.shape, 0.5, dtype) for k, v in PLAIN.items()}
        x, y = XS.astype(dtype), YS.astype(dtype)

        def loss(params, x, y):
            value = plain_loss(params, x, y)
            return (value, {"double": 2 * value}) if has_aux else value

        options = {"argnums": argnums, "has_aux": has_aux, "return_value": return_value}
        ours = sl.grad(loss, "weight", **options)
        numbers = (0,) + (() if argnums is None else tuple(np.atleast_1d(argnums).tolist()))
        theirs = jax.value_and_grad(loss, numbers, has_aux=has_aux)(params, x, y)
        value, (by_params, *by_args) = theirs
        value, aux = value if has_aux else (value, None)
        gradient = {"bias": None, "weight": by_params["weight"]}
        if argnums is not None:
            gradient = (gradient, tuple(by_args) if isinstance(argnums, tuple) else by_args[0])
        extra = (value,) * return_value + (aux,) * has_aux
        expected = (gradient, *extra) if extra else gradient
        equal((jax.jit(ours) if jitted else ours)(params, x, y), expected)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("return_value", [False, True])
@pytest.mark.parametrize("argnums", [None, 0, (1, 0)])
def test_bound_return_table(jitted, x64, has_aux, return_value, argnums):
    with jax.enable_x64(x64):
        dtype = jnp.float64 if x64 else jnp.float32
        model = Regressor()
        model.weight.value = jnp.full((1, 1), 0.5, dtype)
        model.bias.value = jnp.full((1,), 0.5, dtype)
        x, y = XS.astype(dtype), YS.astype(dtype)

        def loss(x, y):
            value = jnp.mean((model(x) - y) ** 2)
            return (value, {"double": 2 * value}) if has_aux else value

        options = {"argnums": argnums, "has_aux": has_aux, "return_value": return_value}
        ours = sl.grad(loss, model.states(sl.ParamState), **options)

        def plain(params, x, y):
            value = plain_loss(params, x, y)
            return (value, {"double": 2 * value}) if has_aux else value

        params = {"weight": model.weight.value, "bias": model.bias.value}
        value, (by_params, *by_args) = jax.value_and_grad(plain, (0, 1, 2), has_aux=has_aux)(
            params, x, y
        )
        value, aux = value if has_aux else (value, None)
        gradient = {(name,): by_params[name] for name in sorted(params)}
        if argnums is not None:
            picked = tuple(by_args[i] for i in np.atleast_1d(argnums))
            gradient = (gradient, picked if isinstance(argnums, tuple) else picked[0])
        extra = (value,) * return_value + (aux,) * has_aux
        expected = (gradient, *extra) if extra else gradient
        if jitted:
            pure = jax.jit(sl.functionalize(ours, model.states()))
            result, new = pure(model.states().values_dict(), x, y)
            assert (new["calls",], model.calls.value) == (1, 0)
            close(result, expected)
        else:
            close(ours(x, y), expected)
            assert model.calls.value == 1


@pytest.mark.parametrize("form", ["bound", "dict", "list", "tuple", "one", "nested"])
@pytest.mark.parametrize("argnums", [None, 0, (0, 1)])
def test_bound_gradients_mirror_what_was_passed(form, argnums):
    model = Regressor()
    weight, bias = model.weight, model.bias
    gw, gb = (jax.grad(plain_loss)(PLAIN, XS, YS)[k] for k in ("weight", "bias"))
    states, expected = {
        "bound": (model.states(sl.ParamState), {("bias",): gb, ("weight",): gw}),
        "dict": ({"w": weight, "b": bias}, {"w": gw, "b": gb}),
        "list": ([weight, bias], [gw, gb]),
        "tuple": ((weight, bias), (gw, gb)),
        "one": (weight, gw),
        "nested": ({"a": [weight], "b": {"c": bias}}, {"a": [gw], "b": {"c": gb}}),
    }[form]
    if argnums is not None:
        by_args = jax.grad(lambda x, y: plain_loss(PLAIN, x, y), argnums)(XS, YS)
        expected = (expected, by_args)
    loss = lambda x, y: jnp.mean((model(x) - y) ** 2)  # noqa: E731
    equal(sl.grad(loss, states, argnums)(XS, YS), expected)
    assert model.calls.value == 1


def test_value_and_grad_has_the_order_of_jax():
    model = Regressor()
    value, gradient = sl.value_and_grad(lambda: jnp.sum(model(XS) ** 2 + 1), model.weight)()
    assert value == 5.0
    equal(gradient, jnp.zeros((1, 1)))


def test_without_states_it_is_jax_grad():
    equal(sl.grad(plain_loss)(PLAIN, XS, YS), jax.grad(plain_loss)(PLAIN, XS, YS))
    equal(
        sl.grad(plain_loss, argnums=(0, 2))(PLAIN, XS, YS),
        jax.grad(plain_loss, (0, 2))(PLAIN, XS, YS),
    )


@pytest.mark.parametrize("x64", [False, True])
def test_a_derivative_of_a_derivative_by_states(x64):
    with jax.enable_x64(x64):
        a = sl.State(jnp.asarray(2.0))
        inner = sl.grad(lambda: a.value**4, a)
        assert sl.grad(inner, a)() == 48.0
        assert a.value == 2.0


def test_the_body_runs_once_per_eager_call():
    model, runs = Regressor(), []

    def loss(x):
        runs.append(x)
        return jnp.mean(model(x) ** 2 + 1)

    gradient = sl.grad(loss, model.states(sl.ParamState), return_value=True)
    gradient(XS)
    gradient(XS)
    assert len(runs) == 2


def test_methods_decorate():
    class Model(eqx.Module):
        w: jax.Array

        @sl.grad(grad_states="w")
        def loss(self, x):
            return jnp.sum(self.w * x)

    equal(Model(jnp.ones(2)).loss(jnp.arange(2.0)).w, jnp.arange(2.0))


def test_states_of_a_tree_are_threaded():
    model = Norm()
    loss = lambda model, x: jnp.mean(model(x) ** 2)  # noqa: E731

    def plain(scale, mean):
        mean = 0.9 * mean + 0.1 * YS.mean(0)
        return jnp.mean(((YS - mean) * scale) ** 2), mean

    expected, mean = jax.grad(plain, has_aux=True)(jnp.ones(1), jnp.zeros(1))
    for run in (lambda f: f, jax.jit):
        gradient, after = run(sl.grad(sl.thread(loss), "scale", has_aux=True))(model, YS)
        np.testing.assert_allclose(gradient.scale, expected, rtol=1e-6)
        np.testing.assert_allclose(after.mean.value, mean, rtol=1e-6)
        assert gradient.mean is None
        assert model.mean.value == 0.0


def test_a_mixed_program_passes_and_closes_over():
    class Mixed(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = eqx.nn.Linear(1, 1, key=jax.random.key(0))
            self.shift = sl.ParamState(jnp.zeros(1))

        def __call__(self, x):
            return jax.vmap(self.layer)(x) + self.shift.value

    model = Mixed()
    loss = lambda model, x, y: jnp.mean((model(x) - y) ** 2)  # noqa: E731
    passed = sl.grad(loss, "layer.**")(model, XS, YS)
    states = model.states("layer.**")
    closed = sl.grad(lambda x, y: loss(model, x, y), states)(XS, YS)
    assert list(closed) == [("layer", "weight"), ("layer", "bias")]
    equal(passed.layer.weight, closed["layer", "weight"])
    before = loss(model, XS, YS)
    for path, view in states.items():
        view.value = view.value - 0.1 * closed[path]
    assert loss(model, XS, YS) < before


# Nothing leaks, nothing is lost.


@pytest.mark.parametrize("inner", [False, True])
def test_an_exception_leaves_every_state_as_it_was(inner):
    model = Regressor()
    before = model.states().values_dict()

    def loss(x):
        out = jnp.mean(model(x))
        model.weight.value = model.weight.value + 1
        if inner:
            sl.grad(lambda: jnp.sum(model(x)), model.bias)()
        model.bias.value = model.bias.value * 2 + out
        raise Boom

    with pytest.raises(Boom):
        sl.grad(loss, model.states(sl.ParamState))(XS)
    assert all(model.states()[path].value is value for path, value in before.items())


def test_an_error_of_jax_leaves_every_state_as_it_was():
    model = Regressor()
    with pytest.raises(sl.DifferentiationError, match=r"shape \(5, 1\)\nInstead: jnp.mean"):
        sl.grad(lambda: model(XS), model.states(sl.ParamState))()
    assert model.calls.value == 0


def test_two_threads_trace_over_the_same_cells():
    state = sl.State(jnp.zeros(()))
    meeting, gradients = threading.Barrier(2), {}

    def loss(x):
        state.value = state.value + x
        # Here the other thread has written too, in a frame of its own.
        meeting.wait(timeout=30)
        return state.value * x

    def work(x):
        gradient = sl.grad(loss)
        meeting.wait(timeout=30)
        gradients[x] = gradient(x)

    threads = [threading.Thread(target=work, args=(x,)) for x in (2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gradients == {2.0: 4.0, 3.0: 6.0}
    assert state.value in (2.0, 3.0)


def test_another_thread_reads_the_old_value_while_one_traces():
    state, seen = sl.State(jnp.zeros(())), []

    def loss(x):
        state.value = x
        thread = threading.Thread(target=lambda: seen.append(state.value))
        thread.start()
        thread.join()
        return x

    sl.grad(loss)(2.0)
    assert seen == [0.0]
    assert state.value == 2.0


def test_tasks_have_frames_of_their_own():
    state = sl.State(0)

    async def task(value):
        with sl.overlay({state: value}):
            await asyncio.sleep(0)
            state.value += 1
            await asyncio.sleep(0)
            return state.value

    async def both():
        return await asyncio.gather(task(10), task(20))

    assert asyncio.run(both()) == [11, 21]
    assert state.value == 0


def test_an_overlay_is_dropped_or_committed():
    state = sl.State(1)
    with sl.overlay({state: 5}) as dropped:
        state.value += 1
    assert (state.value, dropped.writes) == (1, {state: 6})
    with sl.overlay({state: 5}) as kept:
        state.value += 1
        kept.commit()
    assert state.value == 6


def test_sharing_survives_copies():
    model = Regressor()
    model.tied, model.me = model.weight, model
    for again in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        jax.tree.map(lambda x: x, model),
        jax.jit(lambda m: m)(model),
        eqx.combine(*eqx.partition(model, eqx.is_inexact_array)),
    ):
        assert again.tied is again.weight
        assert again.me is again
        assert again.weight is not model.weight
    assert len(model.states(sl.ParamState)) == 2


# Errors.


def frozen():
    sl.grad(lambda model, x: jnp.mean(model(x)), "scale")(Norm(), YS)


def leaked_by_jit():
    state = sl.State(jnp.zeros(5), name="trace")
    jax.jit(lambda x: setattr(state, "value", x))(jnp.ones(5))


def leaked_inside():
    state = sl.State(jnp.zeros(()), name="inner")

    def loss(x):
        jax.vmap(lambda y: setattr(state, "value", y))(x)
        return jnp.sum(x)

    sl.grad(loss)(jnp.ones(2))


def read_after_its_trace():
    made = []

    def loss(x):
        made.append(sl.State(x * 2, name="temporary"))
        return x

    sl.grad(loss)(1.0)
    return made[0].value


def regressor_grad(**options):
    model = Regressor()
    return sl.grad(lambda *args: jnp.mean(model(XS)), **options)


def grad_by(states, **options):
    model = Regressor()
    return sl.grad(lambda: jnp.mean(model(XS)), states(model), **options)()


def assign(values):
    Regressor().states().assign(values)


CASES = [
    (lambda: sl.grad(plain_loss, "wieght")(PLAIN, XS, YS), KeyError, r"'wieght'.*\n.*'weight'"),
    (lambda: sl.grad(plain_loss, sl.params)(PLAIN, XS, YS), ValueError, "selects nothing"),
    (lambda: grad_by(lambda m: {}), ValueError, "none are given"),
    (lambda: grad_by(lambda m: [m.weight, 3]), TypeError, r"'\[1\]'\nthat is a int, not a state"),
    (
        lambda: sl.grad(lambda: 1.0, {"unused": sl.State(1.0)})(),
        ValueError,
        "'unused'\nthe function never read",
    ),
    (lambda: grad_by(lambda m: m.states("calls")), TypeError, "'calls'\nit is of dtype int32"),
    (
        lambda: sl.transform.hessian(lambda: 1.0, {"z": sl.State(jnp.ones(1) * 1j)})(),
        TypeError,
        "'z'\nit is of dtype complex64(.|\n)*holomorphic=True",
    ),
    (lambda: regressor_grad(argnums=-1), ValueError, "argnums=-1\na negative position"),
    (lambda: regressor_grad(argnums=3)(1.0), ValueError, "argnums=3\nthe call has 1 positional"),
    (lambda: regressor_grad(argnums=True), TypeError, "argnums=True\nthat is a bool"),
    (lambda: regressor_grad(argnums=(1, 1)), ValueError, "given twice"),
    (lambda: regressor_grad(grad_states="**", argnums=0), ValueError, "argument 0 is the tree"),
    (lambda: regressor_grad()(), ValueError, "no positional argument"),
    (lambda: grad_by(lambda m: m.weight, has_aux=True), TypeError, "not a pair(.|\n)*return value"),
    (lambda: sl.grad(lambda x: None)(1.0), TypeError, "returned None"),
    (lambda: sl.grad(lambda x: (x, x))(1.0), TypeError, "a pair(.|\n)*has_aux=True"),
    (leaked_by_jit, TypeError, r"State\(f32\[5\], name='trace'\)(.|\n)*statelens.functionalize"),
    (leaked_inside, TypeError, "name='inner'(.|\n)*inside a transform of statelens"),
    (read_after_its_trace, TypeError, "'temporary'\nthe state was made inside"),
    (frozen, AttributeError, r"'mean' of a tree(.|\n)*statelens.thread\(fun\)(.|\n)*bind"),
    (lambda: assign({"weight": {"a": 1}}), ValueError, "'weight'\nits structure is"),
    (lambda: assign({"weight": jnp.ones(3)}), ValueError, r"'weight'\nits shape is \(3,\)"),
    (lambda: assign({"nowhere": 1}), KeyError, "'nowhere', which isn't there"),
    (lambda: grad_by(lambda m: [m.weight, m.weight]), ValueError, r"twice, as '\[0\]' and as"),
    (lambda: sl.State(sl.State(1.0)), TypeError, r"State of State\((.|\n)*State\(other.value\)"),
    (lambda: sl.State(1.0) + 1, TypeError, r"write \.value"),
    (lambda: sl.lens("a..b"), ValueError, r"  a\.\.b\n    \^ expected a name"),
    (lambda: sl.combine(PLAIN, PLAIN), ValueError, "2 of them have a leaf at 'bias'"),
    (
        lambda: sl.lens("bias").set(PLAIN, {"bias": jnp.zeros(1, jnp.int32)}),
        ValueError,
        "'bias'\nits dtype is int32",
    ),
    (
        lambda: sl.groups({"a": "**", "b": "bias"}, first_match=True)(PLAIN),
        ValueError,
        "group 'b'\nit is shadowed",
    ),
    (lambda: sl.groups({"a": "weight"})(PLAIN), ValueError, "'bias' is in no group"),
    (
        lambda: sl.functionalize(Regressor().__call__, sl.State(1.0))(2.0, XS),
        ValueError,
        "isn't among the states",
    ),
]


@pytest.mark.parametrize(("act", "builtin", "text"), CASES)
def test_errors_say_what_where_and_what_instead(act, builtin, text):
    with pytest.raises(sl.StateLensError, match=text) as caught:
        act()
    assert isinstance(caught.value, builtin)
    assert "\nInstead" in str(caught.value)
    # The user's own frame is the last one.
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__


DECORATORS = {
    "jit": lambda states: sl.jit(donate_states=states),
    "grad": lambda states: sl.grad(grad_states=states),
    "vmap": lambda states: sl.transform.vmap(in_states=states),
    "vmap_new_states": lambda _: sl.transform.vmap_new_states(axis_size=2),
    "checkpoint": lambda _: sl.transform.checkpoint(prevent_cse=True),
    "shard_map": lambda _: sl.transform.shard_map(mesh=None, in_specs=(), out_specs=()),
    "custom_vjp": lambda states: sl.transform.custom_vjp(states=states),
    "custom_jvp": lambda states: sl.transform.custom_jvp(states=states),
}


@pytest.mark.parametrize("name", DECORATORS)
def test_an_error_in_a_decorator_ends_at_the_user_s_line(name):
    decorate = DECORATORS[name](Regressor().states("nowhere.**"))
    with pytest.raises(sl.StateLensError, match=rf"asked {name} ") as caught:
        decorate(3)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__


@pytest.mark.parametrize("name", ["custom_vjp", "custom_jvp"])
def test_what_is_no_function_is_refused_at_the_user_s_line(name):
    with pytest.raises(sl.StateLensError, match=rf"asked {name} for fun=3") as caught:
        getattr(sl.transform, name)(3)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == __file__


@pytest.mark.parametrize("use", [jnp.sin, np.sin, lambda s: jnp.ones(2) * s, lambda s: s[0], len])
def test_a_state_is_not_its_value(use):
    with pytest.raises(sl.StateTypeError, match=r"write \.value"):
        use(sl.State(jnp.ones(2)))


def test_traceback_filtering_can_be_turned_off():
    jax.config.update("jax_traceback_filtering", "off")
    try:
        with pytest.raises(sl.PathError, match="'nowhere'") as caught:
            sl.lens("nowhere").only(PLAIN)
    finally:
        jax.config.update("jax_traceback_filtering", "auto")
    assert "statelens" in traceback.extract_tb(caught.value.__traceback__)[-1].filename


def test_zeros_for_an_untouched_state_on_demand():
    equal(sl.grad(lambda: 1.0, sl.State(jnp.ones(2)), check_states=False)(), jnp.zeros(2))


# A gradient transform of one's own.


def test_gradient_transform_scales_gradients_by_state():
    def scaled(fun, argnums=0, has_aux=False, factor=1.0):
        def run(*args):
            gradient, aux = jax.grad(fun, argnums, has_aux=True)(*args)
            return jax.tree.map(lambda g: factor * g, gradient), aux

        return run

    model = Regressor()
    states = model.states(sl.ParamState)
    loss = lambda x, y: jnp.mean((model(x) - y) ** 2)  # noqa: E731
    transform = sl.transform.GradientTransform(
        loss, scaled, states, return_value=True, transform_params={"factor": 2.0}
    )
    gradient, value = transform(XS, YS)
    assert value == 5.5
    equal(gradient, {("bias",): jnp.array([-4.0]), ("weight",): jnp.array([[-6.0]])})


@pytest.mark.parametrize("transform", [jax.jacrev, jax.jacfwd])
def test_gradient_transform_takes_jacobians(transform):
    w = sl.State(jnp.arange(3.0))
    jacobian = sl.transform.GradientTransform(lambda x: w.value * x, transform, [w])(2.0)
    equal(jacobian, [2.0 * jnp.eye(3)])
