"""Differences between two trees, by path."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl


def model():
    return eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))


def changed(before, after):
    return [sl.path.format(path) for path in sl.diff(before, after)]


@pytest.mark.parametrize(
    "make",
    [
        model,
        lambda: {"s": sl.State({"w": jnp.ones(2), "n": None}), "key": jax.random.key(0)},
        lambda: [jnp.array([jnp.nan, jnp.inf]), jnp.zeros((0, 2)), True, "text", jax.nn.relu],
    ],
)
def test_equal_trees_do_not_differ(make):
    assert sl.diff(make(), make()) == {}


def test_what_an_update_changed():
    before = model()
    after = sl.lens("layers[-1].**").update(before, lambda x: x + 0.5)
    changes = sl.diff(before, after)
    assert list(changes) == [("layers", 1, "weight"), ("layers", 1, "bias")]
    for path, change in changes.items():
        assert change.before is sl.path.resolve(before, path)
        assert change.after is sl.path.resolve(after, path)
        assert change.by == pytest.approx(0.5)
        assert repr(change) == "changed by 0.5"


def test_a_change_inside_a_state():
    state = sl.State({"bias": jnp.zeros(2), "weight": jnp.ones(2)})
    before = {"layer": state}
    after = sl.lens("layer.bias").update(before, lambda b: b - jnp.array([1.0, 3.0]))
    assert {path: change.by for path, change in sl.diff(before, after).items()} == {
        ("layer", "bias"): 3.0
    }


@pytest.mark.parametrize(
    ("before", "after", "by"),
    [
        (jnp.array([1, 2]), jnp.array([1, 5]), 3.0),
        (np.uint8([0]), np.uint8([255]), 255.0),
        (jnp.array([True, False]), jnp.array([True, True]), 1.0),
        (jnp.array([3j]), jnp.array([4 + 0j]), 5.0),
        (jnp.array([1.0], jnp.bfloat16), jnp.array([3.0], jnp.bfloat16), 2.0),
        (jnp.array([jnp.inf, 0.0]), jnp.array([jnp.inf, 1.0]), 1.0),
        (jnp.array([jnp.nan, 0.0]), jnp.array([jnp.nan, 1.0]), 1.0),
        (np.array([0.0]), np.array([2.0**-60]), 2.0**-60),
        (np.array([2**24]), np.array([2**24 + 1]), 1.0),
        (np.array([1.0]), np.array([1.0 + 2.0**-40]), 2.0**-40),
        (np.array([2**40]), np.array([2**40 + 2]), 2.0),
    ],
)
def test_a_change_is_as_large_as_the_largest_difference(before, after, by):
    (change,) = sl.diff({"w": before}, {"w": after}).values()
    assert change.by == by


def test_a_change_of_a_bit_is_a_change():
    assert changed({"w": jnp.array([0.0])}, {"w": jnp.array([-0.0])}) == ["w"]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (jnp.ones(2), jnp.ones(3), "float32[2] became float32[3]"),
        (jnp.ones(2), jnp.ones(2, jnp.int32), "float32[2] became int32[2]"),
        (jnp.ones(2), "text", "float32[2] became 'text'"),
        (1, 2, "1 became 2"),
        (jax.random.key(0), jax.random.key(1), "key<fry>[] became key<fry>[]"),
        (None, jnp.ones(2), "added float32[2]"),
        (jnp.ones(2), None, "removed float32[2]"),
    ],
)
def test_a_change_of_kind_has_no_size(before, after, shown):
    (change,) = sl.diff({"w": before}, {"w": after}).values()
    assert change.by is None
    assert repr(change) == shown


def test_what_only_one_of_the_trees_has():
    changes = sl.diff({"a": [1.0, 2.0]}, {"a": [1.0], "b": 3.0})
    assert {path: repr(change) for path, change in changes.items()} == {
        ("a", 1): "removed 2.0",
        ("b",): "added 3.0",
    }


def test_a_text_key_is_not_a_position():
    assert changed({"0": 1.0}, {0: 1.0}) == ["['0']", "[0]"]
