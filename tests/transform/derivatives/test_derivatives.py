"""Every derivative against plain JAX on the pure form of the same function, and at its edges."""

import functools
import inspect

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import EquinoxAffine, close, temporary_bytes

T = sl.transform


# What each derivative is in plain JAX, by one pytree of values.


def plain_vector_grad(fun, values):
    out, pullback = jax.vjp(fun, values)
    return pullback(jax.tree.map(jnp.ones_like, out))[0]


def plain_fwd_grad(fun, values):
    leaves, treedef = jax.tree.flatten(values)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, leaves, strict=True)]
    tangent = treedef.unflatten(drawn)
    slope = jax.jvp(fun, (values,), (tangent,))[1]
    return jax.tree.map(lambda t: slope * t, tangent)


def flat(fun, values):
    vector, unravel = jax.flatten_util.ravel_pytree(values)
    return lambda v: fun(unravel(v)), vector, unravel


def plain_hessian_diag(fun, values):
    flat_fun, vector, unravel = flat(fun, values)
    return unravel(jnp.diag(jax.hessian(flat_fun)(vector)))


def plain_hvp(fun, values):
    direction = jax.flatten_util.ravel_pytree(vector_like(values))[0]
    flat_fun, vector, unravel = flat(fun, values)
    return unravel(jax.hessian(flat_fun)(vector) @ direction)


def plain_gauss_newton_vp(fun, values):
    direction = jax.flatten_util.ravel_pytree(vector_like(values))[0]
    flat_fun, vector, unravel = flat(fun, values)
    jacobian = jax.jacrev(lambda v: flat_fun(v).ravel())(vector)
    return unravel(jacobian.T @ (jacobian @ direction))


def vector_like(values):
    """A vector of the form of a gradient, each number another."""
    leaves, treedef = jax.tree.flatten(values)
    numbers = iter(np.cos(np.arange(sum(np.size(leaf) for leaf in leaves))))
    vectors = [[next(numbers) for _ in range(np.size(leaf))] for leaf in leaves]
    return treedef.unflatten(
        [
            jnp.asarray(np.reshape(vector, np.shape(leaf)), jnp.result_type(leaf))
            for vector, leaf in zip(vectors, leaves, strict=True)
        ]
    )


PLAIN = {
    "grad": lambda fun, values: jax.grad(fun)(values),
    "value_and_grad": lambda fun, values: jax.grad(fun)(values),
    "vector_grad": plain_vector_grad,
    "fwd_grad": plain_fwd_grad,
    "jacrev": lambda fun, values: jax.jacrev(fun)(values),
    "jacfwd": lambda fun, values: jax.jacfwd(fun)(values),
    "jacobian": lambda fun, values: jax.jacobian(fun)(values),
    "hessian": lambda fun, values: jax.hessian(fun)(values),
    "hessian_diag": lambda fun, values: jax.jit(lambda v: plain_hessian_diag(fun, v))(values),
    "hvp": lambda fun, values: jax.jit(lambda v: plain_hvp(fun, v))(values),
    "gauss_newton_vp": lambda fun, values: jax.jit(lambda v: plain_gauss_newton_vp(fun, v))(values),
}
VECTOR_VALUED = {"vector_grad", "jacrev", "jacfwd", "jacobian", "gauss_newton_vp"}
PRODUCTS = {"hvp", "gauss_newton_vp"}
OPTIONS = {"fwd_grad": {"key": 0}}
every_name = pytest.mark.parametrize("name", PLAIN)


def ours(name, fun, *args, **options):
    return getattr(T, name)(fun, *args, **OPTIONS.get(name, {}), **options)


# The program: what it reads comes as a function, so that all forms share it.

X = jnp.array([0.5, -0.3])
WEIGHT = jnp.array([[0.2, -0.4, 0.1], [0.3, 0.6, -0.5]])
BIAS = jnp.array([0.1, -0.2, 0.3])


def program(name, weight, bias, x):
    out = jnp.tanh(x @ weight + bias) * jnp.sum(x)
    return out if name in VECTOR_VALUED else jnp.sum(out**2)


