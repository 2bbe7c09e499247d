"""`find_non_finite`: the primitive and the line that make a nan, wherever the function runs."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from jax.experimental import io_callback

import statelens as sl
from statelens import NonFiniteError

# Not by a derivative's `debug_nan`: most of what makes a nan here is no scalar's gradient, and the
# derivative would add primitives of its own to those that are to be found.
from statelens.transform.derivatives._non_finite import find_non_finite

HERE = "test_non_finite.py"


def one(result):
    return [("x", result)]


def watch(fun, name_leaves=one, asked_by="grad"):
    return find_non_finite(fun, name_leaves, asked_by)


def finish(result):
    jax.block_until_ready(result)
    jax.effects_barrier()


def line_of(fun, text):
    lines, start = inspect.getsourcelines(fun)
    return start + next(number for number, line in enumerate(lines) if text in line)


def said(primitive, fun, text):
    """The message's line on a primitive, which `text` marks in the source of `fun`."""
    place = f"{HERE}:{line_of(fun, text)} "
    return rf"(?s)`{primitive}` was the first to make a non-finite .*{re.escape(place)}"


def root(x):
    y = 2.0 * x
    return jnp.sqrt(y)


def logarithm(x):
    y = x - 1.0
    return jnp.log(y)


def trap(x):
    ratio = jnp.sin(x) / x
    return jnp.where(x > 0, ratio, 1.0)


def overflow(x):
    return jnp.exp(100.0 * x)


def recurrent(x):
    def step(carry, scale):
        carry = carry * scale
        return jnp.sqrt(carry), carry

    return jax.lax.scan(step, x, jnp.array([1.0, 0.0, 2.0]))[0]


def looping(x):
    def step(carry):
        return carry[0] + 1, jnp.log(carry[1])

    return jax.lax.while_loop(lambda carry: carry[0] < 3, step, (0, x))[1]


def branching(x):
    return jax.lax.cond(
        x > 0,
        lambda x: x,
        lambda x: 1.0 / x,
        x,
    )


@jax.checkpoint
def rematerialised(x):
    return jnp.sin(jnp.sqrt(x))


CASES = [
    (jax.grad(root), 0.0, "div", root, "jnp.sqrt"),
    (logarithm, 1.0, "log", logarithm, "jnp.log"),
    (jax.grad(trap), 0.0, "div", trap, "jnp.sin"),
    (overflow, 2.0, "exp", overflow, "jnp.exp"),
    (jax.jit(overflow), 2.0, "exp", overflow, "jnp.exp"),
    (jax.grad(recurrent), 1.0, "div", recurrent, "jnp.sqrt"),
    (looping, 2.0, "log", looping, "jnp.log"),
    (branching, 0.0, "div", branching, "1.0 / x"),
    (jax.grad(rematerialised), 0.0, "div", rematerialised, "jnp.sqrt"),
]
NAMES = ["sqrt", "log", "where", "exp", "jit", "scan", "while", "cond", "remat"]


@pytest.mark.parametrize(("fun", "x", "primitive", "source", "text"), CASES, ids=NAMES)
class TestWhereItIsFound:
    def test_eagerly(self, fun, x, primitive, source, text):
        with pytest.raises(NonFiniteError, match=said(primitive, source, text)):
            watch(fun)(x)

    def test_in_jit(self, fun, x, primitive, source, text):
        with pytest.raises(JaxRuntimeError, match=said(primitive, source, text)):
            finish(jax.jit(watch(fun))(x))

    def test_in_jit_of_vmap(self, fun, x, primitive, source, text):
        xs = jnp.array([30.0, x]) if fun is not overflow else jnp.array([0.1, x])
        with pytest.raises(JaxRuntimeError, match=said(primitive, source, text)):
            finish(jax.jit(jax.vmap(watch(fun)))(xs))

    def test_in_scan(self, fun, x, primitive, source, text):
        def body(carry, x):
            return carry, watch(fun)(x)

        with pytest.raises(JaxRuntimeError, match=said(primitive, source, text)):
            finish(jax.lax.scan(body, 0, jnp.array([x, x])))


def test_vmap_outside_of_jit():
    with pytest.raises(NonFiniteError, match=said("div", trap, "jnp.sin")):
        finish(jax.vmap(watch(jax.grad(trap)))(jnp.arange(3.0)))


def test_under_grad():
    with pytest.raises(NonFiniteError, match=said("log", logarithm, "jnp.log")):
        finish(jax.grad(watch(logarithm))(1.0))


