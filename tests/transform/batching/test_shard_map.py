"""`shard_map` over meshes of four devices, in a process of its own."""

import functools
import textwrap

import pytest

from tests.helpers import close, on_four_devices

close = functools.partial(close, rtol=1e-6)

SHARDED = """
import warnings
warnings.simplefilter("error")
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import statelens as sl

shard_map = sl.transform.shard_map
mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
assert len(jax.devices()) == 4
x = jnp.arange(8.0)
"""


def over_a_mesh(code):
    on_four_devices(SHARDED + textwrap.dedent(code))


def test_states_are_partitioned_and_shared_over_a_mesh():
    over_a_mesh(
        """
        w = sl.ParamState(jnp.array(3.0), name="w")
        h = sl.HiddenState(jnp.zeros(8), name="h")
        grown = sl.State(jnp.zeros(4), name="grown")
        total = sl.State(jnp.zeros(()), name="total")
        shapes = []

        @shard_map(mesh=mesh, in_specs=P("d"), out_specs=P("d"),
                   in_states={h: P("d")}, out_states={grown: P("d")})
        def step(x):
            shapes.append((x.shape, h.value.shape, w.value.shape))
            h.value = 0.5 * h.value + w.value * x
            grown.value = jnp.sum(x, keepdims=True)
            total.value += jax.lax.psum(jnp.sum(x), "d")
            return h.value

        for run in (step, sl.jit(step)):
            h.value, total.value = jnp.ones(8), jnp.zeros(())
            out = run(x)
            assert set(shapes) == {((2,), (2,), ())}, shapes
            np.testing.assert_allclose(out, 0.5 + 3 * x)
            np.testing.assert_allclose(h.value, out)
            np.testing.assert_allclose(grown.value, x.reshape(4, 2).sum(1))
            assert total.value == 28.0
            assert w.value == 3.0
            assert h.value.sharding.is_equivalent_to(NamedSharding(mesh, P("d")), 1)
            assert total.value.sharding.is_fully_replicated

        # The gradient is that of the program on one device.
        loss = lambda: jnp.sum(step(x) ** 2)
        h.value = jnp.ones(8)
        slope = sl.grad(loss, w)()
        np.testing.assert_allclose(slope, jnp.sum(2 * (0.5 + 3 * x) * x), rtol=1e-6)
        """
    )


@pytest.mark.slow
def test_a_value_that_differs_between_devices_is_refused_by_name():
    over_a_mesh(
        """
        total = sl.State(jnp.zeros(2), name="total")
        calls = sl.State(jnp.zeros((), jnp.int32), name="calls")
        before = total.value, calls.value

        def add(x):
            calls.value += 1
            total.value = total.value + x

        for run in (lambda f: f, sl.jit):
            try:
                run(shard_map(add, mesh, P("d"), P()))(x)
            except sl.SelectionError as error:
                text = str(error)
                assert "to write State(f32[2], name='total'), which is whole" in text, text
                assert "out_states=" in text and "pmean" in text
            else:
                raise AssertionError("it was not refused")
            assert total.value is before[0] and calls.value is before[1]
        """
    )


@pytest.mark.slow
def test_models_as_arguments_and_what_raises_over_a_mesh():
    over_a_mesh(
        """
        class Model(sl.nn.Module):
            def __init__(self):
                super().__init__()
                self.w = sl.ParamState(jnp.arange(8.0))
                self.b = sl.ParamState(jnp.ones(()))
                self.mode = "fast"

            def __call__(self, x):
                assert self.mode == "fast" and self.w.value.shape == (2,)
                return self.w.value * x + self.b.value

        model = Model()
        run = shard_map(lambda m, x: m(x), mesh, (P(), P("d")), P("d"), in_states={"w": P("d")})
        np.testing.assert_allclose(run(model, x), x * x + 1)
        closed = shard_map(model, mesh, P("d"), P("d"), in_states={model.w: P("d")})
        np.testing.assert_allclose(closed(x), x * x + 1)

        calls = sl.State(jnp.zeros((), jnp.int32))
        before = calls.value

        @shard_map(mesh=mesh, in_specs=P("d"), out_specs=P("d"))
        def fails(x):
            calls.value += 1
            raise ZeroDivisionError("on purpose")

        try:
            fails(x)
        except ZeroDivisionError as error:
            assert "on purpose" in str(error)
        else:
            raise AssertionError("it was not raised")
        assert calls.value is before
        """
    )


@pytest.mark.slow
def test_a_partition_of_all_states_and_keyword_arguments_over_a_mesh():
    over_a_mesh(
        """
        h, g = sl.State(jnp.zeros(8)), sl.State(jnp.ones(8))

        def step(x, *, scale, act):
            assert h.value.shape == g.value.shape == x.shape == (2,) and scale.shape == (1,)
            h.value = h.value + act(scale * x) * g.value
            return h.value

        named = {"scale": jnp.array([2.0]), "act": jnp.negative}
        for names in (("in_states", "out_states"), ("state_in_specs", "state_out_specs")):
            for spec in (P("d"), {h: P("d"), g: P("d")}):
                h.value = jnp.zeros(8)
                run = shard_map(step, mesh, P("d"), P("d"), **dict.fromkeys(names, spec))
                np.testing.assert_allclose(run(x, **named), -2 * x)
                np.testing.assert_allclose(sl.jit(run)(x, **named), -4 * x)
                np.testing.assert_allclose(h.value, -4 * x)
                assert h.value.sharding.is_equivalent_to(NamedSharding(mesh, P("d")), 1)
        # A keyword argument may be differentiated by, too.
        run = shard_map(lambda x, *, k: k * x, mesh, P("d"), P("d"))
        assert sl.grad(lambda k: jnp.sum(run(x, k=k)))(2.0) == 28.0
        """
    )


def test_what_comes_in_is_placed_on_a_mesh_of_explicit_axes():
    over_a_mesh(
        """
        mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
        n, h, rng = sl.State(jnp.zeros(())), sl.State(jnp.zeros(8)), sl.random.RandomState(0)

        def step(x, scale):
            n.value += jax.lax.psum(x.sum(), "d")
            h.value = h.value + x
            return scale * x + 0 * jax.random.uniform(rng.value)

        specs = dict(in_specs=(P("d"), P()), out_specs=P("d"), in_states={h: P("d")})
        given = shard_map(step, mesh, **specs)
        for run in (given, sl.jit(given)):
            for array in (x, np.arange(8.0, dtype=np.float32)):
                n.value, h.value = jnp.zeros(()), jnp.zeros(8)
                np.testing.assert_allclose(run(array, 2.0), 2 * x)
                np.testing.assert_allclose(h.value, x)
                assert n.value == 28.0
                assert h.value.sharding == NamedSharding(mesh, P("d"))
        n.value, h.value = jnp.zeros(()), jnp.zeros(8)
        with jax.set_mesh(mesh):
            found = shard_map(step, **specs)
            np.testing.assert_allclose(found(x, 2.0), 2 * x)
            total = lambda x: found(x, 2.0).sum()
            np.testing.assert_allclose(sl.grad(total)(jax.reshard(x, P("d"))), 2.0)
        """
    )
