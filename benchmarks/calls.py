"""Calls without arguments, which is what is timed; and whether they give the same."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Call = Callable[[], Any]


class Training(NamedTuple):
    """A model in training: a step, and the loss of the model as it is by then."""

    step: Call
    evaluate: Call

    def in_turns(self) -> tuple[Any, Any]:
        """Makes a step, waits for it, and evaluates."""
        return jax.block_until_ready(self.step()), self.evaluate()


class FirstCall(NamedTuple):
    """What makes a jitted function that was never called, and what to call it with."""

    make: Callable[[], Any]
    args: tuple[Any, ...]

    def lower(self) -> None:
        self.make().lower(*self.args)

    def run(self) -> Any:
        """Gives the first of what a call gives, which is the loss."""
        return jax.tree.leaves(self.make()(*self.args))[0]


def threaded(step: Callable[..., Any], tree: Any, *batch: Any) -> Call:
    """Gives a call of ``step(tree, *batch) -> (loss, tree)`` that keeps the tree for the next."""

    def call() -> Any:
        nonlocal tree
        loss, tree = step(tree, *batch)
        return loss

    return call


def training(
    step: Callable[..., Any], evaluate: Callable[..., Any], model: Any, memory: Any, *batch: Any
) -> Training:
    """Keeps what ``step(model, memory, *batch) -> (loss, model, memory)`` gives for the next."""

    def call() -> Any:
        nonlocal model, memory
        loss, model, memory = step(model, memory, *batch)
        return loss

    return Training(call, lambda: evaluate(model, *batch))


def checked(calls: dict[str, Call], repeats: int = 3) -> dict[str, Call]:
    """Gives calls as they are, once they have all given the same as the first."""
    results = {
        name: [jax.tree.leaves(call()) for _ in range(repeats)] for name, call in calls.items()
    }
    first, *others = results
    for other in others:
        for mine, theirs in zip(results[other], results[first], strict=True):
            if len(mine) != len(theirs):
                raise ValueError(f"{other} gives {len(mine)} arrays, and {first} {len(theirs)}")
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(a, b, 1e-4, 1e-6, err_msg=f"{other} and {first}")
    return calls
