"""The lens: what it selects, how it is written, and what its operations do."""

import operator
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

import statelens as sl
from tests.helpers import caret
from tests.strategies import Point, python_expressions, same, written_lenses


class Block(eqx.Module):
    linear: eqx.nn.Linear
    scale: jax.Array
    activation: object = jax.nn.relu

    def __init__(self, key):
        self.linear = eqx.nn.Linear(2, 2, key=key)
        self.scale = jnp.ones(2)


def model():
    """An Equinox model inside plain containers, with everything that a pattern can ask for."""
    return {
        "encoder": {"layers": [Block(jax.random.key(i)) for i in range(3)], "norm": jnp.ones(2)},
        "head": Point(jnp.zeros((2, 3)), jnp.zeros(3)),
        "a b": {"w": jnp.arange(3)},
        "steps": 10,
        "unused": None,
    }


def stateful():
    """A tree with states: one array, a dictionary, a shared one."""
    shared = sl.ParamState(jnp.ones((2, 2)), tag="slow")
    return {
        "embed": shared,
        "head": shared,
        "layer": sl.ParamState({"weight": jnp.ones((2, 3)), "bias": jnp.zeros(3)}),
        "count": sl.State(jnp.array(0), tag=("slow", "count")),
        "plain": jnp.zeros(2),
    }


def written(lens, tree):
    return [sl.path.format(path) for path in sl.lens(lens).paths(tree)]


# The language: patterns

BLOCK_0 = ["linear.weight", "linear.bias", "scale"]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("encoder.norm", ["encoder.norm"]),
        ("encoder.layers[0].scale", ["encoder.layers[0].scale"]),
        ("encoder.layers[0].*", ["encoder.layers[0].scale"]),
        ("encoder.layers[0].**", [f"encoder.layers[0].{name}" for name in BLOCK_0]),
        ("*.norm", ["encoder.norm"]),
        ("*.*", ["['a b'].w", "encoder.norm", "head.x", "head.y"]),
        ("**.norm.**", ["encoder.norm"]),
        ("encoder.layers[*].scale", [f"encoder.layers[{i}].scale" for i in range(3)]),
        ("encoder.*[1].scale", ["encoder.layers[1].scale"]),
        ("encoder.layers[-1].scale", ["encoder.layers[2].scale"]),
        ("encoder.layers[-3].scale", ["encoder.layers[0].scale"]),
        ("encoder.layers[1:].scale", ["encoder.layers[1].scale", "encoder.layers[2].scale"]),
        ("encoder.layers[:-2].scale", ["encoder.layers[0].scale"]),
        ("encoder.layers[::2].scale", ["encoder.layers[0].scale", "encoder.layers[2].scale"]),
        ("encoder.layers[::-2].scale", ["encoder.layers[0].scale", "encoder.layers[2].scale"]),
        ("encoder.layers.{[0],[-1]}.scale", ["encoder.layers[0].scale", "encoder.layers[2].scale"]),
        (
            "encoder.layers[0].linear.{weight, bias}",
            [f"encoder.layers[0].{n}" for n in BLOCK_0[:2]],
        ),
        ("{encoder,head}.{n*,x}", ["encoder.norm", "head.x"]),
        ("enc*.n*m", ["encoder.norm"]),
        ("**.s*e", [f"encoder.layers[{i}].scale" for i in range(3)]),
        ("['a b'].w", ["['a b'].w"]),
        ("['a b'].*", ["['a b'].w"]),
        ("re:head.*", ["head.x", "head.y"]),
        ("re:.*[xy]", ["head.x", "head.y"]),
        ("re:x", []),
        (r"re:'.*\\.norm'", ["encoder.norm"]),
        ("**.head.x", ["head.x"]),
        ("steps", []),
        ("unused", []),
        ("head", []),
        ("nowhere?", []),
    ],
)
def test_pattern(pattern, paths):
    assert written(pattern, model()) == paths


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("head.* | encoder.norm", ["encoder.norm", "head.x", "head.y"]),
        ("head.* & *.x", ["head.x"]),
        ("head.* - head.x", ["head.y"]),
        ("head.* & ~head.x", ["head.y"]),
        ("~encoder.** - ['a b'].w", ["head.x", "head.y"]),
        ("encoder / norm", ["encoder.norm"]),
        ("encoder.layers[0] / linear.*", [f"encoder.layers[0].{name}" for name in BLOCK_0[:2]]),
        ("encoder.layers[0] / linear / bias", ["encoder.layers[0].linear.bias"]),
        ("** / norm", ["encoder.norm"]),
        ("(head | encoder) / {x,norm}", ["encoder.norm", "head.x"]),
        ("head.* & nowhere?", []),
        ("re:'head.*' & *.x", ["head.x"]),
    ],
)
def test_algebra_in_text(text, paths):
    assert written(text, model()) == paths


