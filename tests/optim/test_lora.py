"""Low-rank adapters, the worked example of nodes: put in, trained, and merged again."""

import ast
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import written

KEY = jax.random.key(3)
ADAPTERS = sl.nodes(sl.optim.LowRank) / "{a,b}"
X = jax.random.normal(jax.random.key(1), (16, 2))
Y = jnp.sin(3 * X[:, :1])


class Net(sl.nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.body = mlp
        self.head = eqx.nn.Linear(3, 1, key=jax.random.key(2))

    def __call__(self, x):
        return self.head(jnp.tanh(self.body(x)))


def mlp():
    return eqx.nn.MLP(2, 3, 8, 2, key=jax.random.key(0))


def functional():
    return eqx.nn.Sequential([mlp(), eqx.nn.Linear(3, 1, key=jax.random.key(2))])


MODELS = {"functional": functional, "facade": lambda: Net(mlp())}
LENSES = {"functional": "layers[0].layers[:2]", "facade": "body.layers[:2]"}


@pytest.fixture(params=MODELS)
def style(request):
    return request.param


def loss(model):
    return jnp.mean((jax.vmap(model)(X) - Y) ** 2)


def test_it_is_at_most_forty_lines_of_code():
    source = inspect.getsource(inspect.getmodule(sl.optim.lora))
    tree = ast.parse(source)
    documented = [tree, *(n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)))]
    documented += [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    texts = {
        line
        for node in documented
        if ast.get_docstring(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = enumerate(source.splitlines(), 1)
    code = [line for number, line in lines if line.strip() and number not in texts]
    assert len(code) <= 40


def test_at_first_the_outputs_are_equal(style):
    model = MODELS[style]()
    expected = jax.vmap(model)(X)
    model = sl.optim.lora(model, LENSES[style], 2, KEY)
    np.testing.assert_array_equal(jax.vmap(model)(X), expected)
    assert len((sl.nodes(sl.optim.LowRank)).paths(model)) == 2
    shapes = [a.shape for a in (sl.nodes(sl.optim.LowRank) / "a").get(model).values()]
    assert shapes == [(2, 2), (2, 8)]
    first, second = (sl.nodes(sl.optim.LowRank) / "a").get(model).values()
    assert not np.allclose(first, second[:, :2])


def test_only_the_adapters_are_trained_and_are_merged_again(style):
    model = MODELS[style]()
    before = {path: np.asarray(x) for path, x in sl.trainable.get(model).items()}
    model = sl.optim.lora(model, LENSES[style], 2, KEY, scale=0.5)
    first = loss(model)
    optimizer = optax.adam(3e-2)
    if style == "functional":
        state = optimizer.init(ADAPTERS.focus(model))

        @sl.jit
        def step(model, state):
            grads = sl.grad(loss, ADAPTERS)(model)
            updates, state = optimizer.update(grads, state)
            return ADAPTERS.apply_updates(model, updates), state

        for _ in range(20):
            model, state = step(model, state)
    else:
        params = model.states(ADAPTERS)
        moments = sl.State(optimizer.init(params.values_dict()))

        @sl.jit
        def step():
            grads = sl.grad(lambda: loss(model), params)()
            updates, moments.value = optimizer.update(grads, moments.value)
            params.apply_updates(updates)

        for _ in range(20):
            step()

    assert loss(model) < 0.9 * first
    products = {
        path[:-1]: 0.5 * b @ a
        for (path, a), b in zip(
            (sl.nodes(sl.optim.LowRank) / "a").get(model).items(),
            (sl.nodes(sl.optim.LowRank) / "b").get(model).values(),
            strict=True,
        )
    }
    expected = jax.vmap(model)(X)
    merged = sl.optim.merge(model)
    assert (merged is model) == (style == "facade")
    np.testing.assert_allclose(jax.vmap(merged)(X), expected, rtol=1e-4, atol=1e-6)
    after = sl.trainable.get(merged)
    assert written(after) == written(before)
    for path, old in before.items():
        if path[-1] == "weight" and path[:-1] in products:
            np.testing.assert_array_equal(after[path], old + products[path[:-1]])
        else:
            np.testing.assert_array_equal(after[path], old)


def test_layers_without_an_adapter_are_the_same_objects():
    model = functional()
    merged = sl.optim.merge(sl.optim.lora(model, LENSES["functional"], 1, KEY))
    assert merged.layers[1] is model.layers[1]
    assert merged.layers[0].layers[2] is model.layers[0].layers[2]


def test_adapters_of_adapters_are_merged_together():
    model = sl.optim.lora(mlp(), "layers[0]", 1, KEY)
    model = (sl.nodes(sl.optim.LowRank) / "b").update(model, jnp.ones_like)
    model = sl.optim.lora(model, "layers[0].base", 2, KEY)
    model = (sl.nodes("layers[0].base") / "b").update(model, jnp.ones_like)
    merged = sl.optim.merge(model)
    assert type(merged.layers[0]) is eqx.nn.Linear
    np.testing.assert_allclose(merged(X[0]), model(X[0]), rtol=1e-5)


def test_layers_that_are_stacked_for_a_scan():
    make = eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 3, key=key))
    model = sl.optim.lora({"blocks": make(jax.random.split(KEY, 4))}, ..., 2, KEY)
    assert model["blocks"].a.shape == (4, 2, 3)
    x, _ = jax.lax.scan(lambda x, block: (block(x), None), jnp.ones(3), model["blocks"])
    assert x.shape == (3,)


@pytest.mark.parametrize(("n_in", "n_out"), [("scalar", 2), (3, "scalar"), ("scalar", "scalar")])
def test_layers_of_scalars(n_in, n_out):
    model = eqx.nn.MLP(n_in, n_out, 4, 1, key=KEY)
    x = jnp.ones(() if n_in == "scalar" else n_in)
    adapted = sl.optim.lora(model, ..., 2, KEY)
    np.testing.assert_array_equal(adapted(x), model(x))
    adapted = sl.lens(ADAPTERS).update(adapted, lambda x: x + 0.5)
    again = sl.optim.lora(adapted, ..., 2, KEY)
    assert adapted(x).shape == model(x).shape
    assert not np.allclose(adapted(x), model(x))
    np.testing.assert_allclose(again(x), adapted(x), rtol=1e-6)
    np.testing.assert_allclose(sl.optim.merge(adapted)(x), adapted(x), rtol=1e-5)


def test_another_dtype_stays():
    model = sl.lens(...).cast({"l": eqx.nn.Linear(2, 2, key=KEY)}, jnp.bfloat16)
    model = sl.optim.lora(model, ..., 1, KEY)
    assert {x.dtype for x in jax.tree.leaves(model)} == {jnp.dtype(jnp.bfloat16)}
    assert sl.optim.merge(model)["l"].weight.dtype == jnp.bfloat16


def test_what_is_no_linear_layer_is_refused_with_what_there_is():
    with pytest.raises(sl.SelectionError, match=r"asked lora for nodes(.|\n)*Linear \(3\)"):
        sl.optim.lora(mlp(), "activation", 1, KEY)
    with pytest.raises(
        sl.PathError, match=r"asked lora for nodes at 'layer', where (.|\n)*'layers'"
    ):
        sl.optim.lora(mlp(), "layer", 1, KEY)
    with pytest.raises(sl.SelectionError, match="@<LowRank>"):
        sl.optim.merge(mlp())


@pytest.mark.parametrize(("rank", "match"), [(0, "at least 1"), (1.5, "rank=1.5")])
def test_a_rank_that_is_none_is_refused(rank, match):
    with pytest.raises(sl.StateLensError, match=match):
        sl.optim.lora(mlp(), ..., rank, KEY)
