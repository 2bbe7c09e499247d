"""`train_step`: one compiled program, that of JAX and Optax by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import statelens as sl
from tests.helpers import close, counted, operations, written
from tests.optim.models import Net, mlp, of_model, of_net

X, Y = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), jnp.ones((4, 2))


def by_hand(transformation, clip=None):
    """A step over a list of arrays."""
    arrays, treedef = jax.tree.flatten(eqx.filter(mlp(), eqx.is_array))
    _, static = eqx.partition(mlp(), eqx.is_array)

    @jax.jit
    def step(arrays, state, x, y):
        def fun(arrays):
            return of_model(eqx.combine(treedef.unflatten(arrays), static), x, y)

        value, grads = jax.value_and_grad(fun)(arrays)
        if clip is not None:
            grads, _ = optax.clip_by_global_norm(clip).update(grads, optax.EmptyState())
        updates, state = transformation.update(grads, state, arrays)
        return optax.apply_updates(arrays, updates), state, value

    return step, arrays, transformation.init(arrays)


def optimizers(transformation=None):
    transformation = optax.adamw(0.01) if transformation is None else transformation
    net = Net()
    return (
        sl.optim.Optimizer(transformation, sl.trainable),
        net,
        sl.optim.Optimizer(transformation, net.states(sl.trainable)),
    )


@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_program_is_that_of_hand_written_jax(clip):
    step, arrays, state = by_hand(optax.adamw(0.01), clip)
    functional, net, stateful = optimizers()
    ours = sl.optim.train_step(of_model, functional, clip=clip)
    model = mlp()
    lowered = ours.jitted.lower(model, functional.init(model), X, Y)
    expected = operations(step.lower(arrays, state, X, Y))
    # Weights are cast to their own dtype once more, which lowers to nothing.
    assert operations(lowered) == expected

    theirs = sl.optim.train_step(of_net(net), stateful, clip=clip).jitted.lower(X, Y)
    counts = operations(theirs)
    counts["stablehlo.add"] -= 1  # of calls
    assert counts == expected | {"stablehlo.constant": counts["stablehlo.constant"]}


@pytest.mark.parametrize("donate", [True, False])
def test_it_gives_what_hand_written_jax_gives(donate):
    step, arrays, state = by_hand(optax.adamw(0.01), 0.5)
    functional, net, stateful = optimizers()
    of_tree = sl.optim.train_step(of_model, functional, clip=0.5, donate=donate)
    of_states = sl.optim.train_step(of_net(net), stateful, clip=0.5, donate=donate)
    model = mlp()
    memory = functional.init(model)
    for _ in range(4):
        arrays, state, expected = step(arrays, state, X, Y)
        model, memory, value = of_tree(model, memory, X, Y)
        close(value, expected)
        close(of_states(X, Y), expected)
    close(jax.tree.leaves(eqx.filter(model, eqx.is_array)), arrays)
    close(jax.tree.leaves(eqx.filter(net.mlp, eqx.is_array)), arrays)
    assert net.calls.value == 4


def test_only_what_is_optimised_is_donated():
    lens = sl.lens("layers[-1].**")
    optimizer = sl.optim.Optimizer(optax.sgd(0.1), lens)
    model = mlp()
    after, _, _ = sl.optim.train_step(of_model, optimizer)(model, optimizer.init(model), X, Y)
    assert model.layers[2].weight.is_deleted()
    assert not model.layers[0].weight.is_deleted()
    assert written(sl.diff(mlp(), after)) == ["layers[2].weight", "layers[2].bias"]


@pytest.mark.parametrize(
    "transformation", [optax.lbfgs(), optax.contrib.schedule_free_sgd(0.1), optax.polyak_sgd()]
)
def test_what_keeps_its_parameters_is_donated_too(transformation):
    functional, net, stateful = optimizers(transformation)
    of_tree = sl.optim.train_step(of_model, functional)
    of_states = sl.optim.train_step(of_net(net), stateful)
    model = mlp()
    memory = functional.init(model)
    for _ in range(3):
        model, memory, value = of_tree(model, memory, X, Y)
        close(of_states(X, Y), value)


def test_aux_is_given_back():
    functional, net, stateful = optimizers()

    def with_aux(model, x, y):
        return of_model(model, x, y), {"n": x.shape[0]}

    step = sl.optim.train_step(with_aux, functional, has_aux=True)
    model = mlp()
    *_, value, aux = step(model, functional.init(model), X, Y)
    assert aux == {"n": 4}
    step = sl.optim.train_step(lambda: (of_net(net)(X, Y), "text"), stateful, has_aux=True)
    close(step()[0], value)
    assert step()[1] == "text"


class WithStates(eqx.Module):
    weight: jax.Array
    calls: sl.State

    def __call__(self, x):
        self.calls.value += 1
        return self.weight @ x


def test_states_in_the_tree_are_threaded():
    model = WithStates(jnp.ones((2, 3)), sl.State(jnp.zeros((), int)))
    optimizer = sl.optim.Optimizer(optax.sgd(0.1), "weight")
    step = sl.optim.train_step(lambda model, x: jnp.sum(model(x)), optimizer, donate=False)
    after, state, _ = step(model, optimizer.init(model), X[0])
    after, state, _ = step(after, state, X[0])
    assert (model.calls.value, after.calls.value) == (0, 2)


def test_it_is_traced_once():
    functional, net, stateful = optimizers()
    fun, runs = counted(of_net(net))
    step = sl.optim.train_step(fun, stateful)
    for _ in range(4):
        step(X, Y)
    assert len(runs) == 1
    fun, runs = counted(of_model)
    step, model = sl.optim.train_step(fun, functional), mlp()
    state = functional.init(model)
    for _ in range(4):
        model, state, _ = step(model, state, X, Y)
    assert len(runs) == 1


def test_several_steps_are_one_scan():
    functional, net, stateful = optimizers()
    step = sl.optim.train_step(of_net(net), stateful)
    losses = step.jitted_scan(jnp.stack([X] * 5), jnp.stack([Y] * 5))
    of_tree, model = sl.optim.train_step(of_model, functional), mlp()
    state = functional.init(model)
    for loss in losses:
        model, state, value = of_tree(model, state, X, Y)
        close(value, loss)
    assert net.calls.value == 5


def test_a_failed_step_changes_nothing():
    _, net, stateful = optimizers()
    step = sl.optim.train_step(of_net(net), stateful)
    step(X, Y)
    before = net.states(...).values_dict(), stateful.state.value
    with pytest.raises(TypeError, match="incompatible shapes"):
        step(X, jnp.ones((5, 2)))
    close((net.states(...).values_dict(), stateful.state.value), before)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda opt: sl.optim.train_step(3, opt),
            sl.ArgumentTypeError,
            r"train_step",
        ),
        (
            lambda opt: sl.optim.train_step(of_model, optax.adam(0.1)),
            sl.ArgumentTypeError,
            r"asked train_step for steps of .*\nthat is no Optimizer\n.*sl.optim.Optimizer\(",
        ),
        (
            lambda opt: sl.optim.train_step(of_model, opt, clip=0),
            sl.ArgumentTypeError,
            r"to clip by 0\nthat is neither a norm above 0 nor",
        ),
        (
            lambda opt: sl.optim.train_step(of_model, opt, clip=optax.adaptive_grad_clip),
            sl.ArgumentTypeError,
            r"to clip by .*\nthat is neither a norm above 0 nor",
        ),
        (
            lambda opt: sl.optim.train_step(of_model, opt, clip=optax.trace(0.9)),
            sl.ArgumentTypeError,
            r"to clip by a transformation of Optax\nit keeps something from step to step",
        ),
        (
            lambda opt: sl.optim.train_step(lambda m, x, y: m(x), opt)(
                mlp(), opt.init(mlp()), X[0], Y
            ),
            sl.DifferentiationError,
            r"(?s)asked grad for.*shape \(2,\)",
        ),
    ],
)
def test_it_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(sl.optim.Optimizer(optax.adam(0.1), sl.trainable))


def test_a_tie_that_a_compiled_function_would_undo_is_refused():
    shared = sl.ParamState(jnp.ones(2))
    tree = {"a": shared, "b": shared}
    optimizer = sl.optim.Optimizer(optax.sgd(0.1), sl.trainable)
    step = sl.optim.train_step(lambda m: jnp.sum(2 * m["a"].value + 3 * m["b"].value), optimizer)
    message = "the state at 'a' is that at 'b' too(.|\n)*an nn.Module around them"
    with pytest.raises(sl.StructureError, match=message):
        step(tree, optimizer.init(tree))
    with pytest.raises(sl.StructureError, match=message):
        sl.optim.fit(step, [()], tree, optimizer.init(tree))

    model = sl.nn.Module()
    model.a = model.b = shared
    params = model.states(sl.trainable)
    stateful = sl.optim.Optimizer(optax.sgd(0.1), params)
    sl.optim.train_step(lambda: jnp.sum(2 * model.a.value + 3 * model.b.value), stateful)()
    close(shared.value, jnp.full(2, 0.5))


@pytest.mark.parametrize("opaque", [True, False])
def test_sharpness_aware_minimisation(opaque):
    def sam():
        return optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), sync_period=2, opaque_mode=opaque)

    functional, net, stateful = optimizers(sam())
    of_tree, model = sl.optim.train_step(of_model, functional), mlp()
    of_states = sl.optim.train_step(of_net(net), stateful)
    memory = functional.init(model)
    values = []
    for _ in range(4):
        model, memory, value = of_tree(model, memory, X, Y)
        close(of_states(X, Y), value)
        values.append(value)
    assert values[-1] < values[0]


def test_multi_steps_as_they_are():
    optimizer = sl.optim.Optimizer(optax.MultiSteps(optax.sgd(0.1), 2), "w")
    tree = {"w": jnp.ones(1)}
    state = optimizer.init(tree)
    once, state = optimizer.update(tree, state, tree)
    twice, state = optimizer.update(once, state, tree)
    assert (once["w"], twice["w"]) == (1.0, 0.9)
