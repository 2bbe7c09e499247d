"""`vjp`, `jvp` and `linearize` against JAX's on the pure form, and at their edges."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import EquinoxAffine, close

T = sl.transform

X = jnp.array([0.5, -0.3])
WEIGHT = jnp.array([[0.2, -0.4, 0.1], [0.3, 0.6, -0.5]])
BIAS = jnp.array([0.1, -0.2, 0.3])


def compute(weight, bias, x):
    return {"out": jnp.tanh(x @ weight + bias), "norm": jnp.sum(weight**2) * jnp.sum(x)}


class Affine(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = sl.ParamState(WEIGHT)
        self.bias = sl.ParamState(BIAS)
        self.calls = sl.State(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.calls.value += 1
        return compute(self.weight.value, self.bias.value, x)


def setting(form):
    """Gives states, first arguments, a function, values of a gradient's form, a pure function."""
    model = Affine()
    fun = lambda x: model(x)  # noqa: E731
    w, b = model.weight, model.bias
    match form:
        case "one":
            return w, (), fun, WEIGHT, lambda v, x: compute(v, BIAS, x)
        case "list":
            return [b, w], (), fun, [BIAS, WEIGHT], lambda v, x: compute(v[1], v[0], x)
        case "dict":
            states = {"w": w, "b": b}
            pure = lambda v, x: compute(v["w"], v["b"], x)  # noqa: E731
            return states, (), fun, {"w": WEIGHT, "b": BIAS}, pure
        case "bound":
            values = {("bias",): BIAS, ("weight",): WEIGHT}
            pure = lambda v, x: compute(v["weight",], v["bias",], x)  # noqa: E731
            return model.states(sl.ParamState), (), fun, values, pure
        case "value is a dict":
            both = sl.ParamState({"weight": WEIGHT, "bias": BIAS})
            pure = lambda v, x: compute(v["weight"], v["bias"], x)  # noqa: E731
            return both, (), lambda x: pure(both.value, x), both.value, pure
        case "equinox":
            tree = EquinoxAffine(WEIGHT, BIAS)
            values, _ = eqx.partition(tree, lambda leaf: leaf is WEIGHT)
            fun = lambda m, x: compute(m.weight, m.bias, x)  # noqa: E731
            return "weight", (tree,), fun, values, lambda v, x: compute(v.weight, BIAS, x)
        case "facade":
            values, _ = sl.params.partition(model)
            fun = lambda m, x: compute(m.weight.value, m.bias.value, x)  # noqa: E731
            pure = lambda v, x: compute(v.weight.value, v.bias.value, x)  # noqa: E731
            return sl.ParamState, (model,), fun, values, pure


FORMS = ["one", "list", "dict", "bound", "value is a dict", "equinox", "facade"]
every_form = pytest.mark.parametrize("form", FORMS)


def like(tree, start=0.0):
    vector, unravel = jax.flatten_util.ravel_pytree(tree)
    return unravel(jnp.cos(start + jnp.arange(vector.size, dtype=vector.dtype)))


def with_aux(fun, has_aux):
    return (lambda *args: (fun(*args), {"aux": args[-1]})) if has_aux else fun


# Against JAX, in every form.


@every_form
@pytest.mark.parametrize(("argnums", "has_aux"), [("none", False), ("one", True), ("tuple", False)])
def test_vjp(form, has_aux, argnums):
    states, args, fun, values, pure = setting(form)
    position = len(args)
    chosen = {"none": None, "one": position, "tuple": (position,)}[argnums]
    out, pullback, *aux = T.vjp(
        with_aux(fun, has_aux), *args, X, grad_states=states, argnums=chosen, has_aux=has_aux
    )
    expected, plain_pullback = jax.vjp(pure, values, X)
    close(out, expected)
    assert [a["aux"].tolist() for a in aux] == [X.tolist()] * has_aux
    for start in (0.0, 1.0):
        cotangent = like(expected, start)
        by_states, by_x = plain_pullback(cotangent)
        want = {"none": by_states, "one": (by_states, by_x), "tuple": (by_states, (by_x,))}
        close(pullback(cotangent), want[argnums])


