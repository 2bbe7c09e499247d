"""One call of a function that runs side by side: in lanes, or on devices.

States and arguments come in by their places, and what is written and returned goes out grouped
by places: JAX has to know these before it runs the function, and only the run tells what there
is. Where something that all share isn't the same in all, the error names it.
"""

from collections.abc import Callable
from typing import Any

import jax

from ..._errors import ArgumentError, ArgumentTypeError, SelectionError
from ..._tree import a_leaf
from ...state import State
from ...thread import is_pair
from .._core import merge_static, split_static, split_value
from ._devices import Devices
from ._lanes import Lanes
from ._placement import Placement
from ._prefix import Grouping, Leaves, group, spread


class MappedCall:
    """One call of a mapped function; `made` are the states that it has made, with their values."""

    def __init__(
        self,
        mapper: Lanes | Devices,
        fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ):
        self._mapper, self._fun, kind = mapper, fun, mapper.kind
        self._in_states, self._out_states = mapper.in_states, mapper.out_states
        self._out_groups = kind.out_groups(mapper.out_places)
        state_places = [kind.shared, kind.default, *self._out_states.places]
        self._state_groups = list(dict.fromkeys(state_places))
        self._form: Grouping | None = None
        self._written: list[list[State]] = []
        self.made: dict[State, Any] = {}
        self._leaves: Leaves = []
        places = self._places_of(args)
        cells = {
            cell: self._operand(
                f"the state {cell.name or repr(cell)!r}", split_value(cell.value, cell), place
            )
            for cell, place in self._in_states.cells.items()
        }
        parts: list[Any] = []
        if self._in_states.selectors:
            parts, rest = self._in_states.split(args[0], mapper.name)
            args, places = (rest, *args[1:]), (kind.shared, *places[1:])
        halves = [
            self._operand(f"part {number} of argument 0", part, place)
            for number, (part, place) in enumerate(
                zip(parts, self._in_states.of_parts, strict=True)
            )
        ]
        labels = *range(len(args)), *kwargs
        places = *places, *(kind.default for _ in kwargs)
        given = zip(labels, (*args, *kwargs.values()), places, strict=True)
        arguments = [
            self._operand(f"argument {label!r}", arg, place) for label, arg, place in given
        ]
        self._names = tuple(kwargs)
        cells |= mapper.other_states(self._leaves)
        self._cells = tuple(cells)
        groups = list(cells.values()), halves, arguments
        self._inputs = tuple([operand for operand, _ in pairs] for pairs in groups)
        self._in_places = tuple([place for _, place in pairs] for pairs in groups)

    def __call__(self) -> tuple[Any, dict[State, Any]]:
        """Gives what the function returned, and the values of the states that it wrote."""
        out_places = self._out_groups, self._out_states.of_parts, self._mapper.kind.shared
        mapped = self._transformed(self._one, (*out_places, self._state_groups))
        try:
            out, parts, rest, values = mapped(*self._inputs)
        except ValueError as error:
            self._explain(error)
            raise
        assert self._form is not None
        out = self._form.join(dict(zip(self._out_groups, out, strict=True)))
        if self._out_states.selectors:
            out = out, Placement.join(parts, merge_static(rest))
        written = {
            cell: merge_static(value)
            for cells, group in zip(self._written, values, strict=True)
            for cell, value in zip(cells, group, strict=True)
        }
        self.made = {cell: written.pop(cell) for cell in self.made if cell in written}
        return out, written

    def _places_of(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Gives a place, or a tree of them, for each argument."""
        mapper, kind = self._mapper, self._mapper.kind
        places = mapper.in_places
        several = isinstance(places, (list, tuple)) and not kind.is_place(places)
        places = tuple(places) if several else (places,) * len(args)
        if len(places) != len(args):
            raise ArgumentError(
                f"asked {mapper.name} for in_{kind.option}={mapper.in_places!r}",
                f"the call has {len(args)} positional arguments",
                f"{kind.one} for each, or one for all",
            )
        if self._in_states.selectors and not args:
            raise ArgumentError(
                f"asked {mapper.name} for {kind.of_lens}",
                "the call has no positional argument for it to look at",
                "pass the model as the first argument",
                "bind the lens to the model, as in lens.bind(model)",
            )
        return places

    def _operand(self, label: str, tree: Any, places: Any) -> tuple[Any, Any]:
        """Splits what comes in; gives it with its places."""
        kind = self._mapper.kind
        operand, each = spread(places, tree, kind, "in", label, self._mapper.name)
        leaves, treedef = jax.tree.flatten(operand)
        self._leaves += [(label, leaf, place) for leaf, place in zip(leaves, each, strict=True)]
        return operand, places if kind.is_place(places) else treedef.unflatten(each)

    def _transformed(self, fun: Callable[..., Any], out_places: Any) -> Callable[..., Any]:
        return self._mapper.transform(fun, self._in_places, out_places)

    def _one(self, states: Any, parts: Any, arguments: Any) -> tuple[Any, ...]:
        """Runs the function in one lane, or on one device; gives what goes out, by places."""
        mapper, args = self._mapper, list(map(merge_static, arguments))
        if self._in_states.selectors:
            args[0] = Placement.join(list(map(merge_static, parts)), args[0])
        named = len(args) - len(self._names)
        args, kwargs = args[:named], dict(zip(self._names, args[named:], strict=True))
        values = dict(zip(self._cells, states, strict=True))
        captured = mapper.run(self._fun, tuple(args), kwargs, values)
        mapper.attempt.touched.update(dict.fromkeys(captured.closed_over))
        self.made = dict.fromkeys(captured.made.cells)
        written: dict[Any, dict[State, Any]] = {place: {} for place in self._state_groups}
        for cell, value, place in mapper.outgoing(captured, values):
            written[place][cell] = value
        self._written = list(map(list, written.values()))
        out, rest, parts = captured.out, None, []
        if self._out_states.selectors:
            out, tree = self._pair(out)
            parts, rest = self._out_states.split(tree, mapper.name)
        shared = mapper.shared_leaves(captured.out)
        groups, form = group(out, mapper.out_places, shared, mapper.kind, "the output", mapper.name)
        mapper.check_output(groups, form)
        self._form = form
        rest = split_static(rest, lambda: "the output")
        return list(groups.values()), parts, rest, [list(g.values()) for g in written.values()]

    def _pair(self, out: Any) -> tuple[Any, Any]:
        if is_pair(out):
            return out
        raise ArgumentTypeError(
            f"asked {self._mapper.name} for out_states of a tree, by an unbound lens",
            f"the function returned {a_leaf(out)}, not (out, tree)",
            "statelens.thread(fun), which returns the tree that it was given",
        )

    def _explain(self, error: ValueError) -> None:
        """Names what was to be shared and isn't the same everywhere."""
        mapper, kind, form = self._mapper, self._mapper.kind, self._form
        if f"out_{kind.option}" not in str(error) or form is None:
            return

        def is_shared(pick: Callable[[tuple[Any, ...]], Any]) -> bool:
            one = self._transformed(lambda *inputs: pick(self._one(*inputs)), kind.shared)
            try:
                jax.eval_shape(one, *self._inputs)
            except ValueError:
                return False
            return True

        # The group of what is shared is the first one. To look is to make new states once more.
        made = set(self.made)
        for number, cell in enumerate(self._written[0]):
            if is_shared(lambda one, n=number: one[3][0][n]):
                continue
            if cell in made:
                raise SelectionError(
                    f"asked {mapper.name} for one value of the new {cell!r}, by state_to_exclude",
                    f"the value isn't the same {kind.everywhere}",
                    "a state_to_exclude that doesn't select it",
                ) from error
            raise SelectionError(
                f"asked {mapper.name} to write {cell!r}, {kind.is_shared}",
                f"the value isn't the same {kind.everywhere}",
                kind.for_state,
                kind.for_all,
            ) from error
        position = self._out_groups.index(kind.shared)
        for number, label in enumerate(form.labels_of(kind.shared)):
            if not is_shared(lambda one, n=number: one[0][position][n]):
                raise ArgumentError(
                    f"asked {mapper.name} for out_{kind.option}={mapper.out_places!r}",
                    f"{label}, where it is {kind.shared}, isn't the same {kind.everywhere}",
                    kind.for_output,
                    kind.for_all,
                ) from error
