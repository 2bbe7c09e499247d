"""`Optimizer`: an optimiser of Optax, for what a lens selects in a tree or in live states."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from .._errors import ArgumentError, DifferentiationError, StructureError, user_facing
from .._tree import flatten_with_path, format, is_inexact, is_numeric
from ..lens import Lens, LensSpec, added, is_bound, lens
from ..nn import Module
from ..state import LongTermState
from ._by_lens import as_transformation
from ._focus import ByPath, Focus, StateFocus, TreeFocus
from ._hyperparams import hyperparams_in, with_hyperparams

T = TypeVar("T")

# What Optax's optimisers call functions of the parameters, and gradients, that they are given.
_FUNCTIONS = ("value_fn", "obj_fn")
_GRADIENT_FUNCTIONS = ("grad_fn",)
_GRADIENTS = ("grad",)


class Optimizer(Module):
    """An optimiser of Optax, for what a lens selects.

    With a lens it is functional: `init` gives what the optimiser keeps, `update` a new tree. With
    bound states it keeps that itself, in ``state``, and `step` assigns the states. Nothing is
    kept of what the lens leaves out, and nothing of that moves, by weight decay neither. What
    Optax sees is a dictionary by path, so that a mask is a lens:
    ``optax.adamw(1e-3, mask=sl.lens("**.weight").mask)``.

    Args:
        transformation: The optimiser, as in ``optax.adam(1e-3)``.
        only: What is optimised: a lens in any form; or states, as in
            ``model.states(sl.trainable)``, or a mapping, list or tuple of states.

    Attributes:
        state: Of a stateful optimiser, what it keeps: a state, which is compiled, donated and saved
            as those of a model are.

    Raises:
        ArgumentTypeError: `transformation` isn't an optimiser of Optax.
        DifferentiationError: Something that is optimised is neither real nor complex.

    Example:
        >>> import jax.numpy as jnp, optax, statelens as sl
        >>> tree = {"b": jnp.ones(1), "w": jnp.ones(1)}
        >>> optimizer = sl.optim.Optimizer(optax.sgd(1.0), "w")
        >>> grads = sl.grad(lambda tree: jnp.sum(tree["w"] * tree["b"]), "w")(tree)
        >>> optimizer.update(tree, optimizer.init(tree), grads)[0]
        {'b': Array([1.], dtype=float32), 'w': Array([0.], dtype=float32)}

        The same by states:

        >>> model = sl.nn.Module()
        >>> model.w = sl.ParamState(jnp.ones(1))
        >>> optimizer = sl.optim.Optimizer(optax.sgd(1.0), model.states(sl.trainable))
        >>> optimizer.step(sl.grad(lambda: jnp.sum(model.w.value), model.states(sl.trainable))())
        >>> model.w.value
        Array([0.], dtype=float32)
    """

    state: LongTermState[Any]

    @user_facing
    def __init__(self, transformation: optax.GradientTransformation, only: LensSpec | Any):
        super().__init__()
        transformation = as_transformation(transformation, "an Optimizer")
        self.transformation: optax.GradientTransformationExtraArgs = optax.with_extra_args_support(
            transformation
        )
        self._states = StateFocus(only, "Optimizer") if is_bound(only) else None
        self._lens = None if is_bound(only) else lens(only)
        if self._states is not None:
            self.state = LongTermState(self._begin(self._states))

    @property
    def is_bound(self) -> bool:
        """Whether it is stateful: it was given states."""
        return self._states is not None

    @property
    def only(self) -> Any:
        """What is optimised: a lens; or states, in the form in which they were given."""
        return self._lens if self._states is None else self._states.spec

    @user_facing
    def init(self, tree: Any) -> Any:
        """Returns what the optimiser keeps for a tree: moments, counts; a pytree.

        Args:
            tree: The tree in which the lens selects.

        Returns:
            What `update` takes, with dictionaries by path in it.

        Raises:
            PathError: A pattern matches nothing.
            DifferentiationError: Something selected is neither real nor complex.
        """
        return self._begin(TreeFocus(self._selection("init").selector, tree, "Optimizer"))

    @user_facing
    def update(self, tree: T, state: Any, grads: Any, **extra: Any) -> tuple[T, Any]:
        """Returns the tree after one step, and what the optimiser keeps.

        Args:
            tree: The tree.
            state: What `init` or the last `update` gave.
            grads: The gradient by the same lens.
            **extra: What else the optimiser takes, as ``value=`` and ``value_fn=`` of line
                searches. A function is one of the tree; ``grad`` is a gradient like `grads`.

        Returns:
            The new tree, and the new state.

        Raises:
            StructureError: The gradient is one of another focus, or the state that of another
                optimiser.
        """
        focus = TreeFocus(self._selection("update").selector, tree, "Optimizer")
        news, state = self._advance(focus, state, grads, extra)
        return focus.with_values(news), state

    @user_facing
    def step(self, grads: Any, **extra: Any) -> None:
        """Makes one step: assigns the states that are optimised, and its own, all or none.

        Args:
            grads: The gradient by the same states.
            **extra: What else the optimiser takes, as for `update`; a function takes no arguments
                and reads the states.

        Raises:
            StructureError: The gradient is one of other states.
        """
        focus = self._bound("step")
        news, state = self._advance(focus, self.state.value, grads, extra)
        focus.write(news, self.state, state)

    @user_facing
    def hyperparams(self, state: Any = None) -> dict[str, Any]:
        """Returns hyperparameters by name: those that `optax.inject_hyperparams` keeps.

        Args:
            state: What `init` or `update` gave; nothing where the optimiser is stateful.

        Returns:
            The values as they are at this step, also of schedules. Where several parts have one of
            the same name, it is called by the part too, as in ``"head.**.learning_rate"``.

        Example:
            >>> import jax.numpy as jnp, optax, statelens as sl
            >>> adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.5)
            >>> optimizer = sl.optim.Optimizer(adam, "w")
            >>> state = optimizer.init({"w": jnp.ones(1)})
            >>> state = optimizer.set_hyperparams(state, learning_rate=0.25)
            >>> optimizer.hyperparams(state)["learning_rate"]
            Array(0.25, dtype=float32)
        """
        return hyperparams_in(self._kept(state, "hyperparams"))

    @user_facing
    def set_hyperparams(self, state: Any = None, /, **values: Any) -> Any:
        """Sets hyperparameters by name.

        Args:
            state: What `init` or `update` gave; nothing where the optimiser is stateful.
            **values: New values. Names with dots go in as ``**{"head.**.learning_rate": 0.1}``.

        Returns:
            The new state; that of a stateful optimiser is assigned as well.

        Raises:
            PathError: There is no such hyperparameter, or a schedule gives it.
        """
        news = with_hyperparams(self._kept(state, "set_hyperparams"), values)
        if self.is_bound:
            self.state.value = news
        return news

    @user_facing
    def change_lens(self, only: Any, state: Any = None, tree: Any = None) -> Any:
        """Optimises something else from now on; what is kept by path is carried over.

        Moments of what is newly selected are as `init` gives them, and so are those of which the
        shape has changed. A count of steps goes on: Adam, which takes its moments for averages of
        so many steps, moves what is new to it by up to four times its rate at first. Where that is
        too much, begin again, by `init` of a new optimiser.

        Args:
            only: What to optimise from now on: a lens, or, of a stateful optimiser, states.
            state: What `init` or `update` gave; nothing where the optimiser is stateful.
            tree: The tree; nothing where the optimiser is stateful.

        Returns:
            The new optimiser, and what it keeps. A stateful optimiser is changed itself, and
            nothing is returned.

        Example:
            >>> import jax.numpy as jnp, optax, statelens as sl
            >>> tree = {"b": jnp.ones(1), "w": jnp.ones(1)}
            >>> optimizer = sl.optim.Optimizer(optax.adam(0.1), "w")
            >>> optimizer, state = optimizer.change_lens("**", optimizer.init(tree), tree)
            >>> list(state[0].mu)
            [('b',), ('w',)]
        """
        before = self._kept(state, "change_lens")
        if self._states is not None:
            focus = StateFocus(only, "Optimizer")
            self.state.value = _carried_over(before, self._begin(focus))
            self._states = focus
            return None
        other = Optimizer(self.transformation, only)
        return other, _carried_over(before, other.init(tree))

    def _selection(self, name: str) -> Lens:
        if self._lens is not None:
            return self._lens
        raise ArgumentError(
            f"asked a stateful Optimizer for {name}",
            "it was given states, and keeps what belongs to them in its state",
            "optimizer.step(grads)",
            "Optimizer(..., lens), which is functional",
        )

    def _bound(self, name: str) -> StateFocus:
        if self._states is not None:
            return self._states
        raise ArgumentError(
            f"asked a functional Optimizer for {name}",
            "it was given a lens, and has no states to assign",
            "model, state = optimizer.update(model, state, grads)",
            "Optimizer(..., model.states(sl.trainable)), which is stateful",
        )

    def _kept(self, state: Any, name: str) -> Any:
        if self.is_bound == (state is None):
            return self.state.value if self.is_bound else state
        self._bound(name) if state is None else self._selection(name)

    def _begin(self, focus: Focus) -> Any:
        values = focus.values()
        _refuse_undifferentiable(values)
        return _unshared(self.transformation.init(values), jax.tree.leaves(values))

    def _advance(
        self, focus: Focus, state: Any, grads: Any, extra: dict[str, Any]
    ) -> tuple[ByPath, Any]:
        values, step = focus.values(), focus.by_path(grads)
        given = {name: _by_path(focus, name, value) for name, value in extra.items()}
        try:
            updates, news = self.transformation.update(step, state, values, **given)
        except (TypeError, ValueError, KeyError):
            self._refuse_another_state(values, state)
            raise
        steps: Any = updates
        return {path: added(path, value, steps[path]) for path, value in values.items()}, news

    def _refuse_another_state(self, values: ByPath, state: Any) -> None:
        """Refuses a state that isn't for these parameters, after Optax has failed."""
        expected = jax.eval_shape(self.transformation.init, values)
        if jax.tree.structure(expected) == jax.tree.structure(state):
            return
        here, there = (set(flatten_with_path(tree)[0]) for tree in (expected, state))
        news, gone = sorted(map(format, here - there)), sorted(map(format, there - here))
        raise StructureError(
            "asked an Optimizer for a step from a state",
            f"it isn't the state of what is optimised: it lacks {news[:3]}, and has {gone[:3]}",
            "the state that init gave for this lens and this tree",
            "optimizer.change_lens, where the lens selects something else than before",
        )


