"""Training and evaluation: the mode of all layers in a model."""

import copy

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import counted

X = jnp.arange(6.0).reshape(3, 2)


class Block(eqx.Module):
    """A layer with a mode in one that has a mode of its own."""

    dropout: eqx.nn.Dropout
    inference: bool

    def __init__(self):
        self.dropout = eqx.nn.Dropout(0.5)
        self.inference = False


class Inner(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.norm_state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
            2, "batch", mode="batch"
        )
        self.dropouts = (eqx.nn.Dropout(0.5), eqx.nn.Dropout(0.1))

    def __call__(self, x):
        y, self.norm_state = self.norm(x, self.norm_state)
        return y


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = eqx.nn.Dropout(0.5)
        self.block = Block()
        self.inner = Inner()
        self.mixed = [Inner(), eqx.nn.Dropout(0.5)]
        self.kept = sl.State(eqx.nn.Dropout(0.5))
        self.again = self.inner
        self.linear = eqx.nn.Linear(2, 2, key=jax.random.key(0))
        self.rng = sl.random.RandomState(0)

    def __call__(self, x):
        call = lambda x: self.inner(x)  # noqa: E731
        x = sl.transform.vmap(call, axis_name="batch")(x)
        return self.dropout(x, key=self.rng.split_key())


def modes(model):
    kinds = (eqx.nn.Dropout, eqx.nn.BatchNorm)
    return {node.inference for node in sl.nodes(kinds).get(model).values()}


def test_all_layers_of_a_module_are_set_to_a_mode_and_back():
    model = Net()
    linear = model.linear
    assert modes(model) == {False}
    assert model.eval() is model
    assert modes(model) == {True}
    assert len(sl.nodes(eqx.nn.Dropout).paths(model)) == 8
    assert model.block.inference is model.block.dropout.inference is True
    assert model.again is model.inner
    assert model.linear is linear
    assert model.train() is model
    assert modes(model) == {False}
    assert model.block.inference is False


def test_what_is_computed_is_that_of_the_mode():
    model = Net()
    first = model(X)
    assert jnp.any(first == 0)
    assert not jnp.array_equal(first, model(X))
    model.eval()
    kept = model.inner.norm_state
    evaluated = model(X)
    np.testing.assert_array_equal(evaluated, model(X))
    assert eqx.tree_equal(model.inner.norm_state, kept)
    assert not jnp.any(evaluated[1:] == 0)


def test_compiled_functions_see_the_mode_and_do_not_trace_again_when_it_comes_back():
    model = Net()
    call, runs = counted(lambda x: model(x))
    compiled = sl.jit(call)
    assert jnp.any(compiled(X) == 0)
    model.eval()
    evaluated = compiled(X)
    np.testing.assert_allclose(evaluated, model(X), rtol=1e-6)
    assert len(runs) == 2
    model.train()
    for _ in range(3):
        assert jnp.any(compiled(X) == 0)
        model.eval()
        assert not jnp.any(compiled(X)[1:] == 0)
        model.train()
    assert len(runs) == 2


def test_layers_that_are_alike_are_the_same_to_a_compiled_function():
    class Scaled(eqx.Module):
        by: float
        activation: object

    model = sl.nn.Module()
    model.layer = Scaled(2.0, jnp.tanh)
    call, runs = counted(lambda x: model.layer.activation(x) * model.layer.by)
    compiled = sl.jit(call)
    compiled(X)
    for layer, count in [
        (Scaled(2.0, jnp.tanh), 1),
        (Scaled(3.0, jnp.tanh), 2),
        (Scaled(2, jnp.tanh), 3),
        (Scaled(2.0, jnp.sin), 4),
        (Scaled(2.0, jnp.tanh), 4),
    ]:
        model.layer = layer
        np.testing.assert_allclose(compiled(X), layer.activation(X) * layer.by, rtol=1e-6)
        assert len(runs) == count


def test_a_list_in_a_layer_that_changed_in_place_is_seen():
    class Powers(eqx.Module):
        exponents: list

    exponents = [2]
    model = sl.nn.Module()
    model.layer = Powers(exponents)
    compiled = sl.jit(lambda x: sum(x**n for n in model.layer.exponents))
    np.testing.assert_allclose(compiled(X), X**2)
    exponents.append(3)
    model.layer = Powers(exponents)
    np.testing.assert_allclose(compiled(X), X**2 + X**3)


def test_a_module_without_such_layers_has_modes_all_the_same():
    model = sl.nn.Module()
    assert model.eval() is model
    model.w = sl.ParamState(jnp.ones(1))
    assert model.train() is model


def test_modes_of_its_own_are_set_too_if_they_are_booleans():
    class Own(sl.nn.Module):
        inference = False

        def __init__(self):
            super().__init__()
            self.training = True
            self.inner = sl.nn.Module()
            self.inner.training = "phase 1"

    model = Own().eval()
    assert (model.training, model.inference, model.inner.training) == (False, True, "phase 1")
    model.train()
    assert (model.training, model.inference) == (True, False)
    assert not hasattr(model.inner, "inference")


def test_a_subclass_may_have_methods_of_these_names():
    class Fitted(sl.nn.Module):
        def train(self, x):
            return x + 1

        def eval(self):
            self.threshold = 0.5
            return super().eval()

    model = Fitted()
    model.dropout = eqx.nn.Dropout(0.5)
    assert model.train(1) == 2
    assert model.eval().threshold == 0.5
    assert model.dropout.inference
    sl.nn.inference_mode(model, False)
    assert not model.dropout.inference


@pytest.mark.parametrize("name", ["train", "eval"])
def test_attributes_of_these_names_are_refused_and_not_lost(name):
    with pytest.raises(sl.ArgumentError, match=r"every nn.Module has a method of this name"):
        setattr(sl.nn.Module(), name, True)


def test_immutable_models_are_set_as_by_equinox():
    model = [Block(), {"norm": eqx.nn.Sequential([eqx.nn.Dropout(0.5)])}, jnp.ones(1)]
    ours = sl.nn.inference_mode(model)
    assert eqx.tree_equal(ours, eqx.nn.inference_mode(model))
    assert ours[2] is model[2]
    assert modes(model) == {False}
    assert eqx.tree_equal(sl.nn.inference_mode(ours, False), model)
    nothing = {"w": jnp.ones(1)}
    assert sl.nn.inference_mode(nothing) is nothing


def test_modules_in_a_tree_are_set_in_place():
    tree = {"net": Net(), "block": Block()}
    ours = sl.nn.inference_mode(tree)
    assert ours["net"] is tree["net"]
    assert modes(ours) == {True}
    assert ours["block"].inference
    assert not tree["block"].inference


def test_a_copy_keeps_the_mode_that_it_has():
    model = Net()
    evaluated = copy.deepcopy(model).eval()
    assert modes(evaluated) == {True}
    assert modes(model) == {False}


def test_a_model_that_is_passed_as_an_argument_is_evaluated_in_another_program():
    call, runs = counted(lambda model, x: model.inner.dropouts[0](x, key=jax.random.key(0)))
    compiled = sl.jit(call)
    model = Net()
    compiled(model, X)
    np.testing.assert_array_equal(compiled(model.eval(), X), X)
    compiled(model.train(), X)
    compiled(model.eval(), X)
    assert len(runs) == 2
