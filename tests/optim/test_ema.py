"""Averages of parameters are those of `optax.ema`, and are swapped in to evaluate."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import statelens as sl
from tests.helpers import close, written

VALUES = [jnp.array([1.0, 2.0]), jnp.array([4.0, 0.0]), jnp.array([-1.0, 3.0])]


def by_hand(decay, debias):
    transformation = optax.ema(decay, debias=debias)
    state = transformation.init(VALUES[0])
    for value in VALUES:
        mean, state = transformation.update(value, state)
    return mean


@pytest.mark.parametrize("debias", [True, False])
def test_they_are_those_of_optax(debias):
    averages = sl.optim.ema("w", 0.9, debias=debias)
    state = averages.init({"w": VALUES[0], "b": jnp.ones(1)})
    for value in VALUES:
        state = averages.update({"w": value, "b": jnp.ones(1)}, state)
    swapped = averages.swap({"w": VALUES[-1], "b": jnp.ones(1)}, state)
    close(swapped["w"], by_hand(0.9, debias))

    cell = sl.ParamState(VALUES[0])
    averages = sl.optim.ema({"w": cell}, 0.9, debias=debias)
    for value in VALUES:
        cell.value = value
        averages.step()
    with averages.swapped():
        close(cell.value, by_hand(0.9, debias))
        cell.value = jnp.zeros(2)
    close(cell.value, VALUES[-1])


def test_small_steps_are_not_lost_in_bfloat16():
    tree = {"w": jnp.ones(2, jnp.bfloat16)}
    averages = sl.optim.ema("w", 0.999)
    state = averages.init(tree)

    def step(state, _):
        return averages.update(tree, state), None

    state, _ = jax.lax.scan(step, state, length=1000)
    swapped = averages.swap(tree, state)
    assert swapped["w"].dtype == jnp.bfloat16
    close(swapped, tree)


def test_compiled_functions_see_them():
    cell = sl.ParamState(jnp.ones(()))
    averages = sl.optim.ema([cell], 0.5)
    read = sl.jit(lambda: 2 * cell.value)
    averages.step()
    cell.value = jnp.array(4.0)
    averages.step()
    assert read() == 8
    with averages.swapped():
        assert read() == 6
    assert read() == 8


def test_averages_that_are_swapped_in_outlive_the_next_step():
    averages = sl.optim.ema("w", 0.5, debias=False)
    tree = {"w": jnp.ones(2)}
    optimizer = sl.optim.Optimizer(optax.sgd(0.1), "w")
    step = sl.optim.train_step(lambda tree: jnp.sum(tree["w"]), optimizer, ema=averages)
    tree, state, _ = step(tree, step.init(tree))
    swapped = averages.swap(tree, state[1])
    step(tree, state)
    close(swapped["w"], jnp.full(2, 0.45))


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))

    def __call__(self, x):
        return self.mlp(x)


def of_model(model, x):
    return jnp.sum(model(x) ** 2)


def test_a_training_step_takes_them_in():
    x = jnp.ones(3)
    net = Net()
    params = net.states(sl.trainable)
    stateful = sl.optim.ema(params, 0.9)
    step = sl.optim.train_step(
        lambda x: of_model(net, x), sl.optim.Optimizer(optax.sgd(0.1), params), ema=stateful
    )
    model, averages = Net().mlp, sl.optim.ema(sl.trainable, 0.9)
    of_tree = sl.optim.train_step(
        of_model, sl.optim.Optimizer(optax.sgd(0.1), sl.trainable), ema=averages
    )
    state = of_tree.init(model)
    by_hand, kept = sl.optim.ema(sl.trainable, 0.9), None
    for _ in range(3):
        step(x)
        model, state, _ = of_tree(model, state, x)
        kept = by_hand.update(model, kept or by_hand.init(model))
    expected = by_hand.swap(model, kept)
    swapped = averages.swap(model, state[1])
    close(eqx.filter(swapped, eqx.is_array), eqx.filter(expected, eqx.is_array))
    with stateful.swapped():
        close(net(x), expected(x))
    assert written(stateful.states()) == ["state"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, s: sl.optim.ema("w", 1.0), "decay=1.0\nit isn't between 0 and 1"),
        (
            lambda a, s: a.swap({"w": VALUES[0]}, a.init({"w": VALUES[0]})),
            "nothing has been averaged",
        ),
        (lambda a, s: s.swapped(), "nothing has been averaged"),
        (lambda a, s: a.init({"v": VALUES[0]}), "asked ema for 'w', which matches nothing"),
        (lambda a, s: sl.optim.ema({}, 0.9), "asked ema for states\nnone are given"),
        (lambda a, s: a.step(), "given a lens, and has no states"),
        (lambda a, s: s.update({"w": VALUES[0]}, None), "given states, and keeps their averages"),
        (
            lambda a, s: sl.optim.train_step(
                of_model, sl.optim.Optimizer(optax.sgd(0.1), "w"), ema=s
            ),
            "one is of states, and the other of a lens",
        ),
    ],
)
def test_it_is_refused(call, message):
    with pytest.raises(sl.StateLensError, match=message):
        call(sl.optim.ema("w", 0.9), sl.optim.ema([sl.ParamState(VALUES[0])], 0.9))
