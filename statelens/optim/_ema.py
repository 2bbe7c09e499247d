"""Exponential moving averages of parameters, to evaluate with in their place."""

from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import optax

from .._errors import ArgumentError, user_facing
from ..lens import LensSpec, is_bound, lens
from ..nn import Module
from ..state import LongTermState
from ..thread import overlay
from ._focus import ByPath, StateFocus, TreeFocus

T = TypeVar("T")


class Ema(Module):
    """Averages of what a lens selects; `ema` makes it.

    Attributes:
        state: Where it was given states, what it keeps: a state.
    """

    state: LongTermState[Any]

    def __init__(self, only: Any, decay: float, debias: bool):
        super().__init__()
        self._decay = decay
        self._debias = debias
        self._transformation = optax.ema(decay, debias=debias)
        self._states = StateFocus(only, "ema") if is_bound(only) else None
        self._lens = None if is_bound(only) else lens(only)
        if self._states is not None:
            self.state = LongTermState(self._transformation.init(_wide(self._states.values())))

    @property
    def is_bound(self) -> bool:
        """Whether it was given states, and keeps the averages itself."""
        return self._states is not None

    @user_facing
    def init(self, tree: Any) -> Any:
        """Returns what is kept before the first step: zeros, and a count.

        Args:
            tree: The tree in which the lens selects.

        Returns:
            What `update` takes.
        """
        return self._transformation.init(_wide(self._focus(tree).values()))

    @user_facing
    def update(self, tree: Any, state: Any) -> Any:
        """Takes a tree into the averages.

        Args:
            tree: The tree after a step.
            state: What `init` or the last `update` gave.

        Returns:
            The new state.
        """
        return self._transformation.update(_wide(self._focus(tree).values()), state)[1]

    @user_facing
    def swap(self, tree: T, state: Any) -> T:
        """Returns the tree with the averages in place of what was averaged.

        Args:
            tree: The tree.
            state: What `update` gave.

        Returns:
            The tree, to evaluate with; each average is given in the dtype of what it replaces.

        Raises:
            ArgumentError: Nothing has been averaged yet.
        """
        focus = self._focus(tree)
        return focus.with_values(self._averages(state, focus.values()))

    @user_facing
    def step(self) -> None:
        """Takes the states as they are into the averages."""
        values = _wide(self._bound().values())
        self.state.value = self._transformation.update(values, self.state.value)[1]

    @user_facing
    def swapped(self) -> AbstractContextManager[Any]:
        """Runs a block of code against the averages; what it writes to states is dropped.

        Raises:
            ArgumentError: Nothing has been averaged yet.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> weight = sl.ParamState(jnp.ones(()))
            >>> averages = sl.optim.ema([weight], 0.5)
            >>> averages.step()
            >>> weight.value = jnp.array(4.0)
            >>> averages.step()
            >>> with averages.swapped():
            ...     print(weight.value)
            3.0
        """
        focus = self._bound()
        return overlay(focus.by_unit(self._averages(self.state.value, focus.values())))

    def _averages(self, state: Any, values: ByPath) -> ByPath:
        count = state.count
        if not isinstance(count, jax.core.Tracer) and count == 0:
            raise ArgumentError(
                "asked an ema for averages",
                "nothing has been averaged yet",
                "ema.step(), or ema.update(tree, state), after each step of the optimiser",
            )
        means = state.ema
        if self._debias:
            means = optax.tree.bias_correction(means, self._decay, count)
        # Copies: what is kept may be donated.
        return jax.tree.map(lambda mean, value: jnp.array(mean, value.dtype), means, values)

    def _focus(self, tree: Any) -> TreeFocus:
        if self._lens is None:
            raise ArgumentError(
                "asked an ema of states for the average of a tree",
                "it was given states, and keeps their averages in its state",
                "ema.step(), and 'with ema.swapped():'",
            )
        return TreeFocus(self._lens.selector, tree, "ema")

    def _bound(self) -> StateFocus:
        if self._states is None:
            raise ArgumentError(
                "asked an ema of a lens for the averages of states",
                "it was given a lens, and has no states to look at",
                "state = ema.update(tree, state), and ema.swap(tree, state)",
            )
        return self._states


def _wide(values: ByPath) -> Any:
    """Returns values in which small steps aren't lost: bfloat16 has eight bits."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), values)


@user_facing
def ema(only: LensSpec | Any, decay: float, *, debias: bool = True) -> Ema:
    """Averages parameters over the steps of a training, as `optax.ema` does updates.

    Args:
        only: What is averaged: a lens in any form; or states, as in ``model.states(sl.trainable)``.
        decay: How much of the average stays at each step, as in 0.999.
        debias: Whether early averages are corrected for having begun with zeros.

    Returns:
        What keeps averages, in float32 where values are of a smaller dtype. With a lens it has
        `init`, `update` and `swap`; with states, `step` and `swapped`. `train_step` takes it too.

    Raises:
        ArgumentError: `decay` isn't between 0 and 1.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> averages = sl.optim.ema("w", 0.5)
        >>> state = averages.init({"w": jnp.zeros(())})
        >>> for value in (1.0, 4.0):
        ...     state = averages.update({"w": jnp.array(value)}, state)
        >>> averages.swap({"w": jnp.zeros(())}, state)
        {'w': Array(3., dtype=float32)}
    """
    if not 0 <= decay < 1:
        raise ArgumentError(
            f"asked for an ema with decay={decay!r}", "it isn't between 0 and 1", "0.999, say"
        )
    return Ema(only, decay, debias)
