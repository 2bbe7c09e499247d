"""Equinox layers in a facade module: what of them trains, and in which mode they are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import written


class Classifier(sl.nn.Module):
    """A layer of each kind: of arrays, with integers, without arrays, and of our own."""

    def __init__(self):
        super().__init__()
        self.first = eqx.nn.Linear(2, 3, key=jax.random.key(0))
        self.dropout = eqx.nn.Dropout(0.5)
        self.scale = sl.ParamState(jnp.ones(3))
        self.mean = sl.BatchState(jnp.zeros(3))
        self.hidden = sl.HiddenState(jnp.zeros(3))
        self.table = jnp.ones(3)
        self.order = jnp.arange(3)
        self.key = sl.random.RandomState(0)

    def __call__(self, x):
        return jnp.sum(self.scale.value * self.table * self.first(x))


LAYER = ["first.weight", "first.bias"]


@pytest.mark.parametrize("spec", [sl.ParamState, sl.ParamState[jax.Array], sl.params])
def test_parameters_are_those_of_layers_too(spec):
    model = Classifier()
    assert written(model.states(spec)) == [*LAYER, "scale"]
    assert written(sl.lens(spec).paths(model)) == [*LAYER, "scale"]
    assert written(sl.lens(spec).paths({"a": [model]})) == [f"a[0].{p}" for p in [*LAYER, "scale"]]


def test_what_is_trainable_is_the_same_by_states_and_by_a_lens():
    model = Classifier()
    assert written(model.states(sl.trainable)) == [*LAYER, "scale", "table"]
    assert written(sl.trainable.paths(model)) == [*LAYER, "scale", "table"]


def test_what_is_trainable_in_a_model_of_arrays():
    model = {"mlp": eqx.nn.MLP(1, 1, 2, 1, key=jax.random.key(0)), "n": jnp.arange(2), "f": 1.0}
    assert sl.trainable.paths(model) == sl.inexact.paths(model)
    assert sl.trainable.paths(sl.BatchState(jnp.ones(1))) == ()


def test_another_kind_of_parameter_does_not_stand_for_layers():
    class Position(sl.ParamState):
        pass

    model = Classifier()
    model.position = Position(jnp.ones(1))
    assert written(model.states(Position)) == ["position"]
    assert written(model.states(sl.ParamState)) == [*LAYER, "position", "scale"]


def test_what_equinox_holds_as_state_is_no_parameter():
    model = sl.nn.Module()
    model.norm, model.state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "batch", mode="ema")
    model.index = eqx.nn.StateIndex(jnp.ones(1))
    parts = ["norm.weight", "norm.bias"]
    assert written(model.states(sl.ParamState)) == parts
    assert written(model.states(sl.trainable)) == parts
    pair = (model.norm, model.state)
    assert written(sl.trainable.paths(pair)) == ["[0].weight", "[0].bias"]


def test_a_layer_in_a_list_with_modules_is_bound_or_refused():
    model = sl.nn.Module()
    model.layers = [Classifier(), eqx.nn.Linear(1, 1, key=jax.random.key(0))]
    assert "layers[1].weight" in written(sl.params.paths(model))
    with pytest.raises(sl.StateTypeError, match=r"'layers\[1\].weight'(.|\n)*attribute of its own"):
        dict(model.states(sl.ParamState))


def test_parameters_that_change_their_dtype_are_seen():
    model = Classifier()
    params = model.states(sl.ParamState)
    assert len(params) == 3
    model.first = jax.tree.map(lambda x: x.astype(jnp.int32), model.first)
    assert written(params) == ["scale"]


@pytest.mark.parametrize("select", [sl.ParamState, sl.trainable])
def test_a_layer_is_trained_as_by_hand(select):
    model = Classifier()
    params = model.states(select)
    x = jnp.array([1.0, 2.0])
    loss = lambda first, scale: jnp.sum(scale * first(x))  # noqa: E731
    by_hand = jax.grad(loss, argnums=(0, 1))(model.first, model.scale.value)

    @sl.jit
    def step():
        gradients = sl.grad(lambda: model(x), params)()
        params.assign(optax.apply_updates(params.values_dict(), gradients))
        return gradients

    before = model.first.weight
    gradients = step()
    np.testing.assert_allclose(gradients["first", "weight"], by_hand[0].weight)
    np.testing.assert_allclose(gradients["scale",], by_hand[1])
    np.testing.assert_allclose(model.first.weight, before + by_hand[0].weight)


# The mode of layers.


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: [m], lambda m: {"a": (m, 1)}])
def test_inference_mode_of_a_whole_module_says_what_to_write(wrap):
    match = r"'inference'(.|\n)*: dropout\n(.|\n)*model.eval\(\)(.|\n)*statelens.nn.inference_mode"
    with pytest.raises(sl.ArgumentTypeError, match=match):
        eqx.nn.inference_mode(wrap(Classifier()))


def test_inference_mode_of_a_layer_in_an_inner_module_names_it():
    model = sl.nn.Module()
    model.body = [Classifier()]
    with pytest.raises(sl.ArgumentTypeError, match=r"as they are: body\[0\].dropout\n"):
        eqx.nn.inference_mode(model)


def test_inference_mode_of_a_module_without_such_layers_changes_nothing():
    model = sl.nn.Module()
    model.layer = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    assert not hasattr(model, "inference")
    again = eqx.nn.inference_mode(model)
    assert jax.tree.structure(again) == jax.tree.structure(model)


def test_a_module_may_have_a_mode_of_its_own():
    model = Classifier()
    model.inference = True
    assert model.inference is True


def test_a_layer_in_inference_mode_stays_in_it():
    model = Classifier()
    model.dropout = eqx.nn.inference_mode(model.dropout)
    assert model.dropout(jnp.ones(2)).tolist() == [1.0, 1.0]