@every_form
@pytest.mark.parametrize(("argnums", "has_aux"), [("none", False), ("one", True), ("tuple", False)])
def test_linearize(form, has_aux, argnums):
    states, args, fun, values, pure = setting(form)
    position = len(args)
    chosen = {"none": None, "one": position, "tuple": (position,)}[argnums]
    out, push, *aux = T.linearize(
        with_aux(fun, has_aux), *args, X, grad_states=states, argnums=chosen, has_aux=has_aux
    )
    assert len(aux) == has_aux
    for start in (0.0, 1.0):
        along = (like(values, start), like(X) if argnums != "none" else jnp.zeros_like(X))
        expected, slope = jax.jvp(pure, (values, X), along)
        close(out, expected)
        close(push(*along[: 1 + (argnums != "none")]), slope)


@every_form
@pytest.mark.parametrize(("moves", "has_aux"), [(False, True), (True, False)])
def test_jvp(form, has_aux, moves):
    states, args, fun, values, pure = setting(form)
    along = (like(values), like(X) if moves else jnp.zeros_like(X))
    tangents = (*(None for _ in args), along[1] if moves else None)
    out, slope, *aux = T.jvp(
        with_aux(fun, has_aux),
        (*args, X),
        tangents,
        grad_states=states,
        state_tangents=along[0],
        has_aux=has_aux,
    )
    close((out, slope), jax.jvp(pure, (values, X), along))
    assert len(aux) == has_aux


# Arguments alone.


def many(x, y, z):
    return jnp.sin(x) * y**2 + z


ARGS = (jnp.asarray(0.5), jnp.array([1.0, 2.0]), jnp.asarray(3.0))


@pytest.mark.parametrize("argnums", [0, 2, (0,), (2, 0), [1], np.int64(1), (np.int8(1),)])
def test_vjp_by_arguments(argnums):
    numbers = [int(number) for number in np.atleast_1d(argnums)]
    cotangent = jnp.array([1.0, -2.0])
    by_all = jax.vjp(many, *ARGS)[1](cotangent)
    picked = tuple(by_all[number] for number in numbers)
    close(
        T.vjp(many, *ARGS, argnums=argnums)[1](cotangent), picked if np.ndim(argnums) else picked[0]
    )


def test_vjp_is_by_argument_0_if_nothing_is_said():
    cotangent = jnp.array([1.0, -2.0])
    close(T.vjp(many, *ARGS)[1](cotangent), jax.vjp(many, *ARGS)[1](cotangent)[0])
    w = sl.ParamState(jnp.asarray(2.0))
    by_state, by_x = T.vjp(lambda x, y: w.value * x * y, 3.0, 5.0, grad_states=w)[1](1.0)
    assert (by_state, by_x) == (15.0, 10.0)
    assert T.vjp(lambda: w.value**2, grad_states=w)[1](1.0) == 4.0
    tree = {"w": jnp.asarray(2.0)}
    assert T.vjp(lambda t, x: t["w"] * x, tree, 3.0, grad_states="w")[1](1.0) == {"w": 3.0}


def test_linearize_is_by_all_arguments_as_that_of_jax():
    tangents = tuple(map(like, ARGS))
    ours, theirs = T.linearize(many, *ARGS), jax.linearize(many, *ARGS)
    close(ours[0], theirs[0])
    close(ours[1](*tangents), theirs[1](*tangents))
    close(T.linearize(jnp.sin, X)[1](X), jax.linearize(jnp.sin, X)[1](X))


@pytest.mark.parametrize("argnums", [1, (1,), (2, 0), np.int64(2)])
def test_linearize_by_some_arguments(argnums):
    numbers = [int(number) for number in np.atleast_1d(argnums)]
    tangents = [jnp.zeros_like(arg) for arg in ARGS]
    for number in numbers:
        tangents[number] = like(ARGS[number])
    push = T.linearize(many, *ARGS, argnums=argnums)[1]
    expected = jax.jvp(many, ARGS, tuple(tangents))[1]
    close(push(*(tangents[number] for number in numbers)), expected)


@pytest.mark.parametrize("still", [(), (0,), (1, 2)])
def test_jvp_of_arguments_none_of_which_has_to_move(still):
    tangents = [None if i in still else like(arg) for i, arg in enumerate(ARGS)]
    filled = [jnp.zeros_like(a) if t is None else t for a, t in zip(ARGS, tangents, strict=True)]
    close(T.jvp(many, ARGS, tangents), jax.jvp(many, ARGS, tuple(filled)))