class Affine(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = sl.ParamState(WEIGHT)
        self.bias = sl.ParamState(BIAS)
        self.other = sl.State(jnp.ones(2))


class Setting:
    """States in one of the forms in which they are given.

    `states` is what is given; `args` come before x; `read` gives weight and bias, from the
    arguments; `values` has the form of the gradient, and `pure` is the read from these.
    """

    def __init__(self, form):
        self.args = ()
        w, b = sl.ParamState(WEIGHT), sl.ParamState(BIAS)
        self.read = lambda *args: (w.value, b.value)
        match form:
            case "one":
                self.states, self.values = w, WEIGHT
                self.pure = lambda v: (v, BIAS)
            case "list":
                self.states, self.values = [b, w], [BIAS, WEIGHT]
                self.pure = lambda v: (v[1], v[0])
            case "dict":
                self.states, self.values = {"w": w, "b": b}, {"w": WEIGHT, "b": BIAS}
                self.pure = lambda v: (v["w"], v["b"])
            case "bound":
                model = Affine()
                self.states = model.states(sl.ParamState)
                self.read = lambda *args: (model.weight.value, model.bias.value)
                self.values = {("bias",): BIAS, ("weight",): WEIGHT}
                self.pure = lambda v: (v["weight",], v["bias",])
            case "value is a dict":
                both = sl.ParamState({"weight": WEIGHT, "bias": BIAS})
                self.states, self.values = both, both.value
                self.read = lambda *args: (both.value["weight"], both.value["bias"])
                self.pure = lambda v: (v["weight"], v["bias"])
            case "equinox":
                model = EquinoxAffine(WEIGHT, BIAS)
                self.args, self.states = (model,), "weight"
                self.read = lambda model, *args: (model.weight, model.bias)
                self.values, _ = eqx.partition(model, lambda leaf: leaf is WEIGHT)
                self.pure = lambda v: (v.weight, BIAS)
            case "facade":
                model = Affine()
                self.args, self.states = (model,), sl.ParamState
                self.read = lambda model, *args: (model.weight.value, model.bias.value)
                self.values, _ = sl.params.partition(model)
                self.pure = lambda v: (v.weight.value, v.bias.value)
            case "nothing":
                self.states = self.values = None
                self.pure = lambda v: (WEIGHT, BIAS)


FORMS = ["one", "list", "dict", "bound", "value is a dict", "equinox", "facade"]
some_forms = pytest.mark.parametrize("form", ["bound", "facade"])


def in_place(name, gradient, value, aux, has_aux, return_value):
    """The table of what is returned."""
    if name == "value_and_grad":
        return ((value, aux) if has_aux else value), gradient
    extra = (value,) * return_value + (aux,) * has_aux
    return (gradient, *extra) if extra else gradient


def compare(name, form, by_args, rows):
    """Compares rows of the table; `by_args` differentiates by x as well (or by x alone)."""
    setting, counter = Setting(form), sl.State(jnp.zeros((), jnp.int32))

    def fun(*args, has_aux):
        counter.value += 1
        out = program(name, *setting.read(*args), args[-1])
        return (out, {"aux": 2 * args[-1]}) if has_aux else out

    position = len(setting.args)
    if form == "nothing":
        values, argnums = X, (None if by_args == "default" else position)
        pure = lambda x: program(name, WEIGHT, BIAS, x)  # noqa: E731
    elif by_args:
        values, argnums = (setting.values, X), position
        pure = lambda v: program(name, *setting.pure(v[0]), v[1])  # noqa: E731
    else:
        values, argnums = setting.values, None
        pure = lambda v: program(name, *setting.pure(v), X)  # noqa: E731
    gradient, value, aux = PLAIN[name](pure, values), pure(values), {"aux": 2 * X}
    vector = (vector_like(values),) if name in PRODUCTS else ()
    for calls, (has_aux, return_value) in enumerate(rows, 1):
        options = {} if name == "value_and_grad" else {"return_value": return_value}
        derivative = ours(
            name,
            functools.partial(fun, has_aux=has_aux),
            setting.states,
            argnums,
            has_aux=has_aux,
            **options,
        )
        expected = in_place(name, gradient, value, aux, has_aux, return_value)
        close(derivative(*vector, *setting.args, X), expected)
        assert counter.value == calls


@every_name
@pytest.mark.parametrize("form", FORMS)
def test_by_states_in_every_form(name, form):
    rows = [(True, True)]
    if form == "bound":
        rows += [(False, False), (True, False), (False, True)]
    compare(name, form, False, rows)


@every_name
@pytest.mark.parametrize("form", ["bound"])
def test_by_states_and_an_argument(name, form):
    compare(name, form, True, [(True, True)])


@every_name
@pytest.mark.parametrize("argnums", ["default", "given"])
def test_by_an_argument_alone(name, argnums):
    compare(name, "nothing", argnums, [(True, True)])


# What holds of all of them.


def loss_of(name, w, x):
    """A loss, or an array where the derivative is of arrays."""
    out = w**2 * x
    return out if name in VECTOR_VALUED else jnp.sum(out)


W = jnp.array([1.0, 2.0])


def expected_by_w(name, x):
    return PLAIN[name](lambda w: loss_of(name, w, x), W)


def vectors(name, values):
    return (vector_like(values),) if name in PRODUCTS else ()


def gradient_in(name, result):
    return result[1] if name == "value_and_grad" else result


@every_name
def test_nothing_is_written_when_the_function_raises(name):
    w, count = sl.ParamState(W), sl.State(0)

    def fun(x):
        count.value += 1
        w.value = w.value * 2
        raise ZeroDivisionError("in the function")

    with pytest.raises(ZeroDivisionError, match="in the function"):
        ours(name, fun, w)(*vectors(name, W), 3.0)
    assert count.value == 0
    assert w.value is W


@every_name
def test_a_state_that_is_differentiated_may_be_written_and_the_function_runs_once(name):
    w, runs = sl.ParamState(W), []

    def fun(x):
        runs.append(1)
        out = loss_of(name, w.value, x)
        w.value = w.value * 10
        return out

    result = ours(name, fun, w)(*vectors(name, W), 3.0)
    close(gradient_in(name, result), expected_by_w(name, 3.0))
    assert w.value.tolist() == [10.0, 20.0]
    assert isinstance(w.value, jax.Array)
    assert len(runs) == 1


@every_name
def test_keyword_string_callable_and_module_arguments(name):
    w, module = sl.ParamState(W), Affine()

    def fun(x, kind, activation, module, *, times, label=None):
        assert (kind, label) == ("square", "seen")
        assert isinstance(module, Affine)
        scale = jnp.sum(module.bias.value) * times
        return activation(loss_of(name, w.value, x)) * scale

    result = ours(name, fun, w)(
        *vectors(name, W), 3.0, "square", jnp.positive, module, times=2.0, label="seen"
    )
    expected = PLAIN[name](lambda w: loss_of(name, w, 3.0) * (jnp.sum(BIAS) * 2.0), W)
    close(gradient_in(name, result), expected)


@every_name
@pytest.mark.parametrize("argnums", [np.int64(1), (np.int32(1),)])
def test_argnums_of_numpy(name, argnums):
    fun = lambda x, w: loss_of(name, w, x)  # noqa: E731
    values = (W,) if isinstance(argnums, tuple) else W
    result = ours(name, fun, argnums=argnums)(*vectors(name, values), 3.0, W)
    expected = PLAIN[name](lambda v: fun(3.0, jax.tree.leaves(v)[0]), values)
    close(gradient_in(name, result), expected)


@every_name
def test_as_a_decorator_on_functions_and_methods(name):
    w = sl.ParamState(W)

    @ours(name, None, grad_states=w)
    def fun(x):
        """What it computes."""
        return loss_of(name, w.value, x)

    class Model(eqx.Module):
        w: jax.Array

        @ours(name, None, argnums=1)
        def of_argument(self, w, x):
            return loss_of(name, w, x) * self.w[0]

        @ours(name, None, grad_states="w")
        def of_self(self, x):
            return loss_of(name, self.w, x)

    assert (fun.__name__, fun.__doc__) == ("fun", "What it computes.")
    vector, expected = vectors(name, W), expected_by_w(name, 3.0)
    close(gradient_in(name, fun(*vector, 3.0)), expected)
    if name in PRODUCTS:
        return
    model = Model(W)
    close(gradient_in(name, model.of_argument(W, 3.0)), expected)
    of_self = gradient_in(name, model.of_self(3.0))
    close(jax.tree.leaves(of_self)[0], jax.tree.leaves(expected)[0])


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_products_of_methods_take_the_vector_first_too(name):
    class Model(eqx.Module):
        scale: jax.Array

        def fun(self, w, x):
            return loss_of(name, w, x) * self.scale

    bound = Model(jnp.asarray(1.0)).fun
    close(ours(name, bound)(vector_like(W), W, 3.0), expected_by_w(name, 3.0))


@every_name
def test_an_untouched_state_is_an_error_that_names_it_or_zeros(name):
    w, other = sl.ParamState(W), sl.ParamState(jnp.ones(2), name="other")
    fun = lambda x: loss_of(name, w.value, x)  # noqa: E731
    vector = vectors(name, [W, W])
    transform = "grad" if name == "value_and_grad" else name.replace("jacobian", "jacrev")
    message = rf"asked {transform} for the derivative by the state 'other'\n.*never read or wrote"
    with pytest.raises(sl.UntouchedStateError, match=message):
        ours(name, fun, [w, other])(*vector, 3.0)
    result = ours(name, fun, [w, other], check_states=False)(*vector, 3.0)
    expected = PLAIN[name](lambda v: loss_of(name, v[0], 3.0), [W, jnp.ones(2)])
    close(gradient_in(name, result), expected)


@every_name
@pytest.mark.parametrize("value", [jnp.arange(2), jnp.array([True, False])])
def test_integer_and_boolean_states_are_errors_that_name_path_and_dtype(name, value):
    module = Affine()
    module.other.value = value
    message = rf"by 'other'\n.*dtype {value.dtype}, which has none"
    vector = vectors(name, {("other",): jnp.ones(2)})
    with pytest.raises(sl.DifferentiationError, match=message):
        ours(name, lambda: jnp.sum(module.other.value * 1.0), module.states("other"))(*vector)
    vector = vectors(name, module)
    with pytest.raises(sl.DifferentiationError, match=message):
        ours(name, lambda m: jnp.sum(m.other.value * 1.0), "other")(*vector, module)


@every_name
def test_complex_states_need_a_holomorphic_function(name):
    z = sl.ParamState(jnp.array([1.0 + 2.0j]))
    remedy = r"holomorphic=True" if "holomorphic" in parameters(name) else r"has none"
    with pytest.raises(sl.DifferentiationError, match=rf"dtype complex64(.|\n)*{remedy}"):
        ours(name, lambda: jnp.sum(jnp.abs(z.value)), z)(*vectors(name, z.value))


def parameters(name):
    return inspect.signature(getattr(T, name)).parameters


HOLOMORPHIC = ["grad", "jacrev", "jacfwd", "jacobian", "hessian"]


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_holomorphic_functions(name):
    value = jnp.array([1.0 + 2.0j, 0.5 - 1.0j])
    z = sl.ParamState({"z": value})
    fun = lambda z: z**3 if name.startswith("jac") else jnp.sum(z**3)  # noqa: E731
    expected = getattr(jax, name)(fun, holomorphic=True)(value)
    found = ours(name, lambda: fun(z.value["z"]), z, holomorphic=True)()["z"]
    close(found["z"] if name == "hessian" else found, expected)
    by_tree = ours(name, lambda t: fun(t["z"]), "z", holomorphic=True)({"z": value, "n": 1})
    found = by_tree["z"]["z"] if name == "hessian" else by_tree["z"]
    close(found, expected)


def test_a_holomorphic_hvp_is_the_complex_hessian_times_the_vector():
    value = jnp.array([1.0 + 2.0j, 0.5 - 1.0j])
    vector = jnp.array([1.0 - 1.0j, 2.0 + 0.5j])
    z = sl.ParamState(value)
    fun = lambda z: jnp.sum(z**3) + z[0] * z[1]  # noqa: E731
    product = T.hvp(lambda: fun(z.value), z, holomorphic=True)(vector)
    close(product, jax.hessian(fun, holomorphic=True)(value) @ vector)


@pytest.mark.parametrize("name", ["grad", "value_and_grad", "jacrev"])
def test_allowed_integers_have_the_derivatives_that_jax_gives_them(name):
    n, w = sl.State(jnp.arange(2)), sl.ParamState(W)
    fun = lambda v: jnp.sum(v["n"] * v["w"])  # noqa: E731
    values = {"n": n.value, "w": W}
    by_states = ours(
        name, lambda: fun({"n": n.value, "w": w.value}), {"n": n, "w": w}, allow_int=True
    )
    theirs = getattr(jax, name)(fun, allow_int=True)(values)
    for result in (by_states(), ours(name, fun, "**", allow_int=True)(values)):
        close(gradient_in(name, result)["w"], jnp.arange(2.0))
        assert gradient_in(name, result)["n"].dtype == gradient_in(name, theirs)["n"].dtype


@every_name
def test_keys_among_the_arguments_are_passed_on(name):
    w, key = sl.ParamState(W), jax.random.key(3)
    fun = lambda key: loss_of(name, w.value, jax.random.uniform(key))  # noqa: E731
    result = ours(name, fun, w)(*vectors(name, W), key)
    expected = expected_by_w(name, jax.random.uniform(key))
    close(gradient_in(name, result), expected)


@every_name
def test_in_jit_writes_are_committed_once_a_call(name):
    w, count = sl.ParamState(W), sl.State(jnp.zeros((), jnp.int32))

    def fun(x):
        count.value += 1
        return loss_of(name, w.value, x)

    derivative = sl.jit(ours(name, fun, w))
    for calls in (1, 2):
        result = derivative(*vectors(name, W), 3.0)
        close(gradient_in(name, result), expected_by_w(name, 3.0))
        assert count.value == calls


def test_what_is_neither_state_nor_argument_is_an_error():
    with pytest.raises(sl.ArgumentError, match="the call has no positional argument"):
        T.jacrev(lambda: 1.0)()
    with pytest.raises(sl.ArgumentTypeError, match="asked hessian to differentiate a float"):
        T.hessian(1.0)
    with pytest.raises(sl.ArgumentError, match="argument 0 is the tree that the lens looks at"):
        T.jacfwd(lambda tree: tree, "w", 0)
    with pytest.raises(sl.PathError, match=r"(?s)'wheight'.*'weight'"):
        T.hessian_diag(lambda m: 1.0, "wheight")(EquinoxAffine(WEIGHT, BIAS))


names_with_states_in_aux = pytest.mark.parametrize("name", PLAIN)


@every_name
def test_a_write_to_a_tree_argument_is_refused(name):
    model = Affine()

    def fun(model, x):
        model.other.value = model.other.value + 1
        return loss_of(name, model.weight.value, x)

    vector = vectors(name, sl.lens("weight").partition(model)[0])
    with pytest.raises(sl.FrozenTreeError, match=r"'other'(.|\n)*statelens.thread\(fun\)"):
        ours(name, fun, "weight")(*vector, model, 3.0)
    assert model.other.value.tolist() == [1.0, 1.0]


@names_with_states_in_aux
def test_thread_returns_the_tree_that_was_written(name):
    model = Affine()

    def fun(model, x):
        model.other.value = model.other.value + 1
        return loss_of(name, model.weight.value, x)

    vector = vectors(name, sl.lens("weight").partition(model)[0])
    result = ours(name, sl.thread(fun), "weight", has_aux=True)(*vector, model, 3.0)
    after = result[0][1] if name == "value_and_grad" else result[1]
    assert after.other.value.tolist() == [2.0, 2.0]
    assert model.other.value.tolist() == [1.0, 1.0]


@names_with_states_in_aux
def test_a_state_may_be_auxiliary_output(name):
    w = sl.ParamState(W, name="w")
    fun = lambda: (loss_of(name, w.value, 3.0), {"state": w})  # noqa: E731
    result = ours(name, fun, w, has_aux=True)(*vectors(name, W))
    aux = result[0][1] if name == "value_and_grad" else result[1]
    assert aux["state"].name == "w"
    assert aux["state"].value.tolist() == [1.0, 2.0]


names_with_static_aux = pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in PLAIN if name not in ("jacfwd", "hessian")),
        ("jacrev", {"chunk_size": 1}),
        ("jacfwd", {"chunk_size": 1}),
        ("jacfwd", {}),
        ("hessian", {}),
        ("fwd_grad", {"tangent_size": 2}),
    ],
)


