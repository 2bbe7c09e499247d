"""What `Optimizer` optimises, keeps, and leaves alone."""

import copy

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import close, counted, written


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = sl.ParamState(jnp.ones((2, 3)))
        self.layer = eqx.nn.Linear(3, 3, key=jax.random.key(1))
        self.calls = sl.State(jnp.zeros((), int))

    def __call__(self, x):
        self.calls.value += 1
        return self.head.value @ jnp.tanh(self.layer(x))


X = jnp.array([1.0, -2.0, 0.5])


def mlp():
    return eqx.nn.MLP(3, 2, 4, 2, key=jax.random.key(0))


def loss(model):
    return jnp.sum((model(X) - 1.0) ** 2)


def test_what_the_lens_leaves_out_does_not_move():
    model, lens = mlp(), sl.lens("layers[-1].**")
    optimizer = sl.optim.Optimizer(optax.adamw(0.1, weight_decay=0.5), lens)
    state = optimizer.init(model)
    assert written(state[0].mu) == ["layers[2].bias", "layers[2].weight"]
    news, _ = optimizer.update(model, state, sl.grad(loss, lens)(model))
    assert written(sl.diff(model, news)) == ["layers[2].weight", "layers[2].bias"]
    for old, new in zip(model.layers[:2], news.layers[:2], strict=True):
        assert new.weight is old.weight

    # A mask of the optimiser alone leaves what it masks to the gradient.
    arrays = eqx.filter(model, eqx.is_array)
    masked = optax.masked(optax.adamw(0.1, weight_decay=0.5), lambda tree: lens.mask(tree))
    moved, _ = masked.update(arrays, masked.init(arrays), arrays)
    assert jnp.any(moved.layers[0].weight != 0)


def test_rows_of_an_array_have_rows_of_moments():
    tree, lens = {"embed": jnp.ones((5, 2)), "b": jnp.ones(2)}, sl.lens("embed")[1:3]
    optimizer = sl.optim.Optimizer(optax.adam(0.1), lens)
    state = optimizer.init(tree)
    assert jax.tree.map(jnp.shape, state[0].mu) == {("embed",): (2, 2)}
    grads = sl.grad(lambda tree: jnp.sum(tree["embed"] * tree["b"]), lens)(tree)
    news, _ = optimizer.update(tree, state, grads)
    np.testing.assert_array_equal(news["embed"][:, 0] != 1, [False, True, True, False, False])

    cell = sl.ParamState(jnp.ones((5, 2)))
    bound = sl.lens("embed")[1:3].bind({"embed": cell})
    stateful = sl.optim.Optimizer(optax.adam(0.1), bound)
    stateful.step(sl.grad(lambda: jnp.sum(cell.value), bound)())
    close(cell.value, news["embed"])


def test_a_state_is_made_of_states():
    model = Net()
    params = model.states(sl.trainable)
    optimizer = sl.optim.Optimizer(optax.adam(0.1), params)
    assert written(optimizer.states()) == ["state"]
    assert written(sl.lens("**.mu.**").paths(optimizer)) == [
        "state[0].mu.head",
        "state[0].mu.layer.bias",
        "state[0].mu.layer.weight",
    ]

    @sl.jit
    def step():
        grads, value = sl.grad(lambda: loss(model), params, return_value=True)()
        optimizer.step(grads)
        return value

    first = step()
    assert step() < first
    assert optimizer.state.value[0].count == model.calls.value == 2
    assert {model.head, model.calls, optimizer.state} < {*step.states.written}


@pytest.mark.parametrize("options", [{}, {"donate_states": True}])
def test_a_compiled_step_is_traced_once(options):
    model = Net()
    params = model.states(sl.trainable)
    optimizer = sl.optim.Optimizer(optax.adamw(0.1), params)
    fun, runs = counted(lambda: loss(model))

    @sl.jit(**options)
    def step():
        grads, value = sl.grad(fun, params, return_value=True)()
        optimizer.step(grads)
        return value

    values = [step() for _ in range(5)]
    assert len(runs) == 1
    assert values[-1] < values[0]


def test_it_is_scanned():
    model, other = Net(), Net()

    def stepper(model):
        params = model.states(sl.trainable)
        optimizer = sl.optim.Optimizer(optax.adam(0.1), params)

        def step(_):
            grads, value = sl.grad(lambda: loss(model), params, return_value=True)()
            optimizer.step(grads)
            return value

        return step

    scanned = sl.transform.for_loop(stepper(model), jnp.arange(4))
    step = sl.jit(stepper(other))
    close(scanned, jnp.stack([step(0) for _ in range(4)]))
    close(model.head.value, other.head.value)