def test_the_error_is_of_both_kinds():
    assert issubclass(NonFiniteError, sl.StateLensError)
    assert issubclass(NonFiniteError, FloatingPointError)
    with pytest.raises(FloatingPointError, match="asked hessian to stop at the first nan or inf"):
        watch(logarithm, asked_by="hessian")(1.0)


def test_counts_entries_and_leaves():
    fun = watch(
        lambda x: {"good": x, "bad": jnp.log(x), "ugly": 1 / x},
        lambda r: [(f"layer.{k}", r[k]) for k in ("good", "bad", "ugly")],
    )
    text = r"layer\.bad isn't finite: 2 of 4 entries \(and 1 more leaves\)"
    with pytest.raises(NonFiniteError, match=text):
        fun(jnp.array([1.0, 0.0, 2.0, -1.0]))
    with pytest.raises(JaxRuntimeError, match=text):
        finish(jax.jit(fun)(jnp.array([1.0, 0.0, 2.0, -1.0])))


def test_nested_labels():
    tree = {"encoder": {"weight": jnp.zeros(3), "steps": jnp.arange(2)}, "name": "mlp"}

    def fun(scale):
        weight = jnp.sqrt(scale - 1) * tree["encoder"]["weight"]
        return {"encoder": {"weight": weight, "steps": tree["encoder"]["steps"]}, "name": "mlp"}

    def name_leaves(result):
        return [(sl.path.format(p), u) for p, u in sl.lens(sl.arrays).get(result).items()]

    with pytest.raises(NonFiniteError, match=r"encoder\.weight isn't finite: 3 of 3 entries"):
        watch(fun, name_leaves)(0.0)


def test_an_unwatched_leaf_may_be_inf():
    fun = watch(lambda x: (x, 1 / x), lambda r: [("loss", r[0])])
    assert fun(jnp.zeros(()))[1] == jnp.inf


