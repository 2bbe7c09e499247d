"""Lowering and compiling ahead of time."""

import functools
from types import MethodType

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close, counted
from tests.transform.compilation.net import Dropout, Net, plain_net, values_of

close = functools.partial(close, rtol=1e-6)

X = jnp.array([1.0, 2.0, 3.0])


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