def test_a_copy_optimises_the_copy():
    model = Net()
    optimizer = sl.optim.Optimizer(optax.adam(0.1), model.states(sl.trainable))
    again, other = copy.deepcopy((model, optimizer))
    other.step(sl.grad(lambda: loss(again), again.states(sl.trainable))())
    assert jnp.all(model.head.value == 1)
    assert jnp.any(again.head.value != 1)
    assert (optimizer.state.value[0].count, other.state.value[0].count) == (0, 1)


def test_states_in_any_form():
    a, b = sl.ParamState(jnp.ones(2)), sl.ParamState(jnp.ones(3))

    def fun():
        return jnp.sum(a.value) + jnp.sum(b.value)

    for spec in ([a, b], {"x": a, "y": b}, (b, a), {"x": [a], "y": {"z": b}}):
        a.value, b.value = jnp.ones(2), jnp.ones(3)
        sl.optim.Optimizer(optax.sgd(1.0), spec).step(sl.grad(fun, spec)())
        assert jnp.all(a.value == 0)
        assert jnp.all(b.value == 0)
    a.value = jnp.ones(2)
    sl.optim.Optimizer(optax.sgd(1.0), a).step(sl.grad(fun, a)())
    assert jnp.all(a.value == 0)


def test_a_mask_is_a_lens():
    model = mlp()
    optimizer = sl.optim.Optimizer(
        optax.adamw(0.0, weight_decay=1.0, mask=sl.lens("**.weight").mask), "**"
    )
    news, _ = optimizer.update(model, optimizer.init(model), sl.grad(loss, "**")(model))
    assert not sl.diff(model, news)

    still = optax.chain(
        optax.sgd(1.0), optax.masked(optax.set_to_zero(), sl.lens("**.weight").mask)
    )
    optimizer = sl.optim.Optimizer(still, "**")
    news, _ = optimizer.update(model, optimizer.init(model), sl.grad(loss, "**")(model))
    assert {path[-1] for path in sl.diff(model, news)} == {"bias"}


def test_tied_weights_move_once():
    shared = sl.ParamState(jnp.ones(2))
    tree = {"a": shared, "b": shared}
    grads = sl.grad(lambda tree: jnp.sum(tree["a"].value + tree["b"].value), "**")(tree)
    optimizer = sl.optim.Optimizer(optax.sgd(0.5), "**")
    news, _ = optimizer.update(tree, optimizer.init(tree), grads)
    assert news["a"] is news["b"]
    close(news["a"].value, jnp.zeros(2))

    optimizer = sl.optim.Optimizer(optax.sgd(0.5), sl.lens("**").bind(tree))
    optimizer.step(sl.grad(lambda: jnp.sum(2 * shared.value), sl.lens("**").bind(tree))())
    close(shared.value, jnp.zeros(2))


def test_weights_keep_their_dtype():
    tree = {"w": jnp.ones(2, jnp.bfloat16)}
    optimizer = sl.optim.Optimizer(optax.adam(0.1, mu_dtype=jnp.float32), "w")
    news, _ = optimizer.update(tree, optimizer.init(tree), tree)
    assert news["w"].dtype == jnp.bfloat16


def test_a_facade_module_as_an_argument():
    model, lens = Net(), sl.trainable
    optimizer = sl.optim.Optimizer(optax.sgd(0.1), lens)
    grads, after = sl.grad(sl.thread(loss), lens, has_aux=True)(model)
    news, _ = optimizer.update(after, optimizer.init(after), grads)
    assert (model.calls.value, news.calls.value) == (0, 1)
    assert written(sl.diff(after, news)) == ["head", "layer.weight", "layer.bias"]


# Parts.


def test_each_part_has_its_own():
    parts = {"layers[0].**": optax.sgd(1.0), "layers[1].**": optax.sgd(0.0)}
    optimizer = sl.optim.Optimizer(sl.optim.by_lens({**parts, ...: optax.set_to_zero()}), "**")
    model = mlp()
    news, state = optimizer.update(model, optimizer.init(model), sl.grad(loss, "**")(model))
    assert written(sl.diff(model, news)) == ["layers[0].weight", "layers[0].bias"]
    assert list(state.inner_states) == ["layers[0].**", "layers[1].**", "..."]

    model = Net()
    params = model.states(sl.trainable)
    parts = {"layer.**": optax.sgd(1.0), ...: optax.set_to_zero()}
    optimizer = sl.optim.Optimizer(sl.optim.by_lens(parts), params)
    optimizer.step(sl.grad(lambda: loss(model), params)())
    assert jnp.all(model.head.value == 1)
    assert jnp.any(model.layer.weight != Net().layer.weight)


# Hyperparameters.


