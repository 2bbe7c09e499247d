"""Arguments of a staged function as JAX takes them soonest: leaf by leaf, and what they are of.

JAX flattens arguments at each call, with caches that the last program has emptied: a node of a
class that isn't Python's own takes microseconds then. So leaves are given one by one, and beside
them one node without leaves, that says where they belong. Donated leaves come first, in a list, so
that what JAX is told to donate is in one place, whatever the arguments are.

The values of states come before the arguments: few one by one, many in two tuples.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.tree_util as jtu

from .._core import Partitioned, Static

_MOST_ONE_BY_ONE = 250

Prepared = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments and those by keyword: each an array, or a `Partitioned` tree."""


@functools.partial(
    jtu.register_dataclass, data_fields=[], meta_fields=["statics", "names", "donated"]
)
class Layout:
    """What leaves are of; a node without leaves.

    Attributes:
        statics: Of each argument its static half; None, if it is an array. Positional ones come
            first, then those by keyword.
        names: What the latter are called, in the order of these names.
        donated: Positions and names of the arguments that are donated.
    """

    __slots__ = ("donated", "names", "statics")

    def __init__(
        self,
        statics: tuple[Static | None, ...],
        names: tuple[str, ...],
        donated: frozenset[int | str],
    ):
        self.statics = statics
        self.names = names
        self.donated = donated

    def __repr__(self) -> str:
        return f"Layout({self.statics}, {self.names}, {set(self.donated)})"

    @property
    def labels(self) -> tuple[int | str, ...]:
        """The positions and names of the arguments."""
        return *range(len(self.statics) - len(self.names)), *self.names

    def in_order(self, leaves: Sequence[Iterable[Any]]) -> tuple[Any, ...]:
        """Gives leaves in the order in which a staged function takes them.

        Args:
            leaves: For each argument its leaves, or what there is of them.

        Returns:
            All of them; those that are donated come first, as a list, if any may be.
        """
        if not self.donated:
            return tuple(itertools.chain.from_iterable(leaves))
        lost, kept = ([leaf for n in half for leaf in leaves[n]] for half in self._halves)
        return lost, *kept

    def arguments(self, inputs: Sequence[Any]) -> list[Any]:
        """Gives the arguments whose leaves these are, in order."""
        leaves = iter((*inputs[0], *inputs[1:]) if self.donated else inputs)
        found: list[Any] = [None] * len(self.statics)
        for place in itertools.chain(*self._halves):
            static = self.statics[place]
            if static is None:
                found[place] = next(leaves)
            else:
                found[place] = Partitioned(
                    list(itertools.islice(leaves, len(static.holes))), static
                )
        return found

    @property
    def _halves(self) -> tuple[list[int], list[int]]:
        """Which arguments are donated, and which aren't."""
        lost = [place for place, label in enumerate(self.labels) if label in self.donated]
        return lost, [place for place in range(len(self.statics)) if place not in lost]


def laid_out(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], donated: frozenset[int | str]
) -> tuple[Any, ...]:
    """Gives what a staged function is called with.

    Args:
        args: Positional arguments, prepared.
        kwargs: Keyword arguments likewise.
        donated: Positions and names of those that are donated.

    Returns:
        The arguments, if they are arrays by position, and none may be donated. Else their leaves,
        in order, and a `Layout`.
    """
    names = tuple(sorted(kwargs))
    every = (*args, *[kwargs[name] for name in names])
    statics = tuple([arg.static if type(arg) is Partitioned else None for arg in every])
    if not names and not donated and not any(statics):
        return args
    layout = Layout(statics, names, donated)
    return *layout.in_order(
        [arg.dynamic if type(arg) is Partitioned else [arg] for arg in every]
    ), layout


def arguments(given: tuple[Any, ...]) -> Prepared:
    """Gives back the arguments that `laid_out` was given."""
    if not given or type(given[-1]) is not Layout:
        return given, {}
    *inputs, layout = given
    found = layout.arguments(inputs)
    count = len(found) - len(layout.names)
    return tuple(found[:count]), dict(zip(layout.names, found[count:], strict=True))


