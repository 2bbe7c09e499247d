"""`vmap` without states is that of JAX."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

XS = jnp.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    ("in_axes", "args"),
    [
        (0, (XS, XS)),
        (1, (XS, XS)),
        (-1, (XS, XS)),
        ((0, None), (XS, jnp.ones(2))),
        ([None, 1], (jnp.ones(3), XS)),
        ((1, -1), (XS, XS)),
        (({"a": 0, "b": None}, 0), ({"a": XS, "b": jnp.ones(2)}, XS)),
        (({"a": None, "b": [1, 0]}, None), ({"a": jnp.ones(2), "b": [XS.T, XS]}, jnp.ones(2))),
        ((None, (0, 1)), (jnp.ones(2), (XS, XS.T))),
    ],
)
@pytest.mark.parametrize("out_axes", [0, 1, -1, (0, 1), {"a": 0}])
def test_axes_in_every_form(in_axes, args, out_axes):
    def fun(x, y):
        total = sum(jax.tree.leaves(x)) * sum(jax.tree.leaves(y))
        if isinstance(out_axes, dict):
            return {"a": total}
        return total, total * 2

    ours = T.vmap(fun, in_axes=in_axes, out_axes=out_axes)
    close(ours(*args), jax.vmap(fun, in_axes=in_axes, out_axes=out_axes)(*args))


def test_an_output_that_is_the_same_in_all_lanes_may_be_shared():
    fun = lambda x, y: (x * y, y)  # noqa: E731
    options = {"in_axes": (0, None), "out_axes": (0, None)}
    close(T.vmap(fun, **options)(XS, 2.0), jax.vmap(fun, **options)(XS, 2.0))


def test_keyword_arguments_are_mapped_over_axis_0():
    fun = lambda x, *, scale: x * scale  # noqa: E731
    close(T.vmap(fun)(XS, scale=jnp.arange(3.0)), jax.vmap(fun)(XS, scale=jnp.arange(3.0)))


def test_equinox_models_with_function_leaves():
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    expected = jax.vmap(model)(XS)
    close(T.vmap(lambda model, x: model(x), in_axes=(None, 0))(model, XS), expected)
    close(T.vmap(model)(XS), expected)
    keys = jax.random.split(jax.random.key(0), 3)
    make = lambda key: eqx.nn.MLP(2, 1, 4, 1, key=key)  # noqa: E731
    ensemble, theirs = T.vmap(make)(keys), eqx.filter_vmap(make)(keys)
    close(eqx.filter(ensemble, eqx.is_array), eqx.filter(theirs, eqx.is_array))
    call = lambda model, x: model(x)  # noqa: E731
    expected = eqx.filter_vmap(call, in_axes=(eqx.if_array(0), None))(theirs, XS[0])
    close(T.vmap(call, in_axes=(0, None))(ensemble, XS[0]), expected)


def test_static_arguments_and_outputs():
    fun = lambda x, kind, function: (function(x), kind)  # noqa: E731
    out, kind = T.vmap(fun, in_axes=(0, None, None))(XS, "text", jnp.sum)
    close(out, jnp.sum(XS, axis=1))
    assert kind == "text"


@pytest.mark.parametrize(
    ("out_axes", "static"),
    [
        (0, jnp.sin),
        ({"a": 1, "b": 0}, 3.0),
        ({"a": 0, "b": 0}, jnp.sin),
        ({"a": 1, "b": None}, jnp.sin),
    ],
)
def test_axes_of_an_output_with_static_parts(out_axes, static):
    out = T.vmap(lambda x: {"a": x, "b": static}, out_axes=out_axes)(XS)
    axis = out_axes if isinstance(out_axes, int) else out_axes["a"]
    close(out["a"], jnp.moveaxis(XS, 0, axis))
    assert out["b"] is static or jnp.shape(out["b"]) == (3,)


class Pair(eqx.Module):
    w: jax.Array
    f: object
    scale: float = 2.0


@pytest.mark.parametrize("static", [jnp.sin, None, "text", b"bytes", jnp.float32])
@pytest.mark.parametrize(
    "out_axes",
    [
        {"a": 1, "b": {"c": [0, 1, None]}},
        {"a": 1, "b": {"c": [0, 1, 7]}},
        {"a": 1, "b": {"c": (0)}},
        {"a": -1, "b": 0},
    ],
)
def test_out_axes_as_nested_prefixes_of_an_output_with_static_parts(out_axes, static):
    fun = lambda x: {"a": x, "b": {"c": [x + 1, x + 2, static]}}  # noqa: E731
    own = out_axes["b"]["c"] if isinstance(out_axes["b"], dict) else out_axes["b"]
    own = own if isinstance(own, list) else [own] * 3
    out = T.vmap(fun, out_axes=out_axes)(XS)
    close(out["a"], XS.T)
    one, two, kept = out["b"]["c"]
    close(one, XS + 1)
    close(two, jnp.moveaxis(XS + 2, 0, own[1]))
    assert kept is static


def test_equinox_modules_as_outputs_with_axes_in_their_own_structure():
    def fun(x):
        return Pair(x, jnp.sin), (eqx.nn.Linear(2, 2, key=jax.random.key(0)), x)

    axes = Pair(1, jnp.sin)  # where nothing is mapped there may be anything
    linear = jax.tree.map(lambda _: None, fun(XS[0])[1][0])
    for form in ((axes, (linear, 0)), (1, (None, 0))):
        pair, (layer, same) = T.vmap(fun, out_axes=form)(XS)
        close(pair.w, XS.T)
        assert (pair.f, pair.scale) == (jnp.sin, 2.0)
        close(layer.weight, fun(XS[0])[1][0].weight)
        close(same, XS)


def test_an_equinox_model_goes_in_and_out_by_axes_in_its_own_structure():
    mlp = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    none = jax.tree.map(lambda _: None, mlp)
    last = lambda m: (m.layers[1].weight, m.layers[1].bias)  # noqa: E731
    axes = eqx.tree_at(last, none, (0, 0), is_leaf=lambda node: node is None)
    stacked = eqx.tree_at(last, mlp, replace_fn=lambda leaf: jnp.stack([leaf, 2 * leaf]))
    out, same = T.vmap(lambda m, x: (m(x), m), in_axes=(axes, None), out_axes=(0, axes))(
        stacked, XS[0]
    )
    theirs = eqx.filter_vmap(lambda m, x: m(x), in_axes=(axes, None))(stacked, XS[0])
    close(out, theirs)
    assert eqx.tree_equal(same, stacked)


def test_states_in_an_output_have_axes_too():
    fun = lambda x: {"s": sl.State({"v": x, "n": x + 1}), "f": jnp.sin}  # noqa: E731
    out = T.vmap(fun, out_axes={"s": 1, "f": None})(XS)
    close(out["s"].value, {"v": XS.T, "n": XS.T + 1})
    assert out["f"] is jnp.sin


@pytest.mark.parametrize(
    ("out_axes", "message"),
    [
        (
            {"a": 0},
            r"asked vmap for out_axes=\{'a': 0\} of the output\n"
            r"the axes are a dict of a, and the output has a dict of a, b\n.*begins with",
        ),
        ({"a": 0, "b": {"d": 0}}, r"\nat 'b' the axes are a dict of d, .* has a dict of c\n"),
        (
            {"a": 0, "b": {"c": (0, 0)}},
            r"\nat 'b\.c' the axes are a tuple of 2, .* list",
        ),
        ({"a": [0], "b": 0}, r"\nat 'a' the axes are a list of 1, .* has float32\[2\]\n"),
        ({"a": 0, "b": {"c": [0, {"x": 0}]}}, r"\nat 'b\.c\[1\]' .* has a PjitFunction\n"),
        ({"a": 0, "b": Pair(0, 0)}, r"\nat 'b' the axes are a Pair of w, f, scale, .* a dict of c"),
        ({"a": 2, "b": 0}, r"the axis 2\nthe output at 'a' has the shape \(2,\).*\n.* -2 to 1"),
        ({"a": 0, "b": -3}, r"the axis -3\nthe output at 'b\.c\[0\]' has the shape \(2,\)"),
        (
            {"a": None, "b": 0},
            r"\nthe output at 'a', where it is None, isn't the same in all lanes",
        ),
        (None, r"\nthe output at 'a', where it is None, isn't the same in all lanes"),
    ],
)
def test_out_axes_that_do_not_fit_are_named_by_path(out_axes, message):
    count = sl.State(0)

    def fun(x):
        count.value += 1
        return {"a": x, "b": {"c": [x, jnp.sin]}}

    with pytest.raises(sl.ArgumentError, match=message):
        T.vmap(fun, out_axes=out_axes)(XS)
    assert count.value == 0


@pytest.mark.parametrize(
    ("in_axes", "error", "message"),
    [
        (({"w": 0},), sl.ArgumentError, r"in_axes=\{'w': 0\} of argument 0\n.* a dict of f, w\n"),
        (({"w": [0], "f": 0},), sl.ArgumentError, r"\nat 'w' the axes are a list of 1, and"),
        (({"w": "rows", "f": 0},), sl.ArgumentTypeError, "of argument 0\n'rows' is a str"),
        (({"w": 2, "f": 0},), sl.ArgumentError, r"argument 0 over axis 2\n.* \(3, 2\)"),
    ],
)
def test_in_axes_that_do_not_fit_are_named_by_path(in_axes, error, message):
    with pytest.raises(error, match=message):
        T.vmap(lambda tree: tree["w"], in_axes=in_axes)({"w": XS, "f": jnp.sin})


def test_axes_of_arguments_with_static_parts():
    fun = lambda tree: tree["f"](tree["w"])  # noqa: E731
    for axes in ({"w": 0, "f": None}, {"w": 0, "f": 0}, {"w": 0, "f": jnp.sum}, 0):
        close(T.vmap(fun, in_axes=(axes,))({"w": XS, "f": jnp.sum}), XS.sum(1))
    fun = lambda tree, x: tree["w"] * x  # noqa: E731
    for axes in ({"w": 0, "f": None}, {"w": 0, "f": "none"}):
        close(T.vmap(fun, in_axes=(axes, None))({"w": XS, "f": None}, XS[0]), XS * XS[0])


def test_axes_deep_in_arguments_with_static_parts():
    model = eqx.nn.Sequential([eqx.nn.Linear(2, 2, key=jax.random.key(0)), eqx.nn.Lambda(jnp.tanh)])
    stacked = eqx.tree_at(lambda m: m[0].weight, model, replace_fn=lambda w: jnp.stack([w, 2 * w]))
    axes = eqx.tree_at(
        lambda m: m[0].weight,
        jax.tree.map(lambda _: None, model),
        0,
        is_leaf=lambda node: node is None,
    )
    fun = lambda config, x: config["model"](x * config["scale"])  # noqa: E731
    ours = T.vmap(fun, in_axes=({"model": axes, "scale": None, "name": 0}, None))(
        {"model": stacked, "scale": 2.0, "name": "text"}, XS[0]
    )
    close(
        ours,
        jnp.tanh(jnp.stack([stacked[0].weight[n] @ (2 * XS[0]) for n in (0, 1)]) + stacked[0].bias),
    )


def test_as_a_decorator_on_functions_and_methods():
    class Model(eqx.Module):
        w: jax.Array

        @T.vmap
        def __call__(self, x):
            return x @ self.w

    @T.vmap(out_axes=1)
    def double(x):
        """Doubles."""
        return 2 * x

    close(Model(jnp.ones(2))(XS), XS.sum(1))
    close(double(XS), 2 * XS.T)
    assert (double.__name__, double.__doc__) == ("double", "Doubles.")


@pytest.mark.parametrize("in_states", [None, "w"])
def test_positions_count_the_object_of_a_method(in_states):
    class Model(eqx.Module):
        w: jax.Array

        @T.vmap(in_axes=(None, 0), in_states=in_states)
        def run(self, x):
            return jnp.sum(x * self.w)

    w = jnp.ones(2) if in_states is None else 2 * jnp.ones((3, 2))
    close(Model(w).run(XS), jnp.sum(XS * w, axis=1))
