"""Gradients of parts of a batch: `per_example_grad`, `fisher_diag` and `accumulate_grad`.

They are `grad` inside of `vmap` and of `scan`, and nothing else: no loop in Python, and states
as these two have them.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from ..._errors import ArgumentError, user_facing
from .._core import Wrapper, after_self, parse_count
from ..batching import vmap
from ..control_flow import scan
from ._grad import scalar_grad
from ._signatures import Argnums, DerivativeOptions, derivative
from ._targets import read_argnums
from ._transform import GradientTransform, transform_as


class _OverBatch(Wrapper):
    """A gradient transform whose function is applied to parts of a batch."""

    _needs_value = False

    def __init__(
        self,
        fun: Callable[..., Any],
        name: str,
        grad_states: Any,
        argnums: Any,
        batch_argnums: Any,
        *,
        has_aux: bool = False,
        return_value: bool = False,
        **options: Any,
    ):
        self.name = name
        self._has_aux = has_aux
        self._return_value = return_value
        self._transform = GradientTransform(
            fun,
            transform_as(name)(scalar_grad),
            grad_states,
            argnums,
            has_aux=has_aux,
            return_value=return_value or self._needs_value,
            **options,
        )
        super().__init__(fun)
        numbers = read_argnums(batch_argnums, has_lens=False, asked_by=name, option="batch_argnums")
        self._batch_argnums = (numbers,) if isinstance(numbers, int) else numbers
        # The first argument that may have a batch axis: a tree that a lens looks at hasn't.
        self._first = int(self._transform.has_tree)

    def _bound_to(self, instance: Any) -> Any:
        numbers = self._batch_argnums
        if numbers is not None and 0 in numbers:  # the object itself has a batch axis
            return MethodType(self, instance)
        bound = copy.copy(self)
        bound._transform = self._transform._bound_to(instance)
        bound._first = 0
        bound._batch_argnums = None if numbers is None else after_self(frozenset(numbers))
        return bound

    def _batched(self, args: Sequence[Any]) -> tuple[int, ...]:
        """Returns the positions of the arguments that have a batch axis."""
        numbers = self._batch_argnums
        if numbers is None:
            numbers = tuple(range(self._first, len(args)))
        for number in numbers:
            if number >= len(args):
                raise ArgumentError(
                    f"asked {self.name} for batch_argnums={numbers}",
                    f"the call has {len(args)} positional arguments, counted from 0",
                    "pass what has a batch axis by position, not by keyword",
                )
        if not numbers:
            raise ArgumentError(
                f"asked {self.name} for a gradient of each part of a batch",
                "the call has no positional argument with a batch axis",
                "pass the batch by position",
            )
        return numbers


class _PerExample(_OverBatch):
    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        batched = self._batched(args)
        axes = [0 if number in batched else None for number in range(len(args))]
        batched_transform = vmap(functools.partial(self._transform, **kwargs), in_axes=axes)
        batched_transform.name = self.name
        return batched_transform(*args)


class _FisherDiagonal(_PerExample):
    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        found = super().__call__(*args, **kwargs)
        has_more = self._has_aux or self._return_value
        gradients, *more = found if has_more else (found,)
        fisher = jax.tree.map(lambda g: jnp.mean(jnp.square(jnp.abs(g)), axis=0), gradients)
        return (fisher, *more) if has_more else fisher


class _Accumulated(_OverBatch):
    _needs_value = True

    def __init__(self, fun: Callable[..., Any], microbatches: int, *args: Any, **options: Any):
        super().__init__(fun, "accumulate_grad", *args, **options)
        self._microbatches = microbatches

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        batched = self._batched(args)
        for number in self._transform.argnums:
            if number in batched:
                raise ArgumentError(
                    f"asked {self.name} for the mean gradient by argument {number}",
                    "it has a batch axis: each micro-batch has another part of it",
                    "grad_states=..., to differentiate by what all micro-batches share",
                    "batch_argnums=..., if the argument has no batch axis",
                )
        parts = [self._split(args[number]) for number in batched]

        def body(total: Any, part: Any) -> tuple[Any, Any]:
            whole = list(args)
            for number, arg in zip(batched, part, strict=True):
                whole[number] = arg
            gradient, value, *aux = self._transform(*whole, **kwargs)
            return jax.tree.map(jnp.add, total, gradient), (value, aux)

        first = [jax.tree.map(lambda a: a[0], part) for part in parts]
        whole = list(args)
        for number, arg in zip(batched, first, strict=True):
            whole[number] = arg
        total, (values, aux) = scan(body, self._transform.zeros(whole, kwargs), parts)
        gradient = jax.tree.map(lambda g: g / self._microbatches, total)
        extra = (jnp.mean(values, axis=0),) * self._return_value + tuple(aux)
        return (gradient, *extra) if extra else gradient

    def _split(self, arg: Any) -> Any:
        def split(leaf: Any) -> Any:
            size = jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0
            if not size or size % self._microbatches:
                raise ArgumentError(
                    f"asked {self.name} for microbatches={self._microbatches}",
                    f"an array of the batch is of shape {jnp.shape(leaf)}",
                    "a leading size that is a multiple of the number of micro-batches",
                    "batch_argnums=..., if not all arguments have a batch axis",
                )
            shape = (self._microbatches, size // self._microbatches, *jnp.shape(leaf)[1:])
            return jnp.reshape(leaf, shape)

        return jax.tree.map(split, arg)


@derivative
def per_example_grad(
    fun: Callable[..., Any],
    grad_states: Any = None,
    batch_argnums: Argnums = None,
    argnums: Argnums = None,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives one gradient for each example of a batch, stacked along axis 0.

    Args:
        fun: The loss of one example; it may draw random numbers, of which each example has its
            own. Left out, it gives a decorator.
        grad_states: As for `grad`.
        batch_argnums: The arguments that have a batch axis, axis 0. None for all positional
            ones after the tree that a lens looks at.
        argnums: As for `grad`.
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
    return _PerExample(fun, "per_example_grad", grad_states, argnums, batch_argnums, **options)


@derivative
def fisher_diag(
    fun: Callable[..., Any],
    grad_states: Any = None,
    batch_argnums: Argnums = None,
    argnums: Argnums = None,
    **options: Unpack[DerivativeOptions],
) -> Callable[..., Any]:
    """Gives the diagonal of the empirical Fisher information: mean squared gradients.

    Args:
        fun: The loss of one example: its negative log-likelihood.
        grad_states: As for `grad`.
        batch_argnums: As for `per_example_grad`.
        argnums: As for `grad`.
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

    Returns:
        A function that gives what `grad` gives, with the mean over examples of the squared
        gradient for the gradient; value and aux have a leading axis of examples.

    Raises:
        StateLensError: As for `per_example_grad`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.ones(2))
        >>> loss = lambda x: 0.5 * (x @ w.value) ** 2
        >>> sl.transform.fisher_diag(loss, w)(jnp.array([[1.0, 0.0], [0.0, 2.0]]))
        Array([0.5, 8. ], dtype=float32)
    """
    return _FisherDiagonal(fun, "fisher_diag", grad_states, argnums, batch_argnums, **options)


@derivative
def accumulate_grad(
    fun: Callable[..., Any],
    grad_states: Any = None,
    argnums: Argnums = None,
    *,
    microbatches: int,
    batch_argnums: Argnums = None,
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
        **options: As for `grad`: has_aux, return_value, check_states, debug_nan.

    Returns:
        A function that gives what `grad` gives; the value is the mean, aux has a leading axis
        of micro-batches.

    Raises:
        ArgumentError: A batch can't be split into so many parts.
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
    return _Accumulated(fun, number, grad_states, argnums, batch_argnums, **options)
