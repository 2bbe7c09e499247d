"""`map`: one by one, or in chunks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

XS = jnp.arange(6.0).reshape(3, 2)


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
