"""What becomes of the states that a mapped function makes."""

from typing import Any

from ...lens import focus_on
from ...state import State, active_frame
from .._core import read_lens, wrong_type


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

    def are_shared(self, cell: State, value: Any) -> bool:
        """Says whether all lanes share a new state."""
        if self._exclude is None:
            return False
        return bool(focus_on(self._exclude, cell.with_value(value)).entries)

    def keep(self, cell: State, value: Any) -> None:
        """Gives a new state its value, outside of the lanes."""
        frame = active_frame.get()
        if frame is None:
            cell.store(value)
        else:
            frame.adopt(cell, value)
        if self._tag is not None:
            cell.tag = cell.tag | {self._tag}
