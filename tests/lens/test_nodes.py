"""Whole nodes of a model: found, and replaced, in both styles."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, counted, written
from tests.strategies import Point

paramax = pytest.importorskip("paramax")
KEYS = jax.random.split(jax.random.key(0), 8)
X = jnp.array([1.0, -2.0])


def linear(n_in, n_out, number=0):
    return eqx.nn.Linear(n_in, n_out, key=KEYS[number])


class Doubled(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x, *, key=None):
        return 2 * self.layer(x)


class Quantised(eqx.Module):
    """A layer of eight bits a weight, as a user may write it."""

    weight: jax.Array
    scale: jax.Array
    bias: jax.Array

    def __init__(self, layer):
        self.scale = jnp.max(jnp.abs(layer.weight)) / 127
        self.weight = jnp.round(layer.weight / self.scale).astype(jnp.int8)
        self.bias = layer.bias

    def __call__(self, x, *, key=None):
        return self.scale * (self.weight @ x) + self.bias


class Bayesian(eqx.Module):
    """A layer whose weights are drawn."""

    mean: eqx.nn.Linear
    log_std: jax.Array

    def __init__(self, layer):
        self.mean = layer
        self.log_std = jnp.full_like(layer.weight, -3.0)

    def __call__(self, x, *, key):
        noise = jnp.exp(self.log_std) * jax.random.normal(key, self.log_std.shape)
        return self.mean(x) + noise @ x


class Net(sl.nn.Module):
    """A facade module with layers in a list, in an Equinox module, and in a module within."""

    def __init__(self):
        super().__init__()
        self.body = [linear(2, 3), jax.nn.tanh]
        self.mlp = eqx.nn.MLP(3, 3, 4, 1, key=KEYS[1])
        self.inner = sl.nn.Module()
        self.inner.layer = linear(3, 3, 2)
        self.twin = self.inner
        self.state = sl.ParamState({"head": linear(3, 1, 3)})

    def __call__(self, x):
        for layer in self.body:
            x = layer(x)
        x = self.twin.layer(self.inner.layer(self.mlp(x)))
        return self.state.value["head"](x)


NET = ["body[0]", "inner.layer", "mlp.layers[0]", "mlp.layers[1]", "state.head"]


def mlp():
    return eqx.nn.MLP(2, 1, 4, 2, key=KEYS[0])


# What is selected


def test_nodes_of_a_class_are_found_by_path_in_both_styles():
    layers = sl.nodes(eqx.nn.Linear)
    model = mlp()
    assert written(layers.paths(model)) == ["layers[0]", "layers[1]", "layers[2]"]
    assert list(layers.get(model).values()) == list(model.layers)
    assert written(layers.paths(Net())) == NET
    assert {type(node) for node in layers.get(Net()).values()} == {eqx.nn.Linear}


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ("layers[-1]", ["layers[2]"]),
        ("**.bias", ["layers[0].bias", "layers[1].bias", "layers[2].bias"]),
        ("", [""]),
        (eqx.nn.MLP, [""]),
        ((eqx.nn.Linear, eqx.nn.Conv), ["layers[0]", "layers[1]", "layers[2]"]),
        (sl.lens(eqx.nn.Linear) & "layers[1:]", ["layers[1]", "layers[2]"]),
        (sl.lens(eqx.nn.Linear) - "layers[1]", ["layers[0]", "layers[2]"]),
        (sl.lens("layers") / "[0]", ["layers[0]"]),
        (["layers", "layers[0]"], ["layers"]),
        (sl.nodes("layers"), ["layers"]),
        (sl.lens(eqx.nn.Conv2d, optional=True), []),
    ],
)
def test_nodes_by_any_spec(spec, paths):
    spec = sl.lens("''") if spec == "" else spec
    assert written(sl.nodes(spec).paths(mlp())) == paths


def test_a_leaf_is_a_node_too():
    tree = {"f": jax.nn.relu, "n": 3, "w": jnp.ones(1), "none": None}
    found = sl.nodes("*").get(tree)
    assert list(found.items()) == [(("f",), jax.nn.relu), (("n",), 3), (("w",), tree["w"])]
    assert sl.nodes("f").update(tree, lambda f: jnp.tanh)["f"] is jnp.tanh


def test_of_nodes_in_one_another_the_outermost_is_selected():
    tree = {"a": [[1.0], [2.0]], "b": {"c": [3.0]}}
    assert written(sl.nodes(list).paths(tree)) == ["a", "b.c"]
    assert sl.nodes(list).update(tree, len) == {"a": 2, "b": {"c": 1}}
    assert written(sl.nodes("a[*]").paths(tree)) == ["a[0]", "a[1]"]


def test_nodes_in_containers_of_every_kind():
    tree = [Point({"w": (linear(1, 1),)}, None), {("a", 0): linear(1, 1, 1)}]
    assert written(sl.nodes(eqx.nn.Linear).paths(tree)) == ["[0].x.w[0]", "[1].a[0]"]
    new = sl.nodes(eqx.nn.Linear).update(tree, Doubled)
    assert type(new[0].x["w"][0]) is type(new[1]["a", 0]) is Doubled
    assert type(new[0]) is Point


def test_a_dictionary_that_does_not_sort_in_a_module():
    model = sl.nn.Module()
    model.layers = {1: Net(), "a": Net(), 2: 3}
    assert written(sl.nodes(Net).paths(model)) == ["layers[1]", "layers.a"]
    sl.nodes("layers.a").update(model, lambda net: net.inner)
    assert list(model.layers) == [1, "a", 2]
    assert list(map(type, model.layers.values())) == [Net, sl.nn.Module, int]


def test_they_are_values():
    layers = sl.nodes(eqx.nn.Linear)
    assert layers == sl.nodes(eqx.nn.Linear)
    assert hash(layers) == hash(sl.nodes(sl.lens(eqx.nn.Linear)))
    assert str(layers) == "@<Linear>"
    assert repr(sl.nodes("encoder.**")) == "nodes('encoder.**')"
    assert pickle.loads(pickle.dumps(sl.nodes("a[0]"))) == sl.nodes("a[0]")


# What they are replaced by


def test_an_immutable_tree_stays_as_it_is():
    model = mlp()
    new = sl.nodes("layers[0]").update(model, Doubled)
    assert type(new) is eqx.nn.MLP
    assert new.layers[0].layer is model.layers[0]
    assert new.layers[1] is model.layers[1]
    assert type(model.layers[0]) is eqx.nn.Linear
    by_hand = eqx.tree_at(lambda m: m.layers[0], model, Doubled(model.layers[0]))
    assert eqx.tree_equal(new, by_hand)
    close(new(X), by_hand(X))


def test_a_facade_module_is_changed_in_place():
    model = Net()
    model.body = [model.body[0], lambda x: x]
    model.mlp = eqx.tree_at(lambda m: m.activation, model.mlp, lambda x: x)
    model.states("**.bias").update(lambda bias: 0 * bias)
    expected = 2**6 * model(X)
    assert sl.nodes(eqx.nn.Linear).update(model, Doubled) is model
    assert written(sl.nodes(Doubled).paths(model)) == NET
    np.testing.assert_allclose(model(X), expected, rtol=1e-5)
    assert model.inner is model.twin


def test_bound_lenses_and_compiled_functions_see_the_new_nodes():
    model = Net()
    params = model.states(sl.trainable)
    call, runs = counted(lambda x: model(x))
    compiled = sl.jit(call)
    before = compiled(X)
    assert "inner.layer.weight" in written(params)
    sl.nodes("inner.layer").update(model, Doubled)
    assert "inner.layer.layer.weight" in written(params)
    np.testing.assert_allclose(compiled(X), model(X), rtol=1e-6)
    assert not np.allclose(compiled(X), before)
    assert len(runs) == 2
    grads = sl.grad(lambda: jnp.sum(model(X)), params)()
    assert list(grads) == list(params)


def test_the_path_is_given_to_the_function_where_it_asks():
    names = []
    sl.nodes("layers[:2]").update(
        mlp(), lambda path, layer: names.append(path) or layer, with_path=True
    )
    assert names == [("layers", 0), ("layers", 1)]


def test_what_is_not_changed_is_the_same_object():
    model = mlp()
    assert sl.nodes(eqx.nn.Linear).update(model, lambda layer: layer) is model


@pytest.mark.parametrize("make", [mlp, Net])
def test_a_function_that_raises_changes_nothing(make):
    model = make()
    calls = []

    def wrap(layer):
        calls.append(layer)
        if len(calls) == 2:
            raise ZeroDivisionError
        return Doubled(layer)

    with pytest.raises(ZeroDivisionError):
        sl.nodes(eqx.nn.Linear).update(model, wrap)
    assert not sl.nodes(sl.lens(Doubled, optional=True)).paths(model)


def test_attributes_that_are_refused_leave_all_others_as_they_were():
    class Locked(sl.nn.Module):
        @property
        def z(self):
            return vars(self)["_z"]

        @z.setter
        def z(self, layer):
            raise AttributeError("locked")

    model = Locked()
    model.a = linear(1, 1)
    model.inner = sl.nn.Module()
    vars(model)["z"] = linear(1, 1, 1)
    with pytest.raises(AttributeError, match="locked"):
        sl.nodes(eqx.nn.Linear).update(model, Doubled)
    assert type(model.a) is eqx.nn.Linear


def test_shared_nodes_stay_shared():
    block = {"layer": linear(2, 2)}
    tree = {"a": block, "b": [block, block["layer"]], "c": linear(2, 2)}
    new = sl.nodes(eqx.nn.Linear).update(tree, Doubled)
    assert new["a"] is new["b"][0]
    assert new["a"]["layer"] is new["b"][1]
    assert new["c"] is not new["b"][1]


def test_arrays_and_numbers_are_not_taken_for_shared():
    array = jnp.ones(1)
    calls = []
    sl.nodes("*").update({"a": array, "b": array, "c": 1, "d": 1}, calls.append)
    assert len(calls) == 4


def test_a_shared_state_stays_one_by_whichever_path_it_is_found():
    shared = sl.ParamState({"layer": linear(2, 2)})
    tree = {"a": shared, "b": shared}
    new = sl.nodes("b.layer").update(tree, Doubled)
    assert new["a"] is new["b"]
    assert type(new["a"]) is sl.ParamState
    assert type(new["a"].value["layer"]) is Doubled
    assert type(shared.value["layer"]) is eqx.nn.Linear


def test_a_shared_module_is_found_by_each_of_its_paths():
    model = Net()
    sl.nodes("twin.layer").update(model, Doubled)
    assert type(model.inner.layer) is Doubled
    assert model.inner is model.twin


def test_modules_are_nodes_too():
    class Inner(sl.nn.Module):
        def __call__(self, x):
            return x

    class Twice(sl.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    model = sl.nn.Module()
    model.a = model.b = Inner()
    model.layers = [Inner(), 1]
    assert sl.nodes(Inner).update(model, Twice) is model
    assert type(model.a) is Twice
    assert model.a is model.b
    assert written(sl.nodes(Twice).paths(model)) == ["a", "layers[0]"]
    assert type(sl.nodes(sl.nn.Module).update(model, Twice)) is Twice


def test_a_module_in_an_immutable_tree_is_the_same_object_afterwards():
    model = Net()
    new = sl.nodes(eqx.nn.Linear).update({"net": model, "head": linear(1, 1)}, Doubled)
    assert new["net"] is model
    assert type(new["head"]) is type(model.inner.layer) is Doubled


def test_modules_that_refer_to_one_another():
    model = sl.nn.Module()
    model.child = sl.nn.Module()
    model.child.parent = model
    model.child.layer = linear(1, 1)
    assert written(sl.nodes(eqx.nn.Linear).paths(model)) == ["child.layer"]
    sl.nodes("child.layer").update(model, Doubled)
    assert type(model.child.layer) is Doubled


def test_very_deep_modules():
    model = inner = sl.nn.Module()
    for _ in range(2000):
        inner.inner = sl.nn.Module()
        inner = inner.inner
    inner.layer = linear(1, 1)
    sl.nodes(eqx.nn.Linear).update(model, Doubled)
    assert type(inner.layer) is Doubled


def test_in_a_transform_layers_are_replaced_for_good_and_states_are_not_added():
    model = Net()
    before = model(X)

    @sl.jit
    def call(x):
        sl.nodes("inner.layer").update(model, Doubled)
        return model(x)

    assert not np.allclose(call(X), before)
    assert type(model.inner.layer) is Doubled
    with pytest.raises(sl.FrozenTreeError, match="a transform is running"):
        sl.jit(lambda: sl.nodes("mlp").update(model, sl.State))()


def test_inside_of_a_compiled_function_an_immutable_tree_is_changed():
    @sl.jit
    def call(model, x):
        return sl.nodes("layers[0]").update(model, Doubled)(x)

    model = mlp()
    close(call(model, X), sl.nodes("layers[0]").update(model, Doubled)(X))


# What is in them


@pytest.mark.parametrize("make", [mlp, Net])
def test_a_lens_goes_on_inside(make):
    model = make()
    weights = sl.nodes(eqx.nn.Linear) / "weight"
    assert isinstance(weights, sl.Lens)
    expected = [f"{path}.weight" for path in written(sl.nodes(eqx.nn.Linear).paths(model))]
    assert written(weights.paths(model))[:2] == expected[:2]
    assert set(expected) <= {*written(weights.paths(model)), *NET, "state.head.weight"}
    grads = (sl.nodes(eqx.nn.Linear) / sl.inexact).count(model)
    assert grads == sl.trainable.count(model)


def test_a_lens_goes_on_inside_the_values_of_states():
    tree = {"a": sl.ParamState({"head": linear(2, 3)}), "b": sl.ParamState(linear(2, 3))}
    weights = sl.nodes(eqx.nn.Linear) / "weight"
    assert written(weights.paths(tree)) == ["a.head.weight", "b.weight"]
    focus, rest = weights.partition(tree)
    assert focus["a"].value["head"].bias is None
    close(sl.combine(focus, rest), tree)
    rows = weights[:1].get(tree)
    assert [row.shape for row in rows.values()] == [(1, 2), (1, 2)]


# What there isn't


def test_a_class_that_is_not_there_is_an_error_with_those_that_are():
    match = (
        r"asked get for nodes\('@<Conv2d>'\), of which there are none\n"
        r".*Linear \(5\).*MLP \(1\)"
    )
    with pytest.raises(sl.SelectionError, match=match):
        sl.nodes(eqx.nn.Conv2d).get(Net())
    with pytest.raises(sl.SelectionError, match=r"asked update for (.|\n)*Linear \(3\)"):
        sl.nodes(eqx.nn.Conv2d).update(mlp(), Doubled)
    with pytest.raises(sl.SelectionError, match="the tree has no nodes"):
        sl.nodes(eqx.nn.Conv2d).paths(jnp.ones(1))


def test_a_pattern_that_matches_nothing_is_an_error_with_the_closest_path():
    with pytest.raises(sl.PathError, match=r"asked update for nodes at 'innr.layer'(.|\n)*inner.l"):
        sl.nodes("innr.layer").update(Net(), Doubled)
    with pytest.raises(sl.PathError, match=r"nodes at 'q', where there are none"):
        sl.nodes(["mlp", "q"]).get(Net())
    assert sl.nodes("q?").get(Net()) == {}


@pytest.mark.parametrize("function", [None, 1, jnp.ones(1)])
def test_what_is_no_function_is_refused(function):
    with pytest.raises(sl.ArgumentTypeError, match="asked update for function="):
        sl.nodes(eqx.nn.Linear).update(mlp(), function)


def test_what_selects_nothing_is_refused():
    with pytest.raises(sl.ArgumentTypeError, match="asked for a lens of int"):
        sl.nodes(3)


# What people put in


@pytest.mark.parametrize("make", [mlp, Net])
def test_a_quantised_layer_goes_in_with_one_line(make):
    model = make()
    exact = model(X)
    model = sl.nodes(eqx.nn.Linear).update(model, Quantised)
    np.testing.assert_allclose(model(X), exact, atol=0.1)
    dtypes = {x.dtype for x in (sl.nodes(Quantised) / "weight").get(copy.deepcopy(model)).values()}
    assert jnp.dtype("int8") in dtypes


def test_a_bayesian_layer_goes_in_with_one_line():
    model = sl.nodes("layers[-1]").update(mlp(), Bayesian)
    first, second = (model.layers[-1](jnp.ones(4), key=key) for key in KEYS[:2])
    assert not np.allclose(first, second)
    deviations = sl.nodes(Bayesian) / "log_std"
    grads = sl.grad(lambda m: m.layers[-1](jnp.ones(4), key=KEYS[0])[0], deviations)(model)
    assert grads.layers[-1].log_std.shape == (1, 4)


def test_wrappers_of_paramax_go_around_layers_and_around_weights():
    model = sl.nodes("layers[:-1]").update(mlp(), paramax.NonTrainable)
    grads = sl.grad(lambda m: paramax.unwrap(m)(X)[0], sl.trainable)(model)
    assert not jnp.any(grads.layers[0].tree.weight)
    assert jnp.any(grads.layers[-1].weight)
    assert sl.nodes(paramax.NonTrainable).update(model, lambda node: node.tree).layers[0].bias.shape

    positive = sl.nodes("**.weight").update(mlp(), lambda w: paramax.Parameterize(jnp.exp, w))
    weights = sl.lens("**.weight").get(paramax.unwrap(positive))
    assert all(bool(jnp.all(w > 0)) for w in weights.values())
    close((sl.nodes(paramax.Parameterize) / "args[0]").count(positive), 4 * 2 + 4 * 4 + 4)


def test_wrappers_of_paramax_go_in_a_facade_module():
    class Model(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear(2, 3)

        def __call__(self, x):
            return paramax.unwrap(self.layer)(x)

    model = Model()
    sl.nodes("layer.weight").update(model, lambda w: paramax.Parameterize(jnp.exp, w))
    params = model.states(sl.trainable)
    assert written(params) == ["layer.weight.args[0]", "layer.bias"]
    grads = sl.grad(lambda: jnp.sum(model(jnp.ones(2))), params)()
    close(grads["layer", "weight", "args", 0], jnp.exp(params["layer.weight.args[0]"].value))


def test_nodes_by_what_selects_units():
    model = mlp()
    matrices = sl.nodes(sl.ndim == 2)
    assert written(matrices.paths(model)) == [f"layers[{i}].weight" for i in range(3)]
    frozen = matrices.update(model, paramax.NonTrainable)
    close(paramax.unwrap(frozen)(X), model(X))
    assert written(sl.nodes(sl.at(lambda m: m.layers[1])).paths(model)) == ["layers[1]"]
    assert written(sl.nodes(sl.State).paths(Net())) == ["state"]


def test_layers_become_modules_with_states_of_their_own():
    class Adapter(sl.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer
            self.gain = sl.ParamState(jnp.ones(layer.out_features))

        def __call__(self, x, *, key=None):
            return self.gain.value * self.layer(x)

    model = Net()
    expected = model(X)
    params = model.states(sl.nodes(Adapter) / "gain?")
    sl.nodes(sl.lens(eqx.nn.Linear) & ["body[*]", "inner.layer"]).update(model, Adapter)
    assert written(params) == ["body[0].gain", "inner.layer.gain"]
    np.testing.assert_allclose(model(X), expected, rtol=1e-6)
    grads = sl.jit(lambda: sl.grad(lambda: jnp.sum(model(X)), params)())()
    assert list(grads) == list(params)


def test_a_module_that_is_a_compiled_functions_argument_is_threaded():
    model = Net()
    expected = copy.deepcopy(model)
    sl.nodes("inner.layer").update(expected, Doubled)

    def change(model, x):
        return sl.nodes("inner.layer").update(model, Doubled)(x)

    out, after = sl.jit(sl.thread(change))(model, X)
    np.testing.assert_allclose(out, expected(X), rtol=1e-6)
    assert type(after.inner.layer) is Doubled
    assert type(model.inner.layer) is eqx.nn.Linear
    with pytest.raises(sl.FrozenTreeError, match="thread"):
        sl.jit(change)(model, X)
