"""What holds of all derivatives: what they take, return, write and refuse."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import EquinoxAffine, close
from tests.transform.derivatives.by_hand import (
    BIAS,
    PLAIN,
    PRODUCTS,
    WEIGHT,
    Affine,
    W,
    every_name,
    loss_of,
    ours,
    vector_like,
)

T = sl.transform


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
    transform = name.replace("jacobian", "jacrev")
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
def test_a_python_integer_is_told_to_be_a_floating_point_number(name):
    state = sl.State(3)
    with pytest.raises(sl.DifferentiationError, match=r"dtype int32(.|\n)*as in 3\.0"):
        ours(name, lambda: state.value * 1.0, state)(*vectors(name, 3))


NUMBERS = {"flux": 120.0, "psf": jnp.ones(2), "shift": 2.0}


@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ["grad", "jacrev", "jacfwd", "hessian"])
def test_numbers_of_python_are_differentiated_as_by_jax(name, run):
    def loss(tree, x):
        return jnp.sum(tree["flux"] ** 2 * tree["psf"] * x + tree["shift"])

    found = run(getattr(T, name)(loss))(NUMBERS, 2.0)
    expected = getattr(jax, name)(loss)(NUMBERS, 2.0)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, jax.Array)
        assert a.dtype == b.dtype
        close(a, b)


@every_name
def test_an_error_names_only_options_that_there_are(name):
    takes_it = name in ("grad", "value_and_grad", "jacrev", "jacobian")
    state = sl.State(jnp.ones(2, jnp.int32))
    with pytest.raises(sl.DifferentiationError, match="dtype int32") as caught:
        ours(name, lambda: jnp.sum(state.value * 1.0), state)(*vectors(name, state.value))
    assert ("allow_int=True" in str(caught.value)) == takes_it


@pytest.mark.parametrize("name", ["jacfwd", "hessian", "hessian_diag"])
def test_what_pushes_each_number_forward_needs_a_holomorphic_function_of_complex_ones(name):
    z = sl.ParamState(jnp.array([1.0 + 2.0j]), name="z")
    match = rf"by 'z'\n.*complex64, by which {name} .* holomorphic(.|\n)*holomorphic=True"
    with pytest.raises(sl.DifferentiationError, match=match):
        ours(name, lambda: jnp.sum(jnp.abs(z.value)), z)()
    with pytest.raises(sl.DifferentiationError, match=r"by 'z'\n.*complex64"):
        ours(name, lambda t: jnp.sum(jnp.abs(t["z"])), "z")({"z": z.value})


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


def test_the_diagonal_of_a_holomorphic_hessian():
    value = jnp.array([1.0 + 2.0j, 0.5 - 1.0j])
    z = sl.ParamState(value)
    close(T.hessian_diag(lambda: jnp.sum(z.value**3), z, holomorphic=True)(), 6 * value)


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
