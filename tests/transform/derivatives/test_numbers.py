"""Derivatives by Python's numbers among the leaves of an immutable tree, by name."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

T = sl.transform


class Optics(eqx.Module):
    """A model as those of zodiax are: parameters are numbers and arrays, side by side."""

    flux: float
    psf: jax.Array
    pupil: dict[str, float]
    size: int = 3


OPTICS = Optics(120.0, jnp.array([1.0, 2.0]), {"tilt": 0.5, "focus": 2.0})
X = jnp.array([1.0, -1.0])


def image(optics, x):
    pupil = optics.pupil
    return optics.flux**2 * optics.psf * x * jnp.sin(pupil["tilt"]) ** optics.size + pupil["focus"]


def loss(optics, x):
    return jnp.sum(image(optics, x) * x)


SPECS = {
    "flux": ["flux"],
    "pupil.tilt": ["tilt"],
    "flux | pupil.{tilt,focus}": ["flux", "tilt", "focus"],
    "flux | psf": ["flux", "psf"],
}


def with_values(values):
    """The model, with arrays in the place of some of its parameters."""
    pupil = {name: values.get(name, number) for name, number in OPTICS.pupil.items()}
    return Optics(values.get("flux", OPTICS.flux), values.get("psf", OPTICS.psf), pupil)


def of_function(spec, function, *args):
    """A function of the named parameters alone, and their values: what plain JAX takes."""
    whole = {"flux": OPTICS.flux, "psf": OPTICS.psf, **OPTICS.pupil}
    values = {name: jnp.asarray(whole[name]) for name in SPECS[spec]}
    return lambda values: function(with_values(values), *args), values


def by_name(tree):
    """What there is by the names of parameters, in a tree of the model's shape."""
    found = {"flux": tree.flux, "psf": tree.psf, **tree.pupil}
    assert tree.size is None
    return {name: part for name, part in found.items() if part is not None}


def check(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5)


DERIVATIVES = {
    "grad": (T.grad, jax.grad, loss),
    "jacrev": (T.jacrev, jax.jacrev, image),
    "jacfwd": (T.jacfwd, jax.jacfwd, image),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", DERIVATIVES)
def test_first_derivatives_are_those_of_jax(name, spec, compiled):
    ours, theirs, function = DERIVATIVES[name]
    run: Callable[..., Any] = ours(function, spec)
    actual = (sl.jit(run) if compiled else run)(OPTICS, X)
    plain, values = of_function(spec, function, X)
    check(by_name(actual), theirs(plain)(values))


@pytest.mark.parametrize("spec", SPECS)
def test_hessians_are_those_of_jax(spec):
    actual = T.hessian(loss, spec)(OPTICS, X)
    plain, values = of_function(spec, loss, X)
    expected = jax.hessian(plain)(values)
    rows = by_name(actual)
    assert rows.keys() == expected.keys()
    for name, row in rows.items():
        check(by_name(row), expected[name])


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_for_each_example_are_those_of_jax(spec):
    batch = jnp.stack([X, 2 * X, X**2])
    actual = T.per_example_grad(loss, spec)(OPTICS, batch)
    one = lambda x: jax.grad(of_function(spec, loss, x)[0])(of_function(spec, loss, x)[1])  # noqa: E731
    check(by_name(actual), jax.vmap(one)(batch))


def test_all_numbers_are_taken_where_that_is_asked():
    floats = sl.lens("**", numbers=True) - "size"
    names = ["flux", "psf", "tilt", "focus"]
    found = by_name(sl.grad(loss, floats)(OPTICS, X))
    assert set(found) == set(names)
    everything = jax.grad(lambda values: loss(with_values(values), X))(
        {"flux": 120.0, "psf": OPTICS.psf, "tilt": 0.5, "focus": 2.0}
    )
    check(found, everything)


def test_numbers_that_are_not_named_are_left_out():
    assert by_name(sl.grad(loss, "**")(OPTICS, X)).keys() == {"psf"}
    assert by_name(sl.grad(loss, sl.inexact)(OPTICS, X)).keys() == {"psf"}


@pytest.mark.parametrize("derivative", [T.grad, T.hessian, T.per_example_grad])
def test_an_integer_has_no_derivative(derivative):
    batch = X[None] if derivative is T.per_example_grad else X
    with pytest.raises(sl.DifferentiationError, match=r"by 'size'\nit is of dtype int32"):
        derivative(loss, "size")(OPTICS, batch)