@names_with_static_aux
def test_auxiliary_output_may_be_static(name, options):
    w = sl.ParamState(W)
    fun = lambda: (loss_of(name, w.value, 3.0), {"text": "seen", "function": jnp.sin})  # noqa: E731
    result = ours(name, fun, w, has_aux=True, **options)(*vectors(name, W))
    aux = result[0][1] if name == "value_and_grad" else result[1]
    assert aux == {"text": "seen", "function": jnp.sin}


@names_with_static_aux
def test_a_state_with_a_static_part_may_be_written(name, options):
    w, log = sl.ParamState(W), sl.State(("before", jnp.zeros(())))

    def fun():
        log.value = ("after", log.value[1] + 1)
        return loss_of(name, w.value, 3.0)

    ours(name, fun, w, **options)(*vectors(name, W))
    assert log.value == ("after", 1.0)


# Jacobians.

jacobians = pytest.mark.parametrize("name", ["jacrev", "jacfwd"])


def test_jacobian_is_jacrev_as_in_jax():
    assert T.jacobian is T.jacrev


@pytest.mark.slow
@jacobians
@pytest.mark.parametrize(
    ("form", "chunk_size"),
    [("bound", 4), ("equinox", None), ("facade", 1), ("dict", 100)],
)
def test_blocks_of_trees_have_the_shape_of_output_and_state(name, form, chunk_size):
    setting = Setting(form)

    def outputs(weight, bias, x):
        return {"a": x @ weight, "b": (jnp.sum(bias * weight[0]), jnp.outer(bias, x))}

    fun = lambda *args: outputs(*setting.read(*args), args[-1])  # noqa: E731
    position = len(setting.args)
    blocks = ours(name, fun, setting.states, argnums=position, chunk_size=chunk_size)
    pure = lambda v: outputs(*setting.pure(v[0]), v[1])  # noqa: E731
    found = blocks(*setting.args, X)
    close(found, getattr(jax, name)(pure)((setting.values, X)))
    by_states, by_x = found["b"][1]
    assert by_x.shape == (3, 2, 2)
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(by_states)} == {(3, 2)}


