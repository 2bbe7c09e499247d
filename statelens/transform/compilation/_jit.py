"""`jit`: `jax.jit`, for functions that read and write states.

What it adds: states that the function touches are inputs of the compiled program, and are
found by themselves; those that it writes are outputs, and are stored when the call has
succeeded. On later calls it does no more than gather values, call the compiled function, and
store the writes.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeAlias, TypedDict, TypeVar, Unpack, overload

from ..._errors import user_facing
from ...lens import LensSpec
from .._core import applied
from ._jitted import JitFunction

P = ParamSpec("P")
R = TypeVar("R")
Argnums: TypeAlias = int | Sequence[int] | None
Argnames: TypeAlias = str | Iterable[str] | None


class JitOptions(TypedDict, total=False):
    """The options of `jit`, for type checkers."""

    static_argnums: Argnums
    static_argnames: Argnames
    donate_argnums: Argnums
    donate_argnames: Argnames
    donate_states: LensSpec
    in_shardings: Any
    out_shardings: Any
    inline: bool
    keep_unused: bool
    compiler_options: dict[str, Any] | None
    max_traces: int | None


@overload
def jit(fun: Callable[P, R], **options: Unpack[JitOptions]) -> JitFunction[P, R]: ...
@overload
def jit(
    fun: None = None, **options: Unpack[JitOptions]
) -> Callable[[Callable[P, R]], JitFunction[P, R]]: ...
@user_facing
def jit(
    fun: Callable[..., Any] | None = None,
    *,
    static_argnums: Argnums = None,
    static_argnames: Argnames = None,
    donate_argnums: Argnums = None,
    donate_argnames: Argnames = None,
    donate_states: LensSpec = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    inline: bool = False,
    keep_unused: bool = False,
    compiler_options: dict[str, Any] | None = None,
    max_traces: int | None = None,
) -> Any:
    """Compiles a function that reads and writes states.

    The states need not be named: they are found. Those that the function touches are inputs
    of the compiled program, never constants in it, and those that it writes are outputs. If
    the call fails, no state has changed. Arguments may be Equinox modules, facade modules
    and functions: their arrays are traced, and the rest is part of the program, as with
    `equinox.filter_jit`; numbers outside of modules are traced, as with `jax.jit`.

    A change of a state's shape, dtype or structure means another trace, and so does another
    attribute of a facade module (``model.training = False``). The function runs once for
    each trace, or twice for the first, if it touches a state that isn't in its closure, its
    globals, its defaults, or what it is bound to.

    Several steps in one call cost one dispatch: ``jit(lambda *batches: for_loop(step, *batches))``
    for batches that are stacked. Threads that call functions which write the same states at once
    need a lock of their own, as for any object.

    Args:
        fun: The function, or a method. Left out, `jit` gives a decorator.
        static_argnums: Positions of arguments that are part of the program; hashable ones. They
            may be given by their names in a call too.
        static_argnames: Their names.
        donate_argnums: Positions of arguments whose memory the program may reuse.
        donate_argnames: Their names.
        donate_states: States whose memory the program may reuse, if it writes them: True for
            all, or a lens in any form. Their old values, and other names for these arrays,
            are deleted by a call, even if the program fails while it runs.
        in_shardings: Where the positional arguments come in: a tree of shardings that they begin
            with, one for all below it, and None for any. They are placed there. States lie where
            their values do.
        out_shardings: Where the output goes, likewise.
        inline: Whether to dissolve the program in one that calls it.
        keep_unused: Whether to keep arguments that the program doesn't use.
        compiler_options: Options of XLA, as for `jax.jit`.
        max_traces: After how many traces to refuse another one, with an error that says
            which argument or state has changed. None for any number.

    Returns:
        A function like `fun`. It has ``lower``, ``trace``, ``eval_shape`` and
        ``clear_cache``, as `jax.jit` has them, and ``states``, what was found.

    Raises:
        ArgumentTypeError: An argument is of the wrong type, or can't be hashed.
        ArgumentError: The arguments or the output don't begin with the trees of shardings.
        RetraceError: There was one trace more than `max_traces`.
        FrozenTreeError: The function wrote a state of an argument; see `thread`.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> weight = sl.ParamState(jnp.ones(3), name="weight")
        >>> @sl.jit
        ... def step(x):
        ...     loss = lambda: jnp.sum((weight.value * x - 1) ** 2)
        ...     grads, value = sl.grad(loss, weight, return_value=True)()
        ...     weight.value -= 0.1 * grads
        ...     return value
        >>> [round(float(step(2.0)), 3) for _ in range(3)]
        [3.0, 0.12, 0.005]
        >>> step.states.written
        (ParamState(f32[3], name='weight'),)
    """
    make = functools.partial(
        JitFunction,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
        donate_argnums=donate_argnums,
        donate_argnames=donate_argnames,
        donate_states=donate_states,
        in_shardings=in_shardings,
        out_shardings=out_shardings,
        inline=inline,
        keep_unused=keep_unused,
        compiler_options=compiler_options,
        max_traces=max_traces,
    )
    return applied(make, fun)