@pytest.mark.parametrize("outer", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_an_input_that_is_not_finite(outer):
    fun = outer(watch(lambda tree, y: tree["a"]["b"] * y))
    text = r"an input is not finite already: args\[0\]\['a'\]\['b'\]"
    with pytest.raises((NonFiniteError, JaxRuntimeError), match=text):
        finish(fun({"a": {"b": jnp.array([1.0, jnp.nan])}}, 2.0))


def test_an_array_closed_over_that_is_not_finite():
    shift = jnp.array([jnp.inf, 0.0])
    with pytest.raises(NonFiniteError, match="already: an array that the function closes over"):
        watch(lambda x: x + shift)(1.0)


def chain(y):
    for _ in range(14):
        y = y * 1.01
    return jnp.sqrt(y)


def nest(depth):
    """Gives a function of many equations in loops and branches, some levels deep."""
    if not depth:
        return chain
    turn = lambda carry, _: (sl.transform.cond(carry > 0, nest(depth - 1), chain, carry), None)  # noqa: E731
    return lambda y: sl.transform.scan(turn, chain(y), None, length=2)[0]


@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("depth", [0, 1])
def test_the_search_grows_with_the_number_of_equations(depth, run):
    # Each product took five times as long to compile as the one before it.
    w = sl.ParamState(jnp.ones(2))

    def loss(x):
        return nest(depth)(jnp.sum(w.value * x))

    plain, watched = (run(sl.grad(loss, w, debug_nan=watch)) for watch in (False, True))
    np.testing.assert_allclose(watched(jnp.ones(2)), plain(jnp.ones(2)))
    with pytest.raises(NonFiniteError, match="`div` was the first to make a non-finite"):
        watched(jnp.zeros(2))


NAN = jnp.array([jnp.nan, 1.0])


@pytest.mark.slow
def test_inputs_are_called_what_the_caller_calls_them():
    w, bad = sl.ParamState(jnp.ones(2), name="w"), sl.ParamState(NAN, name="bad")
    other = sl.State(NAN)

    def refuses(label, name, fun, *args, grad_states=w, **kwargs):
        derivative = getattr(sl.transform, name)(fun, grad_states, debug_nan=True)
        match = re.escape(f"an input is not finite already: {label}\n")
        with pytest.raises(NonFiniteError, match=match):
            derivative(*args, **kwargs)

    product = lambda x: jnp.sum(w.value**2 * x)  # noqa: E731
    refuses("argument 0", "grad", product, NAN)
    refuses("argument 0", "grad", sl.jit(product), NAN)
    refuses("argument 0", "grad", product, np.array(NAN))
    refuses("argument 0", "grad", product, float("nan"))
    refuses("argument 'x'", "grad", product, x=NAN)
    refuses("argument 1 at 'k'", "grad", lambda _, y: product(y["k"]), 1.0, {"k": NAN})
    refuses("argument 0", "per_example_grad", product, NAN)
    refuses("vector", "hvp", product, NAN, 1.0)
    refuses("the state 'bad'", "grad", lambda: jnp.sum(bad.value**2), grad_states=[w, bad][1:])
    tree_loss = lambda tree: jnp.sum(tree["w"] ** 2)  # noqa: E731
    refuses("argument 0 at 'w'", "grad", tree_loss, {"w": NAN}, grad_states="w")
    refuses("argument 0", "grad", lambda x: jnp.sum(x**2), NAN, grad_states=None)
    refuses("State(f32[2])", "grad", lambda: product(other.value))
    refuses("an array that the function closes over", "grad", lambda: product(NAN))


class Normalised(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.ones(2))
        self.mean = sl.BatchState({"x": NAN}, name="mean")
        self.raw = sl.State(np.array(NAN))
        self.table = NAN


CLOSED_OVER = {
    "BatchState({'x': f32[2]}, name='mean') at 'x'": lambda m: m.mean.value["x"],
    "State(f32[2]": lambda m: m.raw.value,
    "the attribute 'table'": lambda m: m.table,
}


@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("label", CLOSED_OVER)
def test_a_state_that_is_read_and_not_differentiated_has_its_name(label, run):
    model = Normalised()
    loss = lambda: jnp.sum(model.w.value**2 * CLOSED_OVER[label](model))  # noqa: E731
    with pytest.raises(NonFiniteError, match=re.escape(f"an input is not finite already: {label}")):
        run(sl.grad(loss, model.states("w"), debug_nan=True))()


@pytest.mark.parametrize("name", ["hessian", "jacrev", "hvp", "vjp"])
def test_every_derivative_names_it(name):
    model = Normalised()
    loss = lambda: jnp.sum(model.w.value**2 * model.table)  # noqa: E731
    take = {
        "hessian": lambda: sl.transform.hessian(loss, model.w, debug_nan=True)(),
        "jacrev": lambda: sl.transform.jacrev(loss, model.w, debug_nan=True)(),
        "hvp": lambda: sl.transform.hvp(loss, model.w, debug_nan=True)(jnp.ones(2)),
        "vjp": lambda: sl.transform.vjp(loss, grad_states=model.w, debug_nan=True)[1](1.0),
    }
    with pytest.raises(NonFiniteError, match="an input is not finite already: the attribute"):
        take[name]()


def test_an_input_that_the_call_has_overwritten_is_still_named():
    w, total = sl.ParamState(jnp.ones(2)), sl.State(NAN, name="total")

    def loss():
        seen = total.value
        total.value = jnp.zeros(2)
        return jnp.sum(w.value * seen)

    with pytest.raises(NonFiniteError, match=r"already: State\(f32\[2\], name='total'\)"):
        sl.grad(loss, w, debug_nan=True)()


@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit], ids=["eager", "jit"])
def test_cotangents_and_tangents_that_are_not_finite(run):
    w = sl.ParamState(jnp.ones(2))
    fun, states = (lambda: w.value**2), {"grad_states": w, "debug_nan": True}
    taken = {
        "cotangent": lambda v: sl.transform.vjp(fun, **states)[1](v),
        "tangent": lambda v: sl.transform.jvp(fun, (), state_tangents=v, **states)[1],
        "tangent\n": lambda v: sl.transform.linearize(fun, **states)[1](v),
    }
    for label, take in taken.items():
        with pytest.raises(NonFiniteError, match=f"an input is not finite already: {label}"):
            run(take)(NAN)


def test_a_constant_that_is_not_finite():
    with pytest.raises(NonFiniteError, match="a constant isn't finite"):
        watch(lambda x: x + jnp.inf)(1.0)


def test_the_first_nan_is_told_apart_from_the_first_inf():
    def fun(x):
        big = jnp.exp(x)
        return big - big

    text = rf"(?s){said('exp', fun, 'jnp.exp')}.*`sub` was the first to make a nan, at .*{HERE}"
    with pytest.raises(NonFiniteError, match=text):
        watch(fun)(1000.0)


