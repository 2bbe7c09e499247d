"""Derivatives of quantities have units."""

import functools
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, counter

close = functools.partial(close, rtol=1e-6)

T = sl.transform


@pytest.fixture
def units():
    return pytest.importorskip("saiunit")


def quantity(units, mantissa, unit):
    return units.Quantity(jnp.asarray(mantissa), unit=unit)


@pytest.mark.parametrize("jitted", [False, True])
def test_derivatives_have_units(units, jitted):
    length = sl.ParamState(quantity(units, [2.0, 3.0], units.meter), name="length")
    calls = counter()

    def area(x):
        calls.value += 1
        return (length.value**2 * x).sum()

    def areas(x):
        return length.value**2 * x

    run = sl.jit if jitted else lambda fun: fun
    values, eye = jnp.array([2.0, 3.0]), jnp.eye(2)
    cases = [
        (T.grad(area, length, unit_aware=True), 8 * values, units.meter),
        (T.vector_grad(areas, length, unit_aware=True), 8 * values, units.meter),
        (T.jacrev(areas, length, unit_aware=True), 8 * values * eye, units.meter),
        (T.jacfwd(areas, length, unit_aware=True), 8 * values * eye, units.meter),
    ]
    for derivative, expected, unit in cases:
        found = run(derivative)(4.0)
        assert units.get_unit(found) == unit
        np.testing.assert_allclose(units.get_mantissa(found), expected, rtol=1e-6)
    assert calls.value == 1
    assert length.value.unit == units.meter


@pytest.mark.parametrize("form", [list, None, "argument"])
def test_second_derivatives_have_units(units, form):
    length = quantity(units, [2.0, 3.0], units.meter)
    state = sl.ParamState(length)
    if form == "argument":
        found = T.hessian(lambda tree: (tree["a"] ** 3).sum(), unit_aware=True)({"a": length})
        found = found["a"]["a"]
    elif form is list:
        found = T.hessian(lambda: (state.value**3).sum(), [state], unit_aware=True)()[0][0]
    else:
        found = T.hessian(lambda: (state.value**3).sum(), state, unit_aware=True)()
    # Cubic metres, by metres, by metres.
    assert units.get_unit(found) == units.meter
    np.testing.assert_allclose(units.get_mantissa(found), jnp.diag(jnp.array([12.0, 18.0])))


def test_units_by_states_and_arguments_and_value(units):
    a = sl.ParamState(quantity(units, 2.0, units.meter))
    t = quantity(units, 4.0, units.second)
    speed = lambda t: a.value / t  # noqa: E731
    (by_a, by_t), value = sl.grad(speed, {"a": a}, 0, unit_aware=True, return_value=True)(t)
    assert value.unit == units.meter / units.second
    assert units.get_unit(by_a["a"]) == 1 / units.second
    assert units.get_unit(by_t) == units.meter / units.second**2
    np.testing.assert_allclose(units.get_mantissa(by_t), -2 / 16)


def test_without_the_package_units_are_refused_by_name(monkeypatch):
    w = sl.ParamState(jnp.ones(()))
    monkeypatch.setitem(sys.modules, "saiunit", None)
    for name in ("grad", "value_and_grad", "vector_grad", "jacrev", "jacfwd", "hessian"):
        match = rf"(?s)asked {name} for unit_aware=True\n.*saiunit.*statelens\[units\]"
        with pytest.raises(sl.MissingPackageError, match=match) as caught:
            getattr(T, name)(lambda: w.value, w, unit_aware=True)
        assert isinstance(caught.value, ImportError)
