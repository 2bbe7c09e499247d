"""`vmap`, `vmap_new_states` and `map` against JAX on the pure form, and at their edges."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

XS = jnp.arange(6.0).reshape(3, 2)


# Without states it is jax.vmap.


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


# States that are mapped.


def leak(h):
    def fun(x):
        h.value = 0.5 * h.value + x
        return h.value.sum()

    return fun


def plain_leak(h, x):
    h = 0.5 * h + x
    return h.sum(), h


def in_module(state):
    module = sl.nn.Module()
    module.h, module.other = state, sl.State(jnp.zeros(()))
    return module


FORMS = {
    "one": lambda h, axis: h,
    "list": lambda h, axis: [h],
    "mapping": lambda h, axis: {"h": h},
    "bound lens": lambda h, axis: in_module(h).states("h"),
    "states: axis": lambda h, axis: {h: axis},
    "bound lens: axis": lambda h, axis: {in_module(h).states("h"): axis},
    "axis: states": lambda h, axis: {axis: h},
    "axis: list": lambda h, axis: {axis: [h]},
    "axis: bound lens": lambda h, axis: {axis: in_module(h).states("h")},
    "axis: mapping": lambda h, axis: {axis: {"h": h}},
}


@pytest.mark.parametrize(
    ("form", "axis"),
    [(form, axis) for form in FORMS for axis in ((0, 1, -1) if "axis" in form else (0,))],
)
def test_states_with_an_axis_in_every_form(form, axis):
    value = jnp.moveaxis(jnp.sin(XS), 0, axis)
    h = sl.HiddenState(value)
    spec = FORMS[form](h, axis)
    out = T.vmap(leak(h), in_states=spec)(XS)
    expected, after = jax.vmap(plain_leak, in_axes=(axis, 0), out_axes=(0, axis))(value, XS)
    close(out, expected)
    close(h.value, after)
    # The same, with another axis going out.
    h.value = value
    T.vmap(leak(h), in_states=spec, out_states={h: 0})(XS)
    close(h.value, jnp.moveaxis(after, axis, 0))


@pytest.mark.parametrize("form", FORMS)
def test_states_that_get_an_axis_going_out(form):
    axis = 1 if "axis" in form else 0
    h = sl.HiddenState(jnp.ones(2))
    out = T.vmap(leak(h), out_states=FORMS[form](h, axis))(XS)
    fun = lambda x: plain_leak(jnp.ones(2), x)  # noqa: E731
    expected, after = jax.vmap(fun, out_axes=(0, axis))(XS)
    close(out, expected)
    close(h.value, after)


def test_several_states_each_with_its_axis():
    a, b, c = sl.State(XS), sl.State(XS.T), sl.State(jnp.asarray(2.0))

    def fun(x):
        a.value, b.value = b.value * c.value, a.value + x
        return a.value * b.value

    def plain(a, b, x):
        a, b = b * 2.0, a + x
        return a * b, a, b

    expected, a_after, b_after = jax.vmap(plain, (0, 1, 0), (0, 0, 1))(XS, XS.T, XS)
    close(T.vmap(fun, in_states={0: [a], 1: b})(XS), expected)
    close((a.value, b.value, c.value), (a_after, b_after, jnp.asarray(2.0)))


def test_a_state_whose_value_is_a_tree():
    h = sl.State({"u": XS, "v": [jnp.arange(3.0)]})

    def fun(x):
        h.value = {"u": h.value["u"] * x, "v": [h.value["v"][0] + 1]}

    T.vmap(fun, in_states=h)(XS)
    close(h.value, {"u": XS * XS, "v": [jnp.arange(3.0) + 1]})


def test_a_state_that_is_mapped_and_only_read_stays_as_it_is():
    h = sl.State(XS)
    close(T.vmap(lambda: h.value.sum(), in_states=h)(), XS.sum(1))
    assert h.value is XS


# A lens that isn't bound.


def cells():
    return {"h": sl.State(XS), "w": sl.State(jnp.array([1.0, 2.0])), "n": 3}


@pytest.mark.parametrize("spec", ["h", {"h": 0}, {0: "h"}, {sl.lens("h"): 0}])
def test_an_unbound_lens_with_thread(spec):
    def fun(tree, x):
        tree["h"].value = tree["h"].value * tree["w"].value + x
        return tree["h"].value.sum()

    tree = cells()
    mapped = T.vmap(sl.thread(fun), in_states=spec, out_states=spec)
    out, after = mapped(tree, XS)
    expected = XS * jnp.array([1.0, 2.0]) + XS
    close(out, expected.sum(1))
    close(after["h"].value, expected)
    close(after["w"].value, jnp.array([1.0, 2.0]))
    assert after["n"] == 3
    assert tree["h"].value is XS


def test_an_unbound_lens_that_is_only_read():
    tree = {"w": XS, "b": jnp.ones(2), "name": "text"}
    fun = lambda tree, x: jnp.sum(tree["w"] * x + tree["b"])  # noqa: E731
    close(T.vmap(fun, in_states="w")(tree, XS), jnp.sum(XS * XS + 1, axis=1))
    by_columns = lambda tree, x: jnp.sum(tree["w"]) * x  # noqa: E731
    close(T.vmap(by_columns, in_states={"w": 1})(tree, jnp.ones(2)), XS.sum(0))


def test_an_unbound_lens_on_an_equinox_ensemble_maps_the_last_layer_only():
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    weights = jax.random.normal(jax.random.key(1), (3, *model.layers[1].weight.shape))
    heads = eqx.tree_at(lambda m: m.layers[1].weight, model, weights)
    ours = T.vmap(lambda m, x: m(x), in_states="layers[1].weight", in_axes=None)(heads, XS[0])
    each = [eqx.tree_at(lambda m: m.layers[1].weight, model, w)(XS[0]) for w in weights]
    close(ours, jnp.stack(each))


def test_a_lens_has_to_match_and_to_have_a_tree():
    with pytest.raises(sl.PathError, match=r"(?s)'wheight'.*'w'"):
        T.vmap(lambda t: t["w"], in_states="wheight")({"w": XS})
    with pytest.raises(sl.ArgumentError, match="the call has no positional argument"):
        T.vmap(lambda: 1.0, in_states="w")()
    with pytest.raises(sl.ArgumentTypeError, match=r"not \(out, tree\)\n.*statelens.thread"):
        T.vmap(lambda t: t["w"], in_states="w", out_states="w")({"w": XS})


def test_a_write_to_a_tree_argument_is_refused():
    def fun(tree, x):
        tree["h"].value = x

    tree = cells()
    with pytest.raises(sl.FrozenTreeError, match=r"'h'(.|\n)*statelens.thread\(fun\)"):
        T.vmap(fun, in_states="h")(tree, XS)
    assert tree["h"].value is XS


# States that all lanes share.


def test_a_shared_state_may_be_written_what_is_the_same_in_all_lanes():
    w, count = sl.State(jnp.asarray(2.0)), sl.State(jnp.zeros((), jnp.int32))

    def fun(x):
        count.value += 1
        w.value = w.value * 2
        return x * w.value

    close(T.vmap(fun)(XS), XS * 4)
    assert (w.value, count.value) == (4.0, 1)


def test_pmean_over_the_axis_name_makes_a_value_that_may_be_shared():
    mean = sl.BatchState(jnp.zeros(2))

    def norm(x):
        mean.value = 0.9 * mean.value + 0.1 * jax.lax.pmean(x, "batch")
        return x - mean.value

    close(T.vmap(norm, axis_name="batch")(XS), XS - 0.1 * XS.mean(0))
    close(mean.value, 0.1 * XS.mean(0))


@pytest.mark.parametrize("named", [True, False])
def test_a_value_for_each_lane_in_a_shared_state_is_an_error_and_writes_nothing(named):
    seen = sl.State(jnp.zeros(2), name="seen" if named else None)
    count = sl.State(0)

    def fun(x):
        count.value += 1
        seen.value = x
        return x

    shown = r"State\(f32\[2\], name='seen'\)" if named else r"State\(f32\[2\]\)"
    message = (
        rf"asked vmap to write {shown}, which all lanes share\n.*\n(.|\n)*out_states(.|\n)*pmean"
    )
    with pytest.raises(sl.SelectionError, match=message):
        T.vmap(fun)(XS)
    assert (seen.value.tolist(), count.value) == ([0.0, 0.0], 0)


def test_out_axes_of_none_for_what_differs_is_jax_s_own_error():
    w = sl.State(jnp.asarray(2.0))

    def fun(x):
        w.value = w.value + 1
        return x

    with pytest.raises(ValueError, match="out_axes"):
        T.vmap(fun, out_axes=None)(XS)
    assert w.value == 2.0


def test_nothing_is_written_when_the_function_raises():
    h, w = sl.State(XS), sl.State(jnp.asarray(2.0))

    def fun(x):
        h.value, w.value = x, w.value + 1
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap(fun, in_states=h)(XS)
    assert h.value is XS
    assert w.value == 2.0


def test_the_size_may_come_from_axis_size_or_from_states_alone():
    h = sl.State(jnp.ones(2))

    def fun():
        h.value = h.value + jax.lax.axis_index("lanes")
        return h.value

    out = T.vmap(fun, axis_size=3, axis_name="lanes", out_states=h)()
    close(out, jnp.ones((3, 2)) + jnp.arange(3.0)[:, None])
    close(h.value, out)
    close(T.vmap(lambda: h.value * 2, in_states=h)(), 2 * out)


def test_axes_that_are_none_are_refused():
    h = sl.State(XS)
    with pytest.raises(sl.ArgumentTypeError, match="asked vmap for in_axes='a'"):
        T.vmap(jnp.sin, in_axes="a")
    with pytest.raises(sl.ArgumentTypeError, match="with the place 'rows'"):
        T.vmap(jnp.sin, in_states={h: "rows"})
    with pytest.raises(sl.SelectionError, match="is given two places: 0 and 1"):
        T.vmap(jnp.sin, in_states={0: h, 1: [h]})
    with pytest.raises(sl.ArgumentError, match="the call has 2 positional arguments"):
        T.vmap(jnp.add, in_axes=(0,))(XS, XS)
    with pytest.raises(sl.ArgumentTypeError, match="asked vmap for fun=3"):
        T.vmap(3)
    with pytest.raises(ValueError, match="asked vmap to map over an axis"):
        T.vmap(jnp.add)(XS, XS.T)


# States that are dealt out to the lanes.


class Deck(sl.State):
    """Each lane gets the value plus its number; the rest is what comes after them."""

    def split_lanes(self, value, count):
        return value + 1 + jnp.arange(count), value + 1 + count


def test_a_state_may_deal_a_part_of_itself_to_each_lane():
    deck = Deck(jnp.asarray(10))

    def fun(x):
        mine = deck.value
        deck.value = mine * 100
        return mine + x

    close(T.vmap(fun)(jnp.zeros(3, int)), jnp.array([11, 12, 13]))
    # What the lanes did with theirs is their own.
    assert deck.value == 14
    close(T.vmap(lambda x: x)(XS), XS)
    assert deck.value == 14


def test_each_lane_draws_with_a_key_of_its_own():
    rng = sl.random.RandomState(7)
    key = rng.value
    draws = T.vmap(lambda x: rng.normal(size=2) + x)(XS)
    keys = jax.random.split(key, 4)
    theirs = jax.vmap(lambda k: jax.random.normal(jax.random.split(k)[1], (2,)))(keys[1:])
    close(draws, theirs + XS)
    assert rng.value == keys[0]
    # Another call draws other numbers.
    assert not np.allclose(T.vmap(lambda x: rng.normal(size=2) + x)(XS), draws)


def test_a_key_with_an_axis_is_a_key_for_each_lane():
    rng = sl.random.RandomState(7)
    rng.value = jax.random.split(jax.random.key(1), 3)
    keys = rng.value
    draws = T.vmap(lambda x: rng.normal() + x, in_states=rng)(jnp.zeros(3))
    halves = jax.vmap(jax.random.split)(keys)
    close(draws, jax.vmap(jax.random.normal)(halves[:, 1]))
    assert jnp.all(rng.value == halves[:, 0])


def test_keys_are_dealt_out_in_nested_vmap_jit_and_scan():
    rng = sl.random.RandomState(7)
    key = rng.value
    nested = T.vmap(lambda row: T.vmap(lambda x: rng.uniform() + 0 * x)(row))
    draws = nested(XS)
    outer = jax.random.split(key, 4)[1:]
    inner = jax.vmap(lambda k: jax.random.split(k, 3)[1:])(outer)
    draw = lambda k: jax.random.uniform(jax.random.split(k)[1])  # noqa: E731
    close(draws, jax.vmap(jax.vmap(draw))(inner))
    assert len(np.unique(draws)) == 6
    rng.value = key
    close(sl.jit(nested)(XS), draws)
    assert rng.value == jax.random.split(key, 4)[0]
    rng.value = key
    [scanned] = T.for_loop(nested, XS[None])
    close(scanned, draws)


def test_a_key_is_as_it_was_after_a_failure():
    rng = sl.random.RandomState(7)
    key = rng.value

    def fun(x):
        rng.normal()
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap(fun)(XS)
    assert rng.value == key


# In other transforms, and those in it.


def test_nested_with_one_state_for_each_and_one_for_both():
    both, rows, calls = sl.State(jnp.ones((3, 2))), sl.State(jnp.ones(3)), sl.State(0)

    def one(x):
        both.value = both.value + x
        calls.value += 1
        return both.value

    def row(xs):
        rows.value = rows.value * 2
        return T.vmap(one, in_states=both)(xs) * rows.value

    close(T.vmap(row, in_states=[both, rows])(XS), (1 + XS) * 2)
    close((both.value, rows.value), (1 + XS, jnp.full(3, 2.0)))
    assert calls.value == 1


def test_in_jit():
    h, w = sl.State(XS), sl.State(jnp.asarray(2.0))

    def fun(x):
        h.value = h.value * w.value + x
        return h.value.sum()

    mapped = sl.jit(T.vmap(fun, in_states=h))
    expected = XS
    for _ in range(2):
        expected = expected * 2.0 + XS
        close(mapped(XS), expected.sum(1))
        close(h.value, expected)


def test_jit_in_it():
    h = sl.State(XS)
    close(T.vmap(sl.jit(leak(h)), in_states=h)(XS), (1.5 * XS).sum(1))
    close(h.value, 1.5 * XS)


@pytest.mark.parametrize("derivative", [sl.grad, T.jacrev, T.jacfwd])
def test_a_derivative_by_the_mapped_and_by_the_shared_state(derivative):
    h, w = sl.State(XS), sl.State(jnp.asarray(2.0))

    def fun(x):
        h.value = jnp.sin(h.value) * w.value * x
        return h.value.sum()

    def plain(v):
        return jnp.sum(jnp.sin(v["h"]) * v["w"] * XS)

    total = lambda: jnp.sum(T.vmap(fun, in_states=h)(XS))  # noqa: E731
    values = {"h": XS, "w": jnp.asarray(2.0)}
    close(derivative(total, {"h": h, "w": w})(), jax.grad(plain)(values))
    close(h.value, jnp.sin(XS) * 2.0 * XS)


def test_a_derivative_in_it():
    h, w = sl.State(XS), sl.State(jnp.asarray(2.0))
    loss = lambda x: jnp.sum(h.value**2 * x) * w.value**2  # noqa: E731
    by_h, by_w = T.vmap(sl.grad(loss, [h, w]), in_states=h)(XS)
    close(by_h, 2 * XS * XS * 4.0)
    close(by_w, (XS**2 * XS).sum(1) * 4.0)
    hessians = T.vmap(T.hessian(loss, h), in_states=h)(XS)
    close(hessians, jax.vmap(jnp.diag)(8.0 * XS))


def test_in_scan_and_scan_in_it():
    def step(h, carry, x):
        h.value = 0.5 * h.value + x
        return carry + h.value, h.value

    def plain_step(carry, x):
        total, h = carry
        h = 0.5 * h + x
        return (total + h, h), h

    xs = jnp.sin(jnp.arange(12.0)).reshape(4, 3)
    start = (jnp.zeros(3), jnp.ones(3))
    (total, after), ys = jax.lax.scan(plain_step, start, xs)
    h = sl.State(jnp.ones(3))
    inside = T.vmap(lambda c, x: step(h, c, x), in_states=h)
    close(T.scan(inside, jnp.zeros(3), xs), (total, ys))
    close(h.value, after)
    h.value = jnp.ones(3)
    outside = T.vmap(
        lambda xs: T.scan(lambda c, x: step(h, c, x), jnp.zeros(()), xs),
        in_axes=1,
        out_axes=(0, 1),
        in_states=h,
    )
    close(outside(xs), (total, ys))
    close(h.value, after)


def test_cond_in_it_and_it_in_cond():
    h = sl.State(XS)

    def fun(x):
        T.cond(x[0] > 1, lambda: setattr(h, "value", h.value * 10), lambda: None)
        return h.value

    expected = jnp.where(XS[:, :1] > 1, XS * 10, XS)
    close(T.vmap(fun, in_states=h)(XS), expected)
    close(h.value, expected)
    close(
        T.cond(True, T.vmap(leak(h), in_states=h), lambda x: jnp.zeros(3), XS),
        (0.5 * expected + XS).sum(1),
    )


# States that are made in the lanes.


class Linear(sl.nn.Module):
    def __init__(self, key):
        super().__init__()
        self.weight = sl.ParamState(jax.random.normal(key, (2,)))
        self.shared = sl.State(jnp.zeros(()))

    def __call__(self, x):
        return x @ self.weight.value


KEYS = jax.random.split(jax.random.key(0), 3)
WEIGHTS = jax.vmap(lambda key: jax.random.normal(key, (2,)))(KEYS)


def test_an_ensemble_that_is_returned():
    ensemble = T.vmap_new_states(Linear)(KEYS)
    assert isinstance(ensemble, Linear)
    close(ensemble.weight.value, WEIGHTS)
    close(ensemble.shared.value, jnp.zeros(3))
    out = T.vmap(lambda m, x: m(x), in_axes=(0, None))(ensemble, XS[0])
    close(out, WEIGHTS @ XS[0])
    # Its states are states like any other.
    params = ensemble.states(sl.ParamState)
    call = T.vmap(lambda: ensemble(XS[0]), in_states=ensemble.states())
    by_weight = sl.grad(lambda: jnp.sum(call() ** 2), params)()
    close(by_weight, {("weight",): 2 * (WEIGHTS @ XS[0])[:, None] * XS[0]})


def test_a_module_that_gets_states_inside():
    holder = sl.nn.Module()

    def init(key):
        holder.layer = Linear(key)
        holder.bias = sl.ParamState(jnp.zeros(1))

    assert T.vmap_new_states(init)(KEYS) is None
    assert list(holder.states()) == [("bias",), ("layer", "shared"), ("layer", "weight")]
    close(holder.layer.weight.value, WEIGHTS)
    close(holder.bias.value, jnp.zeros((3, 1)))
    holder.bias.value = holder.bias.value + 1
    close(holder.bias.value, jnp.ones((3, 1)))


def test_new_states_may_be_tagged():
    holder = sl.nn.Module()

    def init(key):
        holder.layer = Linear(key)

    T.vmap_new_states(init, state_tag="ensemble")(KEYS)
    assert list(holder.states(sl.tagged("ensemble"))) == list(holder.states())


def test_some_new_states_may_be_shared():
    holder = sl.nn.Module()

    def init(key):
        holder.layer = Linear(key)

    T.vmap_new_states(init, state_to_exclude=~sl.lens(sl.ParamState))(KEYS)
    close(holder.layer.weight.value, WEIGHTS)
    close(holder.layer.shared.value, jnp.zeros(()))


def test_a_new_state_that_is_excluded_has_to_be_the_same_in_all_lanes():
    holder = sl.nn.Module()

    def init(key):
        holder.layer = Linear(key)

    with pytest.raises(ValueError, match="out_axes"):
        T.vmap_new_states(init, state_to_exclude=sl.ParamState)(KEYS)
    assert not hasattr(holder, "layer")


def test_a_failure_leaves_modules_as_they_were():
    holder = sl.nn.Module()
    holder.kept = sl.State(jnp.asarray(1.0))
    before = holder.states().values_dict()

    def init(key):
        holder.layer = Linear(key)
        holder.kept.value = holder.kept.value + 1
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap_new_states(init)(KEYS)
    assert not hasattr(holder, "layer")
    assert holder.states().values_dict() == before


def test_an_older_attribute_comes_back_after_a_failure():
    holder = sl.nn.Module()
    holder.layer = first = Linear(KEYS[0])

    def init(key):
        holder.layer = Linear(key)
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap_new_states(init)(KEYS)
    assert holder.layer is first
    close(first.weight.value, WEIGHTS[0])


def test_states_may_be_returned_in_any_container():
    made = T.vmap_new_states(
        lambda key: {
            "w": sl.ParamState(jax.random.normal(key, (2,)), name="w"),
            "list": [sl.State(1.0)],
        }
    )(KEYS)
    assert (type(made["w"]), made["w"].name) == (sl.ParamState, "w")
    close(made["w"].value, WEIGHTS)
    close(made["list"][0].value, jnp.ones(3))


def test_new_states_beside_old_ones_and_other_axes():
    count, h = sl.State(jnp.zeros((), jnp.int32)), sl.State(jnp.zeros(3))
    holder = sl.nn.Module()

    def init(key, x):
        count.value += 1
        h.value = h.value + x.sum()
        holder.w = sl.ParamState(jax.random.normal(key, (2,)))
        return holder.w.value * x

    out = T.vmap_new_states(init, in_axes=(0, 1), out_axes=1, in_states=h)(KEYS, XS.T)
    close(out, (WEIGHTS * XS).T)
    close((count.value, h.value), (jnp.asarray(1), XS.sum(1)))
    close(holder.w.value, WEIGHTS)


def test_new_states_in_jit_and_by_axis_size_with_random_numbers():
    rng = sl.random.RandomState(3)
    key = rng.value
    made = T.vmap_new_states(lambda: sl.ParamState(rng.normal(size=2)), axis_size=3)()
    keys = jax.random.split(key, 4)[1:]
    close(made.value, jax.vmap(lambda k: jax.random.normal(jax.random.split(k)[1], (2,)))(keys))
    close(sl.jit(T.vmap_new_states(Linear))(KEYS).weight.value, WEIGHTS)


# One by one, or in chunks.


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 5])
def test_map_is_that_of_jax(batch_size):
    fun = lambda x: {"a": jnp.sin(x) * x, "b": jnp.sum(x)}  # noqa: E731
    close(T.map(fun, XS, batch_size=batch_size), jax.lax.map(fun, XS, batch_size=batch_size))
    several = lambda x, y: x * y["y"]  # noqa: E731
    tree = {"y": jnp.arange(3.0)}
    close(T.map(several, XS, tree, batch_size=batch_size), XS * jnp.arange(3.0)[:, None])


def test_map_one_by_one_writes_in_order():
    total = sl.State(jnp.zeros(()))

    def fun(x):
        total.value = 2 * total.value + x
        return total.value

    close(T.map(fun, jnp.arange(1.0, 4.0)), jnp.array([1.0, 4.0, 11.0]))
    assert total.value == 11.0


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_map_in_chunks_writes_what_is_the_same_in_a_chunk_once_for_each(batch_size):
    count, seen = sl.State(jnp.zeros((), jnp.int32)), sl.State(jnp.zeros(()), name="seen")

    def fun(x):
        count.value = count.value + 1
        return x * count.value

    out = T.map(fun, jnp.ones(7), batch_size=batch_size)
    close(out, jnp.asarray([1.0 + i // batch_size for i in range(7)]))
    assert count.value == -(-7 // batch_size)
    with pytest.raises(sl.SelectionError, match=r"name='seen'.*, which all lanes share"):
        T.map(lambda x: setattr(seen, "value", x), jnp.ones(7) * jnp.arange(7), batch_size=2)
    assert seen.value == 0.0


def test_map_in_chunks_draws_another_number_for_each():
    rng = sl.random.RandomState(3)
    draws = T.map(lambda x: rng.uniform() + x, jnp.zeros(7), batch_size=3)
    assert len(np.unique(draws)) == 7


def test_map_refuses_what_it_can_t_run_over():
    with pytest.raises(sl.ArgumentError, match="asked map for batch_size=0"):
        T.map(jnp.sin, XS, batch_size=0)
    with pytest.raises(sl.ArgumentError, match=r"an array to run over is of shape \(2, 3\)"):
        T.map(jnp.add, XS, XS.T, batch_size=2)
    with pytest.raises(sl.ArgumentTypeError, match="asked map for f=3"):
        T.map(3, XS)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 5])
def test_map_of_what_is_static_in_part(batch_size):
    xs = jnp.arange(3.0)
    fun = lambda tree: {"y": tree["f"](tree["x"]), "f": tree["f"], "new": lambda: None}  # noqa: E731
    out = T.map(fun, {"x": xs, "f": jnp.sin, "name": "text"}, batch_size=batch_size)
    close(out["y"], jnp.sin(xs))
    assert out["f"] is jnp.sin
    assert out["new"]() is None
    model = eqx.nn.MLP("scalar", "scalar", 4, 1, key=jax.random.key(0))
    out, same = T.map(lambda x: (model(x), model), xs, batch_size=batch_size)
    close(out, jax.vmap(model)(xs))
    close(same.layers[0].weight[1], model.layers[0].weight)


def test_map_of_nothing_is_empty():
    close(T.map(lambda x: 2 * x, jnp.zeros((0, 2)), batch_size=2), jnp.zeros((0, 2)))
    close(T.map(lambda x: 2 * x, jnp.zeros((0, 2))), jnp.zeros((0, 2)))


def test_no_traced_value_is_kept():
    h, rng = sl.State(XS), sl.random.RandomState(0)

    def fun(x):
        h.value = h.value + rng.normal()
        return {"a": x + h.value, "b": jnp.sin}

    with jax.checking_leaks():
        T.vmap(fun, in_states=h, out_axes={"a": 1, "b": None})(XS)
        sl.jit(T.vmap(fun, in_states=h))(XS)


# Partitions of trees with static parts, which `shard_map` reads as `vmap` reads axes.

P = jax.sharding.PartitionSpec
MESH = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize(
    "specs",
    [
        P("rows"),
        {"a": P("rows"), "b": P("rows")},
        {"a": P("rows"), "b": {"c": [P("rows"), P()]}},
    ],
)
@pytest.mark.parametrize("static", [jnp.sin, "text"])
def test_partitions_of_an_output_with_static_parts(specs, static):
    calls = sl.State(0)

    def fun(x):
        calls.value += 1
        return {"a": x, "b": {"c": [2 * x, static]}}

    out = T.shard_map(fun, MESH, P("rows"), specs)(XS)
    close(out["a"], XS)
    close(out["b"]["c"][0], 2 * XS)
    assert out["b"]["c"][1] is static
    assert calls.value == 1


def test_partitions_of_arguments_with_static_parts():
    mlp = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    of_mlp = jax.tree.map(lambda _: P(), mlp)
    fun = lambda tree, x: (jax.vmap(tree["m"])(x), tree["m"])  # noqa: E731
    for spec in (P(), {"m": P()}, {"m": of_mlp}):
        out, same = T.shard_map(fun, MESH, (spec, P("rows")), (P("rows"), P()))({"m": mlp}, XS)
        close(out, jax.vmap(mlp)(XS))
        assert same.activation is mlp.activation


def test_partitions_that_do_not_fit_are_named_by_path():
    fun = lambda tree: {"a": tree["x"], "b": {"c": jnp.sin}}  # noqa: E731
    tree = {"x": XS, "f": jnp.sin}
    with pytest.raises(sl.ArgumentError, match=r"at 'b\.c' the partitions are a list of 1, and"):
        T.shard_map(fun, MESH, P("rows"), {"a": P("rows"), "b": {"c": [P()]}})(tree)
    with pytest.raises(sl.ArgumentError, match=r"argument 0\n.* a dict of x, .* a dict of f, x\n"):
        T.shard_map(fun, MESH, ({"x": P("rows")},), P("rows"))(tree)
