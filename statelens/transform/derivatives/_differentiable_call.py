"""A call of a function, prepared to be differentiated: pure in what is differentiated.

Every derivative goes through it: what is differentiated is one pytree of values, the function
is pure in it, and derivatives come back in the form that was asked for. The derivative itself
is taken by JAX.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from ..._errors import ArgumentError, DifferentiationError, StructureError, explain
from ..._tree import is_array, is_numeric
from ...lens import Selector
from ...state import NO_WRITES, Writes
from ...thread import value_and_aux
from .._core import describe_difference, merge_static, run, split_numbers, written
from ._dtypes import Differentiable
from ._targets import (
    Call,
    Part,
    States,
    arguments_part,
    first_untouched,
    refuse_untouched,
    states_part,
    tree_part,
)


class Finished(NamedTuple):
    """What a function gave, beside what is differentiated."""

    value: Any
    aux: Any
    writes: Writes


class Plan:
    """A call, with what of it is differentiated as one pytree.

    Args:
        fun: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        grad_states: States that are given themselves, or None.
        selector: What is selected in the first argument, or None.
        argnums: The arguments that are differentiated, or None.
        allowed: Which numbers may be differentiated.
        has_aux: Whether the function returns ``(value, aux)``.
        asked_by: The transform, for messages.
        as_list: Whether the derivative looks like what is differentiated, so that lists will do.
        keeps_value: Whether `finish` has to give the function's value.

    Attributes:
        parts: What is differentiated: states, a tree, arguments.
        values: The values of that: of the part, or a tuple of those of all parts.
        argnums: The arguments that are differentiated, or None.
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        grad_states: Any,
        selector: Selector | None,
        argnums: Any,
        allowed: Differentiable,
        has_aux: bool,
        asked_by: str,
        as_list: bool = False,
        keeps_value: bool = False,
    ):
        self._fun = fun
        self._args = args
        self._kwargs = kwargs
        self._has_aux = has_aux
        self._asked_by = asked_by
        self._as_list = as_list
        self._keeps_value = keeps_value
        self.argnums = argnums
        self._untouched: str | None = None
        self.parts: list[Part] = []
        if selector is not None:
            self.parts.append(tree_part(selector, args, allowed, asked_by, as_list=as_list))
        elif grad_states is not None:
            self.parts.append(states_part(grad_states, allowed, asked_by, as_list=as_list))
        if argnums is None and not self.parts:
            argnums = 0
            if not args:
                raise ArgumentError(
                    explain(
                        f"asked {asked_by} for the derivative by argument 0",
                        "the call has no positional argument",
                        "grad_states=model.states(ParamState), to differentiate by states",
                        "pass what is differentiated by position",
                    )
                )
        if argnums is not None:
            self.parts.append(arguments_part(argnums, args, allowed, asked_by))
        # With one part only, its values go in as they are, so that a transform of the
        # user's sees the very tree that was asked for.
        one, *more = self.parts
        self.values = (one.values, *[part.values for part in more]) if more else one.values

    def _each(self, values: Any) -> tuple[Any, ...]:
        return (values,) if len(self.parts) == 1 else tuple(values)

    @property
    def pure(self) -> Callable[[Any], tuple[Any, tuple[Any, Any, Writes | None]]]:
        """The function of other values, of the structure of `values`.

        It gives the function's value; and beside it, not to be differentiated, for `finish`: the
        value once more, if that is kept, the function's auxiliary output, and what it wrote, if
        anything.
        """

        def pure(values: Any) -> tuple[Any, tuple[Any, Any, Writes | None]]:
            return self._run(values)

        # JAX asks for the signature in each call, and of a method that takes 16 µs, not 2.
        pure.__signature__ = _OF_VALUES  # type: ignore[attr-defined]
        if isinstance(self._fun, FunctionType):
            pure.__wrapped__ = self._fun  # type: ignore[attr-defined]  # where it is, for messages
        return pure

    def _run(self, values: Any) -> tuple[Any, tuple[Any, Any, Writes | None]]:
        call = Call(list(self._args))
        for part, own in zip(self.parts, self._each(values), strict=True):
            part.apply(own, call)
        captured = run(
            self._fun, tuple(call.args), self._kwargs, values=call.values, frozen=call.frozen
        )
        # Nothing that is traced may be kept: it would outlive its trace.
        self._untouched = first_untouched(call, captured)
        value, aux = (
            value_and_aux(captured.out, self._fun) if self._has_aux else (captured.out, None)
        )
        writes = captured.writes
        packed_writes = (
            Writes(writes.cells, tuple(map(split_numbers, writes.values))) if writes else None
        )
        kept = value if self._keeps_value else None
        if not is_array(value):
            self._check_leaves(value)
            kept = split_numbers(kept)
        return value, (kept, split_numbers(aux), packed_writes)

    def _check_leaves(self, output: Any) -> None:
        for leaf in jax.tree.leaves(output):
            if not is_numeric(leaf):
                raise DifferentiationError(
                    explain(
                        f"asked {self._asked_by} for the derivative of a function's output",
                        f"a {type(leaf).__name__} is in it: {leaf!r:.60}",
                        "has_aux=True, and such things in the second part of a pair",
                    )
                )

    def finish(self, beside: tuple[Any, Any, Writes | None], check_states: bool) -> "Finished":
        """Takes apart what `pure` gives beside the value; nothing is committed yet."""
        if check_states:
            self.check_touched()
        value, aux, writes = beside
        whole = (
            Writes(writes.cells, tuple(map(merge_static, writes.values))) if writes else NO_WRITES
        )
        return Finished(merge_static(value), merge_static(aux), whole)

    def check_touched(self) -> None:
        """Refuses a state to be differentiated that the function never touched."""
        if self._untouched is not None:
            refuse_untouched(self._untouched, self._asked_by)

    def shape(self, derivative: Any) -> Any:
        """Gives a derivative in the form that was asked for.

        One that lies inside of the function's own output, as a Jacobian does, comes as it is.
        """
        # What isn't given by states comes in the form that JAX gives it.
        if not self._as_list:
            if not isinstance(self.parts[0], States):
                return derivative
            if jax.tree.structure(derivative) != jax.tree.structure(self.values):
                return derivative
        return self.shape_whole(derivative)

    def shape_whole(self, derivative: Any) -> Any:
        """Does what `shape` does, for a derivative that has the structure of `values`."""
        if len(self.parts) == 1:
            return self.parts[0].shape(derivative)
        return tuple(part.shape(own) for part, own in zip(self.parts, derivative, strict=True))

    def name_leaves(self, result: tuple[Any, Any]) -> list[tuple[str, Any]]:
        """Lists the leaves of the derivative in a result with their paths, as text."""
        return name_leaves(self.shape(result[0]))

    def read(self, vector: Any, option: str) -> Any:
        """Takes a vector in the form in which derivatives come.

        Args:
            vector: Of that form.
            option: What it was given as.

        Returns:
            The vector in the structure of `values`, each number of the dtype of its value.

        Raises:
            StructureError: It isn't of that form.
        """
        if len(self.parts) > 1 and (
            not isinstance(vector, (tuple, list)) or len(vector) != len(self.parts)
        ):
            self._refuse_vector(vector, option)
        each = self._each(vector)
        found = tuple(part.read(own) for part, own in zip(self.parts, each, strict=True))
        leaves, treedef = jax.tree.flatten(self.values)
        given, structure = jax.tree.flatten(found[0] if len(found) == 1 else found)
        if structure != treedef:
            self._refuse_vector(vector, option)
        pairs = list(zip(leaves, given, strict=True))
        if not all(_are_alike(a, b) or _is_tangent_of(a, b) for a, b in pairs):
            self._refuse_vector(vector, option)
        return treedef.unflatten([_of_dtype(a, b) for a, b in pairs])

    def _refuse_vector(self, vector: Any, option: str) -> None:
        raise StructureError(
            explain(
                f"asked {self._asked_by} for a product with {option}",
                describe_difference(vector, self.shape(self.values)),
                f"{option} of the very form in which the gradient comes",
            )
        )


