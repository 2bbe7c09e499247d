"""What a derivative is taken of: states, a part of a tree, arguments.

Each target says what its values are, how to run the function against other values, and how to
give derivatives back in the form in which it was asked for. A differentiable call joins the
targets that are asked for, and knows nothing else of them.
"""

import abc
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from ..._errors import ArgumentError
from ..._tree import Cell, Path, cells, flatten_as_jax, format, has_owners
from ...lens import Selector, StateForm, combine, focus_on, read_all, split
from ...state import State, explain_untouched, peek
from .._core import parse_argnum, states_in
from ._dtypes import Differentiable


class Call:
    """A call of the user's function, as the targets prepare it."""

    def __init__(self, args: Iterable[Any], closes_over: bool):
        self.args = list(args)
        # Whether the first one is the object of a method, which that closes over.
        self._closes_over = closes_over
        # Values of states to run against.
        self.values: dict[State, Any] = {}
        # States that must not be written.
        self.frozen: dict[State, Path] = {}
        # States that have to be touched, with what gives the label of each.
        self.watched: dict[Any, Callable[[Any], str]] = {}

    def put(self, argnum: int, tree: Any) -> None:
        """Passes another tree for an argument; writes to the states in it would be lost."""
        if argnum == 0 and self._closes_over:
            self._overlay(self.args[0], tree)
            return
        self.args[argnum] = tree
        if has_owners(tree):
            self.frozen.update(states_in((tree,), {}))

    def _overlay(self, instance: Any, tree: Any) -> None:
        """Has an object run against the values of the states of another one, path by path."""
        found = {path: cell for cell, path in states_in((tree,), {}).items()}
        for cell, path in states_in((instance,), {}).items():
            if found[path] is not cell:
                self.values[cell] = peek(found[path])

    def first_untouched(self, touched: Iterable[State]) -> tuple[str, str] | None:
        """Names a state that had to be touched and wasn't, and says what is known of it."""
        missing = self.watched.keys() - set(touched)
        for cell, label in self.watched.items():
            if cell in missing:
                return label(cell), explain_untouched(cell)
        return None


class Target(abc.ABC):
    """One thing that is differentiated by; its `values` are a pytree of arrays."""

    values: Any

    @abc.abstractmethod
    def apply(self, values: Any, call: Call) -> None:
        """Makes the call run against other values."""

    def to_user_form(self, derivative: Any) -> Any:
        """Gives a derivative in the form in which the target was asked for."""
        return derivative

    def from_user_form(self, vector: Any) -> Any:
        """Gives a vector of that form the structure of the values."""
        return vector

    def named(self) -> Iterable[tuple[str, Any]]:
        """Gives the values that aren't in arguments, with names for messages."""
        return ()


class StateTarget(Target):
    """States that are given themselves."""

    def __init__(self, given: StateForm, allowed: Differentiable):
        values = given.values()
        allowed.check_all(given.label, values)
        self._given = given
        self.values = self._formed(values)

    def apply(self, values: Any, call: Call) -> None:
        call.values.update(self._given.overlaid(self._listed(values)))
        call.watched.update(dict.fromkeys(self._given.cells, self._given.label_of))

    def to_user_form(self, derivative: Any) -> Any:
        # JAX gives dictionaries back with their keys sorted.
        return self._given.rebuild(self._listed(derivative))

    def from_user_form(self, vector: Any) -> Any:
        return self._formed(self._given.flatten(vector))

    def named(self) -> Iterable[tuple[str, Any]]:
        values = enumerate(self._listed(self.values))
        return [(f"the state '{self._given.label(number)}'", value) for number, value in values]

    def _formed(self, values: list[Any]) -> Any:
        return self._given.rebuild(values) if self._given.is_pytree else values

    def _listed(self, values: Any) -> list[Any]:
        return self._given.flatten(values) if self._given.is_pytree else values


class TreeTarget(Target):
    """What a lens selects in the first argument."""

    def __init__(self, selector: Selector, args: Sequence[Any], allowed: Differentiable):
        if not args:
            raise ArgumentError(
                f"asked {allowed.asked_by} for the states that a lens selects",
                "the call has no positional argument for it to look at",
                "pass the model as the first argument",
                "bind the lens to the model, as in lens.bind(model)",
            )
        leaves, treedef, selection = focus_on(selector, args[0], required_by=allowed.asked_by)
        units = read_all(leaves, selection)
        values = [unit.value if isinstance(unit, Cell) else unit for unit in units]
        allowed.check_all(lambda number: format(selection.paths[number]), values)
        self.values, self._rest = split(leaves, treedef, selection)

    def apply(self, values: Any, call: Call) -> None:
        tree = combine(values, self._rest)
        call.put(0, tree)
        if has_owners(tree):
            focused = set(cells(values).values())
            # The states that the function sees, which aren't those of another tree always.
            own = cells(call.args[0])
            found = {cell: path for cell, path in own.items() if path in focused}
            call.watched.update(dict.fromkeys(found, lambda cell: format(found[cell])))


class ArgumentTarget(Target):
    """Positional arguments, at positions that `read_argnums` has read."""

    def __init__(
        self, argnums: int | tuple[int, ...], args: Sequence[Any], allowed: Differentiable
    ):
        self._is_one = isinstance(argnums, int)
        self._numbers = (argnums,) if isinstance(argnums, int) else argnums
        check_positions(argnums, self._numbers, args, "argnums", allowed.asked_by)
        values = tuple(args[number] for number in self._numbers)
        for number, value in zip(self._numbers, values, strict=True):
            if allowed.any_argument:
                flatten_as_jax(value)
            else:
                allowed.check(partial("argument {}".format, number), value)
        self.values = values[0] if self._is_one else values

    def apply(self, values: Any, call: Call) -> None:
        each = (values,) if self._is_one else values
        for number, value in zip(self._numbers, each, strict=True):
            call.put(number, value)


def check_positions(
    argnums: Any, numbers: Iterable[int], args: Sequence[Any], option: str, asked_by: str
) -> None:
    """Refuses positions, given as `argnums`, of arguments that a call hasn't."""
    if max(numbers, default=-1) >= len(args):
        raise ArgumentError(
            f"asked {asked_by} for {option}={argnums}",
            f"the call has {len(args)} positional arguments, counted from 0",
            "pass these by position, not by keyword",
        )


def read_argnums(
    argnums: Any, *, has_lens: bool, asked_by: str, option: str = "argnums"
) -> int | tuple[int, ...] | None:
    """Reads positions of arguments; argument 0 is refused beside a lens, which looks at it."""
    if argnums is None:
        return None
    many = isinstance(argnums, Sequence) and not isinstance(argnums, str)
    numbers = [parse_argnum(n, option, asked_by) for n in (argnums if many else [argnums])]
    if len(set(numbers)) < len(numbers):
        raise ArgumentError(
            f"asked {asked_by} for {option}={argnums}",
            "an argument is given twice",
            "each argument once",
        )
    if has_lens and 0 in numbers:
        raise ArgumentError(
            f"asked {asked_by} for argnums={argnums} beside an unbound lens",
            "argument 0 is the tree that the lens looks at",
            "argnums counted from 1 for the arguments after the tree",
            "a lens on the whole tree instead: grad_states=...",
        )
    return tuple(numbers) if many else numbers[0]
