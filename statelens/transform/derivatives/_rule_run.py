"""What a function and its derivative rules see of states, and what they give back.

A rule may run when the call that it belongs to is long over: a backward rule when cotangents come
back, every rule of what has been compiled when that is differentiated. Then it is too late to find
out which states it reads, or what these were. So each rule is looked through within the call, and
takes the states as inputs, as the function does.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import jax.tree_util as jtu

from ..._errors import SelectionError, StructureError
from ..._tree import is_numeric
from ...lens import StateForm
from ...state import State, Writes, this_frame
from .._core import (
    Attempt,
    current_value,
    describe_difference,
    described,
    run,
    split_writes,
    states_in,
    written,
)
from ._differentiable_call import is_tangent_of, of_dtype
from ._dtypes import field_of


class RuleRun:
    """One attempt at a call of a function with rules."""

    def __init__(self, asked: str, given: StateForm | None, attempt: Attempt):
        self._asked = asked
        self._given = given
        self._attempt = attempt
        # States that the function or a rule in its place writes.
        self._written: dict[State, None] = {}

    def others(self) -> tuple[Any, ...]:
        """Reads the states that no rule is about; they have no derivative through the function."""
        return jax.lax.stop_gradient(tuple(map(current_value, self._attempt.cells)))

    def run(
        self, fun: Callable[..., Any], values: Any, others: Any, args: Any, kwargs: Any
    ) -> tuple[Any, Writes]:
        """Runs the function, or a rule of it, against values of the states."""
        given, attempt = self._given, self._attempt
        overlaid = {} if given is None else given.overlaid(given.flatten(values))
        known = dict(zip(attempt.cells, others, strict=True))
        inside = states_in(args, kwargs)

        def on_touch(cell: State) -> None:
            if cell not in inside:
                # Its value may be traced where a rule must not look. This run is given up.
                frame = this_frame()
                frame.values[cell] = jax.tree.map(_stand_in, frame.peek(cell))

        captured = run(
            fun, args, kwargs, values={**known, **overlaid}, frozen=inside, on_touch=on_touch
        )
        for cell in captured.writes.cells:
            if cell in overlaid:
                raise SelectionError(
                    f"{self._asked} by {cell!r}",
                    "the function writes it, and its rule says nothing of that",
                    "return the new value, and assign it outside of the function",
                )
        attempt.touched.update(dict.fromkeys(captured.closed_over))
        touched = [cell for cell in captured.closed_over if cell not in overlaid]
        if attempt.is_over:
            self._require_known(touched, known)
        attempt.cover(touched)
        return captured.out, split_writes(captured.writes)

    def run_in_place(
        self, fun: Callable[..., Any], values: Any, others: Any, args: Any, kwargs: Any
    ) -> tuple[Any, Writes]:
        """Runs what may stand for the function: it writes what any of them writes."""
        out, writes = self.run(fun, values, others, args, kwargs)
        if self._attempt.is_over:
            self._require_known(writes.cells, self._written)
        self._written |= dict.fromkeys(writes.cells)
        return out, self.filled(writes, others)

    def filled(self, writes: Writes, others: Any) -> Writes:
        """Adds what only another one writes, which stays as it is."""
        after = dict(zip(self._attempt.cells, others, strict=True))
        after |= zip(writes.cells, writes.values, strict=True)
        return Writes(tuple(self._written), tuple(after[cell] for cell in self._written))

    def _require_known(self, cells: Any, known: Mapping[State, Any]) -> None:
        """Refuses what comes too late."""
        for cell in cells:
            if cell not in known:
                raise SelectionError(
                    self._asked,
                    f"a rule that runs after the call is over touches {cell!r}, which it didn't "
                    "when it was looked through in the call",
                    "read it in the function too, or in the forward rule, and give it on as a "
                    "residual",
                    "states=..., if the rule is about it",
                )

    def look_through(self, rule: Callable[[], Any]) -> None:
        """Finds which states a rule touches that may run later."""
        if not self._attempt.is_over:
            # A rule that fails does so when it is run; until then nobody has asked for it.
            with contextlib.suppress(Exception):
                jax.eval_shape(lambda: (rule(), None)[1])


def tangents_of(
    tree: Any, given: Any, asked: str, label: str, has_tangent: Callable[[Any], bool]
) -> Any:
    """Gives derivatives the structure of what they belong to.

    None stands for zeros, at any depth, and is in the place of all that has no derivative.
    """

    def one(keys: Any, given: Any, part: Any) -> Any:
        if given is None or isinstance(given, jax.custom_derivatives.SymbolicZero):
            return jax.tree.map(lambda _: None, part)
        if jax.tree.structure(part) == _LEAF:
            if not has_tangent(part):
                return None
            if is_tangent_of(part, given):
                return of_dtype(part, given)
        place = f" at '{written(keys)}'" if keys else ""
        refuse(f"that of {label}{place} is {described(given)}, and belongs to {described(part)}")

    def refuse(difference: str) -> Any:
        raise StructureError(
            asked,
            difference,
            "a derivative of the shape of what it belongs to",
            "None, for zeros",
        ) from None

    try:
        return jtu.tree_map_with_path(one, given, tree, is_leaf=lambda leaf: leaf is None)
    except StructureError:
        raise
    except ValueError:  # JAX's, of two trees that differ
        return refuse(f"in that of {label}, {describe_difference(given, tree)}")


_LEAF = jax.tree.structure(0)


def is_inexact(leaf: Any) -> bool:
    """Says whether a number of JAX, of NumPy or of Python may have a derivative."""
    return is_numeric(leaf) and field_of(jnp.result_type(leaf)) is not None


def zeros_of(tree: Any) -> Any:
    """Gives derivatives of zeros, with None for what has none."""
    return jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_inexact_array(x) else None, tree)


def _stand_in(leaf: Any) -> Any:
    """Gives some array like a traced one."""
    is_traced = isinstance(leaf, jax.core.Tracer)
    return jnp.zeros(leaf.shape, leaf.dtype) if is_traced else leaf
