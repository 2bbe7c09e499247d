"""Writing through a bound lens: whose memory, on which devices, and all states or none."""

import contextlib
import copy

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import on_four_devices, written
from tests.programs.interrupts import InterruptAt


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.whole = sl.ParamState(jnp.ones(3))
        self.tree = sl.ParamState({"w": jnp.ones(3), "b": jnp.ones(3)})
        self.layer = eqx.nn.Linear(1, 3, use_bias=False, key=jax.random.key(0))
        self.raw = sl.State(np.ones(3, np.float32))


PLACES = ["whole", "tree.w", "layer.weight", "raw"]


def view(net, place):
    return net.states(place)[place]


# Whose memory.


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_the_caller_s_array_is_copied(place, replace):
    net = Net()
    new = np.full(view(net, place).value.shape, 2.0, np.float32)
    net.states(place).assign({place: new}, replace=replace)
    new[:] = 7
    assert np.all(np.asarray(view(net, place).value) == 2)


def test_the_caller_s_array_is_copied_in_a_whole_tree_and_by_a_module():
    net, new = Net(), {"w": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}
    net.assign({"tree": new})
    new["w"][:] = 7
    assert net.tree.value["w"].tolist() == [0, 0, 0]
    assert isinstance(net.tree.value["w"], jax.Array)


def test_an_array_of_a_dtype_that_jax_would_cast_stays_as_it_is():
    net = Net()
    net.assign({"whole": np.ones(3)}, replace=True)
    assert net.whole.value.dtype == np.float64


@pytest.mark.parametrize("duplicate", [sl.State.copy, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("value", [jnp.ones(3), {"a": np.ones(3)}, jax.random.key(0)])
def test_a_copy_of_a_state_shares_no_memory(duplicate, value):
    state = sl.State(value)
    again = duplicate(state)
    for old, new in zip(*map(jax.tree.leaves, (state.value, again.value)), strict=True):
        assert old is not new
        assert np.all(np.asarray(old == new))


def test_a_copy_outlives_what_is_donated():
    state = sl.State(jnp.ones(3))
    again = state.copy()
    sl.jit(lambda: setattr(state, "value", state.value + 1), donate_states=True)()
    jax.jit(lambda x: x, donate_argnums=0)(state.value)
    assert again.value.tolist() == [1, 1, 1]


def test_a_copy_of_a_module_s_layer_outlives_what_is_donated():
    net = Net()
    again = copy.copy(net)
    jax.jit(lambda x: 2 * x, donate_argnums=0)(net.layer.weight)
    assert again.layer.weight.shape == (3, 1)


def test_an_item_is_assigned_as_its_value():
    net = Net()
    params = net.states(sl.trainable)
    params["whole"] = np.zeros(3, np.float32)
    params["layer", "weight"] = jnp.zeros((3, 1))
    assert net.whole.value.tolist() == [0, 0, 0]
    assert net.layer.weight.tolist() == [[0], [0], [0]]
    with pytest.raises(sl.StructureError, match=r"'whole'\nits shape is \(2,\)"):
        params["whole"] = jnp.zeros(2)


# On which devices.


def test_arrays_go_where_those_are_that_they_replace():
    on_four_devices("""
    import jax, jax.numpy as jnp, numpy as np, statelens as sl
    from jax.sharding import NamedSharding, PartitionSpec as P
    rows = NamedSharding(jax.make_mesh((4,), ("x",)), P("x"))
    last = jax.devices()[-1]
    model = sl.nn.Module()
    model.rows = sl.ParamState({"w": jax.device_put(jnp.ones((8, 2)), rows)})
    model.last = sl.ParamState(jax.device_put(jnp.ones(2), last))
    model.free = sl.ParamState(jnp.ones(2))

    def check(dtype=jnp.float32):
        assert model.rows.value["w"].sharding.is_equivalent_to(rows, 2)
        assert model.last.value.devices() == {last} and model.last.value.committed
        assert not model.free.value.committed
        assert model.last.value.dtype == dtype

    for new in (np.zeros, jnp.zeros):
        model.assign({"rows": {"w": new((8, 2), np.float32)}, "last": new(2, np.float32),
                      "free": new(2, np.float32)})
        check()
        model.states("rows.w").assign({"rows.w": new((8, 2), np.float32)})
        check()
        model.assign({"last": new(2, np.float16)}, replace=True)
        check(jnp.float16)
        model.assign({"last": new(2, np.float32)}, replace=True)
    model.assign({"rows": {"w": jnp.ones((3, 2))}}, replace=True)
    assert model.rows.value["w"].shape == (3, 2)
    """)


# update and apply_updates.


def test_update_gives_each_value_to_a_function():
    net = Net()
    net.states("whole | tree.w").update(lambda value: 2 * value)
    assert net.whole.value.tolist() == net.tree.value["w"].tolist() == [2, 2, 2]
    assert net.tree.value["b"].tolist() == [1, 1, 1]
    paths = []
    net.states(sl.trainable).update(lambda path, value: paths.append(path) or value, with_path=True)
    assert written(paths) == ["layer.weight", "tree", "whole"]


def test_update_may_replace():
    net = Net()
    with pytest.raises(sl.StructureError, match=r"at 'whole'\nits shape is \(\)"):
        net.states("whole").update(jnp.sum)
    net.states("whole").update(jnp.sum, replace=True)
    assert net.whole.value == 3


def test_apply_updates_agrees_with_optax():
    net = Net()
    params = net.states(sl.trainable)
    before = params.values_dict()
    steps = jax.tree.map(lambda x: 0.1 * jnp.ones_like(x), before)
    params.apply_updates(steps)
    after = optax.apply_updates(before, steps)
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, params.values_dict(), after)))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda u: {"whole": u["whole",]}, sl.PathError, r"there is none for 'tree'"),
        (lambda u: {**u, "wole": 1.0}, sl.PathError, r"the closest paths are whole"),
        (lambda u: {**u, ("whole",): None}, sl.StructureError, r"'whole'\nthere is no update"),
        (lambda u: {**u, ("whole",): jnp.ones(2)}, sl.StructureError, r"its update \(2,\)"),
    ],
)
def test_updates_that_do_not_fit_change_nothing(change, error, match):
    params = Net().states("whole", "tree")[0] | "tree"
    before = params.values_dict()
    with pytest.raises(error, match=match):
        params.apply_updates(change(params.values_dict()))
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, params.values_dict(), before)))