_OF_VALUES = inspect.signature(lambda values: None)


def _are_alike(value: Any, tangent: Any) -> bool:
    """Says whether both are arrays of one shape and dtype."""
    are_arrays = isinstance(value, jax.Array) and isinstance(tangent, jax.Array)
    return are_arrays and value.shape == tangent.shape and value.dtype == tangent.dtype


def _is_tangent_of(value: Any, tangent: Any) -> bool:
    """Says whether this can be made a tangent of a value."""
    if not is_numeric(tangent):
        return False
    if jnp.shape(value) != jnp.shape(tangent):
        return False
    return jnp.iscomplexobj(value) or not jnp.iscomplexobj(tangent)


def _of_dtype(value: Any, tangent: Any) -> Any:
    """Gives a tangent the dtype that JAX wants for one of a value."""
    # To ask for the dtype that it has would still make a weak type a strong one, by a conversion.
    if _are_alike(value, tangent) or getattr(tangent, "dtype", None) == jax.dtypes.float0:
        return tangent
    dtype = jnp.result_type(value)
    if isinstance(tangent, jax.Array) and tangent.dtype == dtype:
        return tangent
    return jnp.asarray(tangent, dtype)


def name_leaves(derivative: Any) -> list[tuple[str, Any]]:
    """Lists the leaves of a derivative with their paths, as text."""
    leaves = jtu.tree_flatten_with_path(derivative)[0]
    return [(written(keys) or "the derivative", leaf) for keys, leaf in leaves]
