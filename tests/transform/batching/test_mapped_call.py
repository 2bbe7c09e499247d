"""What `vmap` and `shard_map` share: what comes in and goes out, and what isn't the same in all."""

import textwrap

import jax
import jax.numpy as jnp

import statelens as sl
from tests.helpers import on_four_devices

SHARDED = """
import warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
import statelens as sl

shard_map = sl.transform.shard_map
mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
assert len(jax.devices()) == 4
x = jnp.arange(8.0)
"""


def over_a_mesh(code):
    on_four_devices(SHARDED + textwrap.dedent(code))


def test_an_output_that_differs_between_devices_is_refused_by_name():
    over_a_mesh(
        """
        run = shard_map(lambda x: {"same": jax.lax.psum(x, "d"), "own": x}, mesh, P("d"), P())
        try:
            run(x)
        except sl.ArgumentError as error:
            text = str(error)
            assert f"out_specs={P()!r}" in text, text
            assert f"the output at 'own', where it is {P()!r}, isn't the same on" in text
            assert "the partition of that output" in text and "pmean" in text
        else:
            raise AssertionError("it was not refused")
        """
    )


def test_the_rest_of_a_model_is_whole_whatever_one_partition_says_of_all_arguments():
    over_a_mesh(
        """
        class Model(sl.nn.Module):
            def __init__(self):
                super().__init__()
                self.w = sl.ParamState(jnp.arange(8.0))
                self.b = sl.ParamState(jnp.ones(3))

        def apply(model, x):
            assert model.w.value.shape == x.shape == (2,) and model.b.value.shape == (3,)
            return model.w.value * x + model.b.value.sum()

        run = shard_map(apply, mesh, P("d"), P("d"), in_states={"w": P("d")})
        np.testing.assert_allclose(run(Model(), x), x * x + 3)
        """
    )


def test_states_and_functions_in_keyword_arguments_are_whole_on_every_device():
    over_a_mesh(
        """
        h = sl.State(jnp.arange(8.0), name="h")

        def apply(x, *, tree, act):
            assert tree["h"].value.shape == (8,) and x.shape == (2,)
            return act(x) + tree["h"].value.sum()

        run = shard_map(apply, mesh, P("d"), P("d"))
        np.testing.assert_allclose(run(x, tree={"h": h}, act=jnp.negative), 28 - x)
        np.testing.assert_allclose(sl.jit(run)(x, tree={"h": h}, act=jnp.negative), 28 - x)
        """
    )


def test_a_state_with_a_partition_is_an_input_from_the_first_run_on():
    over_a_mesh(
        """
        runs = 0
        h = sl.State(jnp.zeros(8))

        def step(x):
            global runs
            runs += 1
            h.value = h.value + x
            return h.value

        shard_map(step, mesh, P("d"), P("d"), in_states={h: P("d")})(x)
        assert runs == 1, runs
        np.testing.assert_allclose(h.value, x)
        """
    )


def test_a_key_that_an_earlier_call_has_split_is_mapped_where_it_has_an_axis():
    rng = sl.random.RandomState(0)

    def draw(x):
        return x + rng.uniform()

    xs = jnp.zeros(3)
    sl.transform.vmap(draw)(xs)
    keys = jax.random.split(jax.random.key(7), 3)
    rng.value = keys
    mapped = sl.transform.vmap(draw, in_states={rng: 0})(xs)
    other = sl.random.RandomState(0)
    other.value = keys
    again = sl.transform.vmap(lambda x: x + other.uniform(), in_states={other: 0})(xs)
    assert (mapped == again).all()
    assert rng.value.shape == (3,)
