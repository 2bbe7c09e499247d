"""Loops that go on for as long as a condition holds: what the body writes is carried."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._errors import ArgumentTypeError, SelectionError, check_callable
from .._core import (
    Attempt,
    merge_static,
    split_static,
)
from ._carry import carried, check_step, run_body, run_carrying
from ._eager_cache import staged
from ._progress import ProgressBar, as_progress_bar
from ._progress_loops import while_loop


def run_while(
    cond_fun: Callable[[Any], Any],
    body_fun: Callable[[Any], Any],
    init: Any,
    name: str,
    bounds: tuple[tuple[str, Any], ...],
    pbar: ProgressBar | int | None,
) -> Any:
    """Runs a loop for as long as a condition holds, within bounds if there are any."""
    check_callable(cond_fun, "cond_fun", name)
    check_callable(body_fun, "body_fun", name)
    return staged(_while, (cond_fun, body_fun), (name, bounds, as_progress_bar(pbar)), init)


def _while(functions: tuple[Any, ...], options: tuple[Any, ...], init: Any) -> Any:
    (cond_fun, body_fun), (name, bounds, bar) = functions, options
    init = split_static(init, lambda: "init_val")

    def control(attempt: Attempt, before: tuple[Any, ...]) -> tuple[Any, Any]:
        def cond(carry: Any) -> Any:
            values, inner = carry
            go_on, written, _ = run_body(cond_fun, attempt, values, (), (inner,))
            if written:
                raise SelectionError(
                    f"asked {name} whether to go on",
                    f"cond_fun wrote {written[0]!r}, and is run once more than the body",
                    "write the state in body_fun",
                )
            return _boolean(go_on, name)

        def body(carry: Any) -> Any:
            values, inner = carry
            step = run_body(body_fun, attempt, values, (), (inner,))
            check_step(attempt, values, step, name)
            return step.values, carried(inner, step.out, "the value", name)

        start = before, init
        return while_loop(cond, body, start, bar, parts, **dict(bounds))

    def parts(carry: Any) -> dict[str, Any]:
        return {"carry": merge_static(carry[1])}

    return run_carrying(control, name, body_fun)


def _boolean(value: Any, name: str) -> Any:
    is_leaf: Any = value is not None and jax.tree_util.all_leaves([value])
    if is_leaf and jax.typeof(value).shape == () and jax.typeof(value).dtype == jnp.bool_:
        return value
    found = jax.typeof(value).str_short() if is_leaf else f"a {type(value).__name__}"
    raise ArgumentTypeError(
        f"asked {name} whether to go on",
        f"cond_fun returned {found}, not one boolean",
        "a comparison, such as x > 0; jnp.all or jnp.any of several",
    )