def test_an_unquoted_regular_expression_goes_on_to_the_end():
    assert written("re:head.x|head.y", model()) == ["head.x", "head.y"]


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("", 0, "expected a path pattern"),
        ("layers.0", 7, "a number is no name"),
        ("a..b", 2, "expected a name, not '.'"),
        ("a &", 3, "expected a path pattern"),
        ("a & & b", 4, "expected a path pattern, not '&'"),
        ("| a", 0, r"expected a path pattern, not '\|'"),
        ("a b", 2, "expected an operator or the end, not 'b'"),
        ("a)", 1, r"expected an operator or the end, not '\)'"),
        ("b & (a | c", 4, r"the '\(' that opens here is never closed"),
        ("a[0", 1, r"the '\[' that opens here is never closed"),
        ("a['x]", 2, "the quote that opens here is never closed"),
        ("a[b]", 2, "'b' in brackets is no key"),
        ("a[1:2:3:4]", 1, r"\[1:2:3:4\] is no slice"),
        ("a[x:]", 1, r"\[x:\] is no slice"),
        ("a.***", 4, r"there is no '\*\*\*'"),
        ("{a,}", 3, "a choice needs something between its commas"),
        ("{a b}", 3, "expected ',' or '}', not 'b'"),
        ("x.{a", 2, "the '{' that opens here is never closed"),
        ("(a)[x]", 3, r"\[x\] is no index"),
        ("(a)[1.5]", 3, r"\[1.5\] is no index"),
        ("(a)[True]", 3, r"\[True\] is no index"),
        ("re:a(", 4, "no regular expression"),
        ("re:'a('", 5, "no regular expression"),
        ("a & @ParamState", 4, "a class, a predicate or a mask can't be read from text"),
    ],
)
def test_text_that_is_no_lens_is_refused_at_the_character(text, position, problem):
    with pytest.raises(sl.PatternError, match=problem) as error:
        sl.lens(text)
    assert f"could not read the lens:\n  {text}\n" in str(error.value)
    assert caret(error) == position


def test_a_number_after_a_dot_is_refused_with_both_ways_to_write_it():
    with pytest.raises(sl.PatternError, match=r"\[0\] for a position(.|\n)*\['0'\] for a text key"):
        sl.lens("encoder.layers.0.scale")


# The language: text and back


@given(written_lenses)
def test_a_lens_of_patterns_is_text_and_back(lens):
    assert sl.lens(str(lens)) == lens
    assert eval(repr(lens), {"lens": sl.lens}) == lens


