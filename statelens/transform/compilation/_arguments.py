"""What a staged function takes: what is donated, the values of states, and arguments.

JAX donates whole arguments of a staged function, so what is donated is the first of them.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from ..._tree import TreeDef, weakly
from ...state import State, is_concrete
from .._core import Arguments, Partitioned, as_partitioned


def input_of(value: Any, cell: State) -> Any:
    """Returns a state's value as a program takes it."""
    if is_concrete(value):
        return value
    if type(value) is Partitioned:
        # A caller that has loaded it may have changed it in place.
        if not value.is_loaded:
            return value
        value = value.load()
    return as_partitioned(value, lambda: repr(cell))


class Donated(NamedTuple):
    """What is donated: the values of states, arguments by position, and those by name."""

    states: tuple[Any, ...]
    positional: list[Any]
    named: dict[str, Any]


class Inputs(NamedTuple):
    """What a staged function is called with; all of it may be split.

    Attributes:
        donated: What is donated; an empty tuple for nothing.
        states: The values of the other states.
        args: Positional arguments; None in the places of those that are donated.
        kwargs: Keyword arguments, without those that are donated.
    """

    donated: Donated | tuple[()]
    states: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def values(self) -> tuple[Any, ...]:
        """The values of all states, those that are donated first."""
        return (*self.donated.states, *self.states) if self.donated else self.states

    def arguments(self, donated: frozenset[int | str]) -> Arguments:
        """Puts arguments together again; `donated` as for `lay_out`."""
        if not self.donated:
            return self.args, self.kwargs
        taken = iter(self.donated.positional)
        args = [next(taken) if n in donated else arg for n, arg in enumerate(self.args)]
        return tuple(args), {**self.kwargs, **self.donated.named}


def lay_out(
    donated_states: tuple[Any, ...],
    states: tuple[Any, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    donated: frozenset[int | str],
) -> Inputs:
    """Lays out values and arguments, given the positions and names that are donated."""
    if not donated and not donated_states:
        return Inputs((), states, args, dict(kwargs))
    positional = [arg for n, arg in enumerate(args) if n in donated]
    named = {name: arg for name, arg in kwargs.items() if name in donated}
    return Inputs(
        Donated(donated_states, positional, named),
        states,
        tuple(None if n in donated else arg for n, arg in enumerate(args)),
        {name: arg for name, arg in kwargs.items() if name not in donated},
    )


class InputSignature(inspect.Signature):
    """The signature of a staged function, by which JAX's messages name what it is given.

    When JAX traces a function, it binds what it is given to its signature, and calls each leaf by
    what it is bound to. Here each has the name that the user knows: ``model.layers[0].weight``.

    Args:
        fun: The user's function.
        donated: Positions and names of arguments that are donated.
        donates_part: Whether what is lent of the first argument comes before it.
    """

    def __init__(self, fun: Callable[..., Any], donated: frozenset[int | str], donates_part: bool):
        super().__init__([inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)])
        self._donated, self._lends = donated, donates_part
        try:
            self._own = inspect.signature(fun)
        except Exception:  # functions of C need have none, and annotations may fail
            self._own = _ANY

    def bind(self, /, *given: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Names each leaf of what a staged function is given."""
        inputs = Inputs(*given)
        donated = inputs.donated or Donated((), [], {})
        labels = [*range(len(inputs.args)), *sorted({*inputs.kwargs, *donated.named})]
        names = self._names(labels)
        args = [names[label] for label in labels if isinstance(label, int)]
        named = {label: names[label] for label in labels if isinstance(label, str)}
        count = len(donated.states)
        states = [f"state_{number}" for number in range(len(inputs.values))]
        layout = lay_out(
            tuple(states[:count]), tuple(states[count:]), tuple(args), named, self._donated
        )
        found: dict[str, Any] = {}
        for name, leaf in _named_leaves(layout, inputs):
            while name in found:  # a node may have equal keys, and a parameter any name
                name += "'"
            found[name] = leaf
        return inspect.BoundArguments(self, found)  # type: ignore[arg-type]

    def _names(self, labels: list[int | str]) -> dict[int | str, str]:
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

        def own(label: int | str) -> int | str:
            return max(label - self._lends, 0) if isinstance(label, int) else label

        return {label: names.get(own(label), "lent") for label in labels}


_ANY = inspect.signature(lambda *args, **kwargs: None)


def _named_leaves(names: Any, inputs: Any) -> Iterator[tuple[str, Any]]:
    """Gives each leaf of the inputs with its name, in the order in which JAX flattens them."""
    if isinstance(names, str):
        parts = jtu.tree_leaves_with_path(inputs, is_leaf=lambda n: isinstance(n, Partitioned))
        for keys, part in parts:
            is_split = isinstance(part, Partitioned)
            paths, leaves = (part.static.paths, part.dynamic) if is_split else ([""], [part])
            for path, leaf in zip(paths, leaves, strict=True):
                yield names + jtu.keystr(keys) + path, leaf
    elif isinstance(names, dict):
        for key in sorted(names):
            yield from _named_leaves(names[key], inputs[key])
    elif names is not None:
        for name, part in zip(names, inputs, strict=True):
            yield from _named_leaves(name, part)


class Signature(NamedTuple):
    """What a trace is made for: the structure and the types of all arguments."""

    treedef: TreeDef
    types: tuple[Any, ...]

    @property
    def weak(self) -> "Signature":
        """An equal one that keeps nothing of the arguments alive."""
        return Signature(weakly(self.treedef), self.types)


def signature_of(args: Any) -> Signature:
    """Describes arguments as far as a trace depends on them."""
    leaves, treedef = jax.tree.flatten(args)
    return Signature(treedef, tuple(map(jax.typeof, leaves)))
