"""Paths: written and read, resolved, and matched by patterns on trees of all kinds."""

import enum
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import caret
from tests.strategies import keys, names, patterns


class Point(NamedTuple):
    x: Any
    y: Any


# Written and read


@given(st.lists(keys).map(tuple))
def test_parse_reads_what_format_writes(path):
    read = sl.path.parse(sl.path.format(path))
    assert read == path
    assert [type(key) for key in read] == [type(key) for key in path]


@given(st.lists(names, min_size=1))
def test_names_are_written_with_dots(path):
    assert sl.path.format(tuple(path)) == ".".join(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("layers", 0, "weight"), "layers[0].weight"),
        (("table", "a b", "w"), "table['a b'].w"),
        ((0, "w"), "[0].w"),
        (("a.b",), "['a.b']"),
        (("",), "['']"),
        (("0", -1, 1.5, True, None, (1, "x")), "['0'][-1][1.5][True][None][(1, 'x')]"),
        (("items",), "items"),
        (("größe",), "größe"),
    ],
)
def test_written_form(path, text):
    assert sl.path.format(path) == text
    assert sl.path.parse(text) == path


def test_a_text_key_and_a_position_are_read_as_what_they_are():
    assert sl.path.parse("layers[0]") == ("layers", 0)
    assert sl.path.parse("layers['0']") == ("layers", "0")


def test_a_number_after_a_dot_is_refused_with_both_ways_to_write_it():
    with pytest.raises(sl.PatternError, match="a number is no name") as error:
        sl.path.parse("layers.0.weight")
    assert caret(error) == 7
    assert "[0] for a position" in str(error.value)
    assert "['0'] for a text key" in str(error.value)


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("a..b", 2, "expected a name, not '.'"),
        ("a.", 2, "expected a name"),
        (".a", 0, "expected a name, not '.'"),
        ("a b", 1, r"expected '\.', '\[' or the end, not ' '"),
        ("a]", 1, "not ']'"),
        ("a[0]b", 4, "expected '.', '.' or the end, not 'b'"),
        ("a[0", 1, r"the '\[' that opens here is never closed"),
        ("a['b]", 2, "the quote that opens here is never closed"),
        ("a[]", 2, "'' in brackets is no key"),
        ("a[b]", 2, "'b' in brackets is no key"),
        ("a[{}]", 2, "in brackets is no key"),
        ("a.*", 2, r"expected a name, not '\*'"),
    ],
)
def test_text_that_is_no_path_is_refused_at_the_character(text, position, problem):
    with pytest.raises(sl.PatternError, match=problem) as error:
        sl.path.parse(text)
    assert f"  {text}\n" in str(error.value)
    assert caret(error) == position


# Resolved

TREE = {
    "layers": [jnp.zeros(1), {"0": jnp.ones(1), "items": Point(1.0, 2.0)}],
    "linear": eqx.nn.Linear(2, 3, key=jax.random.key(0)),
    -1: (3.0, 4.0),
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ((), TREE),
        (("layers", 0), TREE["layers"][0]),
        (("layers", 1, "0"), TREE["layers"][1]["0"]),
        (("layers", 1, "items", "y"), 2.0),
        (("linear", "weight"), TREE["linear"].weight),
        ((-1, 1), 4.0),
    ],
)
def test_resolve_follows_a_path(path, found):
    assert sl.path.resolve(TREE, path) is found


def test_resolve_names_the_node_where_the_path_ends():
    with pytest.raises(sl.PathError, match=r"'layers\[1\]' is a dict without 'weight'"):
        sl.path.resolve(TREE, ("layers", 1, "weight"))


def test_resolve_tells_a_text_key_from_a_position():
    with pytest.raises(sl.PathError, match="'layers' is a list without '0'"):
        sl.path.resolve(TREE, ("layers", "0"))


def test_resolve_does_not_take_a_method_for_a_key():
    with pytest.raises(sl.PathError, match="the tree is a dict without 'values'"):
        sl.path.resolve({"w": 1.0}, ("values",))


def test_resolve_does_not_add_to_a_defaultdict():
    tree = defaultdict(list, w=[1.0])
    with pytest.raises(sl.PathError, match="is a defaultdict without 'missing'"):
        sl.path.resolve(tree, ("missing",))
    assert tree == {"w": [1.0]}


def test_resolve_goes_on_inside_a_state():
    bias = jnp.ones(1)
    tree = {"layer": sl.State({"bias": bias})}
    (path,) = sl.lens("layer.bias").paths(tree)
    assert sl.path.resolve(tree, path) is bias


# Patterns on containers


def written_paths(pattern, tree):
    return [sl.path.format(path) for path in sl.lens(pattern, optional=True).paths(tree)]