@given(python_expressions)
def test_text_binds_as_python_does(expression):
    texts = {"A": "a.*", "B": "**.b", "C": "layers[0]"}
    in_python = eval(expression, {name: sl.lens(text) for name, text in texts.items()})
    in_text = expression
    for name, text in texts.items():
        in_text = in_text.replace(name, text)
    assert sl.lens(in_text) == in_python


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("**.weight&~encoder.**", "**.weight & ~encoder.**"),
        ("a|(b&c)", "a | b & c"),
        ("(a|b)&c", "(a | b) & c"),
        ("a & (b & c)", "a & (b & c)"),
        ("a - b", "a & ~b"),
        ("a / b / c", "a / b / c"),
        ("a / (b / c)", "a / (b / c)"),
        ("~(a / b)", "~(a / b)"),
        ("(embed.weight)[100:110]", "(embed.weight)[100:110]"),
        ("(a | b)[..., 0, ::2]", "(a | b)[..., 0, ::2]"),
        ("layers[-1].{weight, [0]}?", "layers[-1].{weight,[0]}?"),
        ("a[*]['b'][\"c d\"]", "a.*.b['c d']"),
        ("re:a|b", "re:'a|b'"),
        ("''", "''"),
    ],
)
def test_written_form(text, written):
    assert str(sl.lens(text)) == written
    assert sl.lens(written) == sl.lens(text)


def test_everything_and_nothing_are_read_back_as_such():
    tree = model()
    assert written(str(sl.lens(...)), tree) == written(..., tree)
    assert written(str(sl.lens(None)), tree) == []


def test_what_cannot_be_read_back_is_shown_by_its_name():
    lens = sl.lens(sl.ParamState) & (sl.ndim >= 2) & sl.inexact & sl.tagged("slow")
    assert repr(lens) == "lens(\"@ParamState & @ndim >= 2 & @inexact & @tagged('slow')\")"


def test_a_lens_is_a_value():
    a, b = sl.lens("**.w") & sl.ParamState, sl.lens("**.w") & sl.lens(sl.ParamState)
    assert a == b
    assert len({a, b, sl.lens("**.w")}) == 2
    assert pickle.loads(pickle.dumps(a)) == a


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


# A part of an array


@pytest.fixture(params=[jnp.asarray, np.asarray], ids=["jax", "numpy"])
def embed(request):
    return {"bias": jnp.zeros(2), "embed": request.param(np.arange(12, dtype="f4").reshape(4, 3))}


INDICES = [
    slice(1, 3),
    slice(None, None, 2),
    -1,
    (slice(None), 0),
    (1, slice(0, 2)),
    (..., -1),
    (0, 0),
]


@pytest.mark.parametrize("index", INDICES)
def test_the_part_is_that_of_numpy(embed, index):
    lens = sl.lens("embed")[index]
    expected = np.asarray(embed["embed"])[index]
    focus, _ = lens.partition(embed)
    np.testing.assert_array_equal(lens.only(embed), expected)
    np.testing.assert_array_equal(focus["embed"], expected)
    assert lens.count(embed) == expected.size
    assert lens.nbytes(embed) == expected.nbytes


@pytest.mark.parametrize("index", INDICES)
def test_the_halves_of_a_part_combine(embed, index):
    assert same(sl.combine(*sl.lens("embed")[index].partition(embed)), embed)


@pytest.mark.parametrize("index", INDICES)
def test_update_of_a_part_changes_just_that(embed, index):
    before = np.array(embed["embed"])
    after = sl.lens("embed")[index].update(embed, lambda part: part + 100)
    expected = before.copy()
    expected[index] += 100
    np.testing.assert_array_equal(after["embed"], expected)
    np.testing.assert_array_equal(embed["embed"], before)
    assert after["bias"] is embed["bias"]


def test_setting_the_part_that_is_there_changes_nothing(embed):
    lens = sl.lens("embed")[1:3]
    assert same(lens.set(embed, lens.get(embed)), embed)


def test_setting_a_part_of_another_shape_is_refused(embed):
    with pytest.raises(sl.StructureError, match=r"'embed'\n.*shape is \(3,\).*is \(2, 3\)"):
        sl.lens("embed")[1:3].set(embed, {"embed": jnp.zeros(3)})


def test_setting_the_whole_array_in_the_place_of_its_part_is_refused(embed):
    with pytest.raises(sl.StructureError, match=r"its shape is \(4, 3\).*is \(2, 3\)"):
        sl.lens("embed")[1:3].set(embed, {"embed": embed["embed"]})


