"""`cond`, `switch` and `ifelse`: JAX's branches, for functions with states.

What they add: whatever one of the branches writes is an output of all of them; a branch that
doesn't write a state leaves it as it was.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp

from ..._errors import ArgumentError, ArgumentTypeError, StructureError, check_callable, user_facing
from .._core import (
    Attempt,
    describe_difference,
    describe_types,
    run_and_commit,
    split_static,
)
from ._carry import are_alike, run_body, run_carrying
from ._eager_cache import staged

Out = TypeVar("Out")


@user_facing
def cond(
    pred: Any, true_fun: Callable[..., Out], false_fun: Callable[..., Out], *operands: Any
) -> Out:
    """Runs one of two functions, as `jax.lax.cond` does.

    Args:
        pred: One boolean, or a number, which is true unless it is zero.
        true_fun: What to run if it is true; it may read and write states.
        false_fun: What to run if it is false; its output has the same structure.
        *operands: The arguments of both: any pytrees.

    Returns:
        What the function returned.

    Raises:
        ArgumentTypeError: `pred` is not one boolean or number, or a branch no function.
        StructureError: The branches differ in output, or leave a state with different kinds.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> spikes = sl.State(jnp.zeros((), int))
        >>> def fire(v):
        ...     spikes.value += 1
        ...     return 0.0
        >>> sl.transform.cond(True, fire, lambda v: v, 1.5), spikes.value
        (Array(0., dtype=float32, ...), Array(1, dtype=int32))
    """
    check_callable(true_fun, "true_fun", "cond")
    check_callable(false_fun, "false_fun", "cond")
    _scalar(pred, "pred", "cond")
    pred = jnp.asarray(pred)
    pred = pred if pred.dtype == jnp.bool_ else pred != 0
    return staged(_run_branches, (false_fun, true_fun), ("cond",), pred, *operands)


@user_facing
def switch(index: Any, branches: Sequence[Callable[..., Out]], *operands: Any) -> Out:
    """Runs one of several functions by its number, as `jax.lax.switch` does.

    Args:
        index: Which one, an integer; it is clamped to those there are.
        branches: The functions, at least one; they may read and write states.
        *operands: The arguments of all: any pytrees.

    Returns:
        What the function returned.

    Raises:
        ArgumentTypeError: `index` is not one integer, or a branch no function.
        ArgumentError: There are no branches.
        StructureError: As for `cond`.

    Example:
        >>> import statelens as sl
        >>> sl.transform.switch(1, [lambda x: x, lambda x: -x], 2.0)
        Array(-2., dtype=float32...)
    """
    functions = _functions(branches, "switch")
    _scalar(index, "index", "switch")
    if not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise ArgumentTypeError(
            f"asked switch for index={index!r}",
            f"that is of dtype {jnp.result_type(index)}, not an integer",
            "an integer, from 0",
            "cond, to choose by a boolean",
        )
    return staged(_run_branches, functions, ("switch",), index, *operands)


@user_facing
def ifelse(
    conditions: Sequence[Any],
    branches: Sequence[Callable[..., Out]],
    *operands: Any,
    check_cond: bool = True,
) -> Out:
    """Runs the function that belongs to the first condition that is true.

    Args:
        conditions: Booleans, one for each branch, or one fewer: then the last branch is run
            if none is true.
        branches: The functions; they may read and write states.
        *operands: The arguments of all: any pytrees.
        check_cond: Whether it is an error, where it can be seen, that no condition is true.

    Returns:
        What the function returned.

    Raises:
        ArgumentError: The numbers of conditions and branches don't fit, or no condition is
            true.
        ArgumentTypeError: A condition isn't one boolean, or a branch no function.
        StructureError: As for `cond`.

    Example:
        >>> import statelens as sl
        >>> x = 3.0
        >>> sl.transform.ifelse([x < 0, x < 5, True], [lambda: -1, lambda: 0, lambda: 1])
        Array(0, dtype=int32...)
    """
    functions = _functions(branches, "ifelse")
    is_list = isinstance(conditions, (list, tuple))
    given = len(conditions) if is_list else type(conditions).__name__
    if given not in (len(functions), len(functions) - 1):
        raise ArgumentError(
            f"asked ifelse for conditions={given}",
            f"there are {len(functions)} branches",
            "a list of as many conditions, or of one fewer",
        )
    for condition in conditions:
        _scalar(condition, "a condition", "ifelse")
    conditions = [*conditions, True][: len(functions)]
    stacked = jnp.stack([jnp.asarray(condition, bool) for condition in conditions])
    if check_cond and not isinstance(stacked, jax.core.Tracer) and not stacked.any():
        raise ArgumentError(
            f"asked ifelse for the first of {len(functions)} branches whose condition is true",
            "no condition is",
            "True as the last condition, for a branch that is run if no other is",
            "check_cond=False, to run the first branch then",
        )
    return staged(_run_branches, functions, ("ifelse",), jnp.argmax(stacked), *operands)


def _run_branches(
    functions: tuple[Any, ...], options: tuple[str], index: Any, *operands: Any
) -> Any:
    (name,) = options
    operands = tuple(split_static(operand, lambda: "an operand") for operand in operands)
    if jax.config.jax_disable_jit and not isinstance(index, jax.core.Tracer):  # type: ignore
        # Then JAX runs a single branch, in Python, and so do we.
        chosen = functions[min(max(int(index), 0), len(functions) - 1)]
        return run_and_commit(chosen, operands)

    def control(attempt: Attempt, before: tuple[Any, ...]) -> tuple[Any, Any]:
        written: dict[Any, None] = {}
        ends: list[Any] = []

        def run_branch(fun: Callable[..., Any], *operands: Any) -> Any:
            step = run_body(fun, attempt, before, operands)
            written.update(dict.fromkeys(step.written))
            end = split_static(step.out, lambda: "the output"), step.values
            # Shapes alone, since the branch's own trace ends with it.
            ends.append(jax.tree.map(_shape, end))
            if len(ends) == len(functions):
                attempt.require_exactly(written)
                _check_alike(attempt, ends, name)
                # JAX may trace the branches once more.
                ends.clear()
            return end

        branches = [functools.partial(run_branch, fun) for fun in functions]
        if name == "cond":
            out, values = jax.lax.cond(index, branches[1], branches[0], *operands)
        else:
            out, values = jax.lax.switch(index, branches, *operands)
        return values, out

    return run_carrying(control, name, functions[-1])


def _check_alike(attempt: Attempt, ends: list[Any], name: str) -> None:
    asked = f"asked {name} to run one of {len(ends)} branches"
    out, values = ends[0]
    for other_out, other_values in ends[1:]:
        for cell, one, other in zip(attempt.cells, values, other_values, strict=True):
            if not are_alike(one, other):
                raise StructureError(
                    asked,
                    f"one leaves {cell!r} as {describe_types(one)}, "
                    f"another one as {describe_types(other)}",
                    "values of the same structure, shape and dtype in all branches",
                )
        if not are_alike(out, other_out):
            raise StructureError(
                asked,
                f"what one returns differs from another's: {describe_difference(other_out, out)}",
                "outputs of the same structure, shape and dtype from all branches",
            )


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    kind: Any = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, weak_type=kind.weak_type)


def _functions(branches: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(branches, (list, tuple)):
        raise ArgumentTypeError(
            f"asked {name} for branches={branches!r}",
            f"that is a {type(branches).__name__}, not a list of functions",
            "a list of functions",
        )
    if not branches:
        raise ArgumentError(
            f"asked {name} to run a branch", "there is none", "at least one function"
        )
    return tuple(check_callable(fun, f"branches[{i}]", name) for i, fun in enumerate(branches))


def _scalar(value: Any, option: str, name: str) -> None:
    try:
        shape: Any = jax.typeof(value).shape
    except (TypeError, ValueError):
        shape = None
    if shape != ():
        found = f"a {type(value).__name__}" if shape is None else f"of shape {shape}"
        raise ArgumentTypeError(
            f"asked {name} to choose by {option}",
            f"it is {found}, not one number",
            "one boolean or integer; jnp.all or jnp.any of several booleans",
            "jax.vmap with jnp.where, to choose for each element",
        )
