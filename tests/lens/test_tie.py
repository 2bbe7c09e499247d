"""Tied weights: arrays tied by `tie`, and one state in two places."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.strategies import same


class Coder(eqx.Module):
    encoder: eqx.nn.Linear
    decoder: eqx.nn.Linear
    scale: jax.Array

    def __init__(self, key):
        one, other = jax.random.split(key)
        self.encoder = eqx.nn.Linear(3, 3, key=one)
        self.decoder = eqx.nn.Linear(3, 3, key=other)
        self.scale = jnp.ones(3)

    def __call__(self, x):
        return self.decoder(jnp.tanh(self.encoder(x))) * self.scale


X = jnp.arange(3.0)


@pytest.fixture
def model():
    return Coder(jax.random.key(0))


@pytest.fixture
def tied(model):
    return sl.tie(model, "decoder.weight", "encoder.weight")


def loss(model):
    return jnp.sum(model(X) ** 2)


def is_tied(tied):
    return same(tied.decoder.weight, tied.encoder.weight)


def by_hand(model):
    """The same model with the encoder's weight in both places."""
    return eqx.tree_at(lambda m: m.decoder.weight, model, model.encoder.weight)


def test_the_places_have_the_array_of_the_source(model, tied):
    assert tied.decoder.weight is model.encoder.weight
    assert tied.untied.decoder.weight is tied.untied.encoder.weight
    assert tied.decoder.bias is model.decoder.bias


def test_a_tied_tree_is_called_and_read_as_the_tree(model, tied):
    assert same(tied(X), by_hand(model)(X))
    assert tied.encoder.in_features == 3
    assert type(tied.untied) is Coder


def test_a_tied_tree_of_containers_is_read_as_it_is():
    tied = sl.tie({"a": jnp.zeros(1), "b": [jnp.ones(1)]}, "b[0]", "a")
    assert same(tied["b"], [jnp.zeros(1)])
    assert len(tied) == 2
    assert list(tied) == ["a", "b"]


def test_an_attribute_set_on_a_tied_module_is_not_lost():
    module = sl.nn.Module()
    module.weights = [jnp.ones(2), jnp.zeros(2)]
    tied = sl.tie(module, "weights[1]", "weights[0]")
    try:
        tied.steps = 5
    except sl.StateLensError:
        return  # Refused is as good as done.
    assert tied.steps == 5


def test_an_attribute_of_an_immutable_tied_module_is_not_set(tied):
    with pytest.raises(AttributeError, match="scale"):
        tied.scale = jnp.zeros(3)


def test_a_tied_array_is_one_unit_by_its_source(model, tied):
    everything = sl.lens(...)
    written = [sl.path.format(path) for path in everything.paths(tied)]
    assert written == ["encoder.weight", "encoder.bias", "decoder.bias", "scale"]
    assert everything.count(tied) == everything.count(model) - 9
    assert len(jax.tree.leaves(tied)) == len(jax.tree.leaves(model)) - 1


def test_its_gradient_is_the_sum_over_its_places(model, tied):
    separate = jax.grad(loss)(by_hand(model))
    total = separate.encoder.weight + separate.decoder.weight
    np.testing.assert_allclose(jax.grad(loss)(tied).encoder.weight, total, rtol=1e-5)
    gradient = sl.grad(loss, grad_states=sl.lens("encoder.weight"))(tied)
    np.testing.assert_allclose(gradient.encoder.weight, total, rtol=1e-5)


def test_it_stays_tied_after_set_and_update(tied):
    weight = jnp.full((3, 3), 2.0)
    after = sl.lens("encoder.weight").set(tied, {"encoder.weight": weight})
    assert after.decoder.weight is after.encoder.weight is weight
    after = sl.inexact.update(tied, lambda x: x + 1)
    assert is_tied(after)
    assert same(after.encoder.weight, tied.encoder.weight + 1)


@pytest.mark.parametrize("lens", ["encoder.weight", "scale", "**.bias", "encoder.**"])
def test_it_stays_tied_after_partition_and_combine(tied, lens):
    after = sl.combine(*sl.lens(lens).partition(tied))
    assert same(after, tied)
    assert after.decoder.weight is after.encoder.weight


def test_it_stays_tied_after_a_step_of_an_optimiser(model, tied):
    lens = sl.lens("**.weight")
    optimizer = optax.adam(0.1)
    focus, _ = lens.partition(tied)
    updates, _ = optimizer.update(sl.grad(loss, grad_states=lens)(tied), optimizer.init(focus))
    after = lens.apply_updates(tied, updates)
    assert is_tied(after)
    assert not same(after.encoder.weight, model.encoder.weight)
    assert same(after.scale, model.scale)