def test_gradient_and_optimiser_state_have_the_shape_of_the_part():
    tree = {"bias": jnp.zeros(3), "embed": jnp.arange(12.0).reshape(4, 3)}
    lens = sl.lens("embed")[1:3]

    def loss(tree):
        return jnp.sum(tree["embed"] ** 3) + jnp.sum(tree["bias"])

    gradient = sl.grad(loss, grad_states=lens)(tree)
    np.testing.assert_allclose(gradient["embed"], 3 * tree["embed"][1:3] ** 2)
    assert gradient["bias"] is None
    optimizer = optax.sgd(0.1, momentum=0.9)
    moments = optimizer.init(lens.partition(tree)[0])
    assert [leaf.shape for leaf in jax.tree.leaves(moments)] == [(2, 3)]
    updates, _ = optimizer.update(gradient, moments)
    after = lens.apply_updates(tree, updates)
    moved = [bool(jnp.any(a != b)) for a, b in zip(after["embed"], tree["embed"], strict=True)]
    assert moved == [False, True, True, False]
    assert after["bias"] is tree["bias"]


def test_a_part_of_what_lies_in_a_state():
    tree = stateful()
    lens = sl.lens("layer.weight")[0]
    gradient = sl.grad(lambda t: jnp.sum(t["layer"].value["weight"] ** 2), grad_states=lens)(tree)
    np.testing.assert_array_equal(gradient["layer"].value["weight"], [2.0, 2.0, 2.0])
    after = lens.set(tree, {"layer.weight": jnp.zeros(3)})
    np.testing.assert_array_equal(after["layer"].value["weight"], [[0, 0, 0], [1, 1, 1]])


def test_a_part_of_every_array_that_is_selected():
    tree = {"a": jnp.arange(3.0), "b": jnp.arange(4.0), "c": jnp.arange(5.0)}
    found = sl.lens("{a,b}")[:2].get(tree)
    assert {path: value.shape for path, value in found.items()} == {("a",): (2,), ("b",): (2,)}


@pytest.mark.parametrize("index", [slice(1, 3), 0, ...])
def test_a_part_of_a_numpy_array_keeps_its_dtype(index):
    tree = {"table": np.arange(4.0)}
    lens = sl.lens("table")[index]
    focus, rest = lens.partition(tree)
    assert same(sl.combine(focus, rest), tree)
    assert same(lens.set(tree, lens.get(tree)), tree)
    assert lens.update(tree, lambda part: part + 1)["table"].dtype == np.float64


def test_a_part_of_a_part_is_refused():
    with pytest.raises(sl.SelectionError, match=r"part \[0:1\] of a part of 'w'(.|\n)*one index"):
        sl.lens("w")[2:5][0:1].get({"w": jnp.arange(6.0)})


def test_an_index_out_of_bounds_is_refused_with_path_and_shape():
    tree = {"embed": jnp.zeros((4, 3))}
    with pytest.raises(sl.StructureError, match=r"part \[4\] of 'embed'\nits shape is \(4, 3\)"):
        sl.lens("embed")[4].get(tree)
    with pytest.raises(sl.StructureError, match=r"too many indices"):
        sl.lens("embed")[0, 0, 0].get(tree)


@pytest.mark.parametrize("index", ["a", 1.5, True, [0, 1], None, np.array([0])])
def test_an_index_that_is_not_basic_is_refused(index):
    with pytest.raises(sl.StructureError, match=r"chosen by integers, slices and '...', not by"):
        sl.lens("embed")[index]


def test_the_complement_of_a_part_is_refused():
    tree = {"bias": jnp.zeros(2), "embed": jnp.zeros((4, 3))}
    lens = ~sl.lens("embed")[1:3]
    with pytest.raises(sl.SelectionError, match=r"everything but the part \[1:3\]"):
        lens.partition(tree)


