"""`scan`, `for_loop`, `while_loop` and their kin: JAX's loops, for bodies with states.

What they add: the states that a body writes are carried from one step to the next, and those
that it only reads are closed over. The loops are those of `jax.lax`, and of Equinox where
JAX has none with a reverse derivative in bounded memory.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from .._errors import ArgumentError, ArgumentTypeError, SelectionError, explain, user_facing
from ._carry import check_carry, check_kept, commit, run, states_before
from ._chunks import scan_in_chunks, while_in_chunks
from ._discover import Attempt, settle
from ._memo import staged
from ._mixed import mixed, unmixed
from ._options import count, function
from ._progress import as_progress_bar


@user_facing
def scan(
    f: Callable[..., Any],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    pbar: Any = None,
) -> tuple[Any, Any]:
    """Runs ``carry, y = f(carry, x)`` over the leading axis of `xs`, as `jax.lax.scan` does.

    Args:
        f: The body; it may read and write states.
        init: The first carry: any pytree, an Equinox model with functions in it too.
        xs: What is scanned over, arrays of the same leading size; None with a `length`.
        length: The number of steps, if `xs` doesn't say.
        reverse: Whether to run from the last step to the first.
        unroll: How many steps to make one of, in the compiled loop; True for all.
        pbar: A `ProgressBar`, or a number of steps after which to update one.

    Returns:
        The last carry, and all ``y``, stacked.

    Raises:
        StructureError: A state that is written changes its shape, dtype or structure.
        ArgumentTypeError: An argument is of the wrong type; the body returned no pair.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> seen = sl.State(jnp.zeros((), int))
        >>> def body(total, x):
        ...     seen.value += 1
        ...     return total + x, total
        >>> sl.transform.scan(body, 0.0, jnp.arange(4.0))[0], seen.value
        (Array(6., dtype=float32...), Array(4, dtype=int32))
    """
    return _scan(f, init, xs, length, "scan", _order(reverse, unroll, "scan"), pbar)


@user_facing
def checkpointed_scan(
    f: Callable[..., Any],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    base: int | None = None,
    pbar: Any = None,
    *,
    checkpoints: int | None = None,
) -> tuple[Any, Any]:
    """Scans with a reverse derivative that keeps few carries and computes the others again.

    The recursive checkpointing is Equinox's (`equinox.internal.scan`); it has no forward
    derivative.

    Args:
        f: The body, as for `scan`.
        init: As for `scan`.
        xs: As for `scan`.
        length: As for `scan`.
        base: Taken for the sake of ported programs; `checkpoints` says how much is kept.
        pbar: As for `scan`.
        checkpoints: How many carries to keep; None for a number that grows as the square
            root of the length.

    Returns:
        As `scan`.

    Raises:
        StateLensError: As for `scan`.

    Example:
        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> def final(x):
        ...     step = lambda c, _: (jnp.sin(c), None)
        ...     return sl.transform.checkpointed_scan(step, x, length=100)[0]
        >>> jax.grad(final)(1.0)
        Array(0.003..., dtype=float32...)
    """
    count(base, "base", "checkpointed_scan", least=2)
    kept = ("checkpoints", count(checkpoints, "checkpoints", "checkpointed_scan"))
    return _scan(f, init, xs, length, "checkpointed_scan", (kept,), pbar)


@user_facing
def for_loop(
    f: Callable[..., Any],
    *xs: Any,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    pbar: Any = None,
) -> Any:
    """Runs ``y = f(*x)`` over the leading axis of all `xs`; what is carried is in states.

    Args:
        f: The body.
        *xs: What it is run over.
        length: The number of steps, if there are no `xs`.
        reverse: As for `scan`.
        unroll: As for `scan`.
        pbar: As for `scan`.

    Returns:
        All ``y``, stacked.

    Raises:
        StateLensError: As for `scan`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> total = sl.State(0.0)
        >>> def add(x):
        ...     total.value += x
        ...     return total.value
        >>> sl.transform.for_loop(add, jnp.arange(4.0))
        Array([0., 1., 3., 6.], dtype=float32)
    """
    function(f, "f", "for_loop")
    return _scan(f, None, xs, length, "for_loop", _order(reverse, unroll, "for_loop"), pbar)[1]


@user_facing
def checkpointed_for_loop(
    f: Callable[..., Any],
    *xs: Any,
    length: int | None = None,
    checkpoints: int | None = None,
    base: int | None = None,
    pbar: Any = None,
) -> Any:
    """Is to `for_loop` what `checkpointed_scan` is to `scan`.

    Args:
        f: As for `for_loop`.
        *xs: As for `for_loop`.
        length: As for `for_loop`.
        checkpoints: As for `checkpointed_scan`.
        base: As for `checkpointed_scan`.
        pbar: As for `scan`.

    Returns:
        All ``y``, stacked.

    Raises:
        StateLensError: As for `scan`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> h = sl.HiddenState(jnp.zeros(()))
        >>> def leak(x):
        ...     h.value = 0.5 * h.value + x
        ...     return h.value
        >>> sl.transform.checkpointed_for_loop(leak, jnp.ones(3))
        Array([1.  , 1.5 , 1.75], dtype=float32)
    """
    function(f, "f", "checkpointed_for_loop")
    count(base, "base", "checkpointed_for_loop", least=2)
    kept = ("checkpoints", count(checkpoints, "checkpoints", "checkpointed_for_loop"))
    return _scan(f, None, xs, length, "checkpointed_for_loop", (kept,), pbar)[1]


@user_facing
def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any, pbar: Any = None
) -> Any:
    """Runs ``val = body_fun(val)`` while ``cond_fun(val)``, as `jax.lax.while_loop` does.

    Args:
        cond_fun: Says whether to go on: one boolean. It may read states, not write them.
        body_fun: The body; it may read and write states.
        init_val: The first value: any pytree.
        pbar: As for `scan`.

    Returns:
        The last value.

    Raises:
        SelectionError: `cond_fun` wrote a state.
        StructureError: A state that is written changes its shape, dtype or structure.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> steps = sl.State(jnp.zeros((), int))
        >>> def halve(x):
        ...     steps.value += 1
        ...     return x / 2
        >>> sl.transform.while_loop(lambda x: x > 1, halve, 100.0), steps.value
        (Array(0.78125, dtype=float32, ...), Array(7, dtype=int32))
    """
    return _while(cond_fun, body_fun, init_val, "while_loop", (None, None), pbar)


@user_facing
def bounded_while_loop(
    cond_fun: Callable[[Any], Any],
    body_fun: Callable[[Any], Any],
    init_val: Any,
    *,
    max_steps: int,
    base: int = 16,
    pbar: Any = None,
) -> Any:
    """Is `while_loop` for at most so many steps, with a reverse derivative.

    The loop is Equinox's (`equinox.internal.while_loop` of the kind "bounded").

    Args:
        cond_fun: As for `while_loop`.
        body_fun: As for `while_loop`.
        init_val: As for `while_loop`.
        max_steps: After how many steps to stop in any case.
        base: How many steps lie in one level of the nested loops that it is made of.
        pbar: As for `scan`.

    Returns:
        The last value.

    Raises:
        StateLensError: As for `while_loop`.

    Example:
        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> def root(a):
        ...     newton = lambda x: 0.5 * (x + a / x)
        ...     far = lambda x: jnp.abs(x * x - a) > 1e-4
        ...     return sl.transform.bounded_while_loop(far, newton, a, max_steps=20)
        >>> jax.grad(root)(4.0)
        Array(0.25..., dtype=float32...)
    """
    if max_steps is None:
        raise ArgumentTypeError(
            explain(
                "asked bounded_while_loop for max_steps=None",
                "its derivative needs a bound",
                "an integer, at least 1",
                "while_loop, without a bound and a reverse derivative",
            )
        )
    bounds = (
        count(max_steps, "max_steps", "bounded_while_loop"),
        count(base, "base", "bounded_while_loop", least=2),
    )
    return _while(cond_fun, body_fun, init_val, "bounded_while_loop", bounds, pbar)


def _scan(
    f: Any, init: Any, xs: Any, length: Any, name: str, options: tuple[Any, ...], pbar: Any
) -> tuple[Any, Any]:
    function(f, "f", name)
    length = steps_of(xs, count(length, "length", name, least=0), name)
    options = (name, length, options, as_progress_bar(pbar))
    return staged(_run_scan, (f,), options, init, xs)


def _run_scan(functions: tuple[Any, ...], options: tuple[Any, ...], init: Any, xs: Any) -> Any:
    (f,), (name, length, settings, bar) = functions, options
    init, xs = mixed(init, lambda: "init"), mixed(xs, lambda: "xs")
    is_loop = name.endswith("for_loop")

    def attempted(attempt: Attempt) -> tuple[Any, Any, Any]:
        is_checkpointed = name.startswith("checkpointed")
        again = is_checkpointed and length > 0
        progress = None if bar is None else bar.start(length, replays=again)

        def body(carry: Any, x: Any) -> tuple[Any, Any]:
            values, inner = carry
            x_tree = unmixed(x)
            if is_loop:
                out, written, after = run(f, attempt, values, x_tree)
                new, y = None, out
            else:
                out, written, after = run(f, attempt, values, (x_tree,), (inner,))
                new, y = _pair(out, name)
            attempt.require(written)
            check_kept(attempt, values, after, name)
            carried = mixed(new, lambda: "the carry")
            check_carry(inner, carried, "the carry", name)
            return (after, carried), mixed(y, lambda: "the output")

        def ticking(carry: Any, x: Any) -> tuple[Any, Any]:
            index, inner = carry
            inner, y = body(inner, x)
            progress.tick(index, **parts(x, inner, y))  # type: ignore[union-attr]
            return (index + 1, inner), y

        def parts(x: Any, carry: Any, y: Any) -> dict[str, Any]:
            x = unmixed(x)
            x = x[0] if is_loop and len(x) == 1 else x
            return {"x": x, "carry": unmixed(carry[1]), "y": unmixed(y)}

        def mark(done: Any, x: Any, carry: Any, y: Any) -> None:
            progress.mark(done, is_first=done == first, **parts(x, carry, y))  # type: ignore

        first = 0 if progress is None else min(progress.every or 1, length)
        start = (states_before(attempt), init)
        if again:
            kind: Any = {"kind": "checkpointed", **dict(settings)}
            if progress is None:
                (values, carry), ys = eqxi.scan(body, start, xs, length, **kind)
            else:
                zero = jnp.zeros((), jnp.int32)
                (_, (values, carry)), ys = eqxi.scan(ticking, (zero, start), xs, length, **kind)
        else:
            how: Any = {} if is_checkpointed else dict(settings)
            if progress is None or not length:
                (values, carry), ys = jax.lax.scan(body, start, xs, length, **how)
            else:
                (values, carry), ys = scan_in_chunks(body, start, xs, length, first, mark, **how)
        return attempt, values, (unmixed(carry), unmixed(ys))

    attempt, values, result = settle(attempted, name, f)
    commit(attempt, values)
    return result


def _while(
    cond_fun: Any, body_fun: Any, init: Any, name: str, bounds: tuple[Any, Any], pbar: Any
) -> Any:
    function(cond_fun, "cond_fun", name)
    function(body_fun, "body_fun", name)
    options = (name, bounds, as_progress_bar(pbar))
    return staged(_run_while, (cond_fun, body_fun), options, init)


def _run_while(functions: tuple[Any, ...], options: tuple[Any, ...], init: Any) -> Any:
    (cond_fun, body_fun), (name, (max_steps, base), bar) = functions, options
    init = mixed(init, lambda: "init_val")

    def attempted(attempt: Attempt) -> tuple[Any, Any, Any]:
        progress = None if bar is None else bar.start(max_steps)

        def cond(carry: Any) -> Any:
            values, inner = carry
            go_on, written, _ = run(cond_fun, attempt, values, (), (inner,))
            if written:
                raise SelectionError(
                    explain(
                        f"asked {name} whether to go on",
                        f"cond_fun wrote {written[0]!r}, and is run once more than the body",
                        "write the state in body_fun",
                    )
                )
            return _boolean(go_on, name)

        def body(carry: Any) -> Any:
            values, inner = carry
            new, written, after = run(body_fun, attempt, values, (), (inner,))
            attempt.require(written)
            check_kept(attempt, values, after, name)
            value = mixed(new, lambda: "the value")
            check_carry(inner, value, "the value", name)
            return after, value

        def ticking(carry: Any) -> Any:
            index, inner = carry
            inner = body(inner)
            progress.tick(index, carry=unmixed(inner[1]))  # type: ignore[union-attr]
            return index + 1, inner

        def mark(done: Any, carry: Any) -> None:
            is_first = done <= progress.due(0)  # type: ignore[union-attr]
            progress.mark(done, is_first=is_first, carry=unmixed(carry[1]))  # type: ignore

        start = (states_before(attempt), init)
        zero = jnp.zeros((), jnp.int32)
        if name == "bounded_while_loop":
            kind: Any = {"kind": "bounded", "max_steps": max_steps, "base": base}
            if progress is None:
                end = eqxi.while_loop(cond, body, start, **kind)
            else:
                going = functools.partial(_second, cond)
                steps, end = eqxi.while_loop(going, ticking, (zero, start), **kind)
                progress.done(steps)
        elif progress is None:
            end = jax.lax.while_loop(cond, body, start)
        else:
            end, steps = while_in_chunks(cond, body, start, progress.due, mark)
            progress.done(steps)
        return attempt, end[0], unmixed(end[1])

    attempt, values, result = settle(attempted, name, body_fun)
    commit(attempt, values)
    return result


def _order(reverse: Any, unroll: Any, name: str) -> tuple[tuple[str, Any], ...]:
    if not isinstance(unroll, bool):
        unroll = count(unroll, "unroll", name)
    return ("reverse", bool(reverse)), ("unroll", unroll)


def _second(cond: Callable[[Any], Any], carry: tuple[Any, Any]) -> Any:
    return cond(carry[1])


def _pair(out: Any, name: str) -> tuple[Any, Any]:
    if isinstance(out, tuple) and len(out) == 2:
        return out
    found = f"a tuple of {len(out)}" if isinstance(out, tuple) else f"a {type(out).__name__}"
    raise ArgumentTypeError(
        explain(
            f"asked {name} to run a body",
            f"it returned {found}, not a pair",
            "return carry, y (with None for y, if there is nothing to stack)",
        )
    )


def _boolean(value: Any, name: str) -> Any:
    is_leaf: Any = value is not None and jax.tree_util.all_leaves([value])
    if is_leaf and jax.typeof(value).shape == () and jax.typeof(value).dtype == jnp.bool_:
        return value
    found = jax.typeof(value).str_short() if is_leaf else f"a {type(value).__name__}"
    raise ArgumentTypeError(
        explain(
            f"asked {name} whether to go on",
            f"cond_fun returned {found}, not one boolean",
            "a comparison, such as x > 0; jnp.all or jnp.any of several",
        )
    )


def steps_of(xs: Any, length: int | None, name: str) -> int:
    """Finds the number of steps, and refuses what has no leading axis of that size."""
    for leaf in jax.tree.leaves(mixed(xs, lambda: "xs")):
        shape = jnp.shape(leaf)
        if not shape:
            raise ArgumentError(
                explain(
                    f"asked {name} to run over {jax.typeof(leaf).str_short()}",
                    "that is one number, without an axis to run over",
                    "jnp.arange(n), to count",
                    "length=n, and no xs",
                )
            )
        length = shape[0] if length is None else length
        if shape[0] != length:
            raise ArgumentError(
                explain(
                    f"asked {name} for {length} steps",
                    f"an array to run over is of shape {shape}",
                    "arrays of the same leading size, equal to length if that is given",
                )
            )
    if length is None:
        raise ArgumentError(
            explain(
                f"asked {name} to run",
                "there is nothing to run over, and no length",
                "length=n",
                "arrays to run over",
            )
        )
    return length
