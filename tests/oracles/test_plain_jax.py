"""`grad` against plain JAX on random programs: every row of the two tables of results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statelens as sl

pytestmark = pytest.mark.slow

NAMES = ["a", "b", "c"]
SHAPES = [(), (2,), (1, 3)]
FORMS = ["bound", "dict", "list", "tuple", "nested", "one"]
ROWS = {"has_aux": st.booleans(), "return_value": st.booleans()}


def leaf(number, shape):
    return np.sin(number + np.arange(np.prod(shape, dtype=int))).reshape(shape)


@st.composite
def values(draw):
    """Values for three states: an array, or a small tree of arrays."""
    shapes = st.sampled_from(SHAPES)
    tree = shapes | st.fixed_dictionaries({"u": shapes, "v": shapes})
    drawn = draw(st.fixed_dictionaries(dict.fromkeys(NAMES, tree)))
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    shapes, treedef = jax.tree.flatten(drawn, is_leaf=is_shape)
    return treedef.unflatten([leaf(1 + 3 * i, shape) for i, shape in enumerate(shapes)])


# A program multiplies what it reads; a step (name, factor, inside) writes factor * value + x.
steps = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([-1.0, 0.5, 2.0])), max_size=4
).map(tuple)


def compute(read, write, steps, x, y):
    total = x * y
    for name, factor in steps:
        write(name, jax.tree.map(lambda v, f=factor: f * v + jnp.sin(x), read(name)))
    for i, name in enumerate(NAMES):
        for j, v in enumerate(jax.tree.leaves(read(name))):
            total = total * 0.5 + jnp.sum(jnp.sin(v * (i + 1)) * y) * (j + 1) + jnp.sum(v**2)
    return total, {"double": 2 * total}


def by_cells(states, steps, has_aux):
    def fun(x, y):
        write = lambda name, value: setattr(states[name], "value", value)  # noqa: E731
        value, aux = compute(lambda name: states[name].value, write, steps, x, y)
        return (value, aux) if has_aux else value

    return fun


def by_hand(steps, has_aux):
    """The same program in plain JAX: values first, values last."""

    def fun(values, x, y):
        values = dict(values)
        value, aux = compute(values.__getitem__, values.__setitem__, steps, x, y)
        return value, (aux if has_aux else None, values)

    return fun


def expected(values, selected, argnums, steps, has_aux, return_value, args):
    """The gradient part as (by state, by arguments), and the values at the end."""
    rest = {name: v for name, v in values.items() if name not in selected}

    def fun(chosen, x, y):
        return by_hand(steps, has_aux)(chosen | rest, x, y)

    chosen = {name: values[name] for name in selected}
    (value, (aux, after)), (by_state, *by_args) = jax.value_and_grad(fun, (0, 1, 2), has_aux=True)(
        chosen, *args
    )
    if argnums is not None:
        picked = tuple(by_args[i] for i in np.atleast_1d(argnums))
        by_args = picked if isinstance(argnums, tuple) else picked[0]
    extra = (value,) * return_value + (aux,) * has_aux
    return by_state, by_args, extra, after


def close(ours, theirs, x64):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype == (jnp.float64 if x64 else jnp.float32)
        tolerance = 1e-12 if x64 else 1e-5
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def cast(tree, x64):
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.float64 if x64 else jnp.float32), tree)


def in_form(form, chosen):
    """Puts one thing for each name in the form in which states are passed."""
    first, *others = chosen
    match form:
        case "bound":
            return {(name,): thing for name, thing in chosen.items()}
        case "dict":
            return chosen
        case "list":
            return list(chosen.values())
        case "tuple":
            return tuple(chosen.values())
        case "nested":
            return {"x": [chosen[first]], "y": {name: chosen[name] for name in others}}
        case "one":
            return chosen[first]


def given_as(form, states, selected):
    if form != "bound":
        return in_form(form, {name: states[name] for name in selected})
    module = sl.nn.Module()
    for name, state in states.items():
        setattr(module, name, state)
    return module.states(selected)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("form", FORMS)
@given(
    values=values(),
    selected=st.sets(st.sampled_from(NAMES), min_size=1).map(sorted),
    argnums=st.sampled_from([None, 0, 1, (0,), (1, 0)]),
    steps=steps,
    **ROWS,
)
@settings(max_examples=10)
def test_bound(x64, form, values, selected, argnums, steps, has_aux, return_value):
    with jax.enable_x64(x64):
        values, args = cast(values, x64), cast((0.7, 1.3), x64)
        selected = selected[:1] if form == "one" else selected
        states = {name: sl.ParamState(value) for name, value in values.items()}
        by_state, by_args, extra, after = expected(
            values, selected, argnums, steps, has_aux, return_value, args
        )
        gradient = in_form(form, by_state)
        gradient = gradient if argnums is None else (gradient, by_args)
        ours = sl.grad(
            by_cells(states, steps, has_aux),
            given_as(form, states, selected),
            argnums,
            has_aux=has_aux,
            return_value=return_value,
        )
        close(ours(*args), (gradient, *extra) if extra else gradient, x64)
        close({name: state.value for name, state in states.items()}, after, x64)


@pytest.mark.parametrize("x64", [False, True])
@given(
    values=values(),
    selected=st.sets(st.sampled_from(NAMES), min_size=1).map(sorted),
    argnums=st.sampled_from([None, 1, 2, (2,), (2, 1)]),
    in_cells=st.booleans(),
    **ROWS,
)
@settings(max_examples=15)
def test_unbound(x64, values, selected, argnums, in_cells, has_aux, return_value):
    with jax.enable_x64(x64):
        values, args = cast(values, x64), cast((0.7, 1.3), x64)
        box, unbox = (sl.State, lambda cell: cell.value) if in_cells else (lambda v: v,) * 2

        def fun(tree, x, y):
            value, aux = compute(lambda name: unbox(tree[name]), None, (), x, y)
            return (value, aux) if has_aux else value

        counted = {None: None, 1: 0, 2: 1, (2,): (1,), (2, 1): (1, 0)}[argnums]
        by_state, by_args, extra, _ = expected(
            values, selected, counted, (), has_aux, return_value, args
        )
        hole = lambda name: None if in_cells else jax.tree.map(lambda _: None, values[name])  # noqa: E731
        gradient = {name: box(by_state[name]) if name in selected else hole(name) for name in NAMES}
        gradient = gradient if argnums is None else (gradient, by_args)
        patterns = [f"{name}.**" for name in selected]
        ours = sl.grad(fun, patterns, argnums, has_aux=has_aux, return_value=return_value)
        result = ours({name: box(value) for name, value in values.items()}, *args)
        close(result, (gradient, *extra) if extra else gradient, x64)


@pytest.mark.parametrize("x64", [False, True])
@given(
    values=values(),
    selected=st.sets(st.sampled_from(NAMES), min_size=1).map(sorted),
    argnums=st.sampled_from([None, 0, (1, 0)]),
    steps=steps,
    **ROWS,
)
@settings(max_examples=8)
def test_bound_under_jit(x64, values, selected, argnums, steps, has_aux, return_value):
    with jax.enable_x64(x64):
        values, args = cast(values, x64), cast((0.7, 1.3), x64)
        states = {name: sl.ParamState(value) for name, value in values.items()}
        by_state, by_args, extra, after = expected(
            values, selected, argnums, steps, has_aux, return_value, args
        )
        gradient = by_state if argnums is None else (by_state, by_args)
        ours = sl.grad(
            by_cells(states, steps, has_aux),
            {name: states[name] for name in selected},
            argnums,
            has_aux=has_aux,
            return_value=return_value,
        )
        result, new = jax.jit(sl.functionalize(ours, states))(values, *args)
        close(result, (gradient, *extra) if extra else gradient, x64)
        close(new, after, x64)
        assert all(states[name].value is values[name] for name in NAMES)


@given(values=values(), argnums=st.sampled_from([None, 0, 2, (0, 1), (2, 0, 1)]), **ROWS)
@settings(max_examples=15)
def test_without_states(values, argnums, has_aux, return_value):
    values, args = cast(values, False), cast((0.7, 1.3), False)

    def fun(values, x, y):
        value, aux = compute(values.__getitem__, None, (), x, y)
        return (value, aux) if has_aux else value

    ours = sl.grad(fun, argnums=argnums, has_aux=has_aux, return_value=return_value)
    theirs = jax.value_and_grad(fun, 0 if argnums is None else argnums, has_aux=has_aux)
    value, gradient = theirs(values, *args)
    value, aux = value if has_aux else (value, None)
    extra = (value,) * return_value + (aux,) * has_aux
    close(ours(values, *args), (gradient, *extra) if extra else gradient, False)