def test_hyperparameters_are_read_and_set():
    model = Net()
    params = model.states(sl.trainable)
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.5)
    optimizer = sl.optim.Optimizer(adam, params)
    fun, runs = counted(lambda: loss(model))

    @sl.jit
    def step():
        optimizer.step(sl.grad(fun, params)())

    step()
    assert optimizer.hyperparams()["learning_rate"] == 0.5
    optimizer.set_hyperparams(learning_rate=0.0)
    before = params.values_dict()
    step()
    close(params.values_dict(), before)
    assert len(runs) == 1


def test_a_schedule_is_shown():
    schedule = optax.linear_schedule(1.0, 0.0, 4)
    optimizer = sl.optim.Optimizer(optax.inject_hyperparams(optax.sgd)(schedule), "w")
    tree = {"w": jnp.ones(1)}
    state = optimizer.init(tree)
    rates = []
    for _ in range(3):
        tree, state = optimizer.update(tree, state, tree)
        rates.append(float(optimizer.hyperparams(state)["learning_rate"]))
    assert rates == [1.0, 0.75, 0.5]
    with pytest.raises(sl.PathError, match="'learning_rate'\na schedule gives it at each step"):
        optimizer.set_hyperparams(state, learning_rate=0.1)


def test_hyperparameters_of_parts_are_called_by_the_part():
    injected = optax.inject_hyperparams
    parts = {"a": injected(optax.sgd)(0.5), ...: injected(optax.sgd)(0.25)}
    optimizer = sl.optim.Optimizer(sl.optim.by_lens(parts), "**")
    tree = {"a": jnp.ones(1), "b": jnp.ones(1)}
    state = optimizer.init(tree)
    assert optimizer.hyperparams(state) == {"a.learning_rate": 0.5, "....learning_rate": 0.25}
    state = optimizer.set_hyperparams(state, **{"a.learning_rate": 1.0})
    news, _ = optimizer.update(tree, state, tree)
    assert (news["a"], news["b"]) == (0.0, 0.75)


def test_hyperparameters_of_one_name_in_a_chain_are_called_by_their_place():
    injected = optax.inject_hyperparams
    chain = optax.chain(injected(optax.scale)(step_size=2.0), injected(optax.scale)(step_size=-1.0))
    optimizer, tree = sl.optim.Optimizer(chain, "w"), {"w": jnp.ones(1)}
    state = optimizer.init(tree)
    assert optimizer.hyperparams(state) == {"0.step_size": 2.0, "1.step_size": -1.0}
    state = optimizer.set_hyperparams(state, **{"0.step_size": 1.0})
    assert optimizer.update(tree, state, tree)[0]["w"] == 0.0


def test_parts_by_functions_that_are_written_alike_are_two():
    def named(name):
        return lambda path, unit: path[-1] == name

    parts = {named("a"): optax.sgd(1.0), named("b"): optax.sgd(0.5)}
    optimizer = sl.optim.Optimizer(sl.optim.by_lens(parts), "**")
    tree = {"a": jnp.ones(1), "b": jnp.ones(1)}
    news, _ = optimizer.update(tree, optimizer.init(tree), tree)
    assert (news["a"], news["b"]) == (0.0, 0.5)


# Another lens.


def test_parts_are_thawed_one_by_one():
    tree = {"enc": jnp.ones(1), "head": jnp.ones(1)}
    parts = sl.optim.by_lens({"head": optax.adam(0.1), ...: optax.adam(0.1)})
    optimizer = sl.optim.Optimizer(parts, "head")
    state = optimizer.init(tree)
    for _ in range(2):
        tree, state = optimizer.update(tree, state, {"enc": None, "head": tree["head"]})
    assert tree["enc"] == 1
    optimizer, state = optimizer.change_lens("**", state, tree)
    tree, state = optimizer.update(tree, state, tree)
    assert tree["enc"] < 1


def test_moments_are_carried_over():
    model, few, all_ = mlp(), sl.lens("layers[-1].**"), sl.lens("**")
    optimizer = sl.optim.Optimizer(optax.adam(0.1), few)
    model, state = optimizer.update(model, optimizer.init(model), sl.grad(loss, few)(model))
    wider, after = optimizer.change_lens(all_, state, model)
    assert after[0].count == 1
    path = ("layers", 2, "weight")
    assert after[0].mu[path] is state[0].mu[path]
    assert jnp.all(after[0].mu["layers", 0, "weight"] == 0)
    wider.update(model, after, sl.grad(loss, all_)(model))

    stateful = Net()
    optimizer = sl.optim.Optimizer(optax.adam(0.1), stateful.states("head"))
    optimizer.step(sl.grad(lambda: loss(stateful), stateful.states("head"))())
    head = optimizer.state.value[0].mu["head",]
    params = stateful.states(sl.trainable)
    optimizer.change_lens(params)
    assert optimizer.state.value[0].mu["head",] is head
    optimizer.step(sl.grad(lambda: loss(stateful), params)())


