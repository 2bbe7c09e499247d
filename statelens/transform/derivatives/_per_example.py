"""Gradients of parts of a batch: `per_example_grad`, `fisher_diag` and `accumulate_grad`.

They are `grad` inside of `vmap` and of `scan`, and nothing else: no loop in Python, and states
as these two have them.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from ..._errors import ArgumentError, user_facing
from ..._tree import is_array
from .._core import Wrapper, after_self, merge_static, parse_count, split_static
from ..batching import vmap
from ..control_flow import order_of, run_scan
from ._dtypes import accumulator_of, check_accumulator
from ._grad import scalar_grad_as
from ._signatures import Argnums, DerivativeOptions, derivative
from ._targets import check_positions, read_argnums
from ._transform import GradientTransform, gradient_value_aux

Labels = tuple[int | str, ...]
"""Arguments of a call, by position or by name."""


class _OverBatch(Wrapper):
    """A gradient transform that `each` applies to parts of a batch."""

    def __init__(
        self,
        fun: Callable[..., Any],
        name: str,
        each: Callable[..., tuple[Any, ...]],
        grad_states: Any,
        argnums: Any,
        batch_argnums: Any,
        **options: Any,
    ):
        self.name = name
        self._each = each
        self._transform = GradientTransform(
            fun,
            scalar_grad_as(name),
            grad_states,
            argnums,
            arrange=_in_a_tuple,
            **options,
        )
        super().__init__(fun)
        numbers = read_argnums(batch_argnums, has_lens=False, asked_by=name, option="batch_argnums")
        self._batch_argnums = (numbers,) if isinstance(numbers, int) else numbers
        # The first argument that may have a batch axis: a tree that a lens looks at hasn't.
        self._first = int(self._transform.has_tree)

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        found = self._each(self._transform, self._batched(args, kwargs), args, kwargs)
        return gradient_value_aux(*found)

    def _bound_to(self, instance: Any) -> Any:
        numbers = self._batch_argnums
        if numbers is not None and 0 in numbers:  # the object itself has a batch axis
            return MethodType(self, instance)
        bound = copy.copy(self)
        bound._transform = self._transform._bound_to(instance)
        bound._first = 0
        bound._batch_argnums = None if numbers is None else after_self(frozenset(numbers))
        return bound

    def _batched(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Labels:
        """Lists the arguments that have a batch axis."""
        numbers = self._batch_argnums
        if numbers is None:
            numbers = tuple(range(self._first, len(args)))
        check_positions(numbers, numbers, args, "batch_argnums", self.name)
        # As for `vmap`, those by name have one. A flag has no axis, and is no part of a batch.
        names = [name for name, arg in kwargs.items() if any(map(is_array, jax.tree.leaves(arg)))]
        if not numbers and not names:
            raise ArgumentError(
                f"asked {self.name} for a gradient of each part of a batch",
                "the call has no argument with a batch axis",
                "pass the batch, as an array or a pytree of arrays",
            )
        return *numbers, *names


def _in_a_tuple(*found: Any) -> tuple[Any, ...]:
    return found


def _stacked(
    axis_name: Any,
    transform: GradientTransform,
    batched: Labels,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Any, ...]:
    """Gives what the transform gives for each example."""
    axes = [0 if number in batched else None for number in range(len(args))]
    shared = {name: arg for name, arg in kwargs.items() if name not in batched}
    named = {name: arg for name, arg in kwargs.items() if name in batched}
    batched_transform = vmap(
        functools.partial(transform, **shared), in_axes=axes, axis_name=axis_name
    )
    batched_transform.name = transform.name
    return batched_transform(*args, **named)


def _mean_squared(*call: Any) -> tuple[Any, ...]:
    """Gives the mean over examples of the squared gradient."""
    gradients, *more = _stacked(*call)
    return jax.tree.map(_mean_square, gradients), *more


def _mean_square(gradients: Any) -> Any:
    if not len(gradients):
        raise ArgumentError(
            "asked fisher_diag for a mean over examples",
            "the batch is empty",
            "a batch of one example at least",
        )
    sizes = jnp.abs(gradients)
    wide = sizes.astype(accumulator_of(sizes.dtype))
    return jnp.mean(jnp.square(wide), axis=0).astype(sizes.dtype)


def _accumulated(
    microbatches: int,
    accumulator_dtype: Any,
    return_value: bool,
    transform: GradientTransform,
    batched: Labels,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Any, ...]:
    """Gives the mean gradient over micro-batches."""
    for number in transform.argnums:
        if number in batched:
            raise ArgumentError(
                f"asked {transform.name} for the mean gradient by argument {number}",
                "it has a batch axis: each micro-batch has another part of it",
                "grad_states=..., to differentiate by what all micro-batches share",
                "batch_argnums=..., if the argument has no batch axis",
            )

    def call_with(part: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        own = dict(zip(batched, part, strict=True))
        positional = [own.get(number, arg) for number, arg in enumerate(args)]
        return positional, {name: own.get(name, arg) for name, arg in kwargs.items()}

    def body(total: Any, part: Any) -> tuple[Any, Any]:
        args, kwargs = call_with(part)
        gradient, value, *aux = transform(*args, **kwargs)
        return jax.tree.map(_added, total, gradient), (value, aux)

    given = [kwargs[label] if isinstance(label, str) else args[label] for label in batched]
    split = functools.partial(_split, microbatches, transform.name)
    parts = [_on_arrays(split, arg) for arg in given]
    first = [_on_arrays(lambda leaf: leaf[0], part) for part in parts]
    zeros = transform.zeros(*call_with(first))
    wide = functools.partial(accumulator_of, asked=accumulator_dtype)
    start = jax.tree.map(lambda zero: zero.astype(wide(zero.dtype)), zeros)
    total, (values, aux) = run_scan(
        body, start, parts, None, transform.name, order_of(False, 1, transform.name), None
    )
    gradient = jax.tree.map(lambda t, zero: (t / microbatches).astype(zero.dtype), total, zeros)
    return gradient, *(jnp.mean(values, axis=0),) * return_value, *aux


def _added(total: Any, gradient: Any) -> Any:
    return total + gradient.astype(total.dtype)


def _on_arrays(fun: Callable[[Any], Any], tree: Any) -> Any:
    """Maps a function over the arrays in a tree."""
    return merge_static(jax.tree.map(fun, split_static(tree, lambda: "the batch")))


def _split(microbatches: int, asked_by: str, leaf: Any) -> Any:
    """Splits the leading axis of an array of a batch."""
    shape = jnp.shape(leaf)
    if shape and not shape[0]:
        raise ArgumentError(
            f"asked {asked_by} for microbatches={microbatches}",
            f"the batch is empty: an array of it is of shape {shape}",
            "a batch of one example at least",
        )
    if not shape or shape[0] % microbatches:
        raise ArgumentError(
            f"asked {asked_by} for microbatches={microbatches}",
            f"an array of the batch is of shape {shape}",
            "a leading size that is a multiple of the number of micro-batches",
            "batch_argnums=..., if not all arguments have a batch axis",
        )
    return jnp.reshape(leaf, (microbatches, shape[0] // microbatches, *shape[1:]))


@derivative
def per_example_grad(
    fun: Callable[..., Any],
    grad_states: Any = None,
    batch_argnums: Argnums = None,
    argnums: Argnums = None,
    *,
    axis_name: Any = None,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives one gradient for each example of a batch, stacked along axis 0.

    Args:
        fun: The loss of one example; it may draw random numbers, of which each example has its
            own. Left out, it gives a decorator.
        grad_states: As for `grad`.
        batch_argnums: The arguments that have a batch axis, axis 0. None for all positional
            ones after the tree that a lens looks at. Keyword arguments with arrays in them have
            one always, as for `vmap`: pass by position what all examples share.
        argnums: As for `grad`.
        axis_name: A name for the axis of examples, for collectives.
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

    Returns:
        A function that gives what `grad` gives, all of it with a leading axis of examples.

    Raises:
        SelectionError: A state was written with a value that differs between examples.
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones(2))
        >>> loss = lambda x, y: (x @ w.value - y) ** 2
        >>> sl.transform.per_example_grad(loss, w)(jnp.eye(2), jnp.zeros(2))
        Array([[2., 0.],
               [0., 2.]], dtype=float32)
    """
    each = functools.partial(_stacked, axis_name)
    return _OverBatch(fun, "per_example_grad", each, grad_states, argnums, batch_argnums, **options)


