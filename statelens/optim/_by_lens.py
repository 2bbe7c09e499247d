"""One optimiser for each part of a model."""

from collections.abc import Mapping
from typing import Any

import optax

from .._errors import ArgumentTypeError, user_facing
from .._tree import a_leaf
from ..lens import LensSpec, groups, lens


@user_facing
def by_lens(
    transformations: Mapping[LensSpec, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """Optimises each part of a model by an optimiser of its own; on `optax.partition`.

    Args:
        transformations: An optimiser for each lens, in any form that `lens` takes. ``...`` stands
            for all that the others don't select.

    Returns:
        An optimiser for `Optimizer`.

    Raises:
        ArgumentTypeError: A value isn't an optimiser of Optax.
        SelectionError: When used, where something is selected by no lens or by two, or a lens
            selects nothing that is optimised.

    Example:
        >>> import jax.numpy as jnp, optax, statelens as sl
        >>> parts = sl.optim.by_lens({"head": optax.sgd(1.0), ...: optax.set_to_zero()})
        >>> optimizer = sl.optim.Optimizer(parts, "**")
        >>> model = {"body": jnp.ones(1), "head": jnp.ones(1)}
        >>> optimizer.update(model, optimizer.init(model), model)[0]
        {'body': Array([1.], dtype=float32), 'head': Array([0.], dtype=float32)}
    """
    if not isinstance(transformations, Mapping):
        raise ArgumentTypeError(
            f"asked by_lens for {transformations!r:.80}",
            f"that is {a_leaf(transformations)}, without lenses",
            "a dictionary with an optimiser for each lens, as in {'head.**': optax.adam(1e-3)}",
        )
    for spec, transformation in transformations.items():
        check_transformation(transformation, f"by_lens for {spec!r}")
    named = {spec: lens(spec) for spec in transformations if spec is not ...}
    if ... in transformations:
        named[...] = ~lens(list(named.values()) or None)
    names = {spec: "..." if spec is ... else str(chosen) for spec, chosen in named.items()}
    return optax.partition(
        {name: transformations[spec] for spec, name in names.items()},
        groups({name: named[spec] for spec, name in names.items()}),
    )


def check_transformation(value: Any, asked: str) -> None:
    """Refuses what is no optimiser of Optax."""
    if isinstance(value, optax.GradientTransformation):
        return
    is_factory = callable(value)
    raise ArgumentTypeError(
        f"asked {asked} to optimise by {getattr(value, '__name__', a_leaf(value))!s}",
        "that makes an optimiser, and is none" if is_factory else "that is no optimiser of Optax",
        "an optimiser with its learning rate, as in optax.adam(1e-3)",
    )
