"""`partition`, `combine`, `get`, `only`, `set` and `update`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.lens.trees import model, stateful
from tests.strategies import same

# partition and combine


def test_partition_agrees_with_equinox():
    tree = model()
    lens = sl.lens("head.*") | "**.scale"
    ours, theirs = lens.partition(tree), eqx.partition(tree, lens.mask(tree))
    assert same(ours, theirs)
    assert same(eqx.combine(*ours), tree)
    assert same(sl.partition(tree, lens), ours)


def test_halves_go_through_jit():
    tree = stateful()
    focus, rest = sl.lens("layer.bias | embed").partition(tree)
    together = jax.jit(sl.combine)(focus, rest)
    assert same(together["layer"], tree["layer"])
    assert same(together["embed"], tree["embed"])


def test_a_shared_state_is_in_the_focus_once_and_comes_back_shared():
    tree = stateful()
    focus, rest = sl.lens("embed").partition(tree)
    assert focus["embed"] is tree["embed"]
    assert focus["head"] is None
    together = sl.combine(focus, rest)
    assert together["embed"] is together["head"] is tree["embed"]


def test_none_that_is_data_survives():
    tree = {"a": None, "w": jnp.ones(1), "s": sl.State({"n": None, "w": jnp.ones(1)})}
    for lens in ("w", "s", "s.w", ...):
        assert same(sl.combine(*sl.lens(lens).partition(tree)), tree)


def test_combine_of_several_thirds():
    tree = model()
    head, rest = sl.lens("head.*").partition(tree)
    encoder, others = sl.lens("encoder.**").partition(rest)
    assert same(sl.combine(head, encoder, others), tree)


def test_combine_refuses_a_leaf_in_two_halves():
    tree = model()
    focus, _ = sl.lens("encoder.norm").partition(tree)
    with pytest.raises(sl.StructureError, match=r"2 of them have a leaf at 'encoder.norm'"):
        sl.combine(focus, tree)


def test_combine_refuses_a_leaf_in_two_halves_of_a_state():
    tree = stateful()
    focus, _ = sl.lens("layer.bias").partition(tree)
    with pytest.raises(sl.StructureError, match=r"2 of them have a leaf at 'layer.bias'"):
        sl.combine(focus, tree)


def test_combine_refuses_other_structure_with_the_path():
    with pytest.raises(sl.StructureError, match=r"they differ at 'b\[1\]', which only one of them"):
        sl.combine({"a": 1.0, "b": [None]}, {"a": None, "b": [2.0, 3.0]})


def test_combine_refuses_other_nodes():
    with pytest.raises(sl.StructureError, match=r"differ in their nodes: list, tuple"):
        sl.combine([1.0], (None,))


def test_combine_of_nothing_is_refused():
    with pytest.raises(
        sl.StructureError, match=r"none were given\nInstead: combine\(focus, rest\)"
    ):
        sl.combine()


# get and only


def test_get_gives_units_by_path_in_order():
    tree = model()
    found = sl.lens("head.* | encoder.norm").get(tree)
    assert list(found) == [("encoder", "norm"), ("head", "x"), ("head", "y")]
    assert found["head", "x"] is tree["head"].x


def test_get_gives_the_live_state_and_of_a_part_its_value():
    tree = stateful()
    assert sl.lens("layer").get(tree) == {("layer",): tree["layer"]}
    assert sl.lens("layer.bias").only(tree) is tree["layer"].value["bias"]


def test_only_refuses_several_and_lists_them():
    with pytest.raises(sl.SelectionError, match=r"it selects 2: 'head.x', 'head.y'"):
        sl.lens("head.*").only(model())


def test_only_refuses_none_with_the_closest_paths():
    with pytest.raises(sl.PathError, match=r"'head.z', which matches nothing\n.*'head.x'"):
        sl.lens("head.z").only(model())


# set


def test_set_takes_paths_as_tuples_or_text_and_mappings():
    tree = model()
    x, y = jnp.ones((2, 3)), jnp.ones(3)
    after = sl.lens("head.*").set(tree, {("head", "x"): x, "head.y": y})
    assert after["head"].x is x
    assert after["head"].y is y
    assert after["encoder"]["norm"] is tree["encoder"]["norm"]
    assert after["encoder"]["layers"][0].activation is jax.nn.relu


def test_set_of_a_state_gives_a_new_state_and_leaves_the_old_one():
    tree = stateful()
    for value in (jnp.array(5), sl.State(jnp.array(5))):
        after = sl.lens("count").set(tree, {"count": value})
        assert same(after["count"].value, jnp.array(5))
        assert after["count"].tag == {"slow", "count"}
    assert same(tree["count"].value, jnp.array(0))


def test_set_of_a_shared_state_keeps_it_shared():
    after = sl.lens("head").set(stateful(), {"embed": jnp.zeros((2, 2))})
    assert after["embed"] is after["head"]
    assert same(after["head"].value, jnp.zeros((2, 2)))


def test_set_refuses_a_path_that_is_not_selected():
    values = {"head.x": jnp.zeros((2, 3)), "head.z": jnp.zeros(3)}
    with pytest.raises(sl.PathError, match=r"'head.z', which lens\('head.\*'\)(.|\n)*head.[xy]"):
        sl.lens("head.*").set(model(), values)


def test_set_refuses_a_key_that_is_no_path():
    with pytest.raises(sl.StateLensError, match=r"asked to set .*0"):
        sl.lens("head.x").set(model(), {0: jnp.zeros((2, 3))})


@pytest.mark.parametrize("values", [jnp.ones(2), [jnp.ones(2)]], ids=["array", "list"])
def test_set_refuses_values_without_paths(values):
    match = r"there is an? \w+ for them(.|\n)*dictionary with a value for each path(.|\n)*update"
    with pytest.raises(sl.StateLensError, match=match) as caught:
        sl.lens("a").set({"a": jnp.ones(2)}, values)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "use",
    [
        lambda: 1 < sl.ndim < 3,
        lambda: sl.lens("a") or sl.lens("b"),
        lambda: sl.ndim == 2 and sl.name == "b",
        lambda: sl.name in ("a", "b"),
        lambda: not sl.inexact,
    ],
    ids=["chain", "or", "and", "in", "not"],
)
def test_a_lens_is_neither_true_nor_false(use):
    with pytest.raises(TypeError, match=r"neither true nor false\n(.|\n)*& for 'and'") as caught:
        use()
    assert isinstance(caught.value, sl.StateLensError)


def test_apply_updates_refuses_an_update_of_another_shape():
    with pytest.raises(sl.StructureError, match=r"'a'\nit has shape \(2,\), and its update \(1,\)"):
        sl.lens("a").apply_updates({"a": jnp.ones(2)}, {"a": jnp.ones(1)})


def test_set_refuses_a_missing_value():
    with pytest.raises(sl.PathError, match=r"there is no value for 'head.y'"):
        sl.lens("head.*").set(model(), {"head.x": jnp.zeros((2, 3))})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (jnp.zeros((3, 2)), r"its shape is \(3, 2\), and that of what is there is \(2, 3\)"),
        (jnp.zeros((2, 3), jnp.bfloat16), "its dtype is bfloat16, and that .* is float32"),
        (np.zeros((2, 3)), "its dtype is float64, and that .* is float32"),
        (np.zeros((2, 3), "i4"), "its dtype is int32, and that .* is float32"),
        (1.0, r"its shape is \(\), and that of what is there is \(2, 3\)"),
        (None, "its structure is NoneType"),
        ("text", "its structure is str"),
        ([jnp.zeros(3)] * 2, "its structure is PyTreeDef"),
    ],
)
def test_set_refuses_a_change_of_structure_shape_or_dtype(value, problem):
    with pytest.raises(sl.StructureError, match=rf"at 'head.x'\n{problem}(.|\n)*replace=True"):
        sl.lens("head.x").set(model(), {"head.x": value})


def test_set_refuses_another_structure_of_a_states_value():
    with pytest.raises(sl.StructureError, match=r"at 'layer'\nits structure is"):
        sl.lens("layer").set(stateful(), {"layer": {"weight": jnp.ones((2, 3))}})


def test_set_with_replace_takes_any_value():
    after = sl.lens("head.x").set(model(), {"head.x": jnp.zeros(1, jnp.int32)}, replace=True)
    assert same(after["head"].x, jnp.zeros(1, jnp.int32))
    after = sl.lens("layer").set(stateful(), {"layer": jnp.zeros(1)}, replace=True)
    assert same(after["layer"].value, jnp.zeros(1))


def test_set_takes_a_python_number_for_a_scalar_array_of_its_dtype():
    tree = {"n": jnp.array(0), "x": jnp.array(0.0)}
    after = sl.lens(...).set(tree, {"n": 3, "x": 2.5})
    assert same(after, {"n": jnp.array(3), "x": jnp.array(2.5)})
    with pytest.raises(sl.StructureError, match=r"'n'\nits dtype is float32, .* is int32"):
        sl.lens("n").set(tree, {"n": 3.0})


@pytest.mark.parametrize("value", [np.arange(3.0), np.float64(2.0)])
def test_update_does_not_cast_numpy_numbers_of_64_bits(value):
    after = sl.lens("w").update({"w": value}, lambda w: 2 * w)
    assert same(after, {"w": 2 * value})


@pytest.mark.parametrize("value", [np.arange(3.0), np.float64(2.0)])
def test_stop_gradient_does_not_cast_numpy_numbers_of_64_bits(value):
    assert same(sl.lens("w").stop_gradient({"w": value}), {"w": value})


# update


def test_update_calls_the_function_with_each_value():
    tree = stateful()
    after = sl.lens("layer | plain").update(tree, lambda value: jax.tree.map(jnp.ones_like, value))
    assert same(after["layer"].value, {"weight": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    assert same(after["plain"], jnp.ones(2))
    assert after["embed"] is tree["embed"]


def test_update_with_path():
    seen = []
    sl.lens("head.*").update(model(), lambda path, x: seen.append(path) or x, with_path=True)
    assert seen == [("head", "x"), ("head", "y")]


def test_update_of_a_shared_state_calls_the_function_once_and_keeps_it_shared():
    calls = []
    after = sl.lens("**").update(stateful(), lambda value: calls.append(value) or value)
    assert len(calls) == 4
    assert after["embed"] is after["head"]


def test_update_refuses_a_change_of_dtype_unless_told():
    with pytest.raises(sl.StructureError, match=r"at 'head.x'\nits dtype is bfloat16"):
        sl.lens("head.*").update(model(), lambda x: x.astype(jnp.bfloat16))
    after = sl.lens("head.*").update(model(), lambda x: x.astype(jnp.bfloat16), replace=True)
    assert after["head"].x.dtype == jnp.bfloat16
