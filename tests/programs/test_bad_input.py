"""Mistakes of the functional style: what is wrong is said at the user's line, and changes nothing.

Where JAX, Equinox or Optax says it, its error comes as it is, at the user's line all the same.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import statelens as sl
from tests.transform.bad_input import (
    XS,
    A,
    B,
    C,
    D,
    E,
    Rows,
    World,
    X,
    assert_is_told_at_the_users_line,
    check_refused,
)

T = sl.transform
L = sl.TracerLeakError

MLP = eqx.nn.MLP(2, 2, 4, 2, key=jax.random.key(0))
OTHER = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
TREE = {"a": {"w": jnp.ones((2, 2)), "b": jnp.zeros(2)}, "n": jnp.array(1)}
HEAD = sl.lens("layers[-1].**") & sl.inexact
FOCUS, REST = HEAD.partition(MLP)


def loss(model, x):
    return jnp.sum(jax.vmap(model)(x) ** 2)


def step(world, x):
    world.calls.value += 1
    return jnp.sum(world.w.value * x)


def in_jit(call):
    """Makes a call in a compiled function."""
    return sl.jit(lambda: call())()


row = Rows()

# A lens, and what it is asked of a tree.
row("lens: no spec", lambda w: sl.lens(3), B, r"asked for a lens of int: 3")
row("lens: a value", lambda w: sl.lens(jnp.ones(2)), B, r"asked for a lens")
row("lens: a state", lambda w: sl.lens(w.w), E, r"asked for a lens")
row("lens: a path that isn't one", lambda w: sl.lens("a..b"), sl.PatternError, r"a\.\.b")
row("lens: an open bracket", lambda w: sl.lens("a[0"), sl.PatternError, r"a\[0")
row("lens: an unknown predicate", lambda w: sl.lens("@inexct"), sl.PatternError, r"inexct")
row("get: a typo", lambda w: sl.lens("layrs.**").get(MLP), sl.PathError, r"layers")
row("count: a typo", lambda w: sl.lens("layrs.**").count(MLP), sl.PathError, r"layers")
row("mask: a typo", lambda w: sl.lens("layrs.**").mask(MLP), sl.PathError, r"layers")
row("partition: a typo", lambda w: sl.lens("a.v").partition(TREE), sl.PathError, r"a\.w")
row("grad: a typo", lambda w: sl.grad(loss, sl.lens("layrs"))(MLP, XS), sl.PathError, r"layers")
row("bind: a typo", lambda w: sl.lens("v").bind(w), sl.PathError, r"'v'")
row("only: several", lambda w: sl.lens("a.*").only(TREE), D, r"a\.b.*a\.w|a\.w.*a\.b")
row(
    "set: another shape",
    lambda w: sl.lens("a.b").set(TREE, {"a.b": jnp.ones(3)}),
    C,
    r"a\.b.*\(3,\)",
)
row(
    "set: another dtype",
    lambda w: sl.lens("n").set(TREE, {"n": jnp.array(1.0)}),
    C,
    r"float32.*int32",
)
row("set: a value for all", lambda w: sl.lens("a.b").set(TREE, X), B, r"without paths")
row("update: another shape", lambda w: sl.lens("a.b").update(TREE, lambda x: x[:1]), C, r"\(1,\)")
row("update: None", lambda w: sl.lens("a.b").update(TREE, lambda x: None), C, r"a\.b")
row("update: no function", lambda w: sl.lens("a.b").update(TREE, 3), B, r"3|int")
row(
    "apply_updates: another focus",
    lambda w: sl.lens("a.b").apply_updates(TREE, sl.lens("a.w").partition(TREE)[0]),
    C,
    r"a\.[bw]",
)
row(
    "apply_updates: another shape",
    lambda w: sl.lens("a.b").apply_updates(TREE, {"a": {"w": None, "b": XS}, "n": None}),
    C,
    r"a\.b.*\(3, 2\)",
)
row(
    "apply_updates: another tree",
    lambda w: sl.lens("a.b").apply_updates(TREE, {"b": X}),
    C,
    r"apply updates",
)
row("combine: another tree", lambda w: sl.combine(FOCUS, HEAD.partition(OTHER)[1]), C, r"layers")
row("combine: the focus twice", lambda w: sl.combine(FOCUS, FOCUS), C, r"layers\[2\]")
row("combine: one half", lambda w: sl.combine(REST, None), C, r"asked to combine")
row("groups: a unit in none", lambda w: sl.groups({"a": "a.**"})(TREE), D, r"'n'")
row("groups: a unit in two", lambda w: sl.groups({"a": "a.**", "b": "**"})(TREE), D, r"a\.")
row(
    "groups: an empty one",
    lambda w: sl.groups({"a": "**", "b": "c"})(TREE),
    sl.PathError,
    r"group 'b'",
)
row("tie: nothing there", lambda w: sl.tie(TREE, "a.w", "a.v"), sl.PathError, r"a\.v")
row("tie: other shapes", lambda w: sl.tie(TREE, "a.w", "a.b"), C, r"\(2, 2\).*\(2,\)|shape")
row("bind: no states", lambda w: sl.grad(loss, sl.lens("a.w").bind(TREE))(MLP, XS), E, r"a\.w")
row("at: no path", lambda w: sl.at(lambda t: 3).get(TREE), sl.StateLensError, r"at\(|3")

# A tree that is passed as an argument.
row("grad: argument 0 twice", lambda w: sl.grad(loss, HEAD, argnums=0)(MLP, XS), A, r"argnums")
row("grad: no argument", lambda w: sl.grad(loss, HEAD)(), A, r"no positional argument")
row("grad: no thread", lambda w: sl.grad(step, "w")(w, X), sl.FrozenTreeError, r"'calls'.*thread")
row("jit: no thread", lambda w: sl.jit(step)(w, X), sl.FrozenTreeError, r"'calls'.*thread")
row(
    "vmap: no thread",
    lambda w: T.vmap(step, in_axes=(None, 0))(w, XS),
    sl.FrozenTreeError,
    r"thread",
)
row("checkpoint: no thread", lambda w: T.checkpoint(step)(w, X), sl.FrozenTreeError, r"thread")
row("thread: no aux", lambda w: sl.grad(sl.thread(step), "w")(w, X), sl.StateLensError, r"has_aux")
row("cast: no dtype", lambda w: sl.lens("a.b").cast(TREE, "flot32"), B, r"flot32")
row("thread: no argument", lambda w: sl.thread(step)(), A, r"no positional argument")
row("thread: no function", lambda w: sl.thread(3), B, r"thread")
row("functionalize: no states", lambda w: sl.functionalize(w.loss, 3), E, r"functionalize|int")
row(
    "functionalize: too few states",
    lambda w: sl.functionalize(w.loss, [w.w])([w.w.value]),
    sl.StateLensError,
    r"calls",
)
row("overlay: no state", lambda w: sl.overlay({"w": X}), E, r"'w'.*str")
row(
    "aux: forgotten",
    lambda w: sl.grad(lambda m, x: (loss(m, x), x), HEAD)(MLP, XS),
    sl.StateLensError,
    r"has_aux=True",
)
row("aux: none there", lambda w: sl.grad(loss, HEAD, has_aux=True)(MLP, XS), B, r"has_aux=True")
row(
    "grad: no scalar",
    lambda w: sl.grad(lambda m, x: m(x), HEAD)(MLP, X),
    sl.DifferentiationError,
    r"scalar",
)
row(
    "grad: integers",
    lambda w: sl.grad(lambda t: t["n"] * 1.0, "n")(TREE),
    sl.DifferentiationError,
    r"'n'.*int32",
)
row(
    "grad: functions",
    lambda w: sl.grad(loss, sl.lens("activation"))(MLP, XS),
    sl.StateLensError,
    r"activation",
)
row(
    "jvp: a tangent of the whole",
    lambda w: T.jvp(loss, (MLP, XS), (MLP,), grad_states=HEAD),
    sl.StateLensError,
    r"tangent",
)
row(
    "hvp: a vector of another tree",
    lambda w: T.hvp(loss, HEAD)(TREE, MLP, XS),
    sl.StateLensError,
    r"vector",
)

# Lenses and states in each other's place.
row(
    "grad_states: a value",
    lambda w: sl.grad(w.loss, grad_states=X)(),
    sl.StateLensError,
    r"grad_states",
)
row(
    "grad_states: a module",
    lambda w: sl.grad(w.loss, grad_states=w)(),
    sl.StateLensError,
    r"grad_states|states\(\)",
)
row(
    "grad_states: values",
    lambda w: sl.grad(w.loss, grad_states={"w": X})(),
    sl.StateLensError,
    r"state",
)
row(
    "grad_states: a lens, and no tree",
    lambda w: sl.grad(lambda x: x, sl.lens("w"))(1.0),
    sl.StateLensError,
    r"'w'",
)
row("a state for its value", lambda w: w.w + 1, E, r"\.value")
row("a state in a state", lambda w: sl.State(w.w), E, r"value")
row("assign: nothing there", lambda w: w.states().assign({"v": X}), sl.PathError, r"'v'")
row("assign: another shape", lambda w: w.states().assign({"w": jnp.ones(3)}), C, r"\(3,\).*\(2,\)")
row("states: a typo", lambda w: w.states("othr").values_dict(), sl.PathError, r"other")
row("states: no path", lambda w: w.states()["v"], sl.PathError, r"'v'")

# Traces.
row("a write in jax.jit", lambda w: jax.jit(w.touch)(), L, r"statelens\.jit")
row(
    "a write in jax.vmap",
    lambda w: jax.vmap(lambda x: w.touch())(X),
    L,
    r"statelens\.transform\.vmap",
)
row("a write in jax.grad", lambda w: jax.grad(lambda x: (w.grow(), x)[1])(1.0), L, r"assign")
row("a write in lax.scan", lambda w: jax.lax.scan(lambda c, x: (w.touch(), x), 0.0, X), L, r"scan")
row("a state that has ended", lambda w: made_in_jit().value, L, r"made inside")
row("a generator", lambda w: sl.jit(lambda: (w.touch() for _ in X))(), B, r"generator")


def made_in_jit():
    kept = []

    @sl.jit
    def make(x):
        kept.append(sl.State(x))
        return x

    make(1.0)
    return kept[0]


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match)


# What JAX and others say.
theirs = Rows()
theirs("jit: shapes", lambda w: sl.jit(lambda x: x @ x)(XS), TypeError, r"dot_general|shape")
theirs(
    "grad: shapes",
    lambda w: sl.grad(lambda t, x: t["a"]["w"] @ x, "a.w")(TREE, XS),
    TypeError,
    r"shape",
)
theirs("vmap: sizes", lambda w: T.vmap(lambda a, b: a)(X, XS), ValueError, r"size|axes")
theirs("vmap: in_axes", lambda w: T.vmap(step, in_axes=(0, 0, 0))(w, XS), ValueError, r"in_axes")
theirs("scan: sizes", lambda w: T.scan(lambda c, x: (c, x), 0.0, (X, XS)), ValueError, r"leading")
theirs(
    "if on a traced value",
    lambda w: sl.jit(lambda x: 1 if x > 0 else 2)(1.0),
    jax.errors.TracerBoolConversionError,
    r"bool",
)
theirs(
    "a traced index",
    lambda w: sl.jit(lambda x: [1, 2][x])(1),
    jax.errors.TracerIntegerConversionError,
    r"index|integer",
)
theirs(
    "vjp: a cotangent of another tree",
    lambda w: T.vjp(loss, MLP, XS, grad_states=HEAD)[1](TREE),
    ValueError,
    r"unexpected tree structure",
)
theirs("a missing argument", lambda w: sl.jit(loss)(MLP), TypeError, r"missing")
theirs("a missing argument of grad", lambda w: sl.grad(loss, HEAD)(MLP), TypeError, r"missing")
theirs("a name that isn't there", lambda w: sl.jit(lambda: w.nothing)(), AttributeError, r"nothing")
theirs("an error of the user's", lambda w: in_jit(lambda: {}["x"]), KeyError, r"x")
theirs("an error in a branch", lambda w: T.cond(True, lambda: {}["x"], lambda: 1), KeyError, r"x")
theirs("an error in a loop", lambda w: T.for_loop(lambda i: {}["x"], X), KeyError, r"x")
theirs("an error in a checkpoint", lambda w: T.checkpoint(lambda: {}["x"])(), KeyError, r"x")
theirs(
    "an error of Optax",
    lambda w: sl.jit(lambda: optax.sgd(1.0).update(TREE, 3, X, 4))(),
    Exception,
    r".",
)


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize(("call", "error", "match"), theirs)
def test_an_error_of_others_comes_as_it_is(call, error, match):
    world = World()
    states = world.states()
    before = states.values_dict()
    with pytest.raises(error, match="(?s)" + match) as caught:
        call(world)
    assert_is_told_at_the_users_line(caught)
    assert all(states[path].value is value for path, value in before.items())
