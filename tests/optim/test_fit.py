"""`fit`: the loop around a training step."""

import sys
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import statelens as sl
from tests.helpers import close, counted
from tests.optim.models import Net, mlp, of_model, of_net

RANDOM = np.random.default_rng(0)
XS = [RANDOM.normal(size=(4, 3)).astype(np.float32) for _ in range(13)]
BATCHES = [(x, x[:, :2]) for x in XS]


class Stateful:
    """A loop over states."""

    def __init__(self, transformation=None, loss=None):
        self.model = Net()
        params = self.model.states(sl.trainable)
        self.optimizer = sl.optim.Optimizer(transformation or optax.adam(0.01), params)
        self.step = sl.optim.train_step(of_net(self.model), self.optimizer)

    def fit(self, batches=BATCHES, **options):
        done = sl.optim.fit(self.step, batches, **options)
        self.done = done
        return done

    def weights(self):
        return jax.tree.leaves(eqx.filter(self.model.mlp, eqx.is_array))


class Functional:
    """A loop over a tree."""

    def __init__(self, transformation=None):
        self.model = mlp()
        self.optimizer = sl.optim.Optimizer(transformation or optax.adam(0.01), sl.trainable)
        self.step = sl.optim.train_step(of_model, self.optimizer)

    def fit(self, batches=BATCHES, **options):
        self.done = sl.optim.fit(
            self.step, batches, self.model, self.optimizer.init(self.model), **options
        )
        return self.done

    def weights(self):
        return jax.tree.leaves(eqx.filter(self.done.tree, eqx.is_array))


def by_hand(batches=BATCHES):
    """The losses and weights of a plain loop."""
    model = mlp()
    optimizer = sl.optim.Optimizer(optax.adam(0.01), sl.trainable)
    step, state = sl.optim.train_step(of_model, optimizer), optimizer.init(model)
    losses = []
    for batch in batches:
        model, state, loss = step(model, state, *batch)
        losses.append(loss)
    return np.stack(losses), jax.tree.leaves(eqx.filter(model, eqx.is_array))


STYLES = pytest.mark.parametrize("style", [Stateful, Functional])


@STYLES
@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_it_is_a_plain_loop(style, steps_per_call):
    losses, weights = by_hand()
    loop = style()
    done = loop.fit(steps_per_call=steps_per_call)
    assert (done.steps, done.stopped, done.best_step) == (13, None, None)
    close(done.losses, losses)
    close(loop.weights(), weights, rtol=1e-4)


@STYLES
def test_a_smaller_batch_is_a_step_of_its_own(style):
    smaller = [*BATCHES[:3], tuple(a[:2] for a in BATCHES[3])]
    losses, _ = by_hand(smaller)
    close(style().fit(smaller, steps_per_call=2).losses, losses)


@STYLES
def test_batches_may_be_made_as_it_goes(style):
    assert style().fit(batch for batch in BATCHES).steps == 13
    assert style().fit([]).steps == 0
    assert style().fit([]).losses.shape == (0,)


def test_what_is_no_tuple_is_the_only_argument():
    cell = sl.ParamState(jnp.zeros(()))
    optimizer = sl.optim.Optimizer(optax.sgd(0.25), [cell])
    step = sl.optim.train_step(lambda x: (cell.value - x["a"]) ** 2, optimizer)
    sl.optim.fit(step, [{"a": 1.0}] * 8, steps_per_call=4)
    assert cell.value > 0.99


def test_the_callers_tree_stays():
    loop = Functional()
    loop.fit()
    assert not any(
        leaf.is_deleted() for leaf in jax.tree.leaves(eqx.filter(loop.model, eqx.is_array))
    )
    close(loop.model.layers[0].weight, mlp().layers[0].weight)


@STYLES
def test_the_best_weights_are_kept(style):
    loop, seen = style(), []
    values = iter([3.0, 1.0, 2.0, 2.5])

    def evaluate(*tree):
        weight = tree[0].layers[0].weight if tree else loop.model.mlp.layers[0].weight
        seen.append(jnp.copy(weight))
        return next(values)

    done = loop.fit(evaluate=evaluate, evaluate_every=4)
    assert done.evaluations == {4: 3.0, 8: 1.0, 12: 2.0, 13: 2.5}
    assert done.best_step == 8
    close(loop.weights()[0], seen[1])
    assert jnp.any(seen[1] != seen[3])
    count = done.state[0].count if style is Functional else loop.optimizer.state.value[0].count
    assert count == 8


@STYLES
def test_it_ends_when_nothing_gets_better(style):
    values = iter([2.0, 1.0, 1.0, float("nan"), 0.0])
    done = style().fit(
        evaluate=lambda *tree: next(values), evaluate_every=2, patience=2, steps_per_call=2
    )
    assert (done.steps, done.best_step, done.stopped) == (8, 4, "patience")


@STYLES
def test_callbacks(style):
    seen = []
    done = style().fit(
        callbacks=[lambda fit: seen.append(fit.losses[-1]), lambda fit: fit.steps == 5]
    )
    assert (done.steps, done.stopped) == (5, "callback")
    close(np.array(seen), done.losses)
    done = style().fit(callbacks=lambda fit: np.bool_(fit.steps == 3))
    assert done.stopped == "callback"