# What is refused.


TREE = {"v": jnp.ones(2), "w": jnp.ones(2)}
OPTIMIZER = sl.optim.Optimizer(optax.adam(0.1), "w")
CELL = sl.ParamState(jnp.ones(2))
STATEFUL = sl.optim.Optimizer(optax.adam(0.1), {"w": CELL})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: OPTIMIZER.update(TREE, OPTIMIZER.init(TREE), {"v": TREE["v"], "w": None}),
            sl.StructureError,
            r"by a gradient\nthere is none for 'w', which it optimises; "
            r"there is one for 'v', which it doesn't\nInstead: one lens for both",
        ),
        (
            lambda: OPTIMIZER.update(TREE, OPTIMIZER.init(TREE), TREE["w"]),
            sl.StructureError,
            r"by a gradient\nit is an array, and not of the tree's structure",
        ),
        (
            lambda: STATEFUL.step({"v": CELL.value}),
            sl.StructureError,
            r"by a gradient\nthere is none for 'w', .*; there is one for 'v'",
        ),
        (
            lambda: OPTIMIZER.update(
                TREE, sl.optim.Optimizer(optax.adam(1.0), "**").init(TREE), {}
            ),
            sl.StructureError,
            r"by a gradient\nit is .*, and not of the tree's structure",
        ),
        (
            lambda: OPTIMIZER.update(
                TREE, sl.optim.Optimizer(optax.adam(1.0), "v").init(TREE), {**TREE, "v": None}
            ),
            sl.StructureError,
            r"from a state\nit isn't the state of what is optimised: it lacks .*mu.w.*, "
            r"and has .*mu.v(.|\n)*optimizer.change_lens",
        ),
        (
            lambda: OPTIMIZER.step(TREE),
            sl.ArgumentError,
            r"asked a functional Optimizer for step\n.*no states to assign(.|\n)*update\(model",
        ),
        (
            lambda: STATEFUL.init(TREE),
            sl.ArgumentError,
            r"asked a stateful Optimizer for init\n(.|\n)*optimizer.step\(grads\)",
        ),
        (
            lambda: sl.optim.Optimizer(optax.adam, "w"),
            sl.ArgumentTypeError,
            r"to optimise by adam\nthat makes an optimiser, and is none\n.*optax.adam\(1e-3\)",
        ),
        (
            lambda: sl.optim.Optimizer(0.1, "w"),
            sl.ArgumentTypeError,
            r"to optimise by .*\nthat is no optimiser of Optax",
        ),
        (
            lambda: sl.optim.by_lens({"w": optax.adam}),
            sl.ArgumentTypeError,
            r"asked by_lens for 'w' to optimise by adam\nthat makes an optimiser",
        ),
        (
            lambda: sl.optim.by_lens([optax.sgd(1.0)]),
            sl.ArgumentTypeError,
            r"asked by_lens for .*\nthat is a list, without lenses",
        ),
        (
            lambda: sl.optim.Optimizer(sl.optim.by_lens({"w": optax.sgd(1.0)}), "**").init(TREE),
            sl.SelectionError,
            r"'v' is in no group",
        ),
        (
            lambda: sl.optim.Optimizer(
                sl.optim.by_lens({"w": optax.sgd(1.0), "**": optax.sgd(0.1)}), "**"
            ).init(TREE),
            sl.SelectionError,
            r"'w' is in the group 'w' and in '\*\*'",
        ),
        (
            lambda: sl.optim.Optimizer(
                sl.optim.by_lens({"x": optax.sgd(1.0), ...: optax.sgd(0.1)}), "**"
            ).init(TREE),
            sl.PathError,
            r"asked the group 'x' for 'x', which matches nothing",
        ),
        (
            lambda: sl.optim.Optimizer(optax.sgd(0.1), "**").init(
                {"w": jnp.ones(2), "n": jnp.arange(3)}
            ),
            sl.DifferentiationError,
            r"asked an Optimizer for 'n'\nit has dtype int32, .*\n.*sl.inexact, or sl.trainable",
        ),
        (
            lambda: OPTIMIZER.init({"v": TREE["v"]}),
            sl.PathError,
            r"asked Optimizer for 'w', which matches nothing",
        ),
        (
            lambda: OPTIMIZER.set_hyperparams(OPTIMIZER.init(TREE), learning_rate=0.1),
            sl.PathError,
            r"'learning_rate'\nthis optimiser has none .*\n.*inject_hyperparams",
        ),
    ],
)
def test_it_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
