"""Options that several transforms take, checked where they are given."""

import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..._errors import ArgumentError, ArgumentTypeError, user_facing
from ..._tree import a_leaf, is_array
from ...lens import Selector, StateForm, focus_on, is_bound, selector_of, split, units_of
from ...state import State


def applied(make: Callable[..., Any], fun: Callable[..., Any] | None) -> Any:
    """Gives what `make` makes of a function, or a decorator where there is none."""
    return user_facing(make) if fun is None else make(fun)


def parse_count(number: Any, option: str, asked_by: str, least: int = 1) -> int | None:
    """Reads a number of things, or None.

    Raises:
        ArgumentTypeError: It is no integer.
        ArgumentError: It is too small.
    """
    if number is None:
        return None
    return _integer(number, option, asked_by, least, f"it has to be at least {least}")


def parse_argnum(number: Any, option: str, asked_by: str) -> int:
    """Reads the position of an argument.

    Raises:
        ArgumentTypeError: It is no integer.
        ArgumentError: It is negative.
    """
    below = "a negative position depends on how many arguments a call has"
    return _integer(number, option, asked_by, 0, below)


def _integer(number: Any, option: str, asked_by: str, least: int, below: str) -> int:
    try:
        if isinstance(number, bool):
            raise TypeError
        number = operator.index(number)
    except TypeError:
        raise ArgumentTypeError(
            f"asked {asked_by} for {option}={number!r}",
            f"that is {a_leaf(number)}, not a whole number",
            f"an integer, at least {least}",
        ) from None
    if number < least:
        raise ArgumentError(
            f"asked {asked_by} for {option}={number}",
            below,
            f"an integer, at least {least}",
        )
    return number


def parse_argnums(argnums: Any, option: str, asked_by: str) -> frozenset[int]:
    """Reads positions of arguments: an integer, several, or None."""
    if argnums is None:
        return frozenset()
    if isinstance(argnums, str) or not isinstance(argnums, (Sequence, set, frozenset)):
        argnums = (argnums,)
    return frozenset(parse_argnum(number, option, asked_by) for number in argnums)


def parse_argnames(argnames: Any, option: str, asked_by: str) -> frozenset[str]:
    """Reads names of arguments: a text, several, or None."""
    if argnames is None:
        return frozenset()
    if isinstance(argnames, str):
        return frozenset([argnames])
    if not isinstance(argnames, (list, tuple, set, frozenset)) or not all(
        isinstance(name, str) for name in argnames
    ):
        raise ArgumentTypeError(
            f"asked {asked_by} for {option}={argnames!r}",
            f"that is a {type(argnames).__name__}, not names of arguments",
            f'{option}="mode", or several, as in {option}=("mode", "size")',
        )
    return frozenset(argnames)


def _parameters_of(fun: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    try:
        return dict(inspect.signature(fun).parameters)
    except (TypeError, ValueError):
        return None


def _check_names(
    argnames: frozenset[str], parameters: dict[str, inspect.Parameter], asked_by: str
) -> None:
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in sorted(argnames):
        if name not in parameters and not open_ended:
            raise ArgumentError(
                f"asked {asked_by} for the argument {name!r}",
                f"the function takes {', '.join(map(repr, parameters)) or 'none'}",
                "one of these names",
            )


def parse_arguments(
    fun: Callable[..., Any], argnums: Any, argnames: Any, option: str, asked_by: str
) -> frozenset[int | str]:
    """Reads which arguments are meant, by position or name: their positions and names."""
    numbers = parse_argnums(argnums, f"{option}_argnums", asked_by)
    named = parse_argnames(argnames, f"{option}_argnames", asked_by)
    parameters = _parameters_of(fun) if numbers or named else None
    if parameters is None:
        return frozenset(numbers | named)
    _check_names(named, parameters, asked_by)
    # A call may give an argument either way.
    positional = [
        (name, parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for number, (name, has_name) in enumerate(positional):
        if name in named or number in numbers:
            numbers |= {number}
            named |= {name} if has_name else set()
    return frozenset(numbers | named)


def read_lens(spec: Any, option: str, asked_by: str) -> Selector:
    """Reads a lens in any form.

    Args:
        spec: What was given.
        option: What it was given as.
        asked_by: The transform, for messages.

    Returns:
        The selector.

    Raises:
        ArgumentTypeError: It is nothing that selects.
        PatternError: A text can't be read.
    """
    try:
        return selector_of(spec)
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"asked {asked_by} for {option}={spec!r:.80}",
            f"that is {a_leaf(spec)}, neither states nor a lens",
            "states, as in model.states(ParamState) or [model.weight]",
            "a lens: a path pattern, a class, a predicate, a list of these",
        ) from None


def read_states(spec: Any, option: str, asked_by: str) -> StateForm | Selector | None:
    """Reads what an option names: states that are given themselves, or a lens in any form."""
    if spec is None:
        return None
    return units_of(spec, asked_by) if is_bound(spec) else read_lens(spec, option, asked_by)


class Choice:
    """Which states an option of a transform is about.

    Args:
        spec: True for all, None for none, states themselves, or a lens in any form. A lens
            that isn't bound looks at the first argument, and at each state by itself, so
            that it may select by class, tag, name, shape or dtype.
        option: What it was given as.
        asked_by: The transform, for messages.

    Attributes:
        selector: What to select in the first argument, or None.
        is_empty: Whether no state is chosen.
    """

    def __init__(self, spec: Any, option: str, asked_by: str):
        self._all = spec is True
        self.is_empty = spec is None or spec is False
        self._cells: set[State] = set()
        self.selector: Selector | None = None
        self._label = f"{asked_by} with {option}"
        found = None if isinstance(spec, bool) else read_states(spec, option, asked_by)
        if isinstance(found, Selector):
            self.selector = found
        elif found is not None:
            self._cells = set(found.cells)  # type: ignore[arg-type]

    def __contains__(self, cell: State) -> bool:
        if self._all or cell in self._cells:
            return True
        return self.selector is not None and bool(focus_on(self.selector, cell).entries)

    def refuse_unmatched(self, args: Sequence[Any], cells: Iterable[State]) -> None:
        """Refuses a pattern that matches nothing in the first argument, nor in any state."""
        if self.selector is None or any(cell in self for cell in cells):
            return
        first = args[0] if args else None
        focus_on(self.selector, first, required_by=self._label, may_be_empty=True)

    def halves(self, tree: Any) -> tuple[Any, Any]:
        """Splits the first argument: what is chosen of it, and the rest."""
        if self.selector is None or is_array(tree):
            return None, tree
        leaves, treedef, entries = focus_on(self.selector, tree)
        return split(leaves, treedef, entries) if entries else (None, tree)
