"""The kinds of states, by what they are for and how long they live."""

from ..lens import Lens, lens
from ._state import State, T


class LongTermState(State[T]):
    """A state that lives from one call to the next, such as running statistics."""


class ShortTermState(State[T]):
    """A state that lives within one run, such as the membrane potential of a neuron."""


class HiddenState(ShortTermState[T]):
    """The hidden state of a recurrent computation."""


class BatchState(LongTermState[T]):
    """A state that follows from batches, such as the statistics of a normalisation."""


class ParamState(LongTermState[T]):
    """A trainable parameter."""


params: Lens = lens(ParamState)
"""All `ParamState` in a tree."""
