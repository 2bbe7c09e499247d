"""`vmap` over functions that make states."""

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

XS = jnp.arange(6.0).reshape(3, 2)


class Linear(sl.nn.Module):
    def __init__(self, key):
        super().__init__()
        self.weight = sl.ParamState(jax.random.normal(key, (2,)))
        self.shared = sl.State(jnp.zeros(()))

    def __call__(self, x):
        return x @ self.weight.value


KEYS = jax.random.split(jax.random.key(0), 3)
WEIGHTS = jax.vmap(lambda key: jax.random.normal(key, (2,)))(KEYS)


def test_an_ensemble_that_is_returned():
    ensemble = T.vmap_new_states(Linear)(KEYS)
    assert isinstance(ensemble, Linear)
    close(ensemble.weight.value, WEIGHTS)
    close(ensemble.shared.value, jnp.zeros(3))
    out = T.vmap(lambda m, x: m(x), in_axes=(0, None))(ensemble, XS[0])
    close(out, WEIGHTS @ XS[0])
    # Its states are states like any other.
    params = ensemble.states(sl.ParamState)
    call = T.vmap(lambda: ensemble(XS[0]), in_states=ensemble.states())
    by_weight = sl.grad(lambda: jnp.sum(call() ** 2), params)()
    close(by_weight, {("weight",): 2 * (WEIGHTS @ XS[0])[:, None] * XS[0]})


def test_a_module_that_gets_states_inside():
    holder = sl.nn.Module()

    def init(key):
        holder.layer = Linear(key)
        holder.bias = sl.ParamState(jnp.zeros(1))

    assert T.vmap_new_states(init)(KEYS) is None
    assert list(holder.states()) == [("bias",), ("layer", "shared"), ("layer", "weight")]
    close(holder.layer.weight.value, WEIGHTS)
    close(holder.bias.value, jnp.zeros((3, 1)))
    holder.bias.value = holder.bias.value + 1
    close(holder.bias.value, jnp.ones((3, 1)))


def test_new_states_may_be_tagged():
    holder = sl.nn.Module()

    def init(key):
        holder.layer = Linear(key)

    T.vmap_new_states(init, state_tag="ensemble")(KEYS)
    assert list(holder.states(sl.tagged("ensemble"))) == list(holder.states())


def test_some_new_states_may_be_shared():
    holder = sl.nn.Module()

    def init(key):
        holder.layer = Linear(key)

    T.vmap_new_states(init, state_to_exclude=~sl.lens(sl.ParamState))(KEYS)
    close(holder.layer.weight.value, WEIGHTS)
    close(holder.layer.shared.value, jnp.zeros(()))


def test_a_new_state_that_is_excluded_has_to_be_the_same_in_all_lanes():
    holder = sl.nn.Module()

    def init(key):
        holder.layer = Linear(key)

    with pytest.raises(sl.SelectionError, match=r"one value of the new ParamState.*\n.*all lanes"):
        T.vmap_new_states(init, state_to_exclude=sl.ParamState)(KEYS)
    assert not hasattr(holder, "layer")


def test_a_failure_leaves_modules_as_they_were():
    holder = sl.nn.Module()
    holder.kept = sl.State(jnp.asarray(1.0))
    before = holder.states().values_dict()

    def init(key):
        holder.layer = Linear(key)
        holder.kept.value = holder.kept.value + 1
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap_new_states(init)(KEYS)
    assert not hasattr(holder, "layer")
    assert holder.states().values_dict() == before


def test_an_older_attribute_comes_back_after_a_failure():
    holder = sl.nn.Module()
    holder.layer = first = Linear(KEYS[0])

    def init(key):
        holder.layer = Linear(key)
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap_new_states(init)(KEYS)
    assert holder.layer is first
    close(first.weight.value, WEIGHTS[0])


def test_states_may_be_returned_in_any_container():
    made = T.vmap_new_states(
        lambda key: {
            "w": sl.ParamState(jax.random.normal(key, (2,)), name="w"),
            "list": [sl.State(1.0)],
        }
    )(KEYS)
    assert (type(made["w"]), made["w"].name) == (sl.ParamState, "w")
    close(made["w"].value, WEIGHTS)
    close(made["list"][0].value, jnp.ones(3))