@pytest.mark.slow
@jacobians
@pytest.mark.parametrize("chunk_size", [2])
def test_chunks_of_scalars_and_of_several_dtypes(name, chunk_size):
    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.ones(2, jnp.bfloat16))
    fun = lambda a, b: (a * jnp.sum(b).astype(jnp.float32), b * a.astype(jnp.bfloat16))  # noqa: E731
    by_states = lambda **more: ours(name, lambda: fun(a.value, b.value), [a, b], **more)()  # noqa: E731
    close(by_states(chunk_size=chunk_size), by_states())


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_chunks_of_a_holomorphic_function(name):
    z = sl.State(jnp.array([1.0 + 2.0j, 0.5 - 1.0j, 2.0]))
    fun = lambda z: jnp.outer(z**2, z[:2])  # noqa: E731
    chunked = ours(name, lambda: fun(z.value), z, holomorphic=True, chunk_size=2)()
    close(chunked, getattr(jax, name)(fun, holomorphic=True)(z.value))


def test_chunks_of_integer_outputs_are_refused():
    w = sl.ParamState(W)
    fun = lambda: jnp.round(w.value).astype(int)  # noqa: E731
    with pytest.raises(sl.DifferentiationError, match=r"in chunks\n.*dtype int32"):
        T.jacrev(fun, w, chunk_size=2)()
    with pytest.raises(TypeError, match="int32"):
        T.jacrev(fun, w)()


