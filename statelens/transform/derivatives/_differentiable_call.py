"""A call of a function, prepared to be differentiated: pure in what is differentiated.

Every derivative goes through it: what is differentiated is one pytree of values, the function
is pure in it, and derivatives come back in the form that was asked for. The derivative itself
is taken by JAX.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from ..._errors import (
    ArgumentError,
    DifferentiationError,
    StructureError,
    UntouchedStateError,
)
from ..._tree import is_array, is_numeric
from ...lens import Selector, StateForm
from ...state import State, Writes, peek
from ...thread import value_and_aux
from .._core import describe_difference, run, split_numbers, written
from ._dtypes import Differentiable
from ._targets import ArgumentTarget, Call, StateTarget, Target, TreeTarget

AuxOutputs = tuple[Any, Writes]
"""What a pure function gives beside its value, for `commit`: ``(value, aux)``, and its writes."""


class DifferentiableCall:
    """A call, with all that is differentiated of it as one pytree: `values`."""

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        where: StateForm | Selector | None,
        argnums: int | tuple[int, ...] | None,
        allowed: Differentiable,
        has_aux: bool,
        first: int = 0,
    ):
        self._fun = fun
        self._args = args
        self._kwargs = kwargs
        self.has_aux = has_aux
        self._asked_by = allowed.asked_by
        self.argnums = argnums
        # The number of arguments that are a method's object, closed over: none or one.
        self._first = first
        self._untouched: tuple[str, str] | None = None
        # The states that the function was found to close over, but for those that are targets.
        self.closed_over: list[State] = []
        self.targets: list[Target] = []
        if isinstance(where, Selector):
            self.targets.append(TreeTarget(where, args, allowed))
        elif where is not None:
            self.targets.append(StateTarget(where, allowed))
        elif argnums is None:
            argnums = self._first_argument()
        if argnums is not None:
            self.targets.append(ArgumentTarget(argnums, args, allowed))
        # With one target only, its values go in as they are, so that a transform of the
        # user's sees the very tree that was asked for.
        self.values = joined([target.values for target in self.targets])

    def _first_argument(self) -> int:
        if len(self._args) > self._first:
            return self._first
        raise ArgumentError(
            f"asked {self._asked_by} for the derivative by argument 0",
            "the call has no positional argument",
            "grad_states=model.states(ParamState), to differentiate by states",
            "pass what is differentiated by position",
        )

    @property
    def pure(self) -> Callable[[Any], tuple[Any, AuxOutputs]]:
        """The function of other values, of the structure of `values`."""

        def pure(values: Any) -> tuple[Any, AuxOutputs]:
            return self._run(values)

        # JAX asks for the signature in each call, and of a method that takes 16 µs, not 2.
        pure.__signature__ = _OF_VALUES  # type: ignore[attr-defined]
        if isinstance(self._fun, FunctionType):
            pure.__wrapped__ = self._fun  # type: ignore[attr-defined]  # where it is, for messages
        return pure

    def _run(self, values: Any) -> tuple[Any, AuxOutputs]:
        call = Call(self._args, closes_over=bool(self._first))
        for target, own in zip(self.targets, self._each(values), strict=True):
            target.apply(own, call)
        captured = run(
            self._fun, tuple(call.args), self._kwargs, values=call.values, frozen=call.frozen
        )
        # Nothing that is traced may be kept: it would outlive its trace.
        self._untouched = call.first_untouched(captured.touched)
        self.closed_over = [cell for cell in captured.closed_over if cell not in call.values]
        value, aux = captured.out, None
        if self.has_aux:
            value, aux = value_and_aux(captured.out, self._fun)
        outputs = value, aux
        is_plain = is_array(value)
        if not is_plain:
            self._check_leaves(value)
        # A transform of JAX gives arrays.
        if not is_plain or aux is not None:
            outputs = split_numbers(outputs)
        writes = captured.writes
        split = Writes(writes.cells, tuple(map(split_numbers, writes.values)))
        return value, (outputs, split)

    def _each(self, values: Any) -> tuple[Any, ...]:
        return (values,) if len(self.targets) == 1 else tuple(values)

    def _check_leaves(self, output: Any) -> None:
        for leaf in jax.tree.leaves(output):
            if not is_numeric(leaf):
                raise DifferentiationError(
                    f"asked {self._asked_by} for the derivative of a function's output",
                    f"a {type(leaf).__name__} is in it: {leaf!r:.60}",
                    "has_aux=True, and such things in the second part of a pair",
                )

    def check_touched(self) -> None:
        """Refuses a state to be differentiated that the function never touched."""
        if self._untouched is not None:
            name, found = self._untouched
            raise UntouchedStateError(
                f"asked {self._asked_by} for the derivative by the state '{name}'",
                found,
                "leave it out of grad_states",
                "check_states=False, for a derivative of zeros",
            )

    def to_user_form(self, derivative: Any) -> Any:
        """Gives a derivative in the form that was asked for.

        One that lies inside of the function's own output, as a Jacobian does, comes as it is.
        """
        # Only what is given by states comes in another form than that in which JAX gives it.
        is_alike = jax.tree.structure(derivative) == jax.tree.structure(self.values)
        if not is_alike or not isinstance(self.targets[0], StateTarget):
            return derivative
        each = zip(self.targets, self._each(derivative), strict=True)
        return joined([target.to_user_form(own) for target, own in each])

    def from_user_form(self, vector: Any, option: str) -> Any:
        """Gives a vector of the form of a gradient the structure and the dtypes of `values`."""
        count = len(self.targets)
        if count > 1 and not (isinstance(vector, (tuple, list)) and len(vector) == count):
            self._refuse_vector(vector, option)
        each = zip(self.targets, self._each(vector), strict=True)
        found = joined([target.from_user_form(own) for target, own in each])
        leaves, treedef = jax.tree.flatten(self.values)
        given, structure = jax.tree.flatten(found)
        if structure != treedef or not all(map(is_tangent_of, leaves, given)):
            self._refuse_vector(vector, option)
        return treedef.unflatten(map(of_dtype, leaves, given))

    def name_leaves(self, result: tuple[Any, Any]) -> list[tuple[str, Any]]:
        """Lists the leaves of the derivative in a result with their paths, as text."""
        return name_leaves(self.to_user_form(result[0]))

    def name_inputs(self, **others: Any) -> list[tuple[str, Any]]:
        """Lists the leaves of what goes into the call, with names for messages.

        Arrays that are closed over, and aren't in states, aren't among them.
        """
        named = [(f"argument {number}", arg) for number, arg in enumerate(self._args)]
        named += [(f"argument {name!r}", arg) for name, arg in self._kwargs.items()]
        named += [pair for target in self.targets for pair in target.named()]
        closed_over = [(repr(cell), peek(cell)) for cell in self.closed_over]
        found = []
        # What is differentiated is touched too, and has a name already.
        for name, tree in (*named, *others.items(), *closed_over):
            for keys, leaf in jtu.tree_leaves_with_path(tree):
                found.append((f"{name} at '{written(keys)}'" if keys else name, leaf))
        return found

    def _refuse_vector(self, vector: Any, option: str) -> NoReturn:
        raise StructureError(
            f"asked {self._asked_by} for a product with {option}",
            describe_difference(vector, self.to_user_form(self.values)),
            f"{option} of the very form in which the gradient comes",
        )


def joined(each: Sequence[Any]) -> Any:
    """Joins what belongs to each target; with one target only, it is that of the target."""
    return tuple(each) if len(each) > 1 else each[0]


_OF_VALUES = inspect.signature(lambda values: None)


def is_tangent_of(value: Any, tangent: Any) -> bool:
    """Says whether this can be made a tangent of a value."""
    if not is_numeric(tangent) or jnp.shape(value) != jnp.shape(tangent):
        return False
    return jnp.iscomplexobj(value) or not jnp.iscomplexobj(tangent)


def of_dtype(value: Any, tangent: Any) -> Any:
    """Gives a tangent the dtype that JAX wants for one of a value."""
    dtype = getattr(tangent, "dtype", None)
    if dtype == jax.dtypes.float0:
        return tangent
    # To ask for the dtype that it has would still make a weak type a strong one, by a conversion.
    is_ready = isinstance(tangent, jax.Array) and dtype == jnp.result_type(value)
    return tangent if is_ready else jnp.asarray(tangent, jnp.result_type(value))


def name_leaves(derivative: Any) -> list[tuple[str, Any]]:
    """Lists the leaves of a derivative with their paths, as text."""
    leaves = jtu.tree_flatten_with_path(derivative)[0]
    return [(written(keys) or "the derivative", leaf) for keys, leaf in leaves]
