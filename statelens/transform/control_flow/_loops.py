"""`scan`, `for_loop`, `while_loop` and their kin: JAX's loops, for bodies with states.

What they add: the states that a body writes are carried from one step to the next, and those
that it only reads are closed over. The loops are those of `jax.lax`, and of Equinox where
JAX has none with a reverse derivative in bounded memory.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from ..._errors import ArgumentTypeError, user_facing
from .._core import parse_count
from ._progress import ProgressBar
from ._run_scan import checkpoints_of, order_of, run_scan
from ._run_while import run_while

Carry = TypeVar("Carry")
X = TypeVar("X")
Y = TypeVar("Y")


@user_facing
def scan(
    f: Callable[[Carry, X], tuple[Carry, Y]],
    init: Carry,
    xs: X | None = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    pbar: ProgressBar | int | None = None,
) -> tuple[Carry, Y]:
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
    return run_scan(f, init, xs, length, "scan", order_of(reverse, unroll, "scan"), pbar)


@user_facing
def checkpointed_scan(
    f: Callable[[Carry, X], tuple[Carry, Y]],
    init: Carry,
    xs: X | None = None,
    length: int | None = None,
    base: int | None = None,
    pbar: ProgressBar | int | None = None,
    *,
    checkpoints: int | None = None,
) -> tuple[Carry, Y]:
    """Scans with a reverse derivative that keeps few carries and computes the others again.

    The recursive checkpointing is Equinox's (`equinox.internal.scan`); it has no forward
    derivative, and with the newest JAX, `jax.checking_leaks()` finds that it holds tracers.

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
    kept = checkpoints_of(checkpoints, base, "checkpointed_scan")
    return run_scan(f, init, xs, length, "checkpointed_scan", kept, pbar)


@user_facing
def for_loop(
    f: Callable[..., Y],
    *xs: Any,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
    pbar: ProgressBar | int | None = None,
) -> Y:
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
    return run_scan(f, None, xs, length, "for_loop", order_of(reverse, unroll, "for_loop"), pbar)[1]


@user_facing
def checkpointed_for_loop(
    f: Callable[..., Y],
    *xs: Any,
    length: int | None = None,
    checkpoints: int | None = None,
    base: int | None = None,
    pbar: ProgressBar | int | None = None,
) -> Y:
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
    kept = checkpoints_of(checkpoints, base, "checkpointed_for_loop")
    return run_scan(f, None, xs, length, "checkpointed_for_loop", kept, pbar)[1]


@user_facing
def while_loop(
    cond_fun: Callable[[Carry], Any],
    body_fun: Callable[[Carry], Carry],
    init_val: Carry,
    pbar: ProgressBar | int | None = None,
) -> Carry:
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
    return run_while(cond_fun, body_fun, init_val, "while_loop", (), pbar)


@user_facing
def bounded_while_loop(
    cond_fun: Callable[[Carry], Any],
    body_fun: Callable[[Carry], Carry],
    init_val: Carry,
    *,
    max_steps: int,
    base: int = 16,
    pbar: ProgressBar | int | None = None,
) -> Carry:
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
            "asked bounded_while_loop for max_steps=None",
            "its derivative needs a bound",
            "an integer, at least 1",
            "while_loop, without a bound and a reverse derivative",
        )
    bounds = (
        ("max_steps", parse_count(max_steps, "max_steps", "bounded_while_loop")),
        ("base", parse_count(base, "base", "bounded_while_loop", least=2)),
    )
    return run_while(cond_fun, body_fun, init_val, "bounded_while_loop", bounds, pbar)
