"""A part of an array."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.lens.trees import stateful
from tests.strategies import same


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
    [3, 0, -3],
    np.array([1, 3]),
    [],
    (slice(1, 3), [2, 0]),
    (..., [-1]),
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
    moments = optimizer.init(lens.focus(tree))
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


@pytest.mark.parametrize(
    ("text", "index"), [("[1:3]", slice(1, 3)), ("[-1]", -1), ("[::2]", slice(None, None, 2))]
)
def test_rows_of_an_array_that_a_pattern_names(text, index):
    tree = {"table": {"weight": jnp.arange(12.0).reshape(4, 3)}, "weight": jnp.ones(())}
    for pattern in ("table.weight", "**.weight", "table.{weight,bias}"):
        lens = sl.lens(f"{pattern}{text}")
        assert same(lens.get(tree), {("table", "weight"): tree["table"]["weight"][index]})
        assert str(lens) == f"{pattern}{text}"
        assert sl.lens(str(lens)) == lens
        assert same(lens.set(tree, lens.get(tree)), tree)


def test_rows_of_what_is_the_value_of_a_state_and_inside_of_it():
    tree = {"a": sl.State(jnp.arange(4.0)), "b": sl.State({"w": jnp.arange(4.0)})}
    assert same(sl.lens("a[1:3]").get(tree), {("a",): jnp.array([1.0, 2.0])})
    assert same(sl.lens("b.w[3]").get(tree), {("b", "w"): jnp.array(3.0)})
    assert sl.lens("a[1:3]").bind(tree)["a"].value.shape == (2,)
    with pytest.raises(sl.PathError, match=r"'b\[1:3\]', which matches nothing"):
        sl.lens("b[1:3]").get(tree)


@pytest.mark.parametrize("make", [lambda value: value, sl.State])
def test_items_of_a_list_go_before_rows_of_its_arrays(make):
    tree = {"w": make([jnp.ones(3), jnp.zeros(3), jnp.ones(1)])}
    assert sl.lens("w[:2]").paths(tree) == (("w", 0), ("w", 1))
    assert sl.lens("w[0][1:]").count(tree) == 2


def test_rows_are_asked_for_by_name():
    tree = {"w": jnp.ones(3), "l": [jnp.ones(3)]}
    assert sl.lens("*[0]").paths(tree) == sl.lens("**[0]").paths(tree) == (("l", 0),)
    assert sl.lens("w[:2] | l[0]").count(tree) == 5


@pytest.mark.parametrize("text", ["w[3]", "w[-4]", "w[0].x", "x[:1]", "w[0][0]", "w[True]"])
def test_rows_that_are_not_there_match_nothing(text):
    with pytest.raises(sl.PathError, match="which matches nothing"):
        sl.lens(text).get({"w": jnp.ones(3)})


def test_a_part_along_several_axes_is_written_with_parentheses():
    with pytest.raises(sl.PatternError, match=r"\(embed.weight\)\[1:4, 0\], with parentheses"):
        sl.lens("w[1:2, 0]")


def test_a_part_of_a_part_is_refused():
    with pytest.raises(sl.SelectionError, match=r"part \[0:1\] of a part of 'w'(.|\n)*one index"):
        sl.lens("w")[2:5][0:1].get({"w": jnp.arange(6.0)})


def test_an_index_out_of_bounds_is_refused_with_path_and_shape():
    tree = {"embed": jnp.zeros((4, 3))}
    with pytest.raises(sl.StructureError, match=r"part \[4\] of 'embed'\nits shape is \(4, 3\)"):
        sl.lens("embed")[4].get(tree)
    with pytest.raises(sl.StructureError, match=r"too many indices"):
        sl.lens("embed")[0, 0, 0].get(tree)


@pytest.mark.parametrize("index", ["a", 1.5, True, [0.5], [True], [[0]], None, np.zeros(1)])
def test_an_index_that_chooses_no_part_is_refused(index):
    with pytest.raises(sl.StructureError, match=r"chosen by integers, slices, '...' and a list"):
        sl.lens("embed")[index]


def test_positions_along_two_axes_or_beside_an_integer_are_refused():
    for index in (([0], [1]), ([0], 1)):
        with pytest.raises(sl.StructureError, match=r"positions are chosen along one axis"):
            sl.lens("embed")[index]


@pytest.mark.parametrize("index", [[1, 1], [1, -3], (slice(None), [0, -3]), (..., [0, 0])])
def test_a_row_that_is_chosen_twice_is_refused(index):
    with pytest.raises(sl.StructureError, match=r"part .* of 'embed'\n.* are not all different"):
        sl.lens("embed")[index].get({"embed": jnp.zeros((4, 3))})


def test_scattered_rows_are_trained_and_the_others_held_still():
    tree = {"bias": jnp.zeros(3), "embed": jnp.arange(12.0).reshape(4, 3)}
    lens = sl.lens("embed")[[3, 1]]
    assert str(lens) == "(embed)[[3, 1]]"
    assert sl.lens(str(lens)) == lens
    assert sl.lens("(a)[:, [0, -1], ...]") == sl.lens("a")[:, [0, -1], ...]
    assert sl.lens("a")[[1, 2, 3]] != sl.lens("a")[1:2:3]
    gradient = sl.jit(sl.grad(lambda t: jnp.sum(t["embed"] ** 3), lens))(tree)["embed"]
    np.testing.assert_allclose(gradient, 3 * tree["embed"][jnp.array([3, 1])] ** 2)
    after = lens.apply_updates(tree, {"bias": None, "embed": -gradient})["embed"]
    np.testing.assert_array_equal(after[::2], tree["embed"][::2])
    assert not np.any(after[1::2] == tree["embed"][1::2])
    bound = lens.bind({"embed": sl.ParamState(tree["embed"])})
    bound["embed"].value = jnp.ones((2, 3))
    np.testing.assert_array_equal(bound["embed"].cell.value.sum(1), [3, 3, 21, 3])


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
