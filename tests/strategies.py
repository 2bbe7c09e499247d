"""Random trees, lenses and lens texts, and what it means that two trees are the same."""

import operator
import string
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import statelens as sl


class Point(NamedTuple):
    x: Any
    y: Any


class Layer(eqx.Module):
    weight: Any
    bias: Any
    label: str = eqx.field(static=True, default="layer")


# Trees are drawn as skeletons, with these in the places of their arrays and states, and then
# filled in: each array has other numbers, and a state that occurs twice is one object.


@dataclass(frozen=True)
class AnArray:
    make: Any
    shape: tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class AState:
    cls: type
    value: Any
    tag: str | None


@dataclass(frozen=True)
class Shared:
    number: int


ARRAYS = st.sampled_from(
    [
        AnArray(jnp.asarray, (2,), np.float32),
        AnArray(jnp.asarray, (2, 3), np.float32),
        AnArray(jnp.asarray, (), jnp.bfloat16),
        AnArray(jnp.asarray, (3,), np.int32),
        AnArray(jnp.asarray, (2,), np.bool_),
        AnArray(jnp.asarray, (0, 2), np.complex64),
        AnArray(np.asarray, (2,), np.float64),
        AnArray(np.asarray, (1, 2), np.int64),
        AnArray(np.float32, (), np.float32),
    ]
)
VALUES = st.one_of(
    ARRAYS,
    st.fixed_dictionaries({"w": ARRAYS, "b": ARRAYS | st.none()}),
    st.lists(ARRAYS, max_size=2),
    st.builds(Point, ARRAYS, ARRAYS),
)
STATES = st.builds(
    AState, st.sampled_from([sl.State, sl.ParamState]), VALUES, st.sampled_from([None, "slow"])
)
NOT_UNITS = st.sampled_from([None, jax.nn.relu, "text", 3, 2.5])
NAMES = ["w", "b", "layers", "items", "a b", "0"]


def _containers(inner):
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.tuples(inner, inner),
        st.builds(Point, inner, inner),
        st.builds(Layer, inner, inner),
        st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=4),
        st.dictionaries(st.sampled_from([0, 1, -1]), inner, max_size=2),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=2).map(OrderedDict),
    )


def _filled(skeleton, numbers, shared):
    def fill(leaf):
        match leaf:
            case AnArray(make, shape, dtype):
                values = next(numbers) + np.arange(np.prod(shape, dtype=int))
                return make(
                    (values % 2 if dtype == np.bool_ else values).astype(dtype).reshape(shape)
                )
            case AState(cls, value, tag):
                return cls(_filled(value, numbers, shared), tag=tag)
            case Shared(number):
                return shared[number]
        return leaf

    return jax.tree.map(fill, skeleton)


def _tree(skeleton):
    shared = [sl.State(jnp.arange(2.0)), sl.ParamState({"w": jnp.ones(2), "b": jnp.zeros(())})]
    return _filled(skeleton, count(1, 7), shared)


_LEAVES = ARRAYS | STATES | st.builds(Shared, st.sampled_from([0, 1])) | NOT_UNITS
_nodes = st.recursive(_LEAVES, _containers, max_leaves=6)
trees = (_LEAVES | st.builds(Layer, _nodes, _nodes) | _containers(_nodes)).map(_tree)


def _is_first(path, unit):
    return bool(path) and path[0] in ("w", 0, "x", "weight")


_SPECS = [
    *("**.{w,weight,x,items}", "**.{[0],b,bias,y}", "**.{[0],['0'],[-1]}", "*.**", "re:.*[wt]"),
    *("**", "*", "**.w", "**.{w,b}", "**[0]", "**[-1]", "**[0:1]", "[1].**", "layers.**", "**.x"),
    *("weight.**", "*.*", "re:.*w", "re:'.*b'?", "**['a b'].**", "**['0']", "items.*", "''", "w*"),
    *(None, ..., sl.State, sl.ParamState, Layer, Point, _is_first, ["**.w", "**.y"]),
    *(sl.inexact, sl.arrays, sl.params, sl.tagged("slow")),
    *(sl.ndim >= 1, sl.size < 3, sl.dtype == jnp.float32, sl.name == "w"),
]
OPERATORS = st.sampled_from([operator.and_, operator.or_, operator.sub, operator.truediv])

