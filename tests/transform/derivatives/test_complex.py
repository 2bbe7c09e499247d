"""Derivatives of real functions of complex numbers: JAX's own, in every form."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import EquinoxAffine, close

close = functools.partial(close, rtol=1e-4)

T = sl.transform

Z, W = jnp.array([1 + 2j, -0.5j]), jnp.array([0.5, -1.0])
XS = jnp.array([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0], [1.0, 1.0]])


def loss(z, w, x):
    """One that is neither holomorphic nor anti-holomorphic."""
    return jnp.mean(jnp.abs(jnp.exp(1j * w) * z - x) ** 2 + (z**2).real + w)


def per_number(z, w, x):
    return {"a": jnp.abs(z) ** 2 * w, "b": jnp.sum((z**2).imag * x)}


class Wave(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.z = sl.ParamState(W), sl.ParamState(Z)


def setting(form):
    """Gives what is differentiated by, the arguments, a caller, values, and how to read them."""
    model = Wave()
    of_states = lambda fun: lambda x: fun(model.z.value, model.w.value, x)  # noqa: E731
    match form:
        case "argument":
            return {}, (Z,), lambda fun: lambda z, x: fun(z, W, x), Z, lambda v: (v, W)
        case "state":
            return {"grad_states": model.z}, (), of_states, Z, lambda v: (v, W)
        case "list":
            states = {"grad_states": [model.w, model.z]}
            return states, (), of_states, [W, Z], lambda v: (v[1], v[0])
        case "bound":
            values = {("w",): W, ("z",): Z}
            states = {"grad_states": model.states(sl.ParamState)}
            return states, (), of_states, values, lambda v: (v["z",], v["w",])
        case "value is a dict":
            both = sl.ParamState({"z": Z, "w": W})
            of_both = lambda fun: lambda x: fun(both.value["z"], both.value["w"], x)  # noqa: E731
            return {"grad_states": both}, (), of_both, both.value, lambda v: (v["z"], v["w"])
        case "equinox":
            tree = EquinoxAffine(Z, W)
            of_tree = lambda fun: lambda m, x: fun(m.weight, m.bias, x)  # noqa: E731
            values = EquinoxAffine(Z, None, None)
            return {"grad_states": "weight"}, (tree,), of_tree, values, lambda v: (v.weight, W)


FORMS = ["argument", "state", "list", "bound", "value is a dict", "equinox"]
every_form = pytest.mark.parametrize("form", FORMS)


def taken(form, name, fun=loss, **options):
    """Makes a derivative; gives it, the arguments before the batch, values, and the pure loss."""
    where, args, caller, values, read = setting(form)
    if form == "argument" and name in ("per_example_grad", "fisher_diag", "accumulate_grad"):
        options |= {"argnums": 0, "batch_argnums": 1}
    derivative = getattr(T, name)(caller(fun), **where, **options)
    return derivative, args, values, lambda v, x: fun(*read(v), x)


@every_form
@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit], ids=["eager", "jit"])
def test_the_gradient_is_that_of_jax(form, run):
    gradient, args, values, pure = taken(form, "grad")
    close(run(gradient)(*args, XS[0]), jax.grad(pure)(values, XS[0]))
    both, args, values, pure = taken(form, "value_and_grad")
    close(run(both)(*args, XS[0]), jax.value_and_grad(pure)(values, XS[0]))


@every_form
@pytest.mark.parametrize("options", [{}, {"chunk_size": 1}])
def test_a_jacobian_is_that_of_jax(form, options):
    jacobian, args, values, pure = taken(form, "jacrev", per_number, **options)
    close(jacobian(*args, XS[0]), jax.jacrev(pure)(values, XS[0]))


@every_form
def test_vector_gradients_and_pullbacks_are_those_of_jax(form):
    gradient, args, values, pure = taken(form, "vector_grad", per_number)
    out, pullback = jax.vjp(lambda v: pure(v, XS[0]), values)
    ones = jax.tree.map(jnp.ones_like, out)
    close(gradient(*args, XS[0]), pullback(ones)[0])
    where, args, caller, values, _ = setting(form)
    found, pull = T.vjp(caller(per_number), *args, XS[0], argnums=None if where else 0, **where)
    close((found, pull(ones)), (out, pullback(ones)[0]))


@every_form
def test_a_product_with_the_hessian_is_that_of_jax(form):
    product, args, values, pure = taken(form, "hvp")
    vector = jax.tree.map(lambda v: v * (2 - 1j) if jnp.iscomplexobj(v) else v - 1, values)
    expected = jax.jvp(lambda v: jax.grad(pure)(v, XS[0]), (values,), (vector,))[1]
    close(product(vector, *args, XS[0]), expected)


@every_form
def test_gradients_of_parts_of_a_batch(form):
    gradients, args, values, pure = taken(form, "per_example_grad")
    expected = jax.vmap(jax.grad(pure), (None, 0))(values, XS)
    close(gradients(*args, XS), expected)
    squares, args, values, pure = taken(form, "fisher_diag")
    close(squares(*args, XS), jax.tree.map(lambda g: jnp.mean(jnp.abs(g) ** 2, 0), expected))
    mean = taken(form, "accumulate_grad", microbatches=2, accumulator_dtype="float32")[0]
    close(mean(*args, XS), jax.grad(pure)(values, XS))


def test_a_forward_estimate_is_unbiased():
    estimate, args, values, pure = taken("list", "fwd_grad", tangent_size=40_000, key=0)
    expected = jax.grad(pure)(values, XS[0])
    jax.tree.map(lambda a, b: close(a, b, atol=0.1), estimate(*args, XS[0]), expected)


@pytest.mark.parametrize("loss", [None, lambda r: 0.5 * jnp.sum(jnp.abs(r) ** 2)])
def test_the_gauss_newton_matrix_of_complex_residuals(loss):
    w, z = sl.ParamState(W), sl.ParamState(Z)
    residuals = lambda w: jnp.exp(1j * w) * Z  # noqa: E731
    jacobian = jax.jacfwd(residuals)(W)
    product = T.gauss_newton_vp(lambda: residuals(w.value), w, loss=loss)(jnp.array([1.0, 3.0]))
    close(product, (jacobian.conj().T @ jacobian @ jnp.array([1.0, 3.0])).real)
    # By complex numbers, the Hessian of half the sum of squares of what is linear.
    matrix, vector = jnp.array([[1j, 2.0], [1.0, 1 - 1j]]), jnp.array([1 - 1j, 0.5])
    half = lambda z: 0.5 * jnp.sum(jnp.abs(matrix @ z) ** 2)  # noqa: E731
    found = T.gauss_newton_vp(lambda: matrix @ z.value, z, loss=loss)(vector)
    close(found, jax.jvp(jax.grad(half), (Z,), (vector,))[1])


def test_descent_along_the_conjugate_comes_to_the_minimum():
    z = sl.ParamState(Z)
    gradient = sl.grad(lambda: jnp.sum(jnp.abs(z.value - (3 - 1j)) ** 2), z)
    for _ in range(20):
        z.value = z.value - 0.25 * gradient().conj()
    close(z.value, jnp.full(2, 3 - 1j))


@pytest.mark.parametrize("name", ["grad", "hvp", "per_example_grad", "accumulate_grad", "jacrev"])
def test_a_complex_output_is_refused_where_nothing_says_holomorphic(name):
    z = sl.ParamState(Z)
    options = {"microbatches": 2} if name == "accumulate_grad" else {}
    vector = (Z,) if name == "hvp" else ()
    derivative = getattr(T, name)(lambda x: jnp.sum(z.value * x), z, **options)
    remedy = "jnp.real" if name in ("per_example_grad", "accumulate_grad") else "holomorphic=True"
    with pytest.raises(sl.DifferentiationError, match=rf"complex64(.|\n)*{remedy}"):
        derivative(*vector, XS)


def test_a_gradient_by_a_complex_number_of_python():
    close(sl.grad(lambda z: abs(z) ** 2)(1 + 2j), jax.grad(lambda z: abs(z) ** 2)(1 + 2j))
    state = sl.State(1 + 2j)
    close(sl.grad(lambda: abs(state.value) ** 2, state)(), jnp.asarray(2 - 4j))


def test_a_gradient_that_isn_t_finite_is_refused_by_its_path():
    z = sl.ParamState(jnp.zeros(2, jnp.complex64), name="z")
    root = lambda: jnp.sum(jnp.sqrt(z.value).real)  # noqa: E731
    with pytest.raises(sl.NonFiniteError, match=r"the derivative isn't finite: 2 of 2"):
        sl.grad(root, z, debug_nan=True)()