def test_it_stays_tied_under_jit(model, tied):
    @jax.jit
    def double(tied):
        return jax.tree.map(lambda x: 2 * x, tied), tied(X)

    after, out = double(tied)
    assert is_tied(after)
    assert same(after.encoder.weight, 2 * model.encoder.weight)
    np.testing.assert_allclose(out, by_hand(model)(X), rtol=1e-5)


def test_it_is_mapped_over_by_vmap(tied):
    batch = jnp.stack([X, X + 1])
    np.testing.assert_allclose(jax.vmap(tied)(batch)[1], tied(X + 1), rtol=1e-5)
    several = jax.tree.map(lambda x: jnp.stack([x, 0 * x]), tied)
    outs = jax.vmap(lambda tied: tied(X))(several)
    np.testing.assert_allclose(outs[0], tied(X), rtol=1e-5)
    np.testing.assert_array_equal(outs[1], jnp.zeros(3))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_it_stays_tied_when_copied(tied, duplicate):
    after = duplicate(tied)
    assert same(after, tied)
    assert is_tied(sl.inexact.update(after, lambda x: x + 1))


def test_several_places_are_tied_in_order():
    tree = {"from": [jnp.zeros(1), jnp.ones(2)], "to": [jnp.ones(1), jnp.zeros(2)]}
    tied = sl.tie(tree, "to.**", "from.**")
    assert same(tied["to"], tree["from"])


def test_a_tied_tree_can_be_tied_further():
    tree = {"a": jnp.zeros(1), "b": jnp.ones(1), "c": jnp.ones(1)}
    tied = sl.tie(sl.tie(tree, "b", "a"), "c", "a")
    assert sl.lens(...).paths(tied) == (("a",),)
    assert same([tied["b"], tied["c"]], [tree["a"], tree["a"]])


def test_unequal_numbers_are_refused(model):
    with pytest.raises(sl.SelectionError, match=r"1 places are to be tied to 2 others"):
        sl.tie(model, "decoder.weight", "encoder.*")


def test_an_array_is_not_tied_to_itself(model):
    with pytest.raises(sl.SelectionError, match=r"of which 1 are the same"):
        sl.tie(model, "encoder.weight", "encoder.weight")


def test_other_shapes_are_refused(model):
    with pytest.raises(sl.StructureError, match=r"'scale' to 'encoder.weight'\n(.|\n)*one shape"):
        sl.tie(model, "scale", "encoder.weight")


def test_a_part_of_an_array_is_not_tied(model):
    with pytest.raises(sl.StateLensError, match=r"asked to tie .*decoder.weight"):
        sl.tie(model, sl.lens("decoder.weight")[0], sl.lens("encoder.weight")[0])


class Language(eqx.Module):
    embedding: eqx.nn.Embedding
    unembedding: eqx.nn.Linear

    def __init__(self, key):
        one, other = jax.random.split(key)
        self.embedding = eqx.nn.Embedding(5, 3, key=one)
        self.unembedding = eqx.nn.Linear(5, 3, use_bias=False, key=other)

    def __call__(self, token):
        return self.embedding(token) @ self.unembedding.weight


@pytest.fixture
def language():
    model = Language(jax.random.key(0))
    # The transpose of a table of five rows of three.
    return sl.tie(model, "unembedding.weight", "embedding.weight", by=jnp.transpose)


def language_loss(model):
    return jnp.sum(jax.nn.log_softmax(model(2)) ** 2)


def is_transposed(tied):
    return same(tied.unembedding.weight, tied.embedding.weight.T)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_of_a_transposed_tie_is_the_sum_of_both(language, compiled):
    def by_hand(table):
        return jnp.sum(jax.nn.log_softmax(table[2] @ table.T) ** 2)

    gradient = sl.grad(language_loss, grad_states="embedding.weight")
    found = (sl.jit(gradient) if compiled else gradient)(language)
    table = language.embedding.weight
    np.testing.assert_allclose(found.embedding.weight, jax.grad(by_hand)(table), rtol=1e-5)
    untied = jax.grad(language_loss)(language.untied)
    both = untied.embedding.weight + untied.unembedding.weight.T
    np.testing.assert_allclose(found.embedding.weight, both, rtol=1e-5)


