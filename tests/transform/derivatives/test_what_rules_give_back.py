"""What derivative rules of one's own give back: None at any depth, and shapes that don't fit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

RUNS = pytest.mark.parametrize("run", [lambda fun: fun, sl.jit], ids=["eager", "jit"])


def with_cotangent(cotangent):
    """Gives a function of x and y with a rule that says what the cotangent of y is."""
    fun = T.custom_vjp(lambda x, y: 3 * x)
    fun.def_fwd(lambda perturbed, x, y: (3 * x, None))
    fun.def_bwd(lambda kept, c, perturbed, x, y: (7 * c, cotangent))
    return fun


OTHERS = {
    "dict": {"w": jnp.ones(2)},
    "tuple": (jnp.ones(2), jnp.ones(())),
    "nested": {"a": (jnp.ones(2), {"b": 3, "c": None})},
    "model": eqx.nn.MLP(1, 1, 2, 1, key=jax.random.key(0)),
    "module": sl.nn.Module(),
    "empty": (),
    "None": None,
    "integer": 3,
    "array of integers": jnp.array(3),
    "number": 2.0,
    "text": "a",
    "function": jnp.tanh,
    "key": jax.random.key(0),
    "NumPy": np.ones(2),
    "complex": jnp.ones(2) * 1j,
}


@RUNS
@pytest.mark.parametrize("other", OTHERS)
def test_none_is_the_cotangent_of_anything(other, run):
    fun = with_cotangent(None)
    close(run(sl.grad(lambda x: fun(x, OTHERS[other])))(1.0), jnp.array(7.0))
    close(sl.grad(run(lambda x: fun(x, OTHERS[other])))(1.0), jnp.array(7.0))


FLOAT0 = np.zeros((), jax.dtypes.float0)
ONES = jnp.ones(2)


@pytest.mark.parametrize(
    ("other", "cotangent", "slope"),
    [
        ({"a": ONES, "b": ONES}, {"a": None, "b": 2 * ONES}, {"a": 0 * ONES, "b": 2 * ONES}),
        ({"a": (ONES, ONES), "b": ONES}, {"a": None, "b": ONES}, {"a": (0 * ONES,) * 2, "b": ONES}),
        (jnp.array(2.0), 5.0, jnp.array(5.0)),
        (jnp.ones(2, jnp.bfloat16), ONES, jnp.ones(2, jnp.bfloat16)),
        (ONES, np.ones(2), ONES),
        ([ONES, jnp.array(3)], [ONES, 0.0], [ONES, FLOAT0]),
        ([ONES, jnp.array(3)], [ONES, FLOAT0], [ONES, FLOAT0]),
        (1j * ONES, ONES, ONES + 0j),
    ],
)
def test_a_cotangent_has_the_form_and_the_dtype_of_the_argument(other, cotangent, slope):
    fun = with_cotangent(cotangent)
    found = jax.grad(lambda y: fun(1.0, y), allow_int=True)(other)
    assert jax.tree.structure(found) == jax.tree.structure(slope)
    for ours, right in zip(jax.tree.leaves(found), jax.tree.leaves(slope), strict=True):
        assert ours.dtype == right.dtype
        if right.dtype != jax.dtypes.float0:
            close(ours, right)


@RUNS
@pytest.mark.parametrize(
    ("other", "cotangent", "match"),
    [
        (ONES, jnp.ones(3), r"argument 1 is float32\[3\], and belongs to float32\[2\]"),
        ({"w": ONES}, {"w": jnp.ones(3)}, r"at 'w' is float32\[3\], and belongs to float32\[2\]"),
        ({"w": ONES}, ONES, r"argument 1 is float32\[2\], and belongs to a dict of w"),
        ({"w": ONES}, {"v": ONES}, r"argument 1, it is a dict of v, not a dict of w"),
        ((ONES,), (ONES, ONES), r"argument 1, it is a tuple of 2, not a tuple of 1"),
        (ONES, 1j * ONES, r"argument 1 is complex64\[2\], and belongs to float32\[2\]"),
        (ONES, "a", r"argument 1 is a str, and belongs to"),
    ],
)
def test_a_cotangent_that_doesn_t_fit_is_refused_by_its_path(other, cotangent, match, run):
    fun = with_cotangent(cotangent)
    with pytest.raises(sl.StructureError, match=rf"asked the backward rule .*\n.*{match}"):
        sl.grad(run(fun), argnums=1)(1.0, other)


def test_cotangents_of_states():
    w = sl.ParamState(ONES)
    both = sl.ParamState({"x": jnp.ones(1), "n": jnp.array(1)})

    def pulled(states, cotangents):
        fun = T.custom_vjp(lambda x: x * jnp.sum(w.value) * both.value["x"][0], states=states)
        fun.def_fwd(lambda perturbed, x: (x, None))
        fun.def_bwd(lambda kept, c, perturbed, x: (cotangents, (c,)))
        return T.vjp(fun, 1.0, grad_states=w)[1](jnp.ones(()))

    close(pulled([w, both], None), (0 * ONES, jnp.array(1.0)))
    close(pulled([w, both], [ONES, None]), (ONES, jnp.array(1.0)))
    by_name = {"w": w, "both": both}
    close(pulled(by_name, {"w": ONES, "both": {"x": None, "n": None}}), (ONES, jnp.array(1.0)))
    with pytest.raises(sl.StructureError, match=r"the states at '\[0\]' is float32\[3\]"):
        pulled([w, both], [jnp.ones(3), None])
    with pytest.raises(sl.StructureError, match=r"the states at 'both\.x' is float32\[2\]"):
        pulled(by_name, {"w": None, "both": {"x": ONES, "n": None}})
    with pytest.raises(sl.StructureError, match=r"the states, it is a list of 1, not a list of 2"):
        pulled([w, both], [None])


def with_tangent(tangent):
    """Gives a function that returns a dict, with a rule that says what its tangent is."""
    out = lambda x: {"a": 3 * x, "n": jnp.array(1)}  # noqa: E731
    fun = T.custom_jvp(out)
    fun.def_jvp(lambda primals, tangents: (out(*primals), tangent(tangents[0])))
    return fun


@RUNS
def test_a_tangent_is_none_at_any_depth_or_fits(run):
    slope = lambda tangent: sl.grad(lambda x: run(with_tangent(tangent))(x)["a"])(1.0)  # noqa: E731
    close(slope(lambda t: {"a": 7 * t, "n": None}), jnp.array(7.0))
    close(slope(lambda t: {"a": 7 * t, "n": FLOAT0}), jnp.array(7.0))
    close(slope(lambda t: {"a": 7.0, "n": 0}), jnp.array(0.0))
    close(slope(lambda t: None), jnp.array(0.0))
    with pytest.raises(sl.StructureError, match=r"the output at 'a' is float32\[3\], and belongs"):
        slope(lambda t: {"a": jnp.ones(3), "n": None})
    with pytest.raises(sl.StructureError, match=r"output is float32\[\], and belongs to a dict"):
        slope(lambda t: t)


@RUNS
def test_a_rule_is_about_an_output_that_is_a_number_of_python(run):
    fun = T.custom_vjp(lambda x: 1.0)
    fun.def_fwd(lambda perturbed, x: (1.0, None))
    fun.def_bwd(lambda kept, c, perturbed, x: (5 * c,))
    close(sl.grad(run(fun))(2.0), jnp.array(5.0))
