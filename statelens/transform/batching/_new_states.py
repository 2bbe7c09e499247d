"""What becomes of the states that a mapped function makes."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from ...lens import Selector, focus_on
from ...state import State, active_frame, this_frame
from .._core import owners_of, read_lens, wrong_type


class NewStates:
    """States that are made in lanes: which of them all lanes share, and their tag."""

    def __init__(self, tag: str | None, exclude: Any):
        if tag is not None and not isinstance(tag, str):
            raise wrong_type(
                "vmap_new_states", "state_tag", tag, 'a text, as in state_tag="ensemble"'
            )
        self._tag = tag
        self._exclude = (
            None if exclude is None else read_lens(exclude, "state_to_exclude", "vmap_new_states")
        )

    def of(self, fun: Callable[..., Any]) -> "NewStatesOfOne":
        """Begins one run of a function."""
        return NewStatesOfOne(fun, self._tag, self._exclude)


class NewStatesOfOne:
    """The states that one run of a function makes.

    Attributes:
        shared: Those that all lanes share.
    """

    def __init__(self, fun: Callable[..., Any], tag: str | None, exclude: Selector | None):
        self._fun = fun
        self._tag = tag
        self._exclude = exclude
        self._is_shared: list[bool] = []
        self.shared: set[State] = set()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Runs the function, and looks what it has made while that is known by identity."""
        out = self._fun(*args, **kwargs)
        made = this_frame().made
        if self._tag is not None:
            for cell in made:
                cell.tag = cell.tag | {self._tag}
        if self._exclude is not None and made:
            self.shared = _selected(self._exclude, made, [out, *owners_of(self._fun)])
            leaves = _states_and_leaves(out)
            self._is_shared = [isinstance(each, State) and each in self.shared for each in leaves]
        return out

    def shared_leaves(self, out: Any) -> set[int]:
        """Gives the positions of leaves, of what the function returned, that all lanes share."""
        found: set[int] = set()
        position = 0
        for leaf, is_shared in zip(_states_and_leaves(out), self._is_shared, strict=False):
            count = jax.tree.structure(leaf).num_leaves
            found.update(range(position, position + count) if is_shared else ())
            position += count
        return found


def _states_and_leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, State))


def _selected(selector: Selector, made: Iterable[State], roots: list[Any]) -> set[State]:
    """Finds new states by their paths in what is returned, or in modules that a function names."""
    rest = dict.fromkeys(made)
    found: set[State] = set()
    unmatched: list[tuple[Any, set[Selector]]] = []
    while roots or rest:
        # What lies in none of these is looked at by itself.
        root = roots.pop(0) if roots else next(iter(rest))
        leaves, _, entries = focus_on(selector, root)
        own = {n: leaf for n, leaf in enumerate(leaves) if isinstance(leaf, State) and leaf in rest}
        found.update(own[n] for entry in entries for n in entry.positions if n in own)
        for cell in own.values():
            rest.pop(cell, None)
        if own:
            unmatched.append((root, set(entries.unmatched)))
    if unmatched and set.intersection(*(patterns for _, patterns in unmatched)):
        focus_on(selector, unmatched[0][0], required_by="vmap_new_states")  # which raises
    return found


def keep(cell: State, value: Any) -> None:
    """Gives a new state its value, outside of the lanes."""
    frame = active_frame.get()
    if frame is None:
        cell.store(value)
    else:
        frame.adopt(cell, value)