def test_arguments_that_stay_may_be_anything():
    w = sl.ParamState(jnp.asarray(2.0))

    def fun(x, kind, function, module, n):
        assert kind == "text"
        return function(w.value * x) * module.calls.value * n

    args = (3.0, "text", jnp.square, Affine(), 2)
    args[3].calls.value = jnp.asarray(5.0)
    assert T.vjp(fun, *args, grad_states=w, argnums=None)[1](1.0) == 2 * 2 * 9 * 5 * 2
    assert T.linearize(fun, *args, grad_states=w, argnums=0)[1](1.0, 0.0) == 360.0
    tangents = (1.0, None, None, None, None)
    assert T.jvp(fun, args, tangents)[1] == 2 * 6 * 2 * 5 * 2
    assert T.jvp(fun, args, grad_states=w, state_tangents=1.0)[1] == 360.0


def test_complex_values_are_as_in_jax():
    z = sl.ParamState(jnp.array([1.0 + 2.0j, 0.5 - 1.0j]))
    fun = lambda z: jnp.abs(z) * z  # noqa: E731
    vector = jnp.array([1.0 - 1.0j, 2.0j])
    _, pullback = T.vjp(lambda: fun(z.value), grad_states=z)
    close(pullback(vector), jax.vjp(fun, z.value)[1](vector)[0])
    slope = T.jvp(lambda: fun(z.value), (), grad_states=z, state_tangents=vector)[1]
    close(slope, jax.jvp(fun, (z.value,), (vector,))[1])
    close(T.linearize(lambda: fun(z.value), grad_states=z)[1](vector), slope)


def test_cotangents_of_integers_are_float0():
    by_x, by_n = T.vjp(lambda x, n: x * n, 3.0, 2, argnums=(0, 1))[1](1.0)
    assert (by_x, by_n.dtype) == (2.0, jax.dtypes.float0)


def test_tangents_of_integers_are_float0_for_jvp():
    zero = np.zeros((), jax.dtypes.float0)
    assert T.jvp(lambda x, n: x * n, (3.0, 2), (1.0, zero)) == (6.0, 2.0)


def test_tangents_of_integers_are_float0_for_linearize():
    zero = np.zeros((), jax.dtypes.float0)
    ours = T.linearize(lambda x, n: x * n, 3.0, 2)
    theirs = jax.linearize(lambda x, n: x * n, 3.0, 2)
    assert ours[1](1.0, zero) == theirs[1](1.0, zero)


# What is written.

RUNS = {
    "vjp": lambda fun, w: T.vjp(fun, grad_states=w)[0],
    "linearize": lambda fun, w: T.linearize(fun, grad_states=w)[0],
    "jvp": lambda fun, w: T.jvp(fun, (), grad_states=w, state_tangents=jnp.ones(2))[0],
}
each = pytest.mark.parametrize("name", RUNS)


@each
def test_states_are_written_at_once_and_the_function_runs_once(name):
    w, count, runs = sl.ParamState(jnp.ones(2)), sl.State(0), []

    def fun():
        runs.append(1)
        out = w.value**2
        w.value = w.value * 3
        count.value += 1
        return out

    close(RUNS[name](fun, w), jnp.ones(2))
    assert (w.value.tolist(), count.value, len(runs)) == ([3.0, 3.0], 1, 1)
    assert isinstance(w.value, jax.Array)


@pytest.mark.parametrize("name", ["vjp", "linearize"])
def test_the_linear_map_writes_nothing_and_keeps_to_the_point_where_it_was_taken(name):
    w, count, runs = sl.ParamState(jnp.array([1.0, 2.0])), sl.State(0), []

    def fun():
        runs.append(1)
        count.value += 1
        return w.value**2

    linear_map = getattr(T, name)(fun, grad_states=w)[1]
    w.value = w.value * 100
    for _ in range(2):
        close(linear_map(jnp.ones(2)), jnp.array([2.0, 4.0]))
    assert (w.value.tolist(), count.value, len(runs)) == ([100.0, 200.0], 1, 1)


