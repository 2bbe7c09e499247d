"""A work, written in one way, and what it is called in each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax

HAND, FUNCTIONAL, FACADE = "jax", "statelens, unbound lens", "statelens"


class Case(NamedTuple):
    """A work, written in one way.

    Attributes:
        function: It, jitted.
        args: What it is called with.
        written: Gives what the states hold that it writes.
    """

    function: Any
    args: tuple[Any, ...]
    written: Callable[[], Any] = lambda: None

    def results(self) -> list[jax.Array]:
        """Runs it, and lists what comes of it: what it returns, and what it writes."""
        returned = self.function(*self.args)
        return jax.tree.leaves(eqx.filter((returned, self.written()), eqx.is_array))

    def stepper(self) -> Callable[[], jax.Array]:
        """Gives a call that makes a step, from where the last one ended.

        What a step returns is its loss alone; or first its loss, then what takes the place of
        as many arguments.
        """
        args = self.args

        def step() -> jax.Array:
            nonlocal args
            returned = self.function(*args)
            if not isinstance(returned, tuple):
                return returned
            loss, *new = returned
            args = (*new, *args[len(new) :])
            return loss

        return step


Cases = dict[str, Case]