@pytest.mark.parametrize("name", ["jacrev", "jacfwd", "hessian_diag"])
def test_a_chunk_size_is_a_positive_integer(name):
    with pytest.raises(sl.ArgumentError, match=f"asked {name} for chunk_size=0\n"):
        ours(name, jnp.sum, chunk_size=0)
    with pytest.raises(sl.ArgumentTypeError, match=f"asked {name} for chunk_size=2.0\n"):
        ours(name, jnp.sum, chunk_size=2.0)
    close(ours(name, jnp.sum, chunk_size=np.int64(2))(W), ours(name, jnp.sum)(W))


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_a_jacobian_in_chunks_takes_the_memory_of_a_chunk(name):
    # 10,000 rows (or columns), each of which goes through an array of 1,000 numbers.
    wide, narrow = jnp.ones(10_000), jnp.ones(2)
    hidden = lambda v: jnp.sin(jnp.linspace(0.0, 1.0, 1_000) * jnp.sum(v))  # noqa: E731
    values = narrow if name == "jacrev" else wide
    w = sl.ParamState(values)

    def fun():
        inner = jnp.sin(hidden(w.value) + jnp.sum(w.value))
        total = jnp.sum(inner * jnp.cos(inner))
        return wide * total if name == "jacrev" else narrow * total

    def measured(chunk_size):
        pure = sl.functionalize(ours(name, fun, w, chunk_size=chunk_size), w)
        return temporary_bytes(pure, values)

    assert measured(10) < measured(None) / 50


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_diagonal_of_a_hessian_in_chunks(chunk_size):
    states = {"a": sl.ParamState(W), "b": sl.ParamState(jnp.asarray(3.0))}
    fun = lambda v: jnp.sum(v["a"] ** 3) * v["b"] ** 2  # noqa: E731
    read = lambda: fun({name: state.value for name, state in states.items()})  # noqa: E731
    values = {"a": W, "b": jnp.asarray(3.0)}
    expected = plain_hessian_diag(fun, values)
    close(T.hessian_diag(read, states, chunk_size=chunk_size)(), expected)


@pytest.mark.parametrize(
    "name",
    [
        "jacrev",
        "jacfwd",
    ],
)
def test_chunks_of_an_output_that_is_a_python_number(name):
    w = sl.ParamState(W)
    close(ours(name, lambda: 1.0, w, chunk_size=1, check_states=False)(), jnp.zeros(2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("jacrev", {}),
        ("jacfwd", {"chunk_size": 1}),
        ("jacrev", {"chunk_size": 1}),
        ("hessian_diag", {}),
    ],
)
def test_states_without_numbers(name, options):
    w = sl.ParamState(jnp.zeros((0,)))
    fun = lambda: jnp.sum(w.value)  # noqa: E731
    close(ours(name, fun, w, **options)(), jnp.zeros((0,)))


# Hessians.


@pytest.mark.parametrize("argnums", [0, (1, 0)])
def test_hessian_blocks_by_pairs_of_states_and_arguments(argnums):
    model = Affine()
    loss = lambda w, b, x, y: jnp.sum(jnp.tanh(x @ w + b) ** 2) * y  # noqa: E731
    fun = lambda x, y: loss(model.weight.value, model.bias.value, x, y)  # noqa: E731
    blocks = T.hessian(fun, model.states(sl.ParamState), argnums)(X, jnp.asarray(2.0))
    args = (X, jnp.asarray(2.0))

    def pure(values, *chosen):
        given = list(args)
        for number, value in zip(np.atleast_1d(argnums), chosen, strict=True):
            given[number] = value
        return loss(values["weight",], values["bias",], *given)

    values = {("bias",): BIAS, ("weight",): WEIGHT}
    chosen = tuple(args[number] for number in np.atleast_1d(argnums))
    if isinstance(argnums, int):
        expected = jax.hessian(pure, (0, 1))(values, *chosen)
    else:
        expected = jax.hessian(lambda v, a: pure(v, *a), (0, 1))(values, chosen)
    close(blocks, expected)
    assert blocks[0]["bias",][0]["weight",].shape == (3, 2, 3)


def test_a_hessian_of_each_output():
    w = sl.ParamState(W)
    fun = lambda w: jnp.stack([jnp.sum(w**3), w[0] * w[1]])  # noqa: E731
    close(T.hessian(lambda: fun(w.value), [w])(), [[jax.hessian(fun)(W)]])


@some_forms
def test_hvp_is_the_hessian_times_the_vector_and_linear(form):
    setting = Setting(form)
    fun = lambda *args: program("hvp", *setting.read(*args), X)  # noqa: E731
    product = T.hvp(fun, setting.states)
    one, many = vector_like(setting.values), jax.flatten_util.ravel_pytree
    full = T.hessian(fun, setting.states)(*setting.args)
    rows = [many(row)[0] for row in rows_of(full, setting.values)]
    found = product(one, *setting.args)
    np.testing.assert_allclose(many(found)[0], jnp.stack(rows) @ many(one)[0], rtol=1e-4, atol=1e-5)
    doubled = product(jax.tree.map(lambda v: 2 * v, one), *setting.args)
    close(doubled, jax.tree.map(lambda v: 2 * v, found))


def rows_of(full, values):
    """Lists the rows of a Hessian in blocks, each of the form of a gradient."""
    treedef = jax.tree.structure(values)
    blocks = jax.tree.leaves(full)
    count = treedef.num_leaves
    for number, value in enumerate(jax.tree.leaves(values)):
        mine = blocks[number * count : (number + 1) * count]
        for position in np.ndindex(value.shape):
            yield treedef.unflatten([block[position] for block in mine])