@STYLES
@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_an_interrupt_leaves_the_last_whole_step(style, steps_per_call):
    def batches():
        yield from BATCHES[:7]
        raise KeyboardInterrupt

    loop = style()
    done = loop.fit(batches(), steps_per_call=steps_per_call)
    whole = 7 - 7 % steps_per_call
    assert (done.steps, done.stopped) == (whole, "interrupt")
    close(loop.weights(), by_hand(BATCHES[:whole])[1], rtol=1e-4)


@STYLES
def test_an_interrupted_run_keeps_its_last_step_and_its_best(style):
    def batches():
        yield from BATCHES[:7]
        raise KeyboardInterrupt

    loop, values = style(), iter([1.0, 2.0, 3.0])
    done = loop.fit(batches(), evaluate=lambda *tree: next(values), evaluate_every=3)
    assert (done.steps, done.best_step, done.stopped) == (7, 3, "interrupt")
    close(loop.weights(), by_hand(BATCHES[:7])[1], rtol=1e-4)
    done.restore_best()
    close(loop.weights(), by_hand(BATCHES[:3])[1], rtol=1e-4)

    def interrupted(*tree):
        raise KeyboardInterrupt

    done = style().fit(BATCHES[:4], evaluate=interrupted)
    assert (done.steps, done.stopped) == (4, "interrupt")


@STYLES
def test_an_error_goes_through_and_has_what_was_done(style):
    def batches():
        yield from BATCHES[:2]
        raise OSError("the disk is gone")

    loop = style()
    with pytest.raises(OSError, match="the disk is gone") as error:
        loop.fit(batches())
    assert "attribute 'fit'" in error.value.__notes__[0]
    loop.done = error.value.fit
    assert loop.done.steps == 2
    close(loop.weights(), by_hand(BATCHES[:2])[1], rtol=1e-4)


def test_a_tree_that_a_callback_keeps_is_not_donated():
    kept = []
    loop = Functional()
    loop.fit(callbacks=lambda fit: kept.append((fit.tree, fit.state)))
    assert not any(
        leaf.is_deleted() for leaf in jax.tree.leaves(kept) if isinstance(leaf, jax.Array)
    )


def test_a_list_and_a_named_tuple_are_one_argument():
    class Pair(NamedTuple):
        a: float
        b: float

    cell = sl.ParamState(jnp.zeros(()))
    optimizer = sl.optim.Optimizer(optax.sgd(0.25), [cell])
    step = sl.optim.train_step(lambda pair: (cell.value - pair[1]) ** 2, optimizer)
    sl.optim.fit(step, [[0.0, 1.0]] * 4, steps_per_call=2)
    sl.optim.fit(step, [Pair(0.0, 1.0)] * 4, steps_per_call=2)
    assert cell.value > 0.99


def test_a_bar_shows_the_loss(capsys):
    loop = Stateful()
    done = loop.fit(progress=True, steps_per_call=5)
    shown = capsys.readouterr().err
    assert "13/13" in shown
    assert f"loss={done.losses[-1]:.4g}" in shown


def test_a_bar_takes_the_options_of_tqdm(capsys):
    Stateful().fit(progress={"file": sys.stdout, "desc": "digits"})
    shown = capsys.readouterr()
    assert "digits: 100%" in shown.out
    assert shown.err == ""


def test_a_bar_without_tqdm_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(sl.MissingPackageError, match=r"pip install 'statelens\[progress\]'"):
        Stateful().fit(progress=True)


def test_programs_are_traced_once():
    cell = sl.ParamState(jnp.zeros(()))
    fun, runs = counted(lambda x: (cell.value - x) ** 2)
    step = sl.optim.train_step(fun, sl.optim.Optimizer(optax.sgd(0.25), [cell]))
    sl.optim.fit(step, [1.0] * 8, steps_per_call=4)
    traced = len(runs)
    for _ in range(3):
        sl.optim.fit(step, [1.0] * 8, steps_per_call=4)
    assert len(runs) == traced <= 2  # a loop looks first what its body writes


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda loop: sl.optim.fit(of_model, BATCHES),
            sl.ArgumentTypeError,
            r"asked fit for steps of .*\nthat is no training step\n.*train_step\(loss, optimizer\)",
        ),
        (
            lambda loop: sl.optim.fit(loop.step, BATCHES),
            sl.ArgumentError,
            r"a functional optimiser needs the tree.*\n.*fit\(step, batches, model, step.init",
        ),
        (
            lambda loop: sl.optim.fit(Stateful().step, BATCHES, loop.model),
            sl.ArgumentError,
            r"with 1 arguments after the batches\na stateful optimiser needs none",
        ),
        (lambda loop: loop.fit(steps_per_call=0), sl.ArgumentError, r"fit for steps_per_call=0"),
        (lambda loop: loop.fit(patience=1.5), sl.ArgumentError, r"fit for patience=1.5"),
        (lambda loop: Stateful().fit().tree, sl.ArgumentError, r"the optimiser is stateful"),
    ],
)
def test_it_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(Functional())
