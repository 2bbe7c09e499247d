"""Lenses are text and back, but for what only code can say."""

import enum
import operator
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import statelens as sl
from tests.helpers import caret
from tests.lens.trees import model, written
from tests.strategies import OPERATORS, python_expressions, written_lenses


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
        ("a & (b & c)", "a & b & c"),
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


def test_a_lens_is_a_value():
    a, b = sl.lens("**.w") & sl.ParamState, sl.lens("**.w") & sl.lens(sl.ParamState)
    assert a == b
    assert len({a, b, sl.lens("**.w")}) == 2
    assert pickle.loads(pickle.dumps(a)) == a


# Predicates that have names.

_NUMBERS = st.integers(-3, 10**30) | st.floats(allow_nan=False, allow_infinity=False)
_DTYPES = st.sampled_from(
    ["bfloat16", "float8_e4m3fn", "int4", bool, jnp.complex64, np.dtype(">f4"), "M8[s]"]
)
_COMPARISONS = st.sampled_from(
    [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
)
named = st.one_of(
    st.sampled_from([sl.inexact, sl.arrays, sl.params, sl.trainable, sl.lens(...), sl.lens(None)]),
    st.sampled_from([sl.State, sl.BatchState, sl.random.RandomState, sl.State[int]]).map(sl.lens),
    st.text(max_size=5).map(sl.tagged),
    st.builds(lambda compare, n: compare(sl.ndim, n), _COMPARISONS, _NUMBERS),
    st.builds(lambda compare, n: compare(sl.size, np.float64(n)), _COMPARISONS, _NUMBERS),
    st.builds(lambda compare, dtype: compare(sl.dtype, dtype), _COMPARISONS, _DTYPES),
    st.builds(
        lambda compare, key: compare(sl.name, key),
        _COMPARISONS,
        st.text(max_size=5) | _NUMBERS | st.booleans() | st.none() | st.just(np.str_("a")),
    ),
)
_rows = st.lists(st.integers(-9, 9), max_size=3)
_parts = st.one_of(
    _rows, _rows.map(np.array), _rows.map(lambda rows: (slice(1, None), rows)), st.just(())
)
lenses = st.recursive(
    written_lenses | named,
    lambda inner: st.one_of(
        st.builds(lambda join, a, b: join(a, b), OPERATORS, inner, inner),
        inner.map(operator.invert),
        st.builds(lambda lens, part: lens[part], inner, _parts),
        st.builds(sl.lens, inner, optional=st.booleans(), numbers=st.booleans()),
        st.lists(inner, max_size=3).map(sl.lens),
    ),
    max_leaves=4,
)


@given(lenses)
def test_a_lens_of_predicates_that_have_names_is_text_and_back(lens):
    assert sl.lens(str(lens)) == lens


@given(st.dictionaries(st.text(max_size=3), lenses, max_size=3), st.booleans())
def test_groups_are_text_and_back(lenses, first_match):
    groups = sl.groups(lenses, first_match=first_match)
    again = eval(repr(groups), {"groups": sl.groups})
    assert repr(again) == repr(groups)
    assert all(again[name] == groups[name] for name in lenses)


@pytest.mark.parametrize("text", ["@ndim >= x", "@dtype == float33", "@name == bias"])
def test_a_value_that_is_none_to_compare_with_is_refused(text):
    with pytest.raises(sl.PatternError, match="is no value for"):
        sl.lens(text)


# What is no text.


class BatchState(sl.BatchState):
    """A class of another's, with the name of one of ours."""


class Color(enum.Enum):
    RED = 1


def inexact(path, unit):
    return path[-1] == "x"


def arrays(leaf):
    return eqx.is_array(leaf)


NO_TEXT = {
    "@<inexact>": inexact,
    "@<arrays>": arrays,
    "@<is_array>": eqx.is_array,
    "@<Linear>": eqx.nn.Linear,
    "@<BatchState>": BatchState,
    "@<mask(1 of 2)>": {"encoder": True, "head": False},
    "@<at(<lambda>)>": sl.at(lambda m: m["head"]["x"]),
    "@<name == <Color.RED: 1>>": sl.name == Color.RED,
    "@<name == ('a', 1)>": sl.name == ("a", 1),
    "@<size < inf>": sl.size < float("inf"),
    "@<dtype == \"[('float0', 'V')]\">": sl.dtype == jax.dtypes.float0,
}


@pytest.mark.parametrize(("text", "spec"), NO_TEXT.items(), ids=NO_TEXT)
def test_what_is_no_text_is_shown_and_refused_where_it_is_read(text, spec):
    lens = "head.x" & sl.lens(spec)
    assert str(lens) == f"head.x & {text}"
    match = r"can't be read from text(.|\n)*format, lens\.paths"
    with pytest.raises(sl.PatternError, match=match) as error:
        sl.lens(str(lens))
    assert caret(error) == len("head.x & ")


@pytest.mark.parametrize(
    "spec",
    [arrays, eqx.nn.Linear, {"head": True, "layer": False}, sl.at(lambda m: m["head"])],
)
def test_the_paths_of_what_is_no_text_are_text(spec):
    tree = {
        "head": {"x": jnp.ones(1), "a b": [jnp.ones(1), jnp.ones(1)], "n": {3: jnp.ones(1)}},
        "layer": eqx.nn.Linear(1, 1, key=jax.random.key(0)),
    }
    lens = sl.lens(spec)
    text = " | ".join(map(sl.path.format, lens.paths(tree)))
    assert sl.lens(text).mask(tree) == lens.mask(tree)


@pytest.mark.parametrize("value", [None, "2", [1], jnp.ones(())])
def test_dimensions_are_compared_with_numbers(value):
    with pytest.raises(sl.ArgumentTypeError, match=r"lens by ndim\nit is compared with"):
        sl.ndim == value  # noqa: B015


@pytest.mark.parametrize("mask", [[True, False], np.array([True, False])])
def test_rows_that_a_mask_marks_are_given_by_their_positions(mask):
    with pytest.raises(sl.StructureError, match=r"np\.flatnonzero\(mask\)"):
        sl.lens("embed")[mask]
    assert str(sl.lens("embed")[np.flatnonzero(mask)]) == "(embed)[[0]]"
