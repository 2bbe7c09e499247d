"""A training loop: several steps to a call, a bar, evaluations, the best weights, an early stop."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._errors import ArgumentError, ArgumentTypeError, user_facing
from .._tree import a_leaf, is_array
from ..state import LongTermState, State, copied
from ..transform.compilation import JitFunction, jit
from ..transform.control_flow import for_loop, load_tqdm
from ._train_step import TrainStep


class Fit:
    """What `fit` has done so far; a callback is given it too.

    Attributes:
        steps: How many steps were made.
        evaluations: What `evaluate` gave, by the number of steps before it.
        best_step: After how many steps that was least; None before the first evaluation.
        stopped: Why it ended before the last batch: ``"patience"``, ``"interrupt"`` or
            ``"callback"``; else None.
        aux: What the loss gave beside its value in the last call, if it has that.
    """

    def __init__(self, engine: "_States | _Trees"):
        self._engine = engine
        self._losses: list[Any] = []
        self.steps = 0
        self.evaluations: dict[int, float] = {}
        self.best_step: int | None = None
        self.stopped: str | None = None
        self.aux: Any = None
        self._best: dict[State, Any] = {}

    @property
    def losses(self) -> np.ndarray:
        """The value of the loss at each step, in order."""
        return np.concatenate([np.atleast_1d(loss) for loss in self._losses] or [np.zeros(0)])

    @property
    def tree(self) -> Any:
        """A copy of the tree as it is now, where the optimiser is functional."""
        return jax.tree.map(copied, self._engine.carry()[0])

    @property
    def state(self) -> Any:
        """A copy of what a functional optimiser keeps, as it is now."""
        return jax.tree.map(copied, self._engine.carry()[1])

    @user_facing
    def restore_best(self) -> None:
        """Makes model and optimiser what they were at the best evaluation."""
        if self._best:
            State.write_all(list(self._best), list(self._best.values()))

    def __repr__(self) -> str:
        best = f", best after {self.best_step}" if self.best_step is not None else ""
        ended = f", ended by {self.stopped}" if self.stopped else ""
        return f"Fit({self.steps} steps{best}{ended})"


class _States:
    """Steps of states."""

    def __init__(self, step: TrainStep):
        self.one: JitFunction[..., Any] = step.jitted
        self.many: JitFunction[..., Any] = step.jitted_scan

    def carry(self) -> Any:
        raise ArgumentError(
            "asked for the tree or the state after a fit",
            "the optimiser is stateful: model and optimiser have been assigned",
            "the model itself, and optimizer.state.value",
        )

    def evaluate(self, evaluate: Callable[..., Any]) -> Any:
        return evaluate()

    def cells(self) -> list[State]:
        """The states that steps write."""
        each = [*self.one.states.written, *self.many.states.written]
        return list(dict.fromkeys(each))


class _Trees:
    """Steps of a tree, which lies in a state meanwhile: so no interrupt loses what is donated."""

    def __init__(self, step: TrainStep, tree: Any, state: Any):
        step.refuse_ties((tree,))
        leaves, self._treedef = jax.tree.flatten((tree, state))
        arrays, self._statics = eqx.partition(leaves, is_array)
        # The arrays that the caller holds are never donated.
        self._carry = LongTermState(jax.tree.map(copied, arrays))

        def advance(*batch: Any) -> Any:
            tree, state, *out = step.run(*self.carry(), *batch)
            leaves, treedef = jax.tree.flatten((tree, state))
            if treedef != self._treedef:
                raise ArgumentError(
                    "asked fit for steps of a tree",
                    "the tree has another structure after a step than before it",
                    "a loss that leaves the tree's structure as it is",
                )
            self._carry.value = eqx.filter(leaves, is_array)
            return tuple(out) if len(out) > 1 else out[0]

        self.one: JitFunction[..., Any] = jit(advance, donate_states=True)
        self.many: JitFunction[..., Any] = jit(
            lambda *batches: for_loop(advance, *batches), donate_states=True
        )

    def carry(self) -> Any:
        return self._treedef.unflatten(eqx.combine(self._carry.value, self._statics))

    def evaluate(self, evaluate: Callable[..., Any]) -> Any:
        return evaluate(self.carry()[0])

    def cells(self) -> list[State]:
        return [self._carry]


class _Patience:
    """Says when evaluations have not become better for too long."""

    def __init__(self, fit: Fit, most: int | None):
        self._fit = fit
        self._most = most
        self._since = 0

    def take(self, value: float) -> None:
        """Takes note of an evaluation; keeps what model and optimiser are, if it is the best."""
        fit = self._fit
        fit.evaluations[fit.steps] = value
        best = math.nan if fit.best_step is None else fit.evaluations[fit.best_step]
        if value < best or math.isnan(best):
            self._since = 0
            cells = fit._engine.cells()
            fit._best = {cell: jax.tree.map(copied, cell.value) for cell in cells}
            fit.best_step = fit.steps
            return
        self._since += 1
        if self._since == self._most:
            fit.stopped = "patience"


@user_facing
def fit(
    step: TrainStep,
    batches: Iterable[Any],
    *carry: Any,
    steps_per_call: int = 1,
    progress: bool | Mapping[str, Any] = False,
    callbacks: Callable[[Fit], Any] | Sequence[Callable[[Fit], Any]] = (),
    evaluate: Callable[..., Any] | None = None,
    evaluate_every: int = 100,
    patience: int | None = None,
) -> Fit:
    """Makes a step for each batch.

    Ctrl-C ends it after a whole step, and what there is then is returned. Another exception has
    what there is as its attribute ``fit``.

    Args:
        step: What `train_step` has made.
        batches: The arguments of the step, a tuple for each step; what is no plain tuple (an array,
            a dictionary, a list, a named tuple) is the only argument.
        *carry: The tree and ``step.init(tree)``, where the optimiser is functional. They are
            copied, and none of their arrays is donated.
        steps_per_call: How many steps are compiled into one program, a scan over as many batches.
        progress: Whether to draw a bar with the loss and steps a second; by tqdm, which a mapping
            gives options, as in ``{"file": sys.stdout}``.
        callbacks: What to call after each call with the `Fit` so far; one that gives True ends
            it.
        evaluate: What gives a number that is to be least: called without arguments, or with the
            tree, where the optimiser is functional. With it, model and
            optimiser are at the end what they were at the best evaluation, unless Ctrl-C ended it;
            then ``.restore_best()`` makes them that.
        evaluate_every: After how many steps to evaluate (at the end of the call); and at the end.
        patience: After how many evaluations without a new best to end.

    Returns:
        The losses, evaluations and steps; and ``.tree`` and ``.state``, where the optimiser is
        functional.

    Raises:
        ArgumentTypeError: `step` isn't of `train_step`.
        ArgumentError: A count isn't positive, or tree and state are missing or too many.
        MissingPackageError: `progress`, and tqdm isn't installed.

    Example:
        >>> import jax.numpy as jnp, optax, statelens as sl
        >>> model = sl.nn.Module()
        >>> model.w = sl.ParamState(jnp.zeros(()))
        >>> optimizer = sl.optim.Optimizer(optax.sgd(0.25), model.states(sl.trainable))
        >>> step = sl.optim.train_step(lambda x: (model.w.value - x) ** 2, optimizer)
        >>> done = sl.optim.fit(step, [1.0] * 20, steps_per_call=5)
        >>> done.steps, model.w.value.round(3)
        (20, Array(1., dtype=float32))
    """
    engine = _engine(step, carry)
    _refuse_counts(steps_per_call=steps_per_call, evaluate_every=evaluate_every, patience=patience)
    calls = (callbacks,) if callable(callbacks) else tuple(callbacks)
    done = Fit(engine)
    waiting = _Patience(done, patience)
    total = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
    try:
        with _bar(progress, total) as show:
            for loss, count in _calls(engine, done, iter(batches), steps_per_call):
                show(loss, count)
                before, done.steps = done.steps, done.steps + count
                is_due = before // evaluate_every < done.steps // evaluate_every
                if evaluate is not None and is_due:
                    waiting.take(float(engine.evaluate(evaluate)))
                answers = [call(done) for call in calls]
                if any(np.asarray(answer).dtype == bool and answer for answer in answers):
                    done.stopped = done.stopped or "callback"
                if done.stopped:
                    break
        if evaluate is not None and done.steps not in {0, *done.evaluations}:
            waiting.take(float(engine.evaluate(evaluate)))
        done.restore_best()
    except KeyboardInterrupt:
        done.stopped = "interrupt"
    except Exception as error:
        error.fit = done  # type: ignore[attr-defined]
        error.add_note(f"{done!r} is the attribute 'fit' of this error.")
        raise
    return done


def _engine(step: Any, carry: tuple[Any, ...]) -> "_States | _Trees":
    if not isinstance(step, TrainStep):
        raise ArgumentTypeError(
            f"asked fit for steps of {a_leaf(step)}",
            "that is no training step",
            "sl.optim.train_step(loss, optimizer)",
        )
    if step.optimizer.is_bound:
        wanted, needed = 0, "a stateful optimiser needs none"
        remedy = "fit(step, batches)"
    else:
        wanted, needed = 2, "a functional optimiser needs the tree, and what step.init gave"
        remedy = "fit(step, batches, model, step.init(model))"
    if len(carry) != wanted:
        asked = f"asked fit for steps with {len(carry)} arguments after the batches"
        raise ArgumentError(asked, needed, remedy)
    return _Trees(step, *carry) if carry else _States(step)


def _refuse_counts(**counts: Any) -> None:
    for name, count in counts.items():
        if count is not None and not (isinstance(count, int) and count > 0):
            raise ArgumentError(
                f"asked fit for {name}={count!r}",
                "it isn't a whole number above 0",
                f"{name}=1, or more",
            )


def _calls(
    engine: Any, done: Fit, batches: Iterator[Any], steps_per_call: int
) -> Iterator[tuple[Any, int]]:
    """Makes steps, and gives the loss of each call with the number of its steps."""
    while group := [
        each if type(each) is tuple else (each,) for each in islice(batches, steps_per_call)
    ]:
        if len(group) == steps_per_call > 1 and _are_alike(group):
            outs = [(engine.many(*jax.tree.map(_stacked, *group)), len(group))]
        else:
            outs = ((engine.one(*batch), 1) for batch in group)
        for out, count in outs:
            loss, *aux = out if isinstance(out, tuple) else (out,)
            done._losses.append(loss)
            done.aux = aux[0] if aux else None
            yield loss, count


def _are_alike(group: list[Any]) -> bool:
    """Says whether batches can be stacked: the last one of an epoch may be smaller."""
    structures = [jax.tree.structure(batch) for batch in group]
    shapes = [list(map(jnp.shape, jax.tree.leaves(batch))) for batch in group]
    return all(s == structures[0] for s in structures) and all(s == shapes[0] for s in shapes)


def _stacked(*leaves: Any) -> Any:
    on_device = any(isinstance(leaf, jax.Array) for leaf in leaves)
    return (jnp if on_device else np).stack(leaves)


@contextlib.contextmanager
def _bar(
    progress: bool | Mapping[str, Any], total: int | None
) -> Iterator[Callable[[Any, int], None]]:
    """Gives what moves the bar; it shows the loss before the last one, so as not to wait."""
    if progress is False:
        yield lambda loss, count: None
        return
    last: list[Any] = []
    options = {} if progress is True else progress
    with load_tqdm("a bar of fit")(**{"total": total, "unit": "step", **options}) as bar:

        def show_last(refresh: bool) -> None:
            if last:
                shown = float(jnp.ravel(last.pop())[-1])
                bar.set_postfix(loss=f"{shown:.4g}", refresh=refresh)

        def show(loss: Any, count: int) -> None:
            show_last(refresh=False)
            last.append(loss)
            bar.update(count)

        yield show
        show_last(refresh=True)
