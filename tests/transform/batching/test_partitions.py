"""Partitions of trees with static parts, which `shard_map` reads as `vmap` reads axes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

XS = jnp.arange(6.0).reshape(3, 2)


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