@derivative
def fisher_diag(
    fun: Callable[..., Any],
    grad_states: Any = None,
    batch_argnums: Argnums = None,
    argnums: Argnums = None,
    *,
    axis_name: Any = None,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives the diagonal of the empirical Fisher information: mean squared gradients.

    Args:
        fun: The loss of one example: its negative log-likelihood.
        grad_states: As for `grad`.
        batch_argnums: As for `per_example_grad`.
        argnums: As for `grad`.
        axis_name: As for `per_example_grad`.
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

    Returns:
        A function that gives what `grad` gives, with the mean over examples of the squared
        gradient for the gradient; value and aux have a leading axis of examples.

    Raises:
        ArgumentError: The batch is empty.
        StateLensError: As for `per_example_grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones(2))
        >>> loss = lambda x: 0.5 * (x @ w.value) ** 2
        >>> sl.transform.fisher_diag(loss, w)(jnp.array([[1.0, 0.0], [0.0, 2.0]]))
        Array([0.5, 8. ], dtype=float32)
    """
    each = functools.partial(_mean_squared, axis_name)
    return _OverBatch(fun, "fisher_diag", each, grad_states, argnums, batch_argnums, **options)


@derivative
def accumulate_grad(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    microbatches: int,
    batch_argnums: Argnums = None,
    accumulator_dtype: Any = None,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives the mean gradient over micro-batches, in the memory that one of them takes.

    The micro-batches are run one after another, in a `scan`; states that are written are
    carried from one to the next.

    Args:
        fun: The loss of a batch, a mean over examples.
        grad_states: As for `grad`.
        argnums: As for `grad`.
        microbatches: Into how many parts to split the batch.
        batch_argnums: As for `per_example_grad`.
        accumulator_dtype: In which dtype to add up gradients, which come back in that of what is
            differentiated. None for that dtype, but float32 where it is narrower: in bfloat16,
            512 micro-batches of gradient 1 have the mean 0.5.
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

    Returns:
        A function that gives what `grad` gives; the value is the mean, aux has a leading axis
        of micro-batches.

    Raises:
        ArgumentError: A batch can't be split into so many parts, or is empty.
        ArgumentTypeError: `accumulator_dtype` is no floating-point dtype.
        StateLensError: As for `grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones(()))
        >>> loss = lambda x: jnp.mean((w.value * x) ** 2)
        >>> sl.transform.accumulate_grad(loss, w, microbatches=2)(jnp.arange(4.0))
        Array(7., dtype=float32)
    """
    number = parse_count(microbatches, "microbatches", "accumulate_grad")
    if number is None:
        raise ArgumentError(
            "asked accumulate_grad for microbatches=None",
            "that says not how many there are",
            "the number of micro-batches",
        )
    check_accumulator(accumulator_dtype, "accumulate_grad")
    return_value = options.get("return_value", False)
    each = functools.partial(_accumulated, number, accumulator_dtype, return_value)
    options["return_value"] = True
    return _OverBatch(fun, "accumulate_grad", each, grad_states, argnums, batch_argnums, **options)
