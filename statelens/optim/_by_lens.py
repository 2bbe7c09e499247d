"""One optimiser for each part of a model."""

from collections.abc import Hashable, Mapping
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
            for all that the others don't select, if there is anything.

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
    lenses = [lens(spec) for spec in transformations if spec is not ...]
    by_name: dict[Hashable, optax.GradientTransformation] = {}
    chosen: dict[str, Any] = {}
    for spec, value in transformations.items():
        selected = lens(~lens(lenses or None), optional=True) if spec is ... else lens(spec)
        name = unused = "..." if spec is ... else str(selected)
        while unused in chosen:  # two lenses by functions are written alike
            unused = f"{name} ({len(chosen)})"
        chosen[unused] = selected
        by_name[unused] = as_transformation(value, f"by_lens for {spec!r}")
    return optax.partition(by_name, groups(chosen))


def as_transformation(value: Any, asked: str) -> optax.GradientTransformation:
    """Takes an optimiser of Optax; refuses what is none."""
    if isinstance(value, optax.GradientTransformation):
        return value
    if isinstance(value, optax.MultiSteps):
        return value.gradient_transformation()
    is_factory = callable(value)
    raise ArgumentTypeError(
        f"asked {asked} to optimise by {getattr(value, '__name__', a_leaf(value))!s}",
        "that makes an optimiser, and is none" if is_factory else "that is no optimiser of Optax",
        "an optimiser with its learning rate, as in optax.adam(1e-3)",
    )