def test_a_function_of_jax_that_was_traced_before_from_another_line():
    jax.grad(jnp.linalg.norm)(jnp.ones(3))

    def length(x):
        return jnp.linalg.norm(x)

    with pytest.raises(NonFiniteError, match=said("div", length, "jnp.linalg")):
        watch(jax.grad(length))(jnp.zeros(3))


def test_a_function_that_cannot_be_traced_says_so():
    def fun(x):
        return jnp.log(x) if x > -1 else x

    with pytest.raises(NonFiniteError, match="can't be searched: TracerBoolConversionError"):
        watch(fun)(0.0)


def test_effects_are_not_run_again_to_search():
    def fun(x):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jnp.log(io_callback(np.asarray, shape, x))

    with pytest.raises(NonFiniteError, match=r"can't be searched: .*`io_callback` has effects"):
        watch(fun)(jnp.float32(0.0))


def test_a_debug_callback_does_not_hinder():
    seen = []

    def fun(x):
        jax.debug.callback(lambda x: seen.append(float(x)), x)
        return jnp.log(x)

    with pytest.raises(NonFiniteError, match=said("log", fun, "jnp.log")):
        watch(fun)(0.0)
    jax.effects_barrier()
    assert seen == [0.0]


@jax.custom_jvp
def custom(x):
    return jnp.sin(x)


custom.defjvp(lambda primals, tangents: (custom(primals[0]), 100.0 * tangents[0]))


@jax.custom_vjp
def clipped(x):
    return x**2


clipped.defvjp(lambda x: (clipped(x), x), lambda x, ct: (jnp.clip(2 * x * ct, -1.0, 1.0),))

FINITE = [
    lambda x: jnp.sqrt(x) * jax.nn.relu(x),
    custom,
    clipped,
    jax.grad(lambda x: jax.nn.silu(x) ** 3),
    lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), c), x, None, length=5)[0],
    jax.jit(lambda x: jnp.exp(x) / 3.0 + jnp.log(x)),
]


@pytest.mark.slow
@pytest.mark.parametrize("fun", FINITE)
@pytest.mark.parametrize(
    "outer",
    [
        lambda f: f,
        jax.jit,
        jax.grad,
        lambda f: jax.grad(jax.grad(f)),
        lambda f: jax.jit(jax.grad(f)),
        lambda f: lambda x: jax.jvp(f, (x,), (1.0,)),
        lambda f: lambda x: jax.vmap(jax.grad(f))(x * jnp.arange(1.0, 4.0)),
        lambda f: jax.grad(lambda x: jax.lax.scan(lambda c, _: (f(c), c), x, None, length=2)[0]),
        lambda f: jax.grad(jax.checkpoint(f)),
    ],
    ids=["eager", "jit", "grad", "grad2", "jit_grad", "jvp", "vmap_grad", "grad_scan", "remat"],
)
def test_finite_functions_are_unchanged(fun, outer, request):
    if "jvp-" in request.node.name and fun is clipped:
        pytest.skip("custom_vjp has no forward derivative")
    got, expected = outer(watch(fun))(0.7), outer(fun)(0.7)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    jax.effects_barrier()


def test_what_is_no_array_comes_back_as_it_is():
    marker = object()

    def fun(x, flag):
        return {"y": x / 2, "none": None, "text": "a", "flag": flag, "marker": marker}

    got = watch(fun, lambda r: [("y", r["y"]), ("text", r["text"])])(jnp.ones(2), True)
    assert got["none"] is None
    assert got["flag"] is True
    assert got["text"] == "a"
    assert got["marker"] is marker
    with pytest.raises(NonFiniteError, match=r"y isn't finite: 2 of 2 entries"):
        watch(fun, lambda r: [("y", r["y"])])(jnp.full(2, jnp.nan), True)


def test_keys_integers_and_bfloat16():
    def fun(key, n, x):
        noise = jax.random.normal(key, (2,), jnp.bfloat16)
        return key, n + 1, noise * x / (n - n)

    def name_leaves(result):
        return list(zip("abc", result, strict=True))

    with pytest.raises(NonFiniteError, match=r"(?s)c isn't finite: 2 of 2 .*`div` was the first"):
        watch(fun, name_leaves)(jax.random.key(0), jnp.array(3), jnp.bfloat16(2.0))


def test_complex_values():
    with pytest.raises(NonFiniteError, match="`log` was the first"):
        watch(jnp.log)(jnp.array(0j))


def test_no_python_runs_twice_where_all_is_finite():
    runs = []
    fun = watch(lambda x: runs.append(1) or x * 2)
    fun(1.0)
    assert len(runs) == 1