def _by_path(focus: Focus, name: str, value: Any) -> Any:
    """Gives Optax what a user has given of the tree or the states, by path."""
    if name in _GRADIENTS:
        return focus.by_path(value)
    if name in _FUNCTIONS:
        return lambda values, *args: focus.run(value, values, *args)
    if name in _GRADIENT_FUNCTIONS:
        return lambda values, *args: focus.by_path(focus.run(value, values, *args))
    return value


def _refuse_undifferentiable(values: ByPath) -> None:
    for path, value in values.items():
        for inner, leaf in zip(*flatten_with_path(value)[:2], strict=True):
            if is_numeric(leaf) and not is_inexact(jnp.asarray(leaf)):
                raise DifferentiationError(
                    f"asked an Optimizer for '{format((*path, *inner))}'",
                    f"it has dtype {jnp.asarray(leaf).dtype}, which isn't differentiable",
                    "a lens & sl.inexact, or sl.trainable",
                )


def _unshared(state: Any, others: list[Any]) -> Any:
    """Copies arrays that occur twice, as some optimisers keep them: they couldn't be donated."""
    seen = set(map(id, others))

    def own(leaf: Any) -> Any:
        is_known = isinstance(leaf, jax.Array) and id(leaf) in seen
        seen.add(id(leaf))
        return jnp.copy(leaf) if is_known else leaf

    return jax.tree.map(own, state)


def _carried_over(before: Any, after: Any) -> Any:
    """Returns a state with what another one has at the same paths, in the same shapes."""
    known = dict(jax.tree.leaves_with_path(before))

    def carry(path: Any, fresh: Any) -> Any:
        old = known.get(path, fresh)
        is_alike = jnp.shape(old) == jnp.shape(fresh) and jnp.result_type(old) == jnp.result_type(
            fresh
        )
        return old if is_alike else fresh

    return jax.tree.map_with_path(carry, after)
