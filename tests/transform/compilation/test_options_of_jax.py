"""Options that `jit` hands on to JAX, or takes as JAX does."""

import functools
import textwrap

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import on_four_devices

T = sl.transform

SHARDED = """
import jax, jax.numpy as jnp, numpy as np, equinox as eqx, pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import statelens as sl

mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
rows, whole = NamedSharding(mesh, P("d")), NamedSharding(mesh, P())
x = jnp.arange(8.0)
seen = sl.State(jnp.zeros(()))
"""


def over_a_mesh(code):
    on_four_devices(SHARDED + textwrap.dedent(code))


def test_arguments_come_in_and_outputs_go_out_by_their_shardings():
    over_a_mesh(
        """
        def step(x, scale):
            assert x.shape == (8,)
            seen.value += x.sum()
            return {"y": scale * x, "sum": [x.sum(), "text"]}

        plain = jax.jit(lambda x, s: {"y": s * x, "sum": [x.sum()]},
                        in_shardings=(rows, None), out_shardings={"y": rows, "sum": whole})
        f = sl.jit(step, in_shardings=(rows, None), out_shardings={"y": rows, "sum": whole})
        for number in range(1, 4):
            for given in (x, np.arange(8.0, dtype=np.float32), jax.device_put(x, whole)):
                out = f(given, 2.0)
                np.testing.assert_allclose(out["y"], 2 * x)
                assert out["y"].sharding.is_equivalent_to(rows, 1)
                assert out["sum"][0].sharding.is_equivalent_to(whole, 0)
                assert out["sum"][1] == "text"
                assert plain(x, 2.0)["y"].sharding.is_equivalent_to(out["y"].sharding, 1)
        assert seen.value == 9 * 28
        compiled = f.lower(jax.ShapeDtypeStruct((8,), jnp.float32), 2.0).compile()
        assert compiled(jax.device_put(x, rows), 2.0)["y"].sharding.is_equivalent_to(rows, 1)
        one = sl.jit(lambda x, y: x + y, in_shardings=rows, out_shardings=whole)
        assert one(x, x).sharding.is_equivalent_to(whole, 1)
        """
    )


def test_shardings_of_a_model_and_of_a_method():
    over_a_mesh(
        """
        model = eqx.nn.Linear(8, 4, key=jax.random.key(0))
        shardings = jax.tree.map(lambda a: rows, model)
        f = sl.jit(lambda model, x: (model, model(x)), in_shardings=(shardings, whole))
        after, y = f(model, x)
        np.testing.assert_allclose(y, model(x), rtol=1e-5)
        assert jax.tree.structure(after) == jax.tree.structure(model)

        class Net(sl.nn.Module):
            def __init__(self):
                super().__init__()
                self.w = sl.ParamState(jnp.float32(2.0))

            @sl.jit(in_shardings=(None, rows), out_shardings=rows)
            def __call__(self, x):
                return self.w.value * x

        assert Net()(x).sharding.is_equivalent_to(rows, 1)
        """
    )


def test_an_array_that_is_bound_to_no_device_is_bound_by_its_sharding():
    over_a_mesh(
        """
        first, last = (jax.sharding.SingleDeviceSharding(d) for d in jax.devices()[::3])
        f = sl.jit(lambda x: x + 1, in_shardings=first)
        for given in (jnp.ones(2), jax.device_put(jnp.ones(2), first), np.ones(2)):
            for _ in range(3):
                out = f(given)
                assert out.committed and out.sharding == first
        moved = jax.device_put(jnp.ones(2), last)
        for _ in range(3):
            assert f(moved).sharding == first
            with jax.default_device(jax.devices()[3]):
                assert f(jnp.ones(2)).sharding == first
        """
    )


def test_a_tree_of_shardings_that_does_not_fit_is_refused():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with pytest.raises(sl.ArgumentError, match=r"in_shardings.*\n.*arguments are a tuple of 1"):
        sl.jit(lambda x: x, in_shardings=(device, device))(1.0)
    with pytest.raises(sl.ArgumentError, match=r"out_shardings.*\n.*outputs are float32\[\]"):
        sl.jit(lambda x: x, out_shardings=(device, device))(jnp.float32(1.0))
    with pytest.raises(sl.ArgumentTypeError, match="in_shardings='data'"):
        sl.jit(lambda x: x, in_shardings="data")


def test_options_of_the_compiler():
    total = sl.State(jnp.zeros(()))

    @sl.jit(compiler_options={"xla_embed_ir_in_executable": True})
    def add(x):
        total.value += x
        return total.value

    assert [float(add(1.0)) for _ in range(3)] == [1.0, 2.0, 3.0]
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        sl.jit(lambda x: 2 * x, compiler_options={"no_such_option": True})(1.0)


def power(x, n, *, scale=1):
    assert type(n) is int
    assert type(scale) is int
    return scale * x**n


BY_NAME = {
    "jit by position": lambda f: sl.jit(f, static_argnums=1, static_argnames="scale"),
    "jit by name": lambda f: sl.jit(f, static_argnames=("n", "scale")),
    "checkpoint": lambda f: T.checkpoint(functools.partial(f, scale=1), static_argnums=1),
    "make_jaxpr": lambda f: (
        lambda *args, **kwargs: T.make_jaxpr(f, static_argnums=1, static_argnames="scale")(
            *args, **kwargs
        )
    ),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_static_argument_is_static_however_it_is_given(name):
    run = BY_NAME[name](power)
    run(2.0, 3)
    run(2.0, n=3)
    run(x=2.0, n=3)
    if "jit" in name:
        assert float(run(2.0, n=3, scale=2)) == 16.0


def test_a_static_argument_of_a_method_by_its_name():
    class Net(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = sl.ParamState(jnp.float32(2.0))

        @sl.jit(static_argnums=2)
        def __call__(self, x, n):
            return power(self.w.value * x, n)

        @T.checkpoint(static_argnums=2)
        def kept(self, x, n):
            return power(self.w.value * x, n)

    net = Net()
    assert [float(f(1.0, n=3)) for f in (net, net.kept)] == [8.0, 8.0]
    assert [float(f(1.0, 3)) for f in (net, net.kept)] == [8.0, 8.0]


def test_a_donated_argument_is_donated_however_it_is_given():
    f = sl.jit(lambda x, y: x + y, donate_argnums=1)
    for _ in range(3):
        given = jnp.ones(3)
        f(jnp.ones(3), y=given)
        assert given.is_deleted()