@each
def test_nothing_is_written_when_the_function_raises(name):
    w, count = sl.ParamState(jnp.ones(2)), sl.State(0)

    def fun():
        count.value += 1
        raise ZeroDivisionError("in the function")

    with pytest.raises(ZeroDivisionError, match="in the function"):
        RUNS[name](fun, w)
    assert count.value == 0


@each
def test_a_write_to_a_tree_argument_is_refused(name):
    model = Affine()
    fun = lambda m, x: m(x)["norm"]  # noqa: E731
    options = {"grad_states": "weight"}
    if name == "jvp":
        options["state_tangents"] = sl.lens("weight").partition(model)[0]
    args = ((model, X),) if name == "jvp" else (model, X)
    with pytest.raises(sl.FrozenTreeError, match=r"'calls'(.|\n)*statelens.thread\(fun\)"):
        getattr(T, name)(fun, *args, **options)
    assert model.calls.value == 0


@pytest.mark.parametrize(
    "name",
    [
        "vjp",
        "linearize",
        "jvp",
    ],
)
def test_thread_returns_the_tree_that_was_written(name):
    model = Affine()
    fun = sl.thread(lambda m, x: m(x)["norm"])
    options = {"grad_states": "weight", "has_aux": True}
    if name == "jvp":
        options["state_tangents"] = sl.lens("weight").partition(model)[0]
    args = ((model, X),) if name == "jvp" else (model, X)
    *_, after = getattr(T, name)(fun, *args, **options)
    assert (after.calls.value, model.calls.value) == (1, 0)


# Inside other transforms.


def test_in_jit():
    w, count = sl.ParamState(jnp.array([1.0, 2.0])), sl.State(jnp.zeros((), jnp.int32))

    def fun(x):
        count.value += 1
        return w.value**2 * x

    @sl.jit
    def all_three(x, v):
        pulled = T.vjp(fun, x, grad_states=w)[1](v)
        pushed = T.linearize(fun, x, grad_states=w, argnums=None)[1](v)
        return pulled, pushed, T.jvp(fun, (x,), (1.0,), grad_states=w, state_tangents=v)[1]

    v = jnp.array([1.0, -1.0])
    for calls in (3, 6):
        pulled, pushed, along = all_three(5.0, v)
        close(pulled, (10 * w.value * v, jnp.sum(w.value**2 * v)))
        close(pushed, 10 * w.value * v)
        close(along, 10 * w.value * v + w.value**2)
        assert count.value == calls


def test_a_pullback_may_be_used_in_jit_and_in_vmap():
    w = sl.ParamState(jnp.array([1.0, 2.0]))
    _, pullback = T.vjp(lambda: w.value**3, grad_states=w)
    expected = jnp.diag(3 * w.value**2)
    close(jax.vmap(pullback)(jnp.eye(2)), expected)
    close(jax.jit(jax.vmap(pullback))(jnp.eye(2)), expected)
    close(T.vmap(pullback)(jnp.eye(2)), expected)


def test_jvp_of_vjp_is_a_product_with_the_hessian():
    w = sl.ParamState(jnp.array([1.0, 2.0]))
    loss = lambda w: jnp.sum(jnp.sin(w)) * jnp.prod(w)  # noqa: E731
    v = jnp.array([0.3, -0.7])
    gradient = lambda: T.vjp(lambda: loss(w.value), grad_states=w)[1](1.0)  # noqa: E731
    product = T.jvp(gradient, (), grad_states=w, state_tangents=v)[1]
    close(product, jax.hessian(loss)(w.value) @ v)
    linear = T.linearize(gradient, grad_states=w)[1]
    close(linear(v), product)
    close(T.hvp(lambda: loss(w.value), w)(v), product)


def test_vjp_of_jvp():
    w = sl.ParamState(jnp.array([1.0, 2.0]))
    loss = lambda w: jnp.sum(jnp.sin(w)) * jnp.prod(w)  # noqa: E731
    v = jnp.array([0.3, -0.7])
    slope = lambda: T.jvp(lambda: loss(w.value), (), grad_states=w, state_tangents=v)[1]  # noqa: E731
    close(T.vjp(slope, grad_states=w)[1](1.0), jax.hessian(loss)(w.value) @ v)


