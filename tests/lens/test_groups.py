"""Groups: a labelling that is total and disjoint."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.strategies import same

TREE = {"b": jnp.ones(2), "n": 3, "v": jnp.ones((1, 2)), "w": jnp.ones((2, 2))}


def stateful():
    shared = sl.ParamState(jnp.ones((2, 2)))
    return {
        "embed": shared,
        "head": shared,
        "layer": sl.ParamState({"bias": jnp.zeros(3), "weight": jnp.ones((2, 3)), "none": None}),
        "scale": jnp.ones(2),
    }


def test_each_unit_has_the_label_of_its_group():
    labels = sl.groups({"decay": sl.ndim >= 2, "plain": sl.ndim < 2})(TREE)
    assert labels == {"b": "plain", "n": None, "v": "decay", "w": "decay"}


def test_labels_go_inside_states():
    tree = stateful()
    labels = sl.groups({"decay": sl.ndim >= 2, "plain": sl.ndim < 2})(tree)
    assert jax.tree.structure(labels) == jax.tree.structure(tree)
    assert labels["layer"].value == {"bias": "plain", "weight": "decay", "none": None}
    assert (labels["embed"].value, labels["head"].value) == ("decay", "decay")


def test_a_unit_in_no_group_is_refused():
    with pytest.raises(sl.SelectionError, match=r"'v' is in no group, nor are 1 others"):
        sl.groups({"b": "b"})(TREE)
    with pytest.raises(sl.SelectionError, match=r"'b' is in no group\nInstead: .*first_match=True"):
        sl.groups({"vw": ["v", "w"]})(TREE)


def test_no_groups_leave_all_units_in_none():
    with pytest.raises(sl.SelectionError, match=r"'b' is in no group"):
        sl.groups({})(TREE)


def test_a_leaf_of_a_state_in_no_group_is_refused():
    with pytest.raises(sl.SelectionError, match=r"'layer.bias' is in no group"):
        sl.groups({"some": ["layer.weight", "embed", "scale"]})(stateful())


def test_a_unit_in_two_groups_is_refused():
    with pytest.raises(
        sl.SelectionError, match=r"'w' is in the group 'all' and in 'last'(.|\n)*2\."
    ):
        sl.groups({"all": ..., "last": "w"})(TREE)


def test_a_shared_state_in_two_groups_by_its_two_paths_is_refused():
    with pytest.raises(sl.SelectionError, match=r"'embed' is in the group 'one' and in 'other'"):
        sl.groups({"one": "embed", "other": "head", "rest": ["layer", "scale"]})(stateful())


def test_the_first_match_wins_where_asked_for():
    labels = sl.groups({"last": "w", "wide": sl.ndim == 2, "rest": ...}, first_match=True)(TREE)
    assert labels == {"b": "rest", "n": None, "v": "wide", "w": "last"}


def test_a_shadowed_group_is_refused():
    shadowing = sl.groups({"wide": sl.ndim == 2, "last": "w", "rest": ...}, first_match=True)
    with pytest.raises(sl.SelectionError, match=r"'last'\nit is shadowed: earlier .* 'w' first"):
        shadowing(TREE)


@pytest.mark.parametrize("first_match", [False, True])
def test_a_group_whose_pattern_matches_nothing_is_refused(first_match):
    with pytest.raises(sl.PathError, match=r"group 'last' for 'ww', which matches nothing"):
        sl.groups({"last": "ww", "rest": ...}, first_match=first_match)(TREE)


@pytest.mark.parametrize("first_match", [False, True])
def test_a_group_that_is_optional_may_be_empty(first_match):
    labels = sl.groups({"last": "ww?", "rest": ...}, first_match=first_match)(TREE)
    assert labels == {"b": "rest", "n": None, "v": "rest", "w": "rest"}


def test_the_first_match_wins_inside_a_state():
    groups = sl.groups({"bias": "layer.bias", "layer": "layer", "rest": ...}, first_match=True)
    tree = stateful()
    assert groups(tree)["layer"].value == {"bias": "bias", "weight": "layer", "none": None}
    halves = groups.partition(tree)
    assert halves["layer"]["layer"].value["bias"] is None
    assert same(sl.combine(*halves.values()), tree)
    with pytest.raises(sl.SelectionError, match=r"'layer.bias' is in the group 'one' and in 'two'"):
        sl.groups({"one": "layer.bias", "two": "layer", "rest": ["embed", "scale"]})(tree)


@pytest.mark.parametrize("first_match", [False, True])
def test_many_groups_are_asked_once_for_each_leaf_and_not_for_each_pair(first_match):
    asked = []

    def member(number):
        def is_member(path, leaf):
            asked.append(number)
            return path == (number,)

        return is_member

    tree = [jnp.ones(1)] * 20
    lenses = {str(number): member(number) for number in range(20)}
    assert sl.groups(lenses, first_match=first_match)(tree) == list(lenses)
    # For what it takes, and for what is in no group.
    assert len(asked) == 2 * 20 * 20


def test_groups_are_lenses_by_name():
    groups = sl.groups({"last": "w", "rest": ...}, first_match=True)
    assert list(groups) == ["last", "rest"]
    assert len(groups) == 2
    assert groups["rest"].paths(TREE) == (("b",), ("v",))
    assert repr(groups) == "groups({'last': 'w', 'rest': '...'}, first_match=True)"


def test_partition_gives_one_half_for_each_group():
    halves = sl.groups({"decay": sl.ndim >= 2, "plain": sl.ndim < 2}).partition(TREE)
    assert halves["decay"] == {"b": None, "n": None, "v": TREE["v"], "w": TREE["w"]}
    assert halves["plain"] == {"b": TREE["b"], "n": None, "v": None, "w": None}


def test_partition_checks_as_labelling_does():
    with pytest.raises(sl.SelectionError, match=r"'b' is in no group"):
        sl.groups({"vw": ["v", "w"]}).partition(TREE)


def test_all_parts_of_a_tree_without_other_leaves_combine():
    tree = stateful()
    halves = sl.groups({"decay": sl.ndim >= 2, "plain": sl.ndim < 2}).partition(tree)
    assert same(sl.combine(*halves.values()), tree)


def test_two_optimisers_over_an_equinox_model():
    model = eqx.nn.MLP(3, 2, 4, 2, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    labels = sl.groups({"head": "layers[-1].**", "body": "layers[:-1].**"})
    optimizer = optax.multi_transform({"head": optax.sgd(0.5), "body": optax.sgd(2.0)}, labels)

    @jax.jit
    def step(params, gradient):
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    after = step(params, jax.tree.map(jnp.ones_like, params))
    for i, rate in enumerate((2.0, 2.0, 0.5)):
        before = params.layers[i]
        np.testing.assert_allclose(after.layers[i].weight, before.weight - rate, rtol=1e-6)
        np.testing.assert_allclose(after.layers[i].bias, before.bias - rate, rtol=1e-6)


def test_two_optimisers_over_a_tree_with_states():
    tree = {
        "layer": sl.ParamState({"bias": jnp.zeros(3), "weight": jnp.ones((2, 3))}),
        "scale": jnp.ones(2),
    }
    labels = sl.groups({"slow": "**.bias", "fast": ["layer.weight", "scale"]})
    optimizer = optax.multi_transform({"slow": optax.sgd(1.0), "fast": optax.sgd(10.0)}, labels)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, tree), optimizer.init(tree), tree)
    after = sl.lens(...).apply_updates(tree, updates)
    np.testing.assert_array_equal(after["layer"].value["bias"], -jnp.ones(3))
    np.testing.assert_array_equal(after["layer"].value["weight"], jnp.full((2, 3), -9))
    np.testing.assert_array_equal(after["scale"], [-9, -9])


# A model that can be called, with functions among its leaves.

MLP = eqx.nn.MLP(2, 1, 4, 2, key=jax.random.key(0))
OF_MLP = sl.groups({"head": "layers[-1].**", "body": "layers[:-1].**"})
PARAMS = {
    "filter": lambda model: eqx.filter(model, eqx.is_inexact_array),
    "partition": lambda model: sl.inexact.partition(model)[0],
}
LABELS = {
    "the groups": OF_MLP,
    "labels of the model": lambda _: OF_MLP(MLP),
    "labels of its arrays": lambda _: OF_MLP(PARAMS["filter"](MLP)),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("params_of", PARAMS.values(), ids=PARAMS)
def test_groups_of_a_real_model_train_as_optax_by_hand_does(params_of, labels):
    xs, ys = jnp.linspace(-1, 1, 10).reshape(5, 2), jnp.ones((5, 1))
    head, body = optax.adam(0.1), optax.sgd(0.1, momentum=0.9)
    optimizer = optax.multi_transform({"head": head, "body": body}, labels)

    @eqx.filter_jit
    @eqx.filter_grad
    def grads_of(model):
        return jnp.mean((jax.vmap(model)(xs) - ys) ** 2)

    params = params_of(MLP)
    state = optimizer.init(params)
    layers = list(params.layers)
    states = [body.init(layers[0]), body.init(layers[1]), head.init(layers[2])]
    for _ in range(3):
        grads = grads_of(eqx.combine(params, MLP))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for at, one in enumerate([body, body, head]):
            updates, states[at] = one.update(grads.layers[at], states[at], layers[at])
            layers[at] = optax.apply_updates(layers[at], updates)
    assert params.activation is None
    assert same(list(params.layers), layers)
