"""The language of lenses: patterns, and the operators between them."""

import re

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import caret
from tests.lens.trees import model, written

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
        ("steps", ["steps"]),
        ("re:steps", []),
        ("st*", []),
        ("unused", []),
        ("head", []),
        ("nowhere?", []),
    ],
)
def test_pattern(pattern, paths):
    assert written(sl.lens(pattern, optional=True), model()) == paths
    if not paths and not pattern.endswith("?"):
        with pytest.raises(sl.PathError, match="which matches nothing"):
            written(pattern, model())


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


# What would take for ever, if each way to divide a path were tried by itself.
@pytest.mark.parametrize(
    ("expression", "is_there"),
    [
        (r"(a+)+\.c", False),
        (r"(a+)+\.b", True),
        (r"(.*)*\.c", False),
        (r"((a+)*)*\.c", False),
        (r"(\w+\.?)*!", False),
        (r"(a|a)*\.c", False),
        (r"(?i:(A|aa)+)\.(?!c)b", True),
        (".*.*.*.*.*.*.*!", False),
        (r"(?=(a+)+\.c).*", False),
    ],
)
def test_a_regular_expression_is_matched_in_a_time_that_is_bounded(expression, is_there):
    tree = {"a" * 200: {"b": jnp.ones(1)}}
    lens = sl.lens(f"re:{expression}", optional=True)
    assert len(lens.paths(tree)) == is_there


@pytest.mark.parametrize(
    "text",
    [
        "nope? / ** / ** / ** / ** / **",
        "** / (** / (** / (** / nope?)))",
        "** / **.nope? / **.nope? / **.nope? / **",
        "**.a.**.a.**.a.**.a.**.a.nope?",
        "*a*a*a*a*a*a*a*a*nope?",
    ],
)
def test_wildcards_in_a_row_are_matched_in_a_time_that_is_bounded(text):
    tree = jnp.ones(1)
    for _ in range(60):
        tree = {"a": tree, "a" * 60: tree} if _ == 30 else {"a": tree}
    assert sl.lens(text, optional=True).paths(tree) == ()


CHARACTERS = [*"ab.^$", r"\.", "[ab]", "[^a]", "[]a]", r"\w", r"\d", r"\x61", r"\b", "(?#c)"]
REPEATS = ["", "*", "+", "?", "{2}", "{,2}", "{1,}", "*?", "+?", "{1,2}?"]
GROUPS = ["(%s)", "(?:%s)", "(?i:%s)"]


def _longer(parts):
    groups = st.builds(lambda group, part: group % part, st.sampled_from(GROUPS), parts)
    repeated = st.builds("{}{}".format, groups, st.sampled_from(REPEATS))
    looks = st.builds(lambda look, part: look % part, st.sampled_from(["(?=%s)", "(?!%s)"]), parts)
    joined = [st.lists(parts, max_size=3).map(by.join) for by in ("", "|")]
    return st.one_of(repeated, looks, st.builds("a{}".format, st.sampled_from(REPEATS)), *joined)


@given(
    st.recursive(st.sampled_from(CHARACTERS), _longer, max_leaves=6),
    st.text("aAb.1", min_size=1, max_size=6),
)
def test_a_regular_expression_matches_what_it_does_in_python(expression, key):
    lens = sl.lens(f"re:{expression!r}", optional=True)
    written = sl.path.format((key,))
    is_there = re.fullmatch(expression, written) is not None
    assert len(lens.paths({key: jnp.ones(1)})) == is_there


@pytest.mark.parametrize(
    ("expression", "key"),
    [
        ("(?i)AB", "ab"),
        (r"\141\u0061\N{DIGIT ONE}", "aa1"),
        (r"(?P<one>a)\\?b[\1a]?", "ab"),
        ("(?<=a)b|a(?<!b)b", "ab"),
        ("(?:ab(?<=aa|ab)|a(?<=b))(?<!^b)", "ab"),
        ("(a?){1000000}b", "aab"),
    ],
)
def test_a_regular_expression_is_one_of_pythons(expression, key):
    assert sl.lens(f"re:{expression}").paths({key: jnp.ones(1)}) == ((key,),)


@pytest.mark.parametrize(
    ("expression", "position", "what"),
    [
        (r"(\w+)_\1", 6, "a back reference"),
        (r"((?P<a>a)|b)*(?P=a)", 13, "a back reference"),
        ("(?x) a  b", 0, "a flag that leaves out white space"),
        ("a(?ix:b)", 1, "a flag that leaves out white space"),
        ("(?>(a+)+b)", 0, "a group that doesn't give back"),
        ("(?:(a+)+b)++", 11, "a repeat that doesn't give back"),
        ("(?P<one>a)(?(one)b|c)", 10, "a condition"),
    ],
)
def test_a_regular_expression_that_could_take_for_ever_is_refused(expression, position, what):
    pointed = "\n  " + re.escape(expression) + "\n  " + " " * position + r"\^ "
    with pytest.raises(sl.PatternError, match=pointed + f"{what} isn't matched here") as caught:
        sl.lens(f"re:{expression}")
    assert "a predicate" in str(caught.value)


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
        ("re:a{99999999999}", 3, "no regular expression"),
        (f"re:{'(' * 1000}a{')' * 1000}", 2004, "nested more than 50 deep"),
        ("a & @Linear", 4, "a class of yours, a function or a mask can't be read from text"),
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