lenses = st.recursive(
    st.sampled_from(_SPECS).map(lambda spec: sl.lens(spec, optional=True)),
    lambda inner: (
        st.builds(lambda f, a, b: f(a, b), OPERATORS, inner, inner) | inner.map(operator.invert)
    ),
    max_leaves=4,
    # A lens that selects nothing can be used as well: the law says something there, too.
).map(lambda lens: lens | sl.lens("nowhere?"))


# Keys and texts

names = st.from_regex(r"[^\W\d]\w*", fullmatch=True)
plain_names = st.text(string.ascii_lowercase + "_", min_size=1, max_size=4)
keys = st.one_of(
    names,
    st.text(),
    st.sampled_from(["a.b", "[0]", "0", "it's", 'say "x"', "\n", "a b", "", "]", "naïve", "\\"]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.tuples(st.integers(), st.text()),
)

_bound = st.none() | st.integers(-9, 9)
_slices = st.builds(
    slice, _bound, _bound, st.none() | st.integers(-3, 3).filter(lambda step: step != 0)
)


def _slice_text(index):
    start, stop, step = ("" if x is None else str(x) for x in (index.start, index.stop, index.step))
    return f"[{start}:{stop}:{step}]" if step else f"[{start}:{stop}]"


_globs = st.builds("{}*{}".format, plain_names | st.just(""), plain_names)
_brackets = st.one_of(
    st.integers(-9, 9).map("[{}]".format),
    st.text(max_size=5).map("[{!r}]".format),
    st.just("[*]"),
    _slices.map(_slice_text),
)
_named = plain_names | _globs | st.just("*")
_choices = st.lists(_named | _brackets, min_size=1, max_size=3).map(
    lambda options: "{" + ",".join(options) + "}"
)


def _joined(elements):
    dotted = (element if element.startswith("[") else f".{element}" for element in elements)
    return "".join(dotted).removeprefix(".")


patterns = st.lists(_named | _choices | _brackets | st.just("**"), min_size=1, max_size=4).map(
    _joined
)
"""Texts of one path pattern."""

_expressions = st.one_of(
    patterns.map(sl.lens),
    patterns.map(lambda text: sl.lens(f"{text}?")),
    st.text(max_size=6).map(lambda text: sl.lens(f"re:{'.*' + _escaped(text)!r}")),
    st.just(sl.lens("''")),
)


def _escaped(text):
    return "".join(c if c.isalnum() or c == "_" else f"[{c}]" for c in text if c not in "[]^\\")


_indices = st.integers(-9, 9) | _slices | st.just(...)
written_lenses = st.recursive(
    _expressions,
    lambda inner: st.one_of(
        st.builds(lambda f, a, b: f(a, b), OPERATORS, inner, inner),
        inner.map(operator.invert),
        st.builds(lambda a, i: a[i], inner, _indices),
        st.builds(lambda a, i, j: a[i, j], inner, _indices, st.integers(0, 9) | _slices),
    ),
    max_leaves=5,
)
"""Lenses built of patterns, which can be written as text."""

python_expressions = st.recursive(
    st.sampled_from("ABC"),
    lambda inner: st.one_of(
        st.builds("{} {} {}".format, inner, st.sampled_from("&|-/"), inner),
        inner.map("({})".format),
        inner.map("~{}".format),
    ),
    max_leaves=6,
)
"""Texts of Python expressions over A, B and C, with as few parentheses as it happens."""


# Sameness


def bits(leaf):
    """An array as dtype, shape and bytes; anything else as it is."""
    if isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
        return leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()
    return leaf


def sharing(tree):
    """Which of the states in a tree are one and the same."""
    states = [id(leaf) for leaf in jax.tree.leaves(tree, is_leaf=_is_state) if _is_state(leaf)]
    return [states.index(state) for state in states]


def _is_state(leaf):
    return isinstance(leaf, sl.State)


def same(a, b):
    """Whether two trees have one structure, the same bits, and the same states shared."""
    return (
        jax.tree.structure(a) == jax.tree.structure(b)
        and list(map(bits, jax.tree.leaves(a))) == list(map(bits, jax.tree.leaves(b)))
        and sharing(a) == sharing(b)
    )


def filled_with(number, unit):
    """A state or array with all its numbers replaced by one."""

    def fill(leaf):
        if isinstance(leaf, jax.Array):
            return jnp.asarray(np.full_like(np.asarray(leaf), number))
        if isinstance(leaf, np.ndarray):
            return np.full_like(leaf, number)
        return leaf.dtype.type(number) if isinstance(leaf, np.generic) else leaf

    return jax.tree.map(fill, unit)
