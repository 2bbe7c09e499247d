"""Python's numbers among the leaves of an immutable tree."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import statelens as sl
from tests.lens.trees import written
from tests.strategies import same


class Optics(eqx.Module):
    flux: float
    position: jax.Array
    layers: list
    count: int = 3
    on: bool = True


def optics():
    return Optics(120.0, jnp.ones(2), [{"gain": 1.5}, {"gain": 2.5}])


def loss(model):
    return model.flux**2 + jnp.sum(model.position**3) * model.layers[0]["gain"]


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ("flux", ["flux"]),
        ("count", ["count"]),
        ("**.gain", ["layers[0].gain", "layers[1].gain"]),
        ("layers[-1] / gain", ["layers[1].gain"]),
        ("{flux,position}", ["flux", "position"]),
        ("flux | position", ["flux", "position"]),
        ("... & flux", ["flux"]),
        ("~flux", ["position"]),
        ("~~flux", ["flux"]),
        (sl.lens("flux", optional=True), ["flux"]),
        # By name, and not by what takes in everything.
        ("**", ["position"]),
        (..., ["position"]),
        (sl.inexact, ["position"]),
        (sl.inexact & "*?", ["position"]),
        (Optics, ["position"]),
        (
            sl.lens("**", numbers=True),
            ["flux", "position", *("layers[0].gain", "layers[1].gain"), "count"],
        ),
        (
            sl.lens("{layers,count}.**?", numbers=True),
            ["layers[0].gain", "layers[1].gain", "count"],
        ),
        (sl.lens(float, numbers=True), ["flux", "layers[0].gain", "layers[1].gain"]),
        (sl.lens(sl.inexact, numbers=True), ["position"]),
    ],
)
def test_numbers_are_units_where_they_are_asked_for(spec, paths):
    assert written(spec, optics()) == paths
    focus, rest = sl.lens(spec).partition(optics())
    assert same(sl.combine(focus, rest), optics())


def test_a_flag_is_no_number():
    with pytest.raises(sl.PathError, match=r"'on' is of type bool"):
        sl.lens("on").get(optics())
    assert "on" not in written(sl.lens(..., numbers=True), optics())


@pytest.mark.parametrize("transform", [sl.grad, sl.transform.jacrev, sl.transform.jacfwd])
def test_derivatives_by_numbers_are_those_by_arrays(transform):
    lens = sl.lens("flux | **.gain | position")
    arrays = lens.update(optics(), jnp.asarray, replace=True)
    ours, theirs = transform(loss, lens)(optics()), transform(loss, lens)(arrays)
    assert jax.tree.map(float, ours.layers) == jax.tree.map(float, theirs.layers)
    assert float(ours.flux) == float(theirs.flux) == 240
    assert ours.count is None


def test_a_hessian_by_a_number():
    second = sl.transform.hessian(loss, "flux")(optics())
    assert jax.tree.leaves(second) == [2.0]


def test_a_derivative_by_an_integer_is_refused():
    with pytest.raises(sl.StateLensError, match=r"by 'count'\nit is of dtype int32"):
        sl.grad(loss, "count")(optics())


def test_an_optimiser_steps_numbers():
    lens = sl.lens("flux | position")
    model = optics()
    optimizer = optax.sgd(0.1)
    memory = optimizer.init(lens.partition(model)[0])
    updates, _ = optimizer.update(sl.grad(loss, lens)(model), memory)
    assert float(lens.apply_updates(model, updates).flux) == pytest.approx(96)


def test_operations_count_and_mark_numbers():
    lens, model = sl.lens("flux | position"), optics()
    assert (lens.count(model), lens.nbytes(model)) == (3, 12)
    assert (lens.mask(model).flux, lens.mask(model).count) == (True, False)
    assert lens.update(model, lambda x: 2 * x).flux == 240.0
    assert sl.groups({"a": "flux", "b": "position"})(model).flux == "a"
    assert sl.lens("flux").set(model, {"flux": 3.0}).flux == 3.0
    assert sl.lens("flux").set(model, {"flux": jnp.array(3.0)}).flux.dtype == jnp.float32


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "its kind is int, and that of what is there is float"),
        ("3", "its kind is str, and that of what is there is float"),
        (jnp.ones(2), r"its shape is \(2,\), and that of what is there is \(\)"),
        (jnp.array(3), "its kind is int32, and that of what is there is float"),
    ],
)
def test_what_is_no_such_number_is_refused(value, message):
    with pytest.raises(sl.StructureError, match=message):
        sl.lens("flux").set(optics(), {"flux": value})
    sl.lens("flux").set(optics(), {"flux": value}, replace=True)
