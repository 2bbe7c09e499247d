"""A worked example: a transformer's weights under somebody else's names, there and back."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import statelens as sl
from statelens.checkpoint import Rule, load, save

VOCABULARY, WIDTH, HEADS, HIDDEN, LENGTH = 11, 8, 2, 16, 5


# The model, written in Equinox.


class Attention(eqx.Module):
    q: eqx.nn.Linear
    k: eqx.nn.Linear
    v: eqx.nn.Linear
    o: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        make = [eqx.nn.Linear(WIDTH, WIDTH, key=key) for key in keys]
        self.q, self.k, self.v, self.o = make

    def __call__(self, x):
        q, k, v = (
            jax.vmap(linear)(x).reshape(-1, HEADS, WIDTH // HEADS)
            for linear in (self.q, self.k, self.v)
        )
        scores = jnp.einsum("shd,thd->hst", q, k) / np.sqrt(WIDTH // HEADS)
        scores = jnp.where(jnp.tri(len(x), dtype=bool), scores, -jnp.inf)
        mixed = jnp.einsum("hst,thd->shd", jax.nn.softmax(scores), v)
        return jax.vmap(self.o)(mixed.reshape(len(x), WIDTH))


class Block(eqx.Module):
    norms: tuple
    attn: Attention
    up: eqx.nn.Linear
    down: jax.Array  # [hidden, width], not as in `Linear`
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.norms = (eqx.nn.LayerNorm(WIDTH), eqx.nn.LayerNorm(WIDTH))
        self.attn = Attention(keys[0])
        self.up = eqx.nn.Linear(WIDTH, HIDDEN, use_bias=False, key=keys[1])
        self.down = jax.random.normal(keys[2], (HIDDEN, WIDTH))
        self.dropout = eqx.nn.Dropout(0.1, inference=True)

    def __call__(self, x):
        x = x + self.dropout(self.attn(jax.vmap(self.norms[0])(x)))
        return x + jax.nn.relu(jax.vmap(self.up)(jax.vmap(self.norms[1])(x))) @ self.down


class Transformer(eqx.Module):
    embed: jax.Array  # the head is the same array
    positions: jax.Array
    blocks: list
    norm: eqx.nn.LayerNorm

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.embed = jax.random.normal(keys[0], (VOCABULARY, WIDTH))
        self.positions = jax.random.normal(keys[1], (LENGTH, WIDTH))
        self.blocks = [Block(key) for key in keys[2:]]
        self.norm = eqx.nn.LayerNorm(WIDTH)

    def __call__(self, tokens):
        x = self.embed[tokens] + self.positions
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.norm)(x) @ self.embed.T


class Facade(sl.nn.Module):
    """The same in the other style: layers of Equinox are its attributes."""

    def __init__(self, key):
        super().__init__()
        inner = Transformer(key)
        self.embed, self.positions = sl.ParamState(inner.embed), sl.ParamState(inner.positions)
        self.blocks, self.norm = inner.blocks, inner.norm

    def __call__(self, tokens):
        x = self.embed.value[tokens] + self.positions.value
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.norm)(x) @ self.embed.value.T


# The weights as PyTorch names and lays them: one file with projections apart, one with them fused.


def weights():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    embed = normal(VOCABULARY, WIDTH)
    arrays = {
        "model.embed_tokens.weight": embed,
        "model.embed_positions.weight": normal(LENGTH, WIDTH),
        "model.norm.weight": normal(WIDTH),
        "model.norm.bias": normal(WIDTH),
        "lm_head.weight": embed,
        "model.rotary.inv_freq": normal(3),  # a buffer that this model hasn't
    }
    for i in range(2):
        layer = f"model.layers.{i}"
        for p in "qkvo":
            arrays[f"{layer}.self_attn.{p}_proj.weight"] = normal(WIDTH, WIDTH)
            arrays[f"{layer}.self_attn.{p}_proj.bias"] = normal(WIDTH)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            arrays[f"{layer}.{norm}.weight"] = normal(WIDTH)
            arrays[f"{layer}.{norm}.bias"] = normal(WIDTH)
        arrays[f"{layer}.mlp.fc1.weight"] = normal(HIDDEN, WIDTH)
        arrays[f"{layer}.mlp.fc2.weight"] = normal(WIDTH, HIDDEN)
    return arrays


def fused(arrays):
    arrays = dict(arrays)
    for i in range(2):
        attention = f"model.layers.{i}.self_attn"
        for kind in ("weight", "bias"):
            parts = [arrays.pop(f"{attention}.{p}_proj.{kind}") for p in "qkv"]
            arrays[f"{attention}.qkv_proj.{kind}"] = np.concatenate(parts)
    return arrays


def reference(arrays, tokens):
    """The transformer in NumPy, of weights by PyTorch's names."""

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def linear(x, name):
        return x @ arrays[f"{name}.weight"].T + arrays.get(f"{name}.bias", 0)

    def attention(x, name):
        q, k, v = (
            linear(x, f"{name}.{p}_proj").reshape(LENGTH, HEADS, -1).swapaxes(0, 1) for p in "qkv"
        )
        scores = q @ k.swapaxes(1, 2) / np.sqrt(WIDTH // HEADS)
        scores = np.exp(np.where(np.tri(LENGTH, dtype=bool), scores, -np.inf))
        mixed = scores / scores.sum(-1, keepdims=True) @ v
        return linear(mixed.swapaxes(0, 1).reshape(LENGTH, WIDTH), f"{name}.o_proj")

    x = arrays["model.embed_tokens.weight"][tokens] + arrays["model.embed_positions.weight"]
    for i in range(2):
        layer = f"model.layers.{i}"
        x = x + attention(norm(x, f"{layer}.input_layernorm"), f"{layer}.self_attn")
        hidden = linear(norm(x, f"{layer}.post_attention_layernorm"), f"{layer}.mlp.fc1")
        x = x + linear(np.maximum(hidden, 0), f"{layer}.mlp.fc2")
    return linear(norm(x, "model.norm"), "lm_head")


# What says which is which.

NAMES = [
    Rule(("model.embed_tokens.weight", "lm_head.weight"), "embed"),
    Rule("model.embed_positions.weight", "positions"),
    Rule("model.norm.**", "norm.**"),
    Rule("model.layers.{i}.input_layernorm.**", "blocks[{i}].norms[0].**"),
    Rule("model.layers.{i}.post_attention_layernorm.**", "blocks[{i}].norms[1].**"),
    Rule("model.layers.{i}.mlp.fc1.weight", "blocks[{i}].up.weight"),
    Rule("model.layers.{i}.mlp.fc2.weight", "blocks[{i}].down", np.transpose, np.transpose),
]
APART = [
    *NAMES,
    Rule("model.layers.{i}.self_attn.{p}_proj.{kind}", "blocks[{i}].attn.{p}.{kind}"),
]
FUSED = [
    *NAMES,
    Rule("model.layers.{i}.self_attn.o_proj.{kind}", "blocks[{i}].attn.o.{kind}"),
    Rule(
        "model.layers.{i}.self_attn.qkv_proj.{kind}",
        ("blocks[{i}].attn.q.{kind}", "blocks[{i}].attn.k.{kind}", "blocks[{i}].attn.v.{kind}"),
        load=lambda qkv: np.split(qkv, 3),
        save=lambda q, k, v: np.concatenate([q, k, v]),
    ),
]
LEAVE_OUT = Rule("model.rotary.inv_freq", None)
TOKENS = np.array([1, 4, 9, 0, 4])


def outputs(model):
    return sl.jit(lambda tokens: model(tokens))(TOKENS)


@pytest.mark.parametrize("make", [Transformer, Facade])
@pytest.mark.parametrize("form", ["apart", "fused"])
def test_weights_of_others_are_loaded_and_written_back(tmp_path, make, form):
    arrays = weights() if form == "apart" else fused(weights())
    rules = [LEAVE_OUT, *(APART if form == "apart" else FUSED)]
    file = tmp_path / "pytorch.safetensors"
    save_file(arrays, file, {"format": "pt"})

    model = load(file, make(jax.random.key(0)), rename=rules)
    np.testing.assert_allclose(outputs(model), reference(weights(), TOKENS), rtol=1e-4, atol=1e-4)

    save(file, model, rename=rules, lens=sl.arrays, metadata={"format": "pt"})
    back = load_file(file)
    assert back.keys() == arrays.keys() - {"model.rotary.inv_freq"}
    for name, array in back.items():
        assert array.dtype == arrays[name].dtype
        assert array.tobytes() == arrays[name].tobytes()


def test_what_no_rule_covers_is_listed(tmp_path):
    file = tmp_path / "pytorch.safetensors"
    save_file(weights(), file)
    like = Transformer(jax.random.key(0))
    model, report = load(file, like, rename=APART, strict=False)
    assert report.unexpected == ("model.rotary.inv_freq",)
    assert not report.missing
    np.testing.assert_allclose(outputs(model), reference(weights(), TOKENS), rtol=1e-4, atol=1e-4)
    with pytest.raises(sl.CheckpointError, match="16 missing, 17 unexpected") as error:
        load(file, like, rename=NAMES)
    assert len(error.value.report.missing) == 2 * 4 * 2
    assert len(error.value.report.unexpected) == 2 * 4 * 2 + 1


def test_shapes_are_enough_to_load_into(tmp_path):
    file = tmp_path / "pytorch.safetensors"
    save_file(weights(), file)
    like = eqx.filter_eval_shape(Transformer, jax.random.key(0))
    model = load(file, like, rename=[LEAVE_OUT, *APART])
    np.testing.assert_allclose(outputs(model), reference(weights(), TOKENS), rtol=1e-4, atol=1e-4)