@some_forms
def test_gauss_newton_is_j_h_j_for_any_loss(form):
    setting = Setting(form)
    loss = lambda out: jnp.sum(jnp.logaddexp(out, 2 * out)) + out[0] * out[1]  # noqa: E731
    fun = lambda *args: program("jacrev", *setting.read(*args), X)  # noqa: E731
    vector = vector_like(setting.values)
    found = T.gauss_newton_vp(fun, setting.states, loss=loss)(vector, *setting.args)
    flat_fun, at, unravel = flat(lambda v: program("jacrev", *setting.pure(v), X), setting.values)
    jacobian = jax.jacrev(flat_fun)(at)
    curvature = jax.hessian(loss)(flat_fun(at))
    direction = jax.flatten_util.ravel_pytree(vector)[0]
    close(found, unravel(jacobian.T @ (curvature @ (jacobian @ direction))))


def test_gauss_newton_of_outputs_in_a_tree():
    w = sl.ParamState(W)
    fun = lambda: {"a": w.value * 2, "b": [jnp.sum(w.value**2)]}  # noqa: E731
    loss = lambda out: jnp.sum(out["a"] ** 2) * out["b"][0]  # noqa: E731
    found = T.gauss_newton_vp(fun, w, loss=loss)(jnp.array([1.0, -1.0]))
    jacobian = jnp.concatenate([2 * jnp.eye(2), 2 * W[None]])
    curvature = jax.hessian(lambda o: jnp.sum(o[:2] ** 2) * o[2])(jnp.array([2.0, 4.0, 5.0]))
    close(found, jacobian.T @ curvature @ jacobian @ jnp.array([1.0, -1.0]))


def test_the_loss_of_gauss_newton_is_a_scalar_function():
    with pytest.raises(sl.ArgumentTypeError, match="asked gauss_newton_vp for loss=3"):
        T.gauss_newton_vp(jnp.sin, loss=3)
    with pytest.raises(sl.DifferentiationError, match=r"it returned an array of shape \(2,\)"):
        T.gauss_newton_vp(jnp.sin, loss=jnp.cos)(W, W)


@pytest.mark.parametrize("name", sorted(PRODUCTS))
@pytest.mark.parametrize(
    "vector",
    [
        {("bias",): BIAS},
        {("bias",): BIAS, ("weight",): BIAS},
        {("bias",): BIAS, ("weight",): WEIGHT, ("other",): BIAS},
        [BIAS, WEIGHT],
        (BIAS, WEIGHT),
        BIAS,
        None,
    ],
    ids=["missing", "shape", "too many", "list", "tuple", "array", "none"],
)
def test_a_vector_of_another_form_is_refused(name, vector):
    model, count = Affine(), sl.State(0)

    def fun(x):
        count.value += 1
        return program(name, model.weight.value, model.bias.value, x)

    message = f"asked {name} (for a product with a vector|for values by)"
    with pytest.raises(sl.StructureError, match=message):
        ours(name, fun, model.states(sl.ParamState))(vector, X)
    assert count.value == 0


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_a_vector_of_states_alone_is_refused_where_arguments_are_meant_too(name):
    w = sl.ParamState(W)
    fun = lambda x: loss_of(name, w.value, x)  # noqa: E731
    with pytest.raises(sl.StructureError, match=r"it is float32\[2\], not a tuple of 2\n"):
        ours(name, fun, w, 0)(W, jnp.asarray(3.0))


def test_a_vector_is_read_in_the_dtype_of_the_state():
    w = sl.ParamState(W)
    product = T.hvp(lambda: jnp.sum(w.value**3), w)
    for vector in (np.array([1.0, 2.0]), np.array([1, 2]), jnp.array([1.0, 2.0], jnp.bfloat16)):
        close(product(vector), 6 * W * jnp.array([1.0, 2.0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRODUCTS))
@pytest.mark.parametrize(
    "form",
    [
        "bound",
        "equinox",
        "facade",
    ],
)
def test_products_are_linear_operators_of_lineax_over_the_focus(name, form):
    lineax = pytest.importorskip("lineax")
    setting, target = Setting(form), jnp.array([0.3, -0.1, 0.2])
    design = jnp.array([[1.0, 0.5], [0.2, 1.0]])

    def residuals(weight, bias):
        return (jnp.array([X, *design]) @ weight + bias - target).ravel()

    def fun(*args):
        weight, bias = setting.read(*args)
        out = jnp.concatenate([residuals(weight, bias), 0.1 * (weight - 1).ravel(), 0.1 * bias])
        return out if name == "gauss_newton_vp" else 0.5 * jnp.sum(out**2)

    half_square = lambda *args: 0.5 * jnp.sum(fun(*args) ** 2)  # noqa: E731
    loss = half_square if name == "gauss_newton_vp" else fun
    gradient = sl.grad(loss, setting.states)
    product = ours(name, fun, setting.states)
    start = gradient(*setting.args)
    operator = lineax.FunctionLinearOperator(
        lambda v: product(v, *setting.args),
        jax.eval_shape(lambda: start),
        lineax.positive_semidefinite_tag,
    )
    step = lineax.linear_solve(operator, start, lineax.CG(1e-6, 1e-6)).value
    assert jax.tree.structure(step) == jax.tree.structure(start)
    # One Newton step by path reaches the minimum of what is quadratic.
    args = setting.args
    if args:
        focus, rest = sl.lens(setting.states).partition(args[0])
        args = (sl.combine(jax.tree.map(jnp.subtract, focus, step), rest),)
    else:
        cells = jax.tree.leaves(
            dict(setting.states) if form == "bound" else setting.states,
            is_leaf=lambda s: isinstance(s, sl.State),
        )
        steps = [step] if form in ("one", "value is a dict") else jax.tree.leaves(step)
        for cell, change in zip(cells, steps, strict=True):
            cell.value = jax.tree.map(jnp.subtract, cell.value, change)
    for leaf in jax.tree.leaves(gradient(*args)):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-4)


