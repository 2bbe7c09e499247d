"""Random numbers: the key is the value of a state, and every draw replaces it.

`RandomState` is the state, with the samplers of ``jax.random`` as methods; the functions of this
room are the methods of `DEFAULT`, the state that programs share.
"""

from ._functions import *  # noqa: F403
from ._functions import __all__ as __all__
from ._key import as_key
from ._random_state import DEFAULT, RandomState