def test_two_parts_of_one_array_are_refused():
    lens = sl.lens("embed")[:1] | sl.lens("embed")[2:]
    with pytest.raises(sl.SelectionError, match=r"the parts \[:1\] and \[2:\] of one array"):
        lens.get({"embed": jnp.zeros((4, 3))})


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        (lambda lens, tree: lens.mask(tree), r"only the part \[1:3\] of 'embed' is selected"),
        (lambda lens, tree: lens.cast(tree, jnp.bfloat16), "an array has one dtype"),
    ],
)
def test_what_a_part_cannot_do_is_refused(use, problem):
    with pytest.raises(sl.SelectionError, match=problem):
        use(sl.lens("embed")[1:3], {"embed": jnp.zeros((4, 3))})


def test_stop_gradient_of_a_part():
    lens = sl.lens("w")[:2]
    gradient = jax.grad(lambda t: jnp.sum(lens.stop_gradient(t)["w"] ** 2))({"w": jnp.ones(3)})
    np.testing.assert_array_equal(gradient["w"], [0.0, 0.0, 2.0])


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


def test_one_pattern_of_several_that_matches_nothing_is_an_error():
    with pytest.raises(sl.PathError, match=r"asked update for 'head.z', which matches nothing"):
        sl.lens("head.x | head.z").update(model(), jnp.ones_like)


def test_the_error_for_a_node_says_how_to_select_below_it():
    with pytest.raises(sl.PathError, match=r"'head' is a node with 2 leaves(.|\n)*'head.\*\*'"):
        sl.lens("head").update(model(), jnp.ones_like)


def test_the_error_for_a_number_says_how_to_make_it_an_array():
    with pytest.raises(sl.PathError, match=r"'steps' is of type int(.|\n)*jnp.asarray"):
        sl.lens("steps").update(model(), jnp.ones_like)


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


def test_apply_updates_refuses_a_wider_dtype():
    tree = {"w": jnp.ones(2, jnp.bfloat16)}
    with pytest.raises(sl.StructureError, match=r"at 'w'\nits dtype is float32, .* is bfloat16"):
        sl.lens("w").apply_updates(tree, {"w": jnp.ones(2)})


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


# Compiled once for each structure


def test_a_predicate_runs_once_for_each_structure():
    calls = []
    lens = sl.lens(lambda path, unit: calls.append(path) or True)

    def calls_on(tree):
        calls.clear()
        assert lens.count(tree) > 0
        return len(calls)

    assert calls_on({"w": jnp.ones(2), "s": sl.State(jnp.ones(3))}) == 2
    assert calls_on({"w": jnp.zeros(2), "s": sl.State(jnp.zeros(3))}) == 0
    assert calls_on({"w": jnp.ones(4), "s": sl.State(jnp.ones(3))}) == 2
    assert calls_on({"w": jnp.ones(2), "s": sl.State(jnp.ones(3, jnp.bfloat16))}) == 2
    assert calls_on({"w": jnp.ones(2), "s": sl.State(jnp.ones(3), tag="new")}) == 2
    assert calls_on({"w": jnp.ones(2), "s": sl.State(jnp.ones(3))}) == 0


def test_what_follows_from_shape_and_dtype_is_seen_anew():
    lens = (sl.ndim == 2) & sl.inexact
    assert written(lens, {"w": jnp.ones((2, 2))}) == ["w"]
    assert written(lens, {"w": jnp.ones(2)}) == []
    assert written(lens, {"w": jnp.ones((2, 2), int)}) == []
    assert written(sl.size == 2, {"s": sl.State(jnp.ones(2))}) == ["s"]
    assert written(sl.size == 2, {"s": sl.State(jnp.ones(3))}) == []


def test_what_follows_from_the_states_is_seen_anew():
    one, other = sl.State(jnp.ones(1)), sl.State(jnp.ones(1))
    assert written("b", {"a": one, "b": one}) == ["a"]
    assert written("b", {"a": one, "b": other}) == ["b"]
    assert written(sl.tagged("new"), {"a": sl.State(jnp.ones(1))}) == []
    assert written(sl.tagged("new"), {"a": sl.State(jnp.ones(1), tag="new")}) == ["a"]


def test_a_tree_with_something_static_that_cannot_be_hashed_is_no_problem():
    class Unhashable(eqx.Module):
        w: jax.Array
        options: dict = eqx.field(static=True)

    assert written("w", Unhashable(jnp.ones(1), {"a": [1]})) == ["w"]