def test_a_second_derivative_by_jvp_of_jvp():
    w = sl.ParamState(jnp.asarray(2.0))
    along = {"grad_states": w, "state_tangents": jnp.asarray(1.0)}
    first = lambda: T.jvp(lambda: w.value**4, (), **along)[1]  # noqa: E731
    assert T.jvp(first, (), **along) == (32.0, 48.0)


def test_linearize_around_scan():
    w, h = sl.ParamState(jnp.asarray(0.5)), sl.State(jnp.asarray(1.0))

    def step(x):
        h.value = jnp.sin(w.value * h.value) + x
        return h.value

    def plain(w):
        body = lambda h, x: (jnp.sin(w * h) + x,) * 2  # noqa: E731
        return jax.lax.scan(body, 1.0, jnp.arange(3.0))[1]

    out, push = T.linearize(lambda: T.for_loop(step, jnp.arange(3.0)), grad_states=w)
    close((out, push(jnp.asarray(1.0))), jax.jvp(plain, (0.5,), (1.0,)))
    assert h.value == out[-1]


# The adjoint identity.


@settings(max_examples=15)
@given(
    weight=st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6),
    vector=st.lists(st.floats(-2, 2, width=32), min_size=8, max_size=8),
    covector=st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4),
    form=st.sampled_from(["one", "dict", "nested", "unbound"]),
)
def test_the_pullback_is_the_adjoint_of_the_pushforward(weight, vector, covector, form):
    with jax.enable_x64(True):
        w = sl.ParamState(jnp.asarray(weight, jnp.float64).reshape(2, 3))
        x = jnp.array([0.4, -0.9], jnp.float64)
        fun = lambda w, x: {"a": jnp.sin(x @ w), "b": jnp.sum(jnp.cos(w)) * x[0]}  # noqa: E731
        states = {"one": w, "dict": {"w": w}, "nested": [{"w": w}, ()], "unbound": "w"}[form]
        tangent = jnp.asarray(vector[:6], jnp.float64).reshape(2, 3)
        tangent = {"one": tangent, "nested": [{"w": tangent}, ()]}.get(form, {"w": tangent})
        by_x = jnp.asarray(vector[6:], jnp.float64)
        cotangent = {
            "a": jnp.asarray(covector[:3], jnp.float64),
            "b": jnp.asarray(covector[3], jnp.float64),
        }
        if form == "unbound":
            args, number, run = ({"w": w.value}, x), 1, lambda t, x: fun(t["w"], x)
        else:
            args, number, run = (x,), 0, lambda x: fun(w.value, x)
        _, pullback = T.vjp(run, *args, grad_states=states, argnums=number)
        _, push = T.linearize(run, *args, grad_states=states, argnums=number)
        inner = lambda a, b: sum(  # noqa: E731
            float(jnp.vdot(u, v))
            for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )
        pushed, pulled = push(tangent, by_x), pullback(cotangent)
        left, right = inner(pushed, cotangent), inner((tangent, by_x), pulled)
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-9)


# What is refused.


@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit])
def test_a_state_that_is_never_touched_is_refused_or_has_no_derivative(run):
    w, other = sl.ParamState(jnp.ones(2)), sl.ParamState(jnp.ones(3), name="other")
    fun, both = (lambda: w.value**2), [w, other]
    along = [jnp.ones(2), jnp.ones(3)]
    taken = {
        "vjp": lambda **options: T.vjp(fun, grad_states=both, **options)[1](jnp.ones(2)),
        "linearize": lambda **options: T.linearize(fun, grad_states=both, **options)[1](along),
        "jvp": lambda **options: T.jvp(fun, (), grad_states=both, state_tangents=along, **options)[
            1
        ],
    }
    for name, take in taken.items():
        match = rf"asked {name} .*'other'(.|\n)*check_states=False"
        with pytest.raises(sl.UntouchedStateError, match=match):
            run(take)()
        found = run(lambda take=take: take(check_states=False))()
        close(found, [2 * jnp.ones(2), jnp.zeros(3)] if name == "vjp" else 2 * jnp.ones(2))


