"""What a lens may be made of: classes, predicates, masks, accessors, parts of a state."""

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.lens.trees import Block, model, stateful, written
from tests.strategies import Point, same

# The language: classes, predicates, masks, accessors and the ready-made lenses


def test_a_state_class_selects_states_of_the_class_and_its_subclasses():
    assert written(sl.ParamState, stateful()) == ["embed", "layer"]
    assert written(sl.State, stateful()) == ["count", "embed", "layer"]
    assert sl.params == sl.lens(sl.ParamState)


def test_another_class_selects_what_lies_in_its_nodes():
    assert written(eqx.nn.Linear, model()) == [
        f"encoder.layers[{i}].linear.{name}" for i in range(3) for name in ("weight", "bias")
    ]
    assert written(Point, model()) == ["head.x", "head.y"]


def test_inside_nodes_of_a_class():
    assert written(sl.lens(Point) / "y", model()) == ["head.y"]
    assert written(sl.lens(Block) / "linear.bias" & sl.lens("**[0].**"), model()) == [
        "encoder.layers[0].linear.bias"
    ]


def test_a_predicate_is_given_path_and_unit():
    tree = stateful()
    seen = {}
    sl.lens(lambda path, unit: seen.update({path: unit})).paths(tree)
    # A shared state is one unit that is reached by two paths.
    assert set(seen) == {(name,) for name in tree}
    assert all(seen[path,] is tree[path] for path in tree)


def test_a_list_of_specs_selects_what_any_of_them_does():
    assert written(["head.x", lambda path, unit: path[-1] == "norm"], model()) == [
        "encoder.norm",
        "head.x",
    ]
    assert written(("head.x", Point), model()) == ["head.x", "head.y"]
    assert written([], model()) == []


def test_everything_and_nothing():
    tree = stateful()
    assert written(..., tree) == ["count", "embed", "layer", "plain"]
    assert written(None, tree) == []


def test_a_tree_of_booleans_selects_under_its_true_leaves():
    tree = stateful()
    mask = dict.fromkeys(tree, False) | {"layer": True}
    assert written(mask, tree) == ["layer"]


def test_an_equinox_filter_spec_is_a_lens():
    tree = model()
    spec = jax.tree.map(lambda _: False, tree)
    spec = eqx.tree_at(lambda t: t["head"].x, spec, True)
    assert written(spec, tree) == ["head.x"]


def test_a_mask_goes_on_inside_a_state():
    tree = stateful()
    mask = jax.tree.map(lambda x: x.ndim == 1, tree)
    assert written(mask, tree) == ["layer.bias", "plain"]


def test_a_mask_of_a_lens_is_that_lens():
    for lens in ("head.*", "**[0].**", ...):
        tree = model()
        assert written(sl.lens(lens).mask(tree), tree) == written(lens, tree)


def test_a_mask_that_the_tree_has_not_is_refused():
    with pytest.raises(sl.SelectionError, match=r"it has the path 'wrong', which the tree has not"):
        sl.lens({"wrong": True}).paths({"w": jnp.ones(1)})


@pytest.mark.parametrize(
    "where",
    [
        lambda m: m["head"].x,
        lambda m: (m["head"].x, m["encoder"]["norm"]),
        lambda m: [layer.linear.bias for layer in m["encoder"]["layers"]],
    ],
)
def test_an_accessor_selects_what_tree_at_does(where):
    tree = model()
    lens = sl.at(where)
    replaced = eqx.tree_at(where, tree, replace_fn=lambda x: x + 1)
    assert same(lens.update(tree, lambda x: x + 1), replaced)
    assert not same(replaced, tree)


def test_an_accessor_may_return_a_node_or_a_state_or_its_value():
    assert written(sl.at(lambda m: m["head"]), model()) == ["head.x", "head.y"]
    assert written(sl.at(lambda t: t["layer"]), stateful()) == ["layer"]
    assert written(sl.at(lambda t: t["layer"].value["bias"]), stateful()) == ["layer.bias"]
    assert written(sl.at(lambda t: t["count"].value), stateful()) == ["count"]


