"""Lenses that select nothing, and the operations beside `get` and `set`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.lens.trees import model, stateful
from tests.strategies import same

# Nothing selected


@pytest.mark.parametrize(
    "use",
    [
        lambda lens, tree: lens.set(tree, {}),
        lambda lens, tree: lens.update(tree, jnp.ones_like),
        lambda lens, tree: lens.apply_updates(tree, tree),
        lambda lens, tree: lens.bind(tree),
        lambda lens, tree: sl.tie(tree, lens, "plain"),
        lambda lens, tree: sl.grad(lambda t: 0.0, grad_states=lens)(tree),
        lambda lens, tree: sl.groups({"a": lens, "b": ...})(tree),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_the_closest_path(use):
    with pytest.raises(sl.PathError, match=r"'layer.wieght', which matches .*\n.*layer.weight"):
        use(sl.lens("layer.wieght"), stateful())


@pytest.mark.parametrize("operation", ["cast", "stop_gradient", "only", "bind"])
def test_every_other_operation_refuses_a_pattern_that_matches_nothing(operation):
    arguments = (jnp.bfloat16,) if operation == "cast" else ()
    with pytest.raises(sl.PathError, match=rf"asked {operation} for 'trunk', which matches"):
        getattr(sl.lens("trunk"), operation)(stateful(), *arguments)


@pytest.mark.parametrize(
    "use",
    [
        len,
        list,
        dict,
        repr,
        bool,
        lambda s: s.values_dict(),
        lambda s: len(s.filter("*")),
        jax.tree.leaves,
    ],
)
def test_states_by_a_pattern_that_matches_nothing_are_no_empty_mapping(use):
    module = sl.nn.Module()
    module.trunk = sl.ParamState(jnp.ones(1), tag="frozen")
    with pytest.raises(sl.PathError, match=r"asked states for 'trnk', .*\n.*'trunk'"):
        use(module.states("trnk"))
    with pytest.raises(sl.PathError, match=r"is read as a path(.|\n)*sl.tagged\('frozen'\)"):
        use(module.states("frozen"))
    use(module.states(sl.lens("trnk", optional=True)))
    use(module.states(sl.BatchState))


def test_one_pattern_of_several_that_matches_nothing_is_an_error():
    with pytest.raises(sl.PathError, match=r"asked update for 'head.z', which matches nothing"):
        sl.lens("head.x | head.z").update(model(), jnp.ones_like)


def test_the_error_for_a_node_says_how_to_select_below_it():
    with pytest.raises(sl.PathError, match=r"'head' is a node with 2 leaves(.|\n)*'head.\*\*'"):
        sl.lens("head").update(model(), jnp.ones_like)


def test_the_error_for_a_flag_says_how_to_make_it_an_array():
    with pytest.raises(sl.PathError, match=r"'flag' is of type bool(.|\n)*jnp.asarray"):
        sl.lens("flag").update({"flag": True, "w": jnp.ones(1)}, jnp.ones_like)


def test_a_selection_of_nothing_lists_what_there_is():
    with pytest.raises(sl.SelectionError, match=r"@tagged.*nothing\n.*arrays: 'count', 'embed'"):
        sl.lens(sl.tagged("missing")).update(stateful(), jnp.ones_like)


@pytest.mark.parametrize("spec", ["nowhere", sl.BatchState, ["nowhere", sl.tagged("missing")]])
def test_an_optional_lens_may_select_nothing(spec):
    tree = stateful()
    lens = sl.lens(spec, optional=True)
    assert same(lens.update(tree, jnp.ones_like), tree)
    assert same(lens.set(tree, {}), tree)


def test_errors_are_builtin_errors_too():
    with pytest.raises(KeyError, match="matches nothing"):
        sl.lens("nowhere").set(model(), {})
    with pytest.raises(ValueError, match="could not read the lens"):
        sl.lens("a &")
    with pytest.raises(TypeError, match="a lens is made of"):
        sl.lens(3.5)


# apply_updates


def test_apply_updates_agrees_with_optax():
    tree = eqx.filter(model(), eqx.is_inexact_array)
    updates = jax.tree.map(jnp.ones_like, tree)
    after = sl.inexact.apply_updates(tree, updates)
    assert same(after, optax.apply_updates(tree, updates))


def test_apply_updates_of_states_and_parts_of_them():
    tree = stateful()
    lens = sl.lens("layer.bias | embed | plain")
    focus, _ = lens.partition(tree)
    after = lens.apply_updates(tree, jax.tree.map(lambda x: jnp.full_like(x, 2), focus))
    np.testing.assert_array_equal(after["layer"].value["bias"], [2, 2, 2])
    np.testing.assert_array_equal(after["embed"].value, [[3, 3], [3, 3]])
    np.testing.assert_array_equal(after["plain"], [2, 2])
    assert after["embed"] is after["head"]
    assert after["layer"].value["weight"] is tree["layer"].value["weight"]


def test_apply_updates_rounds_to_the_dtype_that_was_there_as_optax_does():
    tree, updates = {"w": jnp.ones(2, jnp.bfloat16)}, {"w": jnp.full(2, 1e-1)}
    after = sl.lens("w").apply_updates(tree, updates)
    assert same(after, optax.apply_updates(tree, updates))
    cell = sl.State(tree["w"])
    sl.lens("w").bind({"w": cell}).apply_updates(updates)
    assert same(cell.value, after["w"])


@pytest.mark.parametrize(("value", "update"), [("int32", "float32"), ("float32", "complex64")])
def test_apply_updates_refuses_what_would_be_another_kind_of_number(value, update):
    tree, updates = {"w": jnp.ones(2, value)}, {"w": jnp.ones(2, update)}
    with pytest.raises(sl.StructureError, match=rf"has dtype {value}, and its update {update}"):
        sl.lens("w").apply_updates(tree, updates)


@pytest.mark.parametrize("to", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64])
@pytest.mark.parametrize("of", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int8])
def test_apply_updates_keeps_the_dtype_of_the_tree_as_optax_does(to, of):
    weights, steps = jnp.array([1.0, 256.0], to), jnp.array([2, 1], of)
    for make in (lambda x: {"w": x}, sl.State, lambda x: sl.State({"w": x})):
        after = sl.lens("**").apply_updates(make(weights), make(steps))
        assert same(jax.tree.leaves(after), [optax.apply_updates(weights, steps)])
    part = sl.lens("w")[:1].apply_updates({"w": weights}, {"w": steps[:1]})["w"]
    assert same(part, weights.at[:1].set(optax.apply_updates(weights[:1], steps[:1])))


@pytest.mark.parametrize("lens", ["plain", "layer", "layer.bias"])
def test_apply_updates_refuses_a_missing_update(lens):
    tree = stateful()
    with pytest.raises(sl.StructureError, match=rf"updates to '{lens}'\nthere is no update for it"):
        sl.lens(lens).apply_updates(tree, dict.fromkeys(tree))


def test_apply_updates_refuses_an_update_of_another_structure():
    tree = stateful()
    with pytest.raises(
        sl.StructureError, match=r"they differ at 'count', which only one of them has"
    ):
        sl.lens("plain").apply_updates(tree, {"plain": jnp.ones(2)})
    updates = dict.fromkeys(tree) | {"layer": sl.ParamState({"bias": jnp.ones(3)})}
    with pytest.raises(sl.StructureError, match=r"'layer'"):
        sl.lens("layer").apply_updates(tree, updates)


# mask, count, nbytes


def test_mask_has_the_trees_structure_and_booleans():
    tree = stateful()
    mask = sl.lens("layer.bias | embed").mask(tree)
    assert jax.tree.structure(mask) == jax.tree.structure(tree)
    assert mask["layer"].value == {"bias": True, "weight": False}
    assert (mask["embed"].value, mask["head"].value, mask["plain"]) == (True, True, False)


def test_a_mask_is_one_for_optax():
    tree = stateful()
    lens = sl.lens("layer.bias | plain")
    optimizer = optax.masked(optax.set_to_zero(), lens.mask)
    ones = jax.tree.map(jnp.ones_like, tree)
    updates, _ = optimizer.update(ones, optimizer.init(tree), tree)
    zeroed = lens.update(ones, jnp.zeros_like)
    leaves = zip(jax.tree.leaves(updates), jax.tree.leaves(zeroed), strict=True)
    assert all(same(ours, theirs) for ours, theirs in leaves)


def test_count_and_nbytes():
    tree = stateful()
    assert sl.lens("layer").count(tree) == 9
    assert sl.lens("layer").nbytes(tree) == 36
    assert sl.lens("embed | head").count(tree) == 4
    assert sl.lens(...).count(model()) == 3 * (4 + 2 + 2) + 2 + 6 + 3 + 3
    assert sl.lens("w").nbytes({"w": jnp.ones(3, jnp.bfloat16)}) == 6


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_shapes_and_dtypes_are_enough():
    tree = {"layer": sl.State({"w": jnp.ones((2, 3))}), "n": jnp.arange(4)}
    shapes = jax.eval_shape(lambda: tree)
    assert sl.lens(...).nbytes(shapes) == 24 + 16
    assert same(sl.inexact.mask(shapes), sl.inexact.mask(tree))
    assert sl.lens("n")[:1].only(shapes) == jax.ShapeDtypeStruct((1,), jnp.int32)


# stop_gradient, cast, bind


def test_stop_gradient_holds_the_focus_still():
    tree = {"a": sl.State(jnp.ones(2)), "b": jnp.ones(2), "f": jax.nn.relu}
    arrays, static = eqx.partition(tree, eqx.is_array)

    def loss(arrays):
        held = sl.lens("a").stop_gradient(eqx.combine(arrays, static))
        return jnp.sum(held["a"].value * held["b"])

    gradient = jax.grad(loss)(arrays)
    np.testing.assert_array_equal(gradient["a"].value, [0, 0])
    np.testing.assert_array_equal(gradient["b"], [1, 1])


def test_cast_casts_floating_point_arrays_in_the_focus_only():
    tree = stateful() | {"key": jax.random.key(0), "table": np.ones(2)}
    after = (~sl.lens("plain")).cast(tree, jnp.bfloat16)
    assert after["key"] is tree["key"]
    assert after["count"].value.dtype == jnp.int32
    assert after["layer"].value["weight"].dtype == jnp.bfloat16
    assert after["table"].dtype == jnp.bfloat16
    assert after["embed"] is after["head"]
    assert after["plain"] is tree["plain"]


def test_cast_leaves_complex_numbers():
    tree = {"z": jnp.array([1 + 2j]), "x": jnp.ones(1)}
    after = sl.lens(...).cast(tree, jnp.bfloat16)
    assert (after["z"].dtype, after["x"].dtype) == (jnp.complex64, jnp.bfloat16)


def test_cast_of_shapes_and_dtypes():
    after = sl.lens("w").cast({"w": jax.ShapeDtypeStruct((2,), jnp.float32)}, jnp.bfloat16)
    assert after["w"] == jax.ShapeDtypeStruct((2,), jnp.bfloat16)


def test_bind_gives_the_live_cells_and_views_of_their_parts():
    tree = stateful()
    bound = sl.lens("layer.bias | count").bind(tree)
    assert list(bound) == [("count",), ("layer", "bias")]
    assert bound["count"] is tree["count"]
    bound["layer.bias"].value = jnp.ones(3)
    assert same(tree["layer"].value["bias"], jnp.ones(3))


def test_a_bound_lens_refuses_an_array_that_is_no_state():
    with pytest.raises(sl.StateTypeError, match=r"'plain'\nthere is an array in an immutable tree"):
        sl.lens("plain").bind(stateful())["plain"]


# The focus alone


@pytest.mark.parametrize("tree", [model(), stateful()])
@pytest.mark.parametrize("spec", ["**.weight", sl.State, sl.inexact, None, ...])
def test_the_focus_is_the_first_half(tree, spec):
    lens = sl.lens(spec, optional=True)
    assert same(lens.focus(tree), lens.partition(tree)[0])


def test_the_focus_of_a_part_of_an_array_is_the_part():
    assert sl.lens("w")[:1].focus({"w": jnp.ones((3, 2))})["w"].shape == (1, 2)


def test_the_focus_of_a_bound_lens_is_the_values_by_path():
    tree = stateful()
    bound = sl.lens(sl.ParamState).bind(tree)
    assert list(bound.focus()) == [("embed",), ("layer",)]
    assert same(bound.focus(), bound.values_dict())


def test_a_pattern_that_matches_nothing_has_no_focus():
    with pytest.raises(sl.PathError, match="asked focus for 'trunk', which matches nothing"):
        sl.lens("trunk").focus(stateful())
