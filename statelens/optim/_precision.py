"""Computing in a smaller dtype, with parameters, sums and the optimiser in their own."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._errors import ArgumentError, check_callable, user_facing
from .._tree import Cell, is_inexact
from ..lens import LensSpec, is_bound, lens
from ..state import trainable
from ..thread import overlay
from ._by_lens import as_transformation
from ._focus import StateFocus

F = TypeVar("F", bound=Callable[..., Any])


@user_facing
def mixed_precision(
    loss: F,
    only: LensSpec | Any = trainable,
    *,
    compute: Any = jnp.bfloat16,
    keep: LensSpec = None,
) -> F:
    """Makes a loss compute in another dtype; parameters and gradients keep theirs.

    Parameters are cast inside the loss, so that what is optimised, averaged and saved are the
    parameters themselves, in float32. Floating-point arrays among the other arguments are cast
    too, and the loss comes back in float32. In float16 small gradients vanish without
    `dynamic_loss_scale`; in bfloat16 they don't.

    Args:
        loss: Takes the tree first; or, for states, reads them.
        only: What is cast: a lens in any form, or states, as in ``model.states(sl.trainable)``.
        compute: The dtype to compute in.
        keep: A lens of what isn't cast, as in ``"**.norm.**"``.

    Returns:
        The loss, to be given to `grad` or `train_step`.

    Raises:
        ArgumentTypeError: `loss` isn't callable.
        StateTypeError: When called, where the loss writes a state that is cast.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> loss = sl.optim.mixed_precision(lambda model, x: jnp.sum(model["w"] * x))
        >>> loss({"w": jnp.array([1.001])}, jnp.ones(()))
        Array(1., dtype=float32)
        >>> sl.grad(loss, sl.trainable)({"w": jnp.array([1.001])}, jnp.ones(()))
        {'w': Array([1.], dtype=float32)}
    """
    check_callable(loss, "loss", "mixed_precision")

    def small(value: Any) -> Any:
        # What keeps statistics, of Equinox's layers or as a state, isn't computed with.
        return jax.tree.map(
            lambda x: x.astype(compute) if _is_float(x) else x, value, is_leaf=_keeps_statistics
        )

    if is_bound(only):
        focus = StateFocus(only if keep is None else only - lens(keep), "mixed_precision")

        @functools.wraps(loss)
        def computed(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = small((args, kwargs))
            with overlay(focus.by_unit(small(focus.values()))) as inside:
                out = loss(*args, **kwargs)
                focus.refuse_written(inside.writes)
            inside.commit()
            return _wide(out)

        return computed  # type: ignore[return-value]

    cast = lens(only) if keep is None else lens(only) - lens(keep)

    @functools.wraps(loss)
    def computed_of_tree(tree: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = small((args, kwargs))
        return _wide(loss(cast.cast(tree, compute), *args, **kwargs))

    return computed_of_tree  # type: ignore[return-value]


def _keeps_statistics(node: Any) -> bool:
    return isinstance(node, (eqx.nn.State, Cell))


def _is_float(value: Any) -> bool:
    return is_inexact(value) and jnp.issubdtype(value.dtype, jnp.floating)


def _wide(out: Any) -> Any:
    """Gives a loss in float32, and what comes with it as it is."""
    value, *aux = out if isinstance(out, tuple) else (out,)
    value = value.astype(jnp.promote_types(value.dtype, jnp.float32)) if _is_float(value) else value
    return (value, *aux) if aux else value


class LossScaleState(NamedTuple):
    """What `dynamic_loss_scale` keeps.

    Attributes:
        loss_scale: What the loss is multiplied by at the next step.
        good_steps: How many steps in a row had a finite gradient since that changed.
        inner_state: What the optimiser inside keeps.
    """

    loss_scale: jax.Array
    good_steps: jax.Array
    inner_state: Any


@user_facing
def dynamic_loss_scale(
    transformation: optax.GradientTransformation,
    *,
    initial: float = 2.0**15,
    period: int = 2000,
    factor: float = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Keeps a scale for the loss, so that gradients in float16 neither vanish nor overflow.

    `train_step` multiplies the loss by the scale, and divides the gradient by it. Where that isn't
    finite, nothing is updated and the scale is divided by `factor`; after `period` good steps it
    is multiplied by it (Micikevicius et al., *Mixed Precision Training*, 2018).

    Args:
        transformation: The optimiser.
        initial: The first scale.
        period: How many good steps to make before a larger scale is tried.
        factor: By what the scale changes.

    Returns:
        An optimiser for `Optimizer`.

    Raises:
        ArgumentTypeError: `transformation` isn't an optimiser of Optax.
        ArgumentError: A number isn't positive, or `factor` not above 1.

    Example:
        >>> import jax.numpy as jnp, optax, statelens as sl
        >>> adam = sl.optim.dynamic_loss_scale(optax.adam(1e-3), initial=1024.0)
        >>> sl.optim.Optimizer(adam, "w").init({"w": jnp.ones(1)}).loss_scale
        Array(1024., dtype=float32)
    """
    if initial <= 0 or period <= 0 or factor <= 1:
        raise ArgumentError(
            f"asked for dynamic_loss_scale(initial={initial}, period={period}, factor={factor})",
            "the first two must be above 0, and the third above 1",
            "dynamic_loss_scale(transformation), with the usual numbers",
        )
    inner = optax.with_extra_args_support(as_transformation(transformation, "dynamic_loss_scale"))

    def init(params: Any) -> LossScaleState:
        count = jnp.zeros((), jnp.int32)
        return LossScaleState(jnp.asarray(initial, jnp.float32), count, inner.init(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        is_finite = are_finite(updates)
        steps, inner_state = inner.update(updates, state.inner_state, params, **extra)
        # Chosen by `where`, since a branch for each would keep XLA from fusing them.
        steps = jax.tree.map(lambda x: jnp.where(is_finite, x, jnp.zeros_like(x)), steps)
        inner_state = jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old), inner_state, state.inner_state
        )
        good_steps = jnp.where(is_finite, state.good_steps + 1, 0)
        is_due = good_steps >= period
        grown = jnp.where(is_due, state.loss_scale * factor, state.loss_scale)
        loss_scale = jnp.where(is_finite, grown, jnp.maximum(state.loss_scale / factor, 1.0))
        return steps, LossScaleState(loss_scale, jnp.where(is_due, 0, good_steps), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def are_finite(tree: Any) -> jax.Array:
    """Says whether all numbers in a tree are finite."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def loss_scale_in(state: Any) -> Any:
    """Returns the scale of the loss that an optimiser keeps, or None."""
    if isinstance(state, LossScaleState):
        return state.loss_scale
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, LossScaleState))
    if any(isinstance(node, LossScaleState) for node in nodes):
        raise ArgumentError(
            "asked for a training step by an optimiser with dynamic_loss_scale inside",
            "other parts of it would take a gradient that has overflowed",
            "dynamic_loss_scale(optimiser), around all of it",
        )
    return None