# Estimates by forward differentiation.


def test_fwd_grad_is_unbiased_on_a_quadratic():
    w = sl.ParamState(jnp.array([1.0, -2.0, 0.5]))
    matrix = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 3.0]])
    loss = lambda: 0.5 * w.value @ matrix @ w.value  # noqa: E731
    count = 4_000
    each = jax.vmap(lambda key: T.fwd_grad(loss, w, key=key)())(
        jax.random.split(jax.random.key(1), count)
    )
    exact = matrix @ w.value
    errors = (jnp.mean(each, axis=0) - exact) / (jnp.std(each, axis=0) / jnp.sqrt(count))
    assert jnp.all(jnp.abs(errors) < 5)
    averaged = T.fwd_grad(loss, w, key=1, tangent_size=count)()
    np.testing.assert_allclose(averaged, jnp.mean(each, axis=0), rtol=1e-4)


@pytest.mark.parametrize("tangent_size", [None, 50])
def test_a_directional_derivative_can_be_clipped(tangent_size):
    def run(scale, limit):
        loss = lambda x: jnp.sum(scale * x)  # noqa: E731
        options = {"key": 3, "tangent_size": tangent_size, "drct_der_clip": limit}
        return T.fwd_grad(loss, **options)(jnp.ones(4))

    np.testing.assert_allclose(run(100.0, 1e6), run(100.0, None))
    clipped = run(100.0, 0.5)
    assert np.linalg.norm(clipped) < 0.1 * np.linalg.norm(run(100.0, None))
    # Its size no longer depends on that of the loss.
    np.testing.assert_allclose(run(1000.0, 0.5), clipped)


def test_the_key_of_fwd_grad_may_be_an_integer_typed_or_raw():
    w = sl.ParamState(W)
    keys = [7, jax.random.key(7), jax.random.key_data(jax.random.key(7))]
    one, *others = (T.fwd_grad(lambda: jnp.sum(w.value**2), w, key=key)() for key in keys)
    for other in others:
        close(one, other)


def test_fwd_grad_draws_another_tangent_each_time_from_the_default_key():
    fun = T.fwd_grad(lambda x: jnp.sum(x**2))
    with sl.random.seed_context(3):
        first, second = fun(W), fun(W)
    with sl.random.seed_context(3):
        again = fun(W)
        compiled = sl.jit(fun)
    assert not np.allclose(first, second)
    close(first, again)
    with sl.random.seed_context(3):
        close((compiled(W), compiled(W)), (first, second))


def test_fwd_grad_takes_a_whole_number_of_tangents_a_key_and_a_scalar():
    with pytest.raises(sl.ArgumentError, match="asked fwd_grad for tangent_size=0"):
        T.fwd_grad(jnp.sum, tangent_size=0)
    with pytest.raises(sl.ArgumentTypeError, match="asked fwd_grad for key='a'"):
        T.fwd_grad(jnp.sum, key="a")
    with pytest.raises(sl.DifferentiationError, match=r"an array of shape \(2,\)"):
        T.fwd_grad(jnp.sin)(W)


def test_a_failure_leaves_the_default_key_as_it_was():
    w = sl.ParamState(W)

    def fun():
        raise ZeroDivisionError("in the function")

    with sl.random.seed_context(3):
        key = sl.random.DEFAULT.value
        with pytest.raises(ZeroDivisionError, match="in the function"):
            T.fwd_grad(fun, w)()
        assert sl.random.DEFAULT.value == key


@pytest.mark.parametrize("key", [np.int64(7), np.asarray([0, 7], np.uint32)])
def test_the_key_of_fwd_grad_may_be_of_numpy_as_that_of_a_random_state(key):
    loss = lambda x: jnp.sum(x**2)  # noqa: E731
    close(T.fwd_grad(loss, key=key)(W), T.fwd_grad(loss, key=7)(W))


# Derivatives of derivatives, of functions that write.


class Cell:
    """A state that is read and written, and the same in plain JAX."""

    def __init__(self):
        self.w, self.trace = sl.ParamState(W), sl.State(jnp.zeros(2))

    def loss(self, x):
        out = jnp.sum(jnp.sin(self.w.value) ** 2 * x) + jnp.prod(self.w.value) * x**3
        self.trace.value = self.trace.value + self.w.value * x
        return out + jnp.sum(self.trace.value**2)

    @staticmethod
    def plain(w, x):
        out = jnp.sum(jnp.sin(w) ** 2 * x) + jnp.prod(w) * x**3
        return out + jnp.sum((w * x) ** 2)