def test_an_accessor_that_computes_is_refused():
    with pytest.raises(sl.SelectionError, match="which is no part of the tree"):
        sl.at(lambda m: m["steps"] == 3).paths(model())


@pytest.mark.parametrize(
    ("lens", "paths"),
    [
        (sl.tagged("slow"), ["count", "embed"]),
        (sl.tagged("count"), ["count"]),
        (sl.inexact, ["embed", "layer", "plain"]),
        (sl.arrays, ["count", "embed", "layer", "plain"]),
        (sl.ndim >= 2, ["embed", "layer.weight"]),
        (sl.ndim == 0, ["count"]),
        (sl.ndim != 2, ["count", "layer.bias", "plain"]),
        (sl.size < 3, ["count", "plain"]),
        (sl.size > 4, ["layer.weight"]),
        (sl.size <= 1, ["count"]),
        (sl.dtype == jnp.int32, ["count"]),
        (sl.dtype == "float32", ["embed", "layer", "plain"]),
        (sl.name == "plain", ["plain"]),
        (sl.name != "layer", ["count", "embed", "plain"]),
        (sl.name == "head", ["embed"]),
    ],
)
def test_ready_made_lenses(lens, paths):
    assert written(lens, stateful()) == paths


def test_an_attribute_alone_is_no_condition():
    with pytest.raises(sl.ArgumentError, match=r"statelens.ndim is true(.|\n)*a comparison"):
        bool(sl.ndim)


@pytest.mark.parametrize("operation", [operator.and_, operator.or_, operator.sub, operator.truediv])
def test_operators_take_any_spec_on_either_side(operation):
    tree = model()
    a, b = sl.lens("head.*"), sl.lens("**.x")
    assert operation(a, "**.x") == operation(a, b) == operation("head.*", b)
    assert operation(a, lambda path, unit: True).paths(tree) == operation(a, ...).paths(tree)


@pytest.mark.parametrize("spec", [3.5, {"w": 1}, {}, object()])
def test_what_does_not_select_is_refused(spec):
    with pytest.raises(sl.ArgumentTypeError, match=r"a lens is made of a path pattern"):
        sl.lens(spec)


def test_a_state_is_no_lens():
    with pytest.raises(sl.StateTypeError, match="that is a state itself, not a way to select one"):
        sl.lens(sl.State(jnp.ones(1)))


# Paths that go on inside a state


def test_a_path_may_go_on_inside_a_state():
    assert written("layer.bias", stateful()) == ["layer.bias"]
    assert written("**.bias", stateful()) == ["layer.bias"]
    assert written("layer / bias", stateful()) == ["layer.bias"]


def test_a_state_that_matches_is_one_unit():
    assert written("layer", stateful()) == ["layer"]
    assert written("**", stateful()) == ["count", "embed", "layer", "plain"]


def test_set_inside_a_state_leaves_the_rest_of_its_value():
    tree = stateful()
    after = sl.lens("layer.bias").set(tree, {"layer.bias": jnp.ones(3)})
    assert same(after["layer"].value["bias"], jnp.ones(3))
    assert after["layer"].value["weight"] is tree["layer"].value["weight"]
    assert type(after["layer"]) is sl.ParamState


def test_halves_inside_a_state_hold_its_parts():
    tree = stateful()
    focus, rest = sl.lens("layer.bias").partition(tree)
    assert focus["layer"].value == {"bias": tree["layer"].value["bias"], "weight": None}
    assert rest["layer"].value == {"bias": None, "weight": tree["layer"].value["weight"]}


def test_a_shared_state_is_selected_by_any_of_its_paths_and_bears_the_first():
    tree = stateful()
    assert written("head", tree) == written("embed", tree) == ["embed"]
    assert written("embed - head", tree) == []


def test_a_typed_class_of_states_selects_as_the_class_does():
    tree = {"a": sl.ParamState(jnp.zeros(2)), "b": sl.State(jnp.zeros(2)), "c": jnp.zeros(2)}
    assert sl.lens(sl.ParamState[jax.Array]).paths(tree) == (("a",),)
