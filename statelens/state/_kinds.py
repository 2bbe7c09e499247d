"""The kinds of states, by what they are for and how long they live."""

from typing import ClassVar

from ..lens import Lens, Trained, lens
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
    """A trainable parameter.

    As a lens it selects the floating-point arrays of Equinox layers too, where an `nn.Module`
    holds them, but for what Equinox holds as state.
    """

    stands_for_layers: ClassVar[bool] = True


params: Lens = lens(ParamState)
"""All `ParamState` in a tree, and the parameters of Equinox layers that an `nn.Module` holds."""

trainable: Lens = Lens(Trained(ParamState, only_layers=False))
"""What is trained: each `ParamState`, and the floating-point arrays outside of any state.

Never another kind of state, a random key, or what Equinox holds as state. It selects the same in
a model of either style.
"""