w = jnp.ones(1)


@pytest.mark.parametrize(
    ("tree", "pattern", "paths"),
    [
        ({"items": w, "keys": w}, "items", ["items"]),
        ({"0": w, "1": w}, "['0']", ["['0']"]),
        ({"0": w}, "[0]", []),
        ([w, w], "['0']", []),
        ([w, w], "[0]", ["[0]"]),
        ({0: w, 1: w}, "[0]", ["[0]"]),
        ({-1: w, 0: w}, "[-1]", ["[-1]"]),
        ([w, w, w], "[-1]", ["[2]"]),
        ((w, w, w), "[1:]", ["[1]", "[2]"]),
        ({0: w, 1: w, 2: w}, "[1:]", []),
        ({(1, "a"): w, (2, "a"): w}, "[1].a", ["[1].a"]),
        ({((1, 2), "a"): w, ((1, 3), "a"): w}, "[(1, 2)].a", ["[(1, 2)].a"]),
        ({"a.b": w, "a": {"b": w}}, "a.b", ["a.b"]),
        ({"a.b": w, "a": {"b": w}}, "['a.b']", ["['a.b']"]),
        (Point(w, {"y": w}), "x", ["x"]),
        (Point(w, {"y": w}), "y.*", ["y.y"]),
        (OrderedDict(z=w, a=w), "*", ["z", "a"]),
        (defaultdict(list, a=[w], b=[w, w]), "b[-1]", ["b[1]"]),
        (eqx.nn.Linear(1, 1, key=jax.random.key(0)), "weight", ["weight"]),
        (eqx.nn.MLP(1, 1, 2, 2, key=jax.random.key(0)), "layers[-1].bias", ["layers[2].bias"]),
        (w, "''", [""]),
        (w, "**", [""]),
        (w, "*", []),
    ],
)
def test_pattern_on_a_container(tree, pattern, paths):
    assert written_paths(pattern, tree) == paths


def test_the_key_true_is_not_the_position_one():
    assert written_paths("[1]", {True: w}) == []
    assert written_paths("[True]", {True: w}) == ["[True]"]


@given(st.lists(keys, min_size=1, max_size=3).map(tuple))
@example(((0, ":"),))
@example(("a:b", "{", "*"))
def test_a_written_path_is_a_pattern_that_matches_just_itself(path):
    # A tuple key of a dictionary would be a path, but one inside of a tuple is a key.
    tree = {path: w}
    assert sl.lens(sl.path.format(path)).paths(tree) == (path,)
    assert sl.lens(sl.path.format((*path, "more")), optional=True).paths(tree) == ()


@given(patterns)
def test_a_double_star_before_a_pattern_finds_it_at_any_depth(pattern):
    tree = {"a": [w, {"b": w}], "c": (w, {"a": w})}
    found = sl.lens(pattern, optional=True).paths(tree)
    after = "" if pattern.startswith("[") else "."
    below = sl.lens(f"**{after}{pattern}", optional=True).paths({"top": {"node": tree}})
    assert {("top", "node", *path) for path in found} <= set(below)


class Color(str, enum.Enum):  # noqa: UP042 (one that is written as its name)
    RED = "red"
    DARK = "dark red"


class Level(enum.IntEnum):
    LOW = 1


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


class Kind(enum.Flag):
    A = 1
    B = 2


@pytest.mark.parametrize(
    ("key", "text"), [(Side.LEFT, "[Side.LEFT]"), (Kind.A | Kind.B, "[Kind.A|B]")]
)
def test_members_of_enumerations_are_written_as_in_python_and_read_by_lenses(key, text):
    assert written_paths("*", {key: w}) == [text]
    assert written_paths(text, {key: w}) == [text]
    assert str(sl.lens(text)) == text
    ordered = OrderedDict([(Side.RIGHT, w), (key, w)])
    assert written_paths(f"a{text}", {"a": ordered}) == [f"a{text}"]
    assert written_paths(f"a.{{{text}}}", {"a": ordered}) == [f"a{text}"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Color.RED, "red"),
        (Color.DARK, "['dark red']"),
        (Level.LOW, "[1]"),
        (frozenset({"b", "a"}), "[frozenset({'a', 'b'})]"),
        (frozenset({(1, 2)}), "[frozenset({(1, 2)})]"),
        (frozenset(), "[frozenset()]"),
    ],
)
def test_enumerations_and_frozen_sets_as_keys_are_written_and_read(key, text):
    assert written_paths("*", {key: w}) == [text]
    assert sl.path.parse(text) == (key,)
    assert written_paths(text, {key: w}) == [text]
