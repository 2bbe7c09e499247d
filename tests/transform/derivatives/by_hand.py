"""What each derivative is in plain JAX, and a program in every form that states are given in."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import EquinoxAffine

T = sl.transform


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


def loss_of(name, w, x):
    """A loss, or an array where the derivative is of arrays."""
    out = w**2 * x
    return out if name in VECTOR_VALUED else jnp.sum(out)


W = jnp.array([1.0, 2.0])