class StateLayout:
    """How a staged function takes the values of states, which come before its arguments.

    Few are given one by one, which JAX takes soonest. Of many, those that are donated are one
    argument, and the others another one: what JAX notes of each argument is in memory that
    caches don't hold, and in a process that has compiled for long, that of a thousand takes a
    tenth of a training step.

    Args:
        donated: How many of the values are donated, the first ones.
        taken: How many there are.

    Attributes:
        count: How many of the inputs are for states.
        donated: Which of these are donated.
    """

    def __init__(self, donated: int, taken: int):
        self._first_kept = donated
        self._taken = taken
        self._is_grouped = taken > _MOST_ONE_BY_ONE
        self.count = 2 if self._is_grouped else taken
        self.donated = range(bool(donated) if self._is_grouped else donated)

    def inputs(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Gives what a staged function takes, for the values one by one and all that follows."""
        if not self._is_grouped:
            return given
        first_kept, taken = self._first_kept, self._taken
        return given[:first_kept], given[first_kept:taken], *given[taken:]

    def apart(self, inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Gives the values of states, and what else a staged function is given."""
        if not self._is_grouped:
            return inputs[: self._taken], inputs[self._taken :]
        donated, kept, *rest = inputs
        return (*donated, *kept), tuple(rest)

    def one_by_one(self, staged: Callable[..., Any]) -> Callable[..., Any]:
        """Gives a function of the values one by one and all that follows."""
        return (lambda *given: staged(*self.inputs(given))) if self._is_grouped else staged


class InputSignature(inspect.Signature):
    """The signature of a staged function, by which JAX's messages name what it is given.

    When JAX traces a function, it binds what it is given to its signature, and calls each leaf by
    what it is bound to. Here each has a name of its own: ``model.layers[0].weight``.

    Args:
        fun: The user's function.
        states: How the values of states come before the arguments.
        lends: Whether what is lent of the first argument comes before it.
    """

    def __init__(self, fun: Callable[..., Any], states: StateLayout, lends: bool):
        super().__init__([inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)])
        self._states, self._lends = states, lends
        try:
            self._own = inspect.signature(fun)
        except Exception:  # functions of C need have none, and annotations may fail
            self._own = _ANY

    def bind(self, /, *given: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Names what a staged function is given."""
        values, inputs = self._states.apart(given)
        named = {f"state_{number}": value for number, value in enumerate(values)}
        layout = inputs[-1] if inputs else None
        if type(layout) is Layout:
            inputs = inputs[:-1]
        else:
            layout = Layout((None,) * len(inputs), (), frozenset())
        parts = zip(self._names(layout.labels), layout.statics, strict=True)
        names = layout.in_order(
            [[name + path for path in (static.paths if static else [""])] for name, static in parts]
        )
        for name, leaf in zip(jax.tree.leaves(names), jax.tree.leaves(inputs), strict=True):
            while name in named:  # a node may have equal keys, and a parameter any name
                name += "'"
            named[name] = leaf
        return inspect.BoundArguments(self, named)  # type: ignore[arg-type]

    def _names(self, labels: Sequence[int | str]) -> list[str]:
        """Names arguments as JAX does, by the parameters that the user has written."""
        count = sum(isinstance(label, int) for label in labels) - self._lends
        by_name = {label: label for label in labels if isinstance(label, str)}
        try:
            bound = self._own.bind(*range(count), **by_name)
        except TypeError:  # the call is going to say so
            bound = _ANY.bind(*range(count), **by_name)
        names = {
            label: f"{parameter}{jtu.keystr(keys)}"
            for parameter, value in bound.arguments.items()
            for keys, label in jtu.tree_leaves_with_path(value)
        }
        own = (max(label - self._lends, 0) if isinstance(label, int) else label for label in labels)
        return [names.get(label, "lent") for label in own]


_ANY = inspect.signature(lambda *args, **kwargs: None)