@jax.tree_util.register_pytree_node_class
class Opening:
    """A node that opens the state that it holds by itself."""

    def __init__(self, state):
        self.state = state

    def tree_flatten(self):
        return (jax.tree.leaves(self.state)[0],), self.state.metadata

    @classmethod
    def tree_unflatten(cls, metadata, children):
        return cls(sl.State(*children))


def test_a_node_may_flatten_states_by_itself():
    tree = {"a": Opening(sl.State(jnp.ones(2))), "b": jnp.zeros(3)}
    focus, rest = sl.lens("b").partition(tree)
    assert focus["b"] is tree["b"]
    assert rest["a"].state.value is tree["a"].state.value
    assert sl.lens(...).count(tree) == 5


def test_an_error_of_a_node_comes_out():
    class Broken(Opening):
        def tree_flatten(self):
            raise ValueError("broken")

    jax.tree_util.register_pytree_node_class(Broken)
    with pytest.raises(ValueError, match="broken"):
        sl.lens(...).get([Broken(None)])


def test_two_rests_of_one_partition_are_refused_by_the_path_of_the_part():
    rest = sl.lens("a")[:1].partition({"a": jnp.ones(2)})[1]
    with pytest.raises(sl.StructureError, match="2 of them have a leaf at 'a'"):
        sl.combine(rest, rest)


@pytest.mark.parametrize("other", [{"a": {"b": None}}, {"a": [None]}, {"a": (), "c": None}, []])
def test_halves_with_a_tree_in_the_place_of_a_leaf_differ_in_structure(other):
    with pytest.raises(sl.StructureError, match="asked to combine halves"):
        sl.combine({"a": jnp.ones(2)}, other)
    with pytest.raises(sl.StructureError, match="asked to apply updates"):
        sl.lens("a").apply_updates({"a": jnp.ones(2)}, other)


@pytest.mark.parametrize("before", [None, sl.State({"x": jnp.ones(1), "y": jnp.ones(1)})])
def test_an_update_of_what_is_not_selected_is_named_by_its_own_path(before):
    tree = {"a": before, "b": jnp.ones(1), "w": jnp.ones(1)}
    with pytest.raises(sl.StructureError, match=r"not to 'b'\nthere is an update for that"):
        sl.lens("w").apply_updates(tree, {**tree, "a": None})


def test_an_update_of_what_is_not_selected_is_refused():
    tree = {"b": jnp.ones(1), "w": jnp.ones(1)}
    with pytest.raises(sl.StructureError, match=r"not to 'b'\nthere is an update for that"):
        sl.lens("w").apply_updates(tree, {"b": jnp.ones(1), "w": jnp.ones(1)})
    updates = sl.lens("w").partition({"b": jnp.ones(1), "w": jnp.ones(1)})[0]
    assert sl.lens("w").apply_updates(tree, updates) == {"b": 1.0, "w": 2.0}


@pytest.mark.parametrize("use", ["mask", "partition"])
def test_a_pattern_that_matches_nothing_is_no_silent_mask_and_no_empty_part(use):
    tree = {"layer": {"bias": jnp.ones(1), "weight": jnp.ones(1)}}
    with pytest.raises(KeyError, match=r"'\*\*.wieght', which matches nothing\n.*layer.weight"):
        getattr(sl.lens("**.wieght"), use)(tree)
    with pytest.raises(KeyError, match="matches nothing"):
        getattr(~sl.lens("layers.**") & sl.inexact, use)(tree)
    getattr(sl.lens("**.wieght", optional=True), use)(tree)
    getattr(sl.ndim > 3, use)(tree)


def test_a_typed_class_of_states_selects_as_the_class_does():
    tree = {"a": sl.ParamState(jnp.zeros(2)), "b": sl.State(jnp.zeros(2)), "c": jnp.zeros(2)}
    assert sl.lens(sl.ParamState[jax.Array]).paths(tree) == (("a",),)