def test_new_states_beside_old_ones_and_other_axes():
    count, h = sl.State(jnp.zeros((), jnp.int32)), sl.State(jnp.zeros(3))
    holder = sl.nn.Module()

    def init(key, x):
        count.value += 1
        h.value = h.value + x.sum()
        holder.w = sl.ParamState(jax.random.normal(key, (2,)))
        return holder.w.value * x

    out = T.vmap_new_states(init, in_axes=(0, 1), out_axes=1, in_states=h)(KEYS, XS.T)
    close(out, (WEIGHTS * XS).T)
    close((count.value, h.value), (jnp.asarray(1), XS.sum(1)))
    close(holder.w.value, WEIGHTS)


def test_new_states_in_jit_and_by_axis_size_with_random_numbers():
    rng = sl.random.RandomState(3)
    key = rng.value
    made = T.vmap_new_states(lambda: sl.ParamState(rng.normal(size=2)), axis_size=3)()
    keys = jax.random.split(key, 4)[1:]
    close(made.value, jax.vmap(lambda k: jax.random.normal(jax.random.split(k)[1], (2,)))(keys))
    close(sl.jit(T.vmap_new_states(Linear))(KEYS).weight.value, WEIGHTS)


class Trunk(sl.nn.Module):
    def __init__(self, key):
        super().__init__()
        self.trunk = sl.State(jnp.ones(2))
        self.head = Linear(key)


EXCLUDED = {
    "a pattern": "**.trunk",
    "an exact path": "trunk",
    "no parameter": ~sl.lens(sl.ParamState) - sl.lens("head.**"),
    "a predicate": lambda path, unit: path[-1:] == ("trunk",),
    "a list": ["trunk", "head.shared"],
}


@pytest.mark.parametrize("exclude", EXCLUDED)
def test_what_is_shared_of_a_module_that_is_returned(exclude):
    made = T.vmap_new_states(Trunk, state_tag="ensemble", state_to_exclude=EXCLUDED[exclude])(KEYS)
    close(made.trunk.value, jnp.ones(2))
    close(made.head.weight.value, WEIGHTS)
    close(made.head.shared.value, jnp.zeros(() if exclude == "a list" else 3))
    assert list(made.states(sl.tagged("ensemble"))) == list(made.states())


def test_what_is_shared_by_its_path_of_a_module_that_gets_states_inside():
    holder = sl.nn.Module()

    def init(key):
        holder.m = Trunk(key)

    T.vmap_new_states(init, state_to_exclude=["m.trunk", "**.shared"])(KEYS)
    close(holder.m.trunk.value, jnp.ones(2))
    close(holder.m.head.shared.value, jnp.zeros(()))
    close(holder.m.head.weight.value, WEIGHTS)


def test_what_is_shared_of_states_in_a_container_and_of_other_axes():
    def init(key):
        return [Trunk(key), {"x": jax.random.normal(key, (2,))}], Trunk(key)

    (first, arrays), second = T.vmap_new_states(
        init, out_axes=(-1, 0), state_to_exclude=["[0][0].trunk", "[1].**.shared"]
    )(KEYS)
    close(first.trunk.value, jnp.ones(2))
    close(first.head.weight.value, WEIGHTS.T)
    close(arrays["x"], WEIGHTS.T)
    close(second.trunk.value, jnp.ones((3, 2)))
    close(second.head.shared.value, jnp.zeros(()))


def test_what_is_shared_of_a_returned_module_has_to_be_the_same_in_all_lanes():
    with pytest.raises(sl.SelectionError, match=r"one value of the new ParamState.*\n.*all lanes"):
        T.vmap_new_states(Trunk, state_to_exclude="head.weight")(KEYS)


@pytest.mark.parametrize("wrap", [lambda f: f, sl.jit])
def test_a_pattern_that_excludes_nothing_is_refused(wrap):
    holder = sl.nn.Module()

    def init(key):
        holder.m = Trunk(key)

    for make in (Trunk, init):
        with pytest.raises(sl.PathError, match=r"asked vmap_new_states for '\*\*.trnk'"):
            wrap(T.vmap_new_states(make, state_to_exclude="**.trnk"))(KEYS)
    assert not hasattr(holder, "m")
    optional = sl.lens("**.trnk", optional=True)
    close(T.vmap_new_states(Trunk, state_to_exclude=optional)(KEYS).trunk.value, jnp.ones((3, 2)))