V = jnp.array([0.3, -0.7])
NESTED = {
    "grad of grad": (
        lambda f, w: sl.grad(lambda x: jnp.sum(sl.grad(f, w)(x) * V), w, 0),
        lambda f: jax.grad(lambda w, x: jnp.sum(jax.grad(f)(w, x) * V), (0, 1)),
    ),
    "grad by x of grad by w": (
        lambda f, w: T.jacfwd(sl.grad(f, w)),
        lambda f: jax.jacfwd(jax.grad(f), 1),
    ),
    "jacfwd of jacrev": (
        lambda f, w: T.jacfwd(T.jacrev(f, w), w),
        lambda f: jax.jacfwd(jax.jacrev(f)),
    ),
    "jacrev of jacfwd": (
        lambda f, w: T.jacrev(T.jacfwd(f, w), w, chunk_size=1),
        lambda f: jax.jacrev(jax.jacfwd(f)),
    ),
    "hvp of grad": (
        lambda f, w: lambda x: T.hvp(lambda x: jnp.sum(sl.grad(f, w)(x) ** 2), w)(V, x),
        lambda f: lambda w, x: jax.hessian(lambda w: jnp.sum(jax.grad(f)(w, x) ** 2))(w) @ V,
    ),
    "grad of hvp": (
        lambda f, w: sl.grad(lambda x: jnp.sum(T.hvp(f, w)(V, x) ** 2), w, 0),
        lambda f: jax.grad(lambda w, x: jnp.sum((jax.hessian(f)(w, x) @ V) ** 2), (0, 1)),
    ),
    "jit of grad of jit of grad": (
        lambda f, w: sl.jit(sl.grad(sl.jit(lambda x: jnp.sum(sl.grad(f, w)(x) * V)), w, 0)),
        lambda f: jax.grad(lambda w, x: jnp.sum(jax.grad(f)(w, x) * V), (0, 1)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NESTED)
def test_nested_derivatives_of_a_function_that_writes(name):
    cell = Cell()
    nest, plain = NESTED[name]
    close(nest(cell.loss, cell.w)(0.6), plain(cell.plain)(W, 0.6), 2e-4)
    # The function has run once, and that is what is committed.
    close(cell.trace.value, W * 0.6)
    assert cell.w.value is W or cell.w.value.tolist() == W.tolist()


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_a_jacobian_of_scan(name):
    w, h, count = sl.ParamState(W), sl.State(jnp.ones(2)), sl.State(0)
    xs = jnp.array([0.1, 0.5, -0.4])

    def step(carry, x):
        count.value = count.value + 1
        h.value = jnp.tanh(w.value * h.value + x)
        return carry + h.value[0] * x, h.value

    def fun(xs):
        carry, ys = T.scan(step, jnp.zeros(()), xs)
        return {"carry": carry, "last": ys[-1]}

    def plain(v):
        def body(carry, x):
            total, h = carry
            h = jnp.tanh(v["w"] * h + x)
            return (total + h[0] * x, h), h

        (total, _), ys = jax.lax.scan(body, (jnp.zeros(()), v["h"]), xs)
        return {"carry": total, "last": ys[-1]}

    values = {"w": W, "h": h.value}
    close(ours(name, fun, {"w": w, "h": h})(xs), getattr(jax, name)(plain)(values))
    assert count.value == 3
    close(h.value, plain(values)["last"])


def test_a_hessian_of_scan_and_while_loops():
    w = sl.ParamState(W)
    body = lambda c, x: (c * jnp.sin(w.value) + x, None)  # noqa: E731
    fun = lambda: jnp.sum(T.scan(body, jnp.ones(2), jnp.arange(3.0))[0])  # noqa: E731

    def plain(w):
        return jnp.sum(
            jax.lax.scan(lambda c, x: (c * jnp.sin(w) + x, None), jnp.ones(2), jnp.arange(3.0))[0]
        )

    close(T.hessian(fun, w)(), jax.hessian(plain)(W))
    close(T.hvp(fun, w)(V), jax.hessian(plain)(W) @ V)


# Perturbation confusion: each derivative is by its own level's variable.


def test_the_inner_derivative_is_by_the_inner_variable():
    # d/dx x (d/dy (x + y)) = 1
    assert sl.grad(lambda x: x * sl.grad(lambda y: x + y)(1.0))(1.0) == 1.0
    assert T.jacfwd(lambda x: x * T.jacfwd(lambda y: x + y)(1.0))(1.0) == 1.0
    nested_jvp = lambda x: x * T.jvp(lambda y: x + y, (1.0,), (1.0,))[1]  # noqa: E731
    assert T.jvp(nested_jvp, (1.0,), (1.0,)) == (1.0, 1.0)


TAKEN = {
    "grad": lambda f, s: sl.grad(f, s)(),
    "jacfwd": lambda f, s: T.jacfwd(f, s)(),
    "jvp": lambda f, s: T.jvp(f, (), grad_states=s, state_tangents=jnp.ones(()))[1],
    "vjp": lambda f, s: T.vjp(f, grad_states=s)[1](jnp.ones(())),
}
by_level = pytest.mark.parametrize(("outer", "inner"), [(a, b) for a in TAKEN for b in TAKEN])


@by_level
def test_an_inner_function_that_reads_the_outer_state(outer, inner):
    x, y = sl.ParamState(jnp.asarray(2.0)), sl.ParamState(jnp.asarray(1.0))
    # d/dx x (d/dy (x y^2 + x)) = d/dx 2 x^2 y = 4 x y
    fun = lambda: x.value * TAKEN[inner](lambda: x.value * y.value**2 + x.value, y)  # noqa: E731
    assert TAKEN[outer](fun, x) == 8.0
    # And by y, which the inner one is by as well: d/dy 2 x^2 y = 2 x^2
    assert TAKEN[outer](fun, y) == 8.0


@by_level
def test_the_same_state_at_both_levels(outer, inner):
    x = sl.ParamState(jnp.asarray(2.0))
    # d/dx x (d/dx x^3) = d/dx 3 x^3 = 9 x^2
    fun = lambda: x.value * TAKEN[inner](lambda: x.value**3, x)  # noqa: E731
    assert TAKEN[outer](fun, x) == 36.0


@by_level
def test_a_state_that_is_written_between_the_levels(outer, inner):
    x, y = sl.ParamState(jnp.asarray(2.0)), sl.State(jnp.asarray(1.0))

    def fun():
        y.value = x.value**2
        # y follows x in the outer derivative, and stands still in the inner one.
        return TAKEN[inner](lambda: x.value * y.value, x) + TAKEN[inner](lambda: y.value**2, y)

    # d/dx (x^2 + 2 x^2) = 6 x
    assert TAKEN[outer](fun, x) == 12.0
    assert y.value == 4.0


def test_what_an_inner_derivative_writes_carries_the_outer_one():
    x, y = sl.ParamState(jnp.asarray(2.0)), sl.State(jnp.asarray(0.0))

    def inner():
        y.value = x.value**3
        return x.value**2

    def outer():
        return sl.grad(inner, x)() + y.value

    # d/dx (2 x + x^3) = 2 + 3 x^2
    assert sl.grad(outer, x)() == 14.0
    assert T.jacfwd(outer, x)() == 14.0
    assert y.value == 8.0
