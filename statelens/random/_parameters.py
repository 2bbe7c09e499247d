"""What the parameters of a distribution have to be: of shapes that fit, and in their ranges."""

from collections.abc import Callable
from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np

from .._errors import ArgumentError


def extent(size: Any, **parameters: Any) -> tuple[Any, ...]:
    """Returns the shape of the samples: `size`, or that of the parameters together."""
    shapes = {name: jnp.shape(value) for name, value in parameters.items()}
    try:
        joint = jnp.broadcast_shapes(*shapes.values())
        shape = joint if size is None else size
        if jnp.broadcast_shapes(shape, joint) == shape:
            return shape
    except ValueError:
        joint = None
    raise ArgumentError(
        f"asked for samples of size={size}",
        ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items()),
        "parameters of shapes that broadcast to each other"
        if joint is None
        else f"a size that they broadcast to, such as size={joint}",
    )


def require(holds: Callable[..., Any], says: str, **parameters: Any) -> None:
    """Refuses values of no distribution, where they are known."""
    if any(isinstance(value, jax.core.Tracer) for value in parameters.values()):
        return
    # NumPy computes at once also in the middle of a trace, where JAX would stage it.
    known = (
        value if isinstance(value, (int, float)) else np.asarray(value)
        for value in parameters.values()
    )
    if not np.all(holds(*known)):
        shown = ", ".join(f"{name}={value}" for name, value in parameters.items())
        raise ArgumentError(
            f"asked for samples with {shown}", says, "check_valid=False, where this is meant"
        )
