"""What flows back: gradients scaled, clipped, or let through, inside of a loss.

Each of these is an identity (or, of `straight_through`, a function) by whose derivative another
one is taken. As everywhere, a lens that isn't bound is given a tree, and a bound one has its own.

    >>> import jax, jax.numpy as jnp, statelens as sl
    >>> slower = sl.optim.scale_grad("encoder", 0.1)
    >>> def loss(tree):
    ...     tree = slower(tree)
    ...     return tree["encoder"] * tree["head"]
    >>> jax.grad(loss)({"encoder": jnp.float32(2.0), "head": jnp.float32(3.0)})
    {'encoder': Array(0.3, dtype=float32), 'head': Array(2., dtype=float32)}
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ContextDecorator
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp

from .._errors import ArgumentError, StructureError, check_callable, user_facing
from .._tree import is_inexact, is_numeric
from ..lens import (
    BoundLens,
    LensSpec,
    focus_on,
    is_bound,
    replace_in,
    selector_of,
    units_of,
    values_of,
)
from ..thread import overlay

Tree = TypeVar("Tree")


@overload
def scale_grad(lens: BoundLens[Any], factor: Any) -> AbstractContextManager[None]: ...
@overload
def scale_grad(lens: LensSpec, factor: Any) -> Callable[[Tree], Tree]: ...
@user_facing
def scale_grad(lens: Any, factor: Any) -> Any:
    """Multiplies the gradients by what a lens selects, and leaves its values.

    Args:
        lens: What `lens` takes; or states, as in ``model.states("encoder.**")``.
        factor: By what the gradients are multiplied: a number, which may be traced. -1 reverses
            them.

    Returns:
        For a lens, a function of a tree, which gives the tree. For states, a context manager: in
        its block the states read so.

    Raises:
        ArgumentError: `factor` is no number.
        PathError: A pattern matches nothing in the tree.
        SelectionError: Nothing is selected.

    Source:
        Ganin et al., *Domain-Adversarial Training of Neural Networks*, 2016, for -1.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> model = sl.nn.Module()
        >>> model.w = sl.ParamState(jnp.ones(()))
        >>> def loss(x):
        ...     with sl.optim.scale_grad(model.states("w"), 0.5):
        ...         return model.w.value * x
        >>> sl.grad(loss, model.states())(3.0)
        {('w',): Array(1.5, dtype=float32)}
    """
    _check_number(factor, "factor", "scale_grad")
    return _applied(lens, _on_arrays(lambda xs: [_scaled(x, factor) for x in xs]), "scale_grad")


@overload
def clip_grad(
    lens: BoundLens[Any], *, norm: Any = None, value: Any = None
) -> AbstractContextManager[None]: ...
@overload
def clip_grad(lens: LensSpec, *, norm: Any = None, value: Any = None) -> Callable[[Tree], Tree]: ...
@user_facing
def clip_grad(lens: Any, *, norm: Any = None, value: Any = None) -> Any:
    """Clips the gradients by what a lens selects, and leaves its values.

    Args:
        lens: What `lens` takes, ``...`` for all of a value in the middle of a model; or states.
        norm: How long all the gradients together may be, as `optax.clip_by_global_norm` has it.
        value: How large each number in them may be, as `optax.clip` has it. Of both, this comes
            first.

    Returns:
        As of `scale_grad`. There is no derivative in forward mode.

    Raises:
        ArgumentError: Neither is given, or something that is no number.
        PathError: A pattern matches nothing in the tree.
        SelectionError: Nothing is selected.

    Source:
        `optax.clip_by_global_norm` and `optax.clip`, which clip what an optimiser is given.

    Example:
        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> clipped = sl.optim.clip_grad(..., norm=1.0)
        >>> jax.grad(lambda x: 5 * jnp.sum(clipped(x)))(jnp.ones(4))
        Array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """
    limits = {name: x for name, x in (("value", value), ("norm", norm)) if x is not None}
    if not limits:
        raise ArgumentError(
            "asked clip_grad to clip gradients",
            "there is no limit",
            "norm=1.0, for all of them together",
            "value=1.0, for each number in them",
        )
    for name, limit in limits.items():
        _check_number(limit, name, "clip_grad")
    return _applied(lens, _on_arrays(lambda xs: _clipped(xs, limits)), "clip_grad")


@overload
def straight_through(
    lens: BoundLens[Any], function: Callable[[Any], Any]
) -> AbstractContextManager[None]: ...
@overload
def straight_through(lens: LensSpec, function: Callable[[Any], Any]) -> Callable[[Tree], Tree]: ...
@user_facing
def straight_through(lens: Any, function: Callable[[Any], Any]) -> Any:
    """Applies a function to what a lens selects, and lets gradients through as if it did nothing.

    So one differentiates past a rounding, a threshold or a quantisation.

    Args:
        lens: What `lens` takes, ``...`` for all of a value in the middle of a model; or states.
        function: Maps a value (of a state, its whole value) to one of the same structure, shapes
            and dtypes. What else it depends on gets no gradient.

    Returns:
        As of `scale_grad`.

    Raises:
        ArgumentTypeError: `function` isn't callable.
        StructureError: It gives something else than it was given.
        PathError: A pattern matches nothing in the tree.
        SelectionError: Nothing is selected.

    Source:
        Bengio et al., *Estimating or Propagating Gradients Through Stochastic Neurons for
        Conditional Computation*, 2013.

    Example:
        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> rounded = sl.optim.straight_through("w", jnp.round)
        >>> rounded({"b": 0.4, "w": jnp.float32(1.4)})["w"]
        Array(1., dtype=float32)
        >>> jax.grad(lambda w: rounded({"w": w})["w"] ** 2)(jnp.float32(1.4))
        Array(2., dtype=float32)
    """
    check_callable(function, "function", "straight_through")

    def apply(values: list[Any]) -> list[Any]:
        return [_let_through(x, function(jax.lax.stop_gradient(x))) for x in values]

    return _applied(lens, apply, "straight_through")


def _applied(lens: Any, apply: Callable[[list[Any]], list[Any]], asked_by: str) -> Any:
    """Applies a function to all values that are selected: in a tree, or of states in a block."""
    if is_bound(lens):
        return _ReadAs(lens, apply, asked_by)
    selector = selector_of(lens)

    @user_facing
    def of_tree(tree: Any) -> Any:
        focused = focus_on(selector, tree, required_by=asked_by)
        news = apply(values_of(focused.leaves, focused.entries))
        return replace_in(focused, news, free=False)

    return of_tree


class _ReadAs(ContextDecorator):
    """A block in which states read as a function of their values; what it writes is committed."""

    def __init__(self, states: Any, apply: Callable[[list[Any]], list[Any]], asked_by: str):
        self._given = states, apply, asked_by
        self._overlays: list[overlay] = []

    def _recreate_cm(self) -> "_ReadAs":
        return _ReadAs(*self._given)

    @user_facing
    def __enter__(self) -> None:
        states, apply, asked_by = self._given
        form = units_of(states, asked_by)
        values = dict(zip(form.units, apply(form.values()), strict=True))
        self._overlays.append(overlay(values).__enter__())

    @user_facing
    def __exit__(self, *exception: Any) -> None:
        over = self._overlays.pop()
        try:
            if exception[0] is None:
                over.commit()
        finally:
            over.__exit__(*exception)


def _on_arrays(
    function: Callable[[list[Any]], list[Any]],
) -> Callable[[list[Any]], list[Any]]:
    """Makes a function of values of one of all the arrays in them that have gradients."""

    def apply(values: list[Any]) -> list[Any]:
        leaves, treedef = jax.tree.flatten(values)
        chosen = [place for place, leaf in enumerate(leaves) if is_inexact(leaf)]
        news = function([jnp.asarray(leaves[place]) for place in chosen])
        for place, new in zip(chosen, news, strict=True):
            leaves[place] = new
        return treedef.unflatten(leaves)

    return apply


# What a rule depends on is an argument of it: it may be traced. A rule calls its function again, so
# that derivatives of derivatives follow it too.


@jax.custom_jvp
def _scaled(x: jax.Array, factor: Any) -> jax.Array:
    return x


@_scaled.defjvp
def _scaled_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (x, factor), (tangent, _) = primals, tangents
    return _scaled(x, factor), (factor * tangent).astype(tangent.dtype)


@jax.custom_jvp
def _second(x: jax.Array, y: jax.Array) -> jax.Array:
    return y


@_second.defjvp
def _second_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    return _second(*primals), tangents[0]


def _described(leaf: Any) -> str:
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def _let_through(x: Any, y: Any) -> Any:
    """Gives the second value the derivative of the first."""
    before, after = (jax.tree.map(_described, each) for each in (x, y))
    if before != after:
        raise StructureError(
            "asked straight_through for a function of the same shapes and dtypes",
            f"it gave {after} for {before}",
            "a function that keeps these",
        )
    return jax.tree.map(lambda a, b: _second(a, b) if is_inexact(a) else b, x, y)


@jax.custom_vjp
def _clipped(arrays: list[jax.Array], limits: dict[str, Any]) -> list[jax.Array]:
    return arrays


def _clip(limits: dict[str, Any], gradients: list[jax.Array]) -> tuple[Any, None]:
    import optax

    rules = {"value": optax.clip, "norm": optax.clip_by_global_norm}
    for name, limit in sorted(limits.items(), reverse=True):
        gradients, _ = rules[name](limit).update(gradients, optax.EmptyState())
    return gradients, None


_clipped.defvjp(lambda arrays, limits: (_clipped(arrays, limits), limits), _clip)


def _check_number(number: Any, option: str, asked_by: str) -> None:
    if isinstance(number, bool) or not is_numeric(number) or jnp.shape(number) != ():
        raise ArgumentError(
            f"asked {asked_by} for {option}={number!r:.80}",
            "that is no number",
            f"a number, as in {option}=0.1",
        )