def test_a_step_that_applies_updates_is_compiled():
    net, optimizer = Net(), optax.sgd(0.1)
    params = net.states(sl.trainable)

    @sl.jit
    def step(memory):
        grads = sl.grad(lambda: jnp.sum(net.whole.value**2), params, check_states=False)()
        updates, memory = optimizer.update(grads, memory)
        params.apply_updates(updates)
        return memory

    step(optimizer.init(params.values_dict()))
    np.testing.assert_allclose(net.whole.value, [0.8] * 3)


# All states or none.


ZERO = np.zeros((), np.float32)


def by_assign(params):
    params.assign({"a": ZERO, "b": ZERO})


def by_update(params):
    params.update(lambda _: ZERO)


@pytest.mark.slow
@pytest.mark.parametrize("in_overlay", [False, True], ids=["cells", "overlay"])
@pytest.mark.parametrize("write", [by_assign, by_update])
def test_an_interrupt_leaves_all_states_old_or_all_new(write, in_overlay):
    # Of NumPy, so that no interrupt comes in the middle of JAX's own work.
    seen, values = set(), []
    for number in range(10_000):
        states = [sl.State(ZERO + 1), sl.State(ZERO + 1)]
        params = sl.lens("*").bind(dict(zip("ab", states, strict=True)))
        with sl.overlay({}) if in_overlay else contextlib.nullcontext():
            with InterruptAt(number) as interrupt:
                write(params)
            values = [float(state.value) for state in states]
        assert values[0] == values[1]
        seen.add(values[0])
        if not interrupt.has_come:
            break
    assert seen == {0.0, 1.0}
    assert values == [0.0, 0.0]