def test_there_has_to_be_something_to_differentiate_by():
    for call in (
        lambda: T.vjp(lambda: 1.0),
        lambda: T.vjp(jnp.sin, 1.0, argnums=None),
        lambda: T.jvp(jnp.sin, (1.0,)),
        lambda: T.jvp(jnp.sin, (1.0,), (None,)),
    ):
        with pytest.raises(sl.ArgumentError, match="there is nothing to differentiate by"):
            call()


def test_what_is_no_function_is_refused():
    for call in (
        lambda: T.vjp(3.0, 1.0),
        lambda: T.linearize(3.0, 1.0),
        lambda: T.jvp(3.0, (1.0,), (1.0,)),
    ):
        with pytest.raises(sl.ArgumentTypeError, match="that is a float, not a function"):
            call()


def test_argnums_out_of_range_and_argument_0_beside_a_lens():
    with pytest.raises(sl.ArgumentError, match="the call has 1 positional arguments"):
        T.vjp(jnp.sin, 1.0, argnums=1)
    with pytest.raises(sl.ArgumentError, match="argument 0 is the tree that the lens looks at"):
        T.vjp(lambda t: t["w"], {"w": X}, grad_states="w", argnums=0)
    with pytest.raises(sl.ArgumentError, match="argument 0 is the tree that the lens looks at"):
        T.jvp(lambda t: t["w"], ({"w": X},), ({"w": X},), grad_states="w", state_tangents={"w": X})


def test_primals_and_tangents_are_tuples_of_the_same_length():
    with pytest.raises(sl.ArgumentTypeError, match=r"(?s)primals=.*primals=\(x,\)"):
        T.jvp(jnp.sin, X, (X,))
    with pytest.raises(sl.ArgumentTypeError, match=r"(?s)tangents=.*tangents=\(x,\)"):
        T.jvp(jnp.sin, (X,), X)
    with pytest.raises(sl.ArgumentError, match="there are 2 tangents"):
        T.jvp(jnp.sin, (X,), (X, X))


def test_states_and_their_tangents_come_together():
    w = sl.ParamState(X)
    for options in ({"grad_states": w}, {"state_tangents": X}):
        with pytest.raises(sl.ArgumentError, match="one of grad_states and state_tangents"):
            T.jvp(lambda: w.value, (), **options)


@pytest.mark.parametrize("tangent", [jnp.ones(3), jnp.ones((2, 1)), [X], {"w": X}, None, 1.0])
def test_a_state_tangent_of_another_form_is_refused(tangent):
    w, count = sl.ParamState(X), sl.State(0)

    def fun():
        count.value += 1
        return w.value**2

    push = T.linearize(fun, grad_states=w)[1]
    with pytest.raises(sl.StructureError, match="asked linearize for a product with a tangent"):
        push(tangent)
    if tangent is not None:
        with pytest.raises(sl.StructureError, match="asked jvp for a product with a tangent"):
            T.jvp(fun, (), grad_states=w, state_tangents=tangent)
    assert count.value == 1


def test_the_tangents_of_a_linear_map_are_counted():
    w = sl.ParamState(X)
    push = T.linearize(lambda x: w.value * x, 2.0, grad_states=w, argnums=0)[1]
    with pytest.raises(sl.ArgumentError, match=r"(?s)with 3 tangents.*there are 2 to give"):
        push(X, 1.0, 1.0)
    with pytest.raises(sl.ArgumentError, match=r"(?s)with 1 tangents.*there are 2 to give"):
        push(X)


@each
def test_states_that_have_no_derivative_or_are_not_touched(name):
    n, w = sl.State(jnp.arange(2), name="n"), sl.ParamState(X, name="w")
    with pytest.raises(sl.DifferentiationError, match=rf"asked {name} .*'n'\n.*dtype int32"):
        RUNS[name](lambda: n.value * 1.0, n)
    with pytest.raises(sl.UntouchedStateError, match=rf"asked {name} .*'w'\n.*never read"):
        RUNS[name](lambda: jnp.ones(2), w)


def test_a_cotangent_of_another_form_is_an_error():
    w = sl.ParamState(X)
    _, pullback = T.vjp(lambda: w.value**2, grad_states=w)
    with pytest.raises((TypeError, ValueError), match=r"(?i)shape|structure|type"):
        pullback(jnp.ones(3))
    with pytest.raises((TypeError, ValueError), match=r"(?i)tree|structure|type"):
        pullback((X, X))