def test_a_transposed_tie_stays_tied(language):
    assert is_transposed(language)
    assert sl.arrays.paths(language) == (("embedding", "weight"),)
    lens = sl.lens("embedding.weight")
    new = {"embedding.weight": jnp.arange(15.0).reshape(5, 3)}
    assert is_transposed(lens.set(language, new))
    assert is_transposed(lens.update(language, jnp.negative))
    assert is_transposed(lens.cast(language, "bfloat16"))
    assert is_transposed(sl.combine(*lens.partition(language)))
    assert is_transposed(jax.jit(lambda tied: tied)(language))
    assert is_transposed(pickle.loads(pickle.dumps(language)))
    shapes = jax.eval_shape(lambda: language)
    assert shapes.unembedding.weight.shape == (3, 5)
    assert lens.partition(language)[1].unembedding.weight is None


def test_a_transposed_tie_of_another_shape_is_refused():
    tree = {"a": jnp.ones((5, 3)), "b": jnp.ones((5, 3))}
    with pytest.raises(sl.StructureError, match=r"\[5, 3\].*\[3, 5\].* as `by` makes it"):
        sl.tie(tree, "a", "b", by=jnp.transpose)
    tree["b"] = tree["b"].T
    with pytest.raises(sl.StructureError, match=r"tie\(..., by=jax.numpy.transpose\)"):
        sl.tie(tree, "a", "b")


def test_states_are_tied_by_being_one():
    tree = {"a": sl.State(jnp.ones(1)), "b": jnp.ones(1)}
    with pytest.raises(sl.SelectionError, match="that is a State\nInstead: put the same"):
        sl.tie(tree, "b", "a")


# One state in two places


@pytest.fixture
def shared():
    weight = sl.ParamState(jnp.array([1.0, 2.0]))
    return {"decoder": {"weight": weight}, "encoder": [weight], "scale": jnp.array(3.0)}


def shared_loss(tree):
    encoded = jnp.sum(tree["encoder"][0].value ** 2)
    return encoded * tree["scale"] + jnp.sum(tree["decoder"]["weight"].value ** 3)


def is_shared(tree):
    return tree["encoder"][0] is tree["decoder"]["weight"]


def test_a_shared_state_is_one_unit(shared):
    assert sl.params.paths(shared) == (("decoder", "weight"),)
    assert sl.params.count(shared) == 2


@pytest.mark.parametrize("lens", ["decoder.weight", "encoder[0]", "**.weight"])
def test_a_shared_state_has_one_gradient_the_sum(shared, lens):
    gradient = sl.grad(shared_loss, grad_states=sl.lens(lens))(shared)
    w = shared["encoder"][0].value
    np.testing.assert_allclose(gradient["decoder"]["weight"].value, 2 * w * 3 + 3 * w**2)
    assert gradient["encoder"] == [None]
    assert gradient["scale"] is None


def test_a_part_of_a_shared_state_has_one_gradient_the_sum(shared):
    gradient = sl.grad(shared_loss, grad_states=sl.lens("encoder[0]")[1:])(shared)
    np.testing.assert_allclose(gradient["decoder"]["weight"].value, [2 * 2 * 3 + 3 * 4])


def test_a_bound_shared_state_has_one_gradient_the_sum(shared):
    states = sl.params.bind(shared)
    gradient = sl.grad(lambda: shared_loss(shared), grad_states=states)()
    w = shared["encoder"][0].value
    assert list(gradient) == [("decoder", "weight")]
    np.testing.assert_allclose(gradient["decoder", "weight"], 2 * w * 3 + 3 * w**2)


def test_a_shared_state_stays_shared(shared):
    lens = sl.lens("encoder[0]")
    values = lens.get(shared)
    assert is_shared(lens.set(shared, values))
    assert is_shared(lens.set(shared, {path: jnp.zeros(2) for path in values}))
    assert is_shared(lens.update(shared, lambda w: w + 1))
    assert is_shared(lens[1:].update(shared, lambda w: w + 1))
    assert is_shared(lens.cast(shared, jnp.bfloat16))
    assert is_shared(lens.stop_gradient(shared))


@pytest.mark.parametrize("lens", [sl.lens("encoder[0]"), sl.lens("scale"), sl.params[:1]])
def test_a_shared_state_stays_shared_after_partition_and_combine(shared, lens):
    focus, rest = lens.partition(shared)
    after = sl.combine(jax.tree.map(lambda x: x + 1, focus), rest)
    assert is_shared(after)


def test_a_shared_state_stays_shared_after_a_step_of_an_optimiser(shared):
    optimizer = optax.sgd(1.0)
    focus, _ = sl.params.partition(shared)
    gradient = sl.grad(shared_loss, grad_states=sl.params)(shared)
    updates, _ = optimizer.update(gradient, optimizer.init(focus))
    after = sl.params.apply_updates(shared, updates)
    assert is_shared(after)
    step = gradient["decoder"]["weight"].value
    np.testing.assert_allclose(after["encoder"][0].value, shared["encoder"][0].value - step)
