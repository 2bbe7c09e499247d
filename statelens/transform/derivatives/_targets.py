"""What a derivative is taken of: states, a part of a tree, arguments.

Each part says what its values are, how to run the function against other values, and how to
give derivatives back in the form in which the part was asked for. A gradient transform joins
the parts that a call asks for, and knows nothing else of them.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol

from ..._errors import ArgumentError, ArgumentTypeError, UntouchedStateError, explain
from ..._tree import Cell, Path, TreeDef, cells, format, has_owners, hidden_cells
from ...lens import Selector, StateForm, combine, focus_on, is_bound, read_all, split, units_of
from ...state import Captured, State
from ...thread import overlaid_values, values_in
from .._core import read_lens
from ._dtypes import Differentiable


class Call:
    """A call of the user's function, as the parts prepare it.

    Attributes:
        args: The positional arguments.
        values: Values of states to run against.
        frozen: States that must not be written, with their paths.
        watched: States that the function has to touch, with what gives the label of each.
    """

    def __init__(self, args: list[Any]):
        self.args = args
        self.values: dict[State, Any] = {}
        self.frozen: dict[State, Path] = {}
        self.watched: dict[Any, Callable[[Any], str]] = {}

    def freeze(self, tree: Any) -> None:
        """Forbids writes to the states in a tree."""
        if has_owners(tree):
            self.frozen.update(cells(tree) | hidden_cells(tree))


class Part(Protocol):
    """One part of what is differentiated."""

    @property
    def values(self) -> Any:
        """The values: a pytree of arrays."""

    def apply(self, values: Any, call: Call) -> None:
        """Makes the call run against other values."""

    def shape(self, derivative: Any) -> Any:
        """Gives a derivative in the form in which the part was asked for."""

    def read(self, vector: Any) -> Any:
        """Takes a vector of that form, in the structure of the values."""


class States(NamedTuple):
    """States that are given themselves.

    Attributes:
        given: The states.
        values: Their values, in the form in which the states are given, or as a list.
        is_list: Whether they are a list.
    """

    given: StateForm
    values: Any
    is_list: bool

    def apply(self, values: Any, call: Call) -> None:
        if not self.is_list:
            values = self.given.flatten(values)
        call.values.update(overlaid_values(self.given.units, values))
        call.watched.update(dict.fromkeys(self.given.cells, self.given.label_of))

    def shape(self, derivative: Any) -> Any:
        if self.is_list:
            return self.given.rebuild(derivative)
        # JAX gives dictionaries back with their keys sorted.
        return self.given.rebuild(self.given.flatten(derivative))

    def read(self, vector: Any) -> Any:
        values = self.given.flatten(vector)
        return values if self.is_list else self.given.rebuild(values)


class Leaves(NamedTuple):
    """Leaves that a lens selects in the first argument, where there are no states in it."""

    values: list[Any]
    leaves: list[Any]
    treedef: TreeDef
    places: Sequence[int]

    def apply(self, values: Any, call: Call) -> None:
        call.args[0] = self._tree(self.leaves, values)

    def shape(self, derivative: Any) -> Any:
        return self._tree([None] * len(self.leaves), derivative)

    def read(self, vector: Any) -> Any:
        return vector

    def _tree(self, leaves: list[Any], values: Any) -> Any:
        leaves = list(leaves)
        for place, value in zip(self.places, values, strict=True):
            leaves[place] = value
        return self.treedef.unflatten(leaves)


class Tree(NamedTuple):
    """What a lens selects in the first argument."""

    values: Any
    rest: Any

    def apply(self, values: Any, call: Call) -> None:
        tree = call.args[0] = combine(values, self.rest)
        if has_owners(tree):
            focused = set(cells(values).values())
            found = {c: path for c, path in cells(tree).items() if path in focused}
            call.watched.update(dict.fromkeys(found, lambda cell: format(found[cell])))
            call.freeze(tree)

    def shape(self, derivative: Any) -> Any:
        return derivative

    def read(self, vector: Any) -> Any:
        return vector


class Arguments(NamedTuple):
    """Positional arguments."""

    argnums: int | tuple[int, ...]
    values: Any

    def apply(self, values: Any, call: Call) -> None:
        single = isinstance(self.argnums, int)
        argnums = (self.argnums,) if isinstance(self.argnums, int) else self.argnums
        for argnum, value in zip(argnums, (values,) if single else values, strict=True):
            call.args[argnum] = value
            call.freeze(value)

    def shape(self, derivative: Any) -> Any:
        return derivative

    def read(self, vector: Any) -> Any:
        return vector


def compile_states(grad_states: Any, asked_by: str) -> Selector | None:
    """Reads `grad_states` where it is given, so that mistakes show there.

    Args:
        grad_states: Bound states in any form, or a lens in any form, or None.
        asked_by: The transform, for messages.

    Returns:
        The selector of an unbound lens, else None.
    """
    if grad_states is not None and is_bound(grad_states):
        units_of(grad_states, asked_by)
    return compile_unbound(grad_states, asked_by)


def compile_unbound(grad_states: Any, asked_by: str) -> Selector | None:
    """Reads `grad_states` as `compile_states` does, but for states that are looked at anyway."""
    if grad_states is None or is_bound(grad_states):
        return None
    return read_lens(grad_states, "grad_states", asked_by)


def states_part(
    grad_states: Any, allowed: Differentiable, asked_by: str, *, as_list: bool = False
) -> States:
    """Returns the part of states that are given themselves.

    Args:
        grad_states: The states.
        allowed: Which numbers may be differentiated.
        asked_by: The transform, for messages.
        as_list: Whether a list of values will do, in whatever form the states are given.

    Returns:
        The part.
    """
    given = units_of(grad_states, asked_by)
    values = values_in(given.units)
    allowed.check_all(given.label, values, asked_by)
    is_list = as_list or not given.is_pytree
    return States(given, values if is_list else given.rebuild(values), is_list)


def tree_part(
    selector: Selector,
    args: Sequence[Any],
    allowed: Differentiable,
    asked_by: str,
    *,
    as_list: bool = False,
) -> Tree | Leaves:
    """Returns the part of the first argument that a lens selects.

    Args:
        selector: What is selected.
        args: The arguments.
        allowed: Which numbers may be differentiated.
        asked_by: The transform, for messages.
        as_list: Whether a list of values will do.

    Returns:
        The part.
    """
    if not args:
        raise ArgumentError(
            explain(
                f"asked {asked_by} for the states that a lens selects",
                "the call has no positional argument for it to look at",
                "pass the model as the first argument",
                "bind the lens to the model, as in lens.bind(model)",
            )
        )
    leaves, treedef, entries = focus_on(selector, args[0], required_by=asked_by)
    units = read_all(leaves, entries)
    values = units
    if entries.cells:
        values = [unit.value if isinstance(unit, Cell) else unit for unit in units]
    allowed.check_all(lambda number: format(entries.paths[number]), values, asked_by)
    if as_list and not (entries.parts or entries.has_owners):
        return Leaves(units, leaves, treedef, entries.positions)
    return Tree(*split(leaves, treedef, entries))


def arguments_part(
    argnums: Any, args: Sequence[Any], allowed: Differentiable, asked_by: str
) -> Arguments:
    """Returns the part of some arguments; `argnums` has been read by `read_argnums`."""
    single = isinstance(argnums, int)
    for argnum in [argnums] if single else argnums:
        if argnum >= len(args):
            raise ArgumentError(
                explain(
                    f"asked {asked_by} for argnums={argnums}",
                    f"the call has {len(args)} positional arguments, counted from 0",
                    "pass what is differentiated by position, not by keyword",
                )
            )
    for argnum in () if allowed.any_argument else [argnums] if single else argnums:
        allowed.check(partial("argument {}".format, argnum), args[argnum], asked_by)
    values = args[argnums] if single else tuple(args[argnum] for argnum in argnums)
    return Arguments(argnums, values)


def read_argnums(
    argnums: Any, *, has_lens: bool, asked_by: str, option: str = "argnums"
) -> int | tuple[int, ...] | None:
    """Checks `argnums`, which counts positional arguments from 0.

    Args:
        argnums: An integer or a sequence of integers, or None.
        has_lens: Whether an unbound lens looks at argument 0.
        asked_by: The transform, for messages.
        option: What it was given as.

    Returns:
        A Python integer or a tuple of them.

    Raises:
        ArgumentTypeError: It is no integer, or a boolean.
        ArgumentError: It is negative, given twice, or 0 beside an unbound lens.
    """
    if argnums is None:
        return None
    many = isinstance(argnums, Sequence) and not isinstance(argnums, str)
    numbers = [_argnum(number, asked_by, option) for number in (argnums if many else [argnums])]
    if len(set(numbers)) < len(numbers):
        raise ArgumentError(
            explain(
                f"asked {asked_by} for {option}={argnums}",
                "an argument is given twice",
                "each argument once",
            )
        )
    if has_lens and 0 in numbers:
        raise ArgumentError(
            explain(
                f"asked {asked_by} for argnums={argnums} beside an unbound lens",
                "argument 0 is the tree that the lens looks at",
                "argnums counted from 1 for the arguments after the tree",
                "a lens on the whole tree instead: grad_states=...",
            )
        )
    return tuple(numbers) if many else numbers[0]


def _argnum(number: Any, asked_by: str, option: str) -> int:
    try:
        if isinstance(number, bool):
            raise TypeError
        index = operator.index(number)
    except TypeError:
        raise ArgumentTypeError(
            explain(
                f"asked {asked_by} for {option}={number!r}",
                f"that is a {type(number).__name__}, not the position of an argument",
                "an integer or a tuple of integers, counted from 0",
            )
        ) from None
    if index < 0:
        raise ArgumentError(
            explain(
                f"asked {asked_by} for {option}={number!r}",
                "a negative position depends on how many arguments a call has",
                "the position counted from the left, from 0",
            )
        )
    return index


def first_untouched(call: Call, captured: Captured) -> str | None:
    """Finds a state that was to be differentiated and that the function didn't touch.

    Args:
        call: What the function was called with.
        captured: What came of it.

    Returns:
        Its label, or None.
    """
    if not call.watched:
        return None
    touched = set(captured.touched)
    if call.watched.keys() <= touched:
        return None
    for cell, label in call.watched.items():
        if cell not in touched:
            return label(cell)
    return None


def refuse_untouched(label: str, asked_by: str) -> NoReturn:
    """Refuses a state that the function didn't touch.

    Args:
        label: What to call it.
        asked_by: The transform, for the message.

    Raises:
        UntouchedStateError: In any case.
    """
    raise UntouchedStateError(
        explain(
            f"asked {asked_by} for the derivative by the state '{label}'",
            "the function never read or wrote it",
            "leave it out of grad_states",
            "check_states=False, for a derivative of zeros",
        )
    )
