"""States that are made again for each batch or sequence, as recurrent and spiking models do."""

from typing import Any, TypeVar

from .._errors import ArgumentTypeError, user_facing
from ._module import Module

M = TypeVar("M", bound=Module)


@user_facing
def init_all_states(module: M, *args: Any, **kwargs: Any) -> M:
    """Calls ``init_state`` of each module in a module that has such a method.

    Inside of a transform the states stay those that the transform knows of. A new state, also in a
    list or dictionary, gives its value to the one that is there, and stands for it until the call
    ends; of another class, name or tag it is refused.

    Args:
        module: The module.
        *args: What to call the methods with.
        **kwargs: Keyword arguments likewise.

    Returns:
        The module.

    Raises:
        ArgumentTypeError: It is no module.

    Source:
        ``brainstate.nn.init_all_states``.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> class Memory(sl.nn.Module):
        ...     def init_state(self, batch_size):
        ...         self.h = sl.HiddenState(jnp.zeros((batch_size, 3)))
        >>> sl.nn.init_all_states(Memory(), 2)
        Memory(  # 6 in HiddenState
          h=HiddenState(f32[2,3]),
        )
    """
    if not isinstance(module, Module):
        raise ArgumentTypeError(
            "asked to initialise all states of a module",
            f"that is a {type(module).__name__}",
            "an nn.Module",
        )
    for node in module.nodes().values():
        init_state = getattr(node, "init_state", None)
        if init_state is not None:
            init_state(*args, **kwargs)
    return module
