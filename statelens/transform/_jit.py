"""`jit`: `jax.jit`, for functions that read and write states.

What it adds: states that the function touches are inputs of the compiled program, and are
found by themselves; those that it writes are outputs, and are stored when the call has
succeeded. On later calls it does no more than gather values, call the compiled function, and
store the writes.
"""

import functools
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from .._cell import Holder
from .._epoch import epoch
from .._errors import ArgumentTypeError, explain, hide_own_frames, user_facing
from .._frames import capture
from .._halves import combine
from .._trace import TOP, current_trace
from ..state import State, active_frame
from ._ahead_of_time import AheadOfTime
from ._discover import Undeclared
from ._mixed import constants, mixed, unmixed
from ._options import Donation, count, names, positions, positions_of
from ._program import Program, Replay, is_alive, signature_of
from ._pure import prepared
from ._reach import reachable, settings
from ._retrace import TraceGuard
from ._runtime import can_raise


class TouchedStates(NamedTuple):
    """What a compiled function does with states, as far as it has been traced.

    Attributes:
        read: The states that it touches; they are inputs of its programs.
        written: Those that it writes; they are outputs.
    """

    read: tuple[State, ...]
    written: tuple[State, ...]


_array_types: set[type] = set()


def _is_array_type(arg: Any) -> bool:
    if isinstance(arg, jax.Array):
        _array_types.add(type(arg))
        return True
    return False


class _World(NamedTuple):
    """What a function could reach when its programs were made."""

    states: list[State]
    settings: tuple[Any, ...]
    programs: list[Program]


_MOST_WORLDS = 16
_MOST_ATTEMPTS = 20


class JitFunction:
    """A function compiled by `jax.jit`, aware of states; `jit` makes it."""

    def __init__(
        self,
        fun: Callable[..., Any],
        *,
        name: str = "jit",
        static_argnums: Any = None,
        static_argnames: Any = None,
        donate_argnums: Any = None,
        donate_states: Any = None,
        max_traces: int | None = None,
        **options: Any,
    ):
        if not callable(fun):
            raise ArgumentTypeError(
                explain(
                    f"asked {name} to compile a {type(fun).__name__}",
                    "that isn't a function",
                    "the function itself, not what it returns",
                )
            )
        self._name = name
        self._fun = fun
        self._given = {
            "static_argnums": static_argnums,
            "static_argnames": static_argnames,
            "donate_argnums": donate_argnums,
            "donate_states": donate_states,
            "max_traces": max_traces,
            **options,
        }
        named = names(static_argnames, "static_argnames", name)
        self._static: frozenset[int | str] = frozenset(
            positions(static_argnums, "static_argnums", name)
            | positions_of(fun, named, name)
            | named
        )
        donated = positions(donate_argnums, "donate_argnums", name)
        # Before the arguments come the values of states, those to be donated first, and the
        # part of the first argument that is to be donated.
        self._options = {**options, "donate_argnums": (0, 2, *(number + 3 for number in donated))}
        self._donation = Donation(donate_states, name)
        self._guard = TraceGuard(count(max_traces, "max_traces", name))
        self._worlds: list[_World] = []
        # The program that a call needs do no more than run, as long as nothing has changed.
        self._plain: Program | None = None
        self._epoch = -1
        self._bound: dict[int, JitFunction] = {}
        functools.update_wrapper(self, fun, updated=())

    def __repr__(self) -> str:
        return f"{self._name}({getattr(self._fun, '__name__', self._fun)!s})"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Binds a method.

        A mutable object is closed over by the compiled function, as its states are; an
        immutable pytree, such as an Equinox module, is its first argument.
        """
        if instance is None:
            return self
        if not isinstance(instance, Holder) and not jtu.all_leaves([instance]):
            return MethodType(self, instance)
        if id(instance) not in self._bound:
            forget = functools.partial(_forget, self._bound, id(instance))
            method = _WeakMethod(self._fun, weakref.ref(instance, forget))
            self._bound[id(instance)] = JitFunction(method, name=self._name, **self._given)
        return self._bound[id(instance)]

    @property
    def states(self) -> TouchedStates:
        """The states that the function was found to read and to write, so far."""
        programs = [program for world in self._worlds for program in world.programs]
        read = dict.fromkeys(cell for program in programs for cell in program.touched)
        written = dict.fromkeys(cell for program in programs for cell in program.written)
        return TouchedStates(tuple(read), tuple(written))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            program = self._plain
            if (
                program is None
                or self._epoch != epoch.now
                or active_frame.get() is not None
                or current_trace() != TOP
                or jax.config.jax_disable_jit  # type: ignore[attr-defined]
            ):
                return self._call(args, kwargs)
            is_prepared = not kwargs and not self._static
            for arg in args:
                # A class that has been seen is sooner looked up than asked about.
                if type(arg) not in _array_types and not _is_array_type(arg):
                    is_prepared = False
                    break
            args, kwargs = ((None, *args), {}) if is_prepared else self._prepared(args, kwargs)
            try:
                return unmixed(program.run_plainly(args, kwargs))
            except Undeclared as undeclared:
                return self._finished(args, kwargs, undeclared)
            except TypeError:
                if program.has_plain_values():
                    raise
                return self._finished(args, kwargs)
        except Exception as error:
            hide_own_frames(error)
            raise

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            captured = capture(self._fun, args, kwargs)
            captured.writes.commit()
            return captured.out
        return self._finished(*self._prepared(args, kwargs))

    def _finished(self, args: Any, kwargs: Any, undeclared: Undeclared | None = None) -> Any:
        program, result = self._settle(
            args, kwargs, lambda program: program.run(args, kwargs), undeclared
        )
        programs = self._worlds[-1].programs
        is_plain = len(programs) == 1 and program.is_plain and not program.can_raise
        self._plain = program if is_plain and not self._donation.selector else None
        return program.finish(result)

    @user_facing
    def trace(self, *args: Any, **kwargs: Any) -> "AheadOfTime":
        """Traces the function for arguments, without running anything; see `jax.jit`.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            What `jax.jit(f).trace` gives, with ``.jaxpr`` and ``.lower()``.
        """
        args, kwargs = self._prepared(args, kwargs)
        program, traced = self._settle(
            args, kwargs, lambda program: program.staged.trace(*program.values(), *args, **kwargs)
        )
        return AheadOfTime(traced, program, self._prepared, repr(self))

    @user_facing
    def lower(self, *args: Any, **kwargs: Any) -> "AheadOfTime":
        """Lowers the function for arguments, without running anything; see `jax.jit`.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            What `jax.jit(f).lower` gives, with ``.as_text()`` and ``.compile()``.
        """
        return self.trace(*args, **kwargs).lower()

    @user_facing
    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Gives the shapes and dtypes of the output, without running anything.

        Args:
            *args: Arguments, or their shapes and dtypes.
            **kwargs: Keyword arguments likewise.

        Returns:
            The output with a `jax.ShapeDtypeStruct` in place of each array.
        """
        return unmixed(self.trace(*args, **kwargs).out_info[0])

    def clear_cache(self) -> None:
        """Forgets all traces and compiled programs."""
        for world in self._worlds:
            for program in world.programs:
                program.staged.clear_cache()
        self._worlds.clear()
        self._guard.clear()
        self._plain = None

    def _prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        lent = None
        if args and self._donation.selector is not None:
            lent, rest = self._donation.halves(args[0])
            lent, args = mixed(lent, lambda: "argument 0"), (rest, *args[1:])
        positional, named = prepared(args, kwargs, self._static)
        return (lent, *positional), named

    def restore(self, args: Any, kwargs: Any) -> tuple[Callable[..., Any], Any, Any]:
        """Returns the function to run, and its arguments as the caller gave them."""
        lent, *positional = map(unmixed, args)
        if lent is not None:
            positional[0] = combine(lent, positional[0])
        return self._fun, tuple(positional), {name: unmixed(arg) for name, arg in kwargs.items()}

    def stage(self, pure: Callable[..., Any]) -> Any:
        """Stages a pure function by `jax.jit`, its first argument donated."""

        def staged(donated: Any, kept: Any, /, *args: Any, **kwargs: Any) -> Any:
            return pure(donated, kept, *args, **kwargs)

        # JAX names the program after it. No more than the name: it would read the signature.
        staged.__name__ = getattr(self._fun, "__name__", type(self._fun).__name__)
        return jax.jit(staged, **self._options)

    def on_trace(self, program: Program, args: Any) -> None:
        """Counts the traces, and refuses one too many."""
        self._guard.count(repr(self), *args)

    def _settle(
        self,
        args: Any,
        kwargs: Any,
        run: Callable[[Program], Any],
        undeclared: Undeclared | None = None,
    ) -> tuple[Program, Any]:
        """Runs a program that takes all states that the function touches.

        Args:
            args: The arguments, prepared.
            kwargs: The keyword arguments, prepared.
            run: What to do with the program.
            undeclared: What came of an attempt that has been made.

        Returns:
            The program, and what came of running it.
        """
        world = self._world(args, kwargs)
        program = self._known(world, args, kwargs)
        cells = world.states
        for _ in range(_MOST_ATTEMPTS):
            if undeclared is not None:
                if getattr(undeclared.owner, "host", None) is not self:
                    raise undeclared
                program, cells, undeclared = None, list(undeclared.cells), None
                self._guard.take_back()
            try:
                if program is None:
                    program = self._first(world, cells, args, kwargs)
                return program, run(program)
            except Undeclared as error:
                undeclared = error
        raise RuntimeError(f"{self} touches other states each time that it is traced")

    def _world(self, args: Any, kwargs: Any) -> _World:
        if self._worlds and self._epoch == epoch.now:
            return self._worlds[-1]
        now = epoch.now
        states, modules = reachable([self._fun, *constants(args, kwargs)])
        states = [cell for cell in states if is_alive(cell)]
        found = settings(modules)
        for world in self._worlds:
            if _are_same(world.states, states) and world.settings == found:
                self._worlds.remove(world)
                break
        else:
            world = _World(states, found, [])
        self._worlds = [*self._worlds[1 - _MOST_WORLDS :], world]
        self._epoch = now
        return world

    def _known(self, world: _World, args: Any, kwargs: Any) -> Program | None:
        if len(world.programs) > 1:
            signature = signature_of((args, kwargs))
            for program in world.programs:
                if signature in program.signatures:
                    return program
        return world.programs[-1] if world.programs else None

    def _first(self, world: _World, cells: list[State], args: Any, kwargs: Any) -> Program:
        """Makes a program, by tracing the function with states that are believed to do."""
        probe = Program(self, (), cells)
        traced = probe.staged.trace(*probe.values(), *args, **kwargs)
        donated = [cell for cell in probe.written if cell in self._donation]
        if not donated and len(probe.touched) == len(cells):
            program = probe
        else:
            kept = [cell for cell in cells if cell in probe.touched and cell not in donated]
            program = Program(self, donated, kept, Replay(probe, traced, (args, kwargs)))
        program.can_raise = can_raise(traced.jaxpr)
        world.programs.append(program)
        return program


class _WeakMethod:
    """A method of an object that it doesn't keep alive."""

    def __init__(self, function: Callable[..., Any], instance: weakref.ref):
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._instance(), *args, **kwargs)


def _forget(bound: dict[int, Any], key: int, _: weakref.ref) -> None:
    bound.pop(key, None)


def _are_same(some: list[State], others: list[State]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


@user_facing
def jit(
    fun: Callable[..., Any] | None = None,
    *,
    static_argnums: Any = None,
    static_argnames: Any = None,
    donate_argnums: Any = None,
    donate_argnames: Any = None,
    donate_states: Any = None,
    inline: bool = False,
    keep_unused: bool = False,
    max_traces: int | None = None,
) -> Any:
    """Compiles a function that reads and writes states.

    The states need not be named: they are found. Those that the function touches are inputs
    of the compiled program, never constants in it, and those that it writes are outputs. If
    the call fails, no state has changed. Arguments may be Equinox modules, facade modules
    and functions: their arrays are traced, and the rest is part of the program, as with
    `equinox.filter_jit`; numbers that are passed as such are traced, as with `jax.jit`.

    A change of a state's shape, dtype or structure means another trace, and so does another
    attribute of a facade module (``model.training = False``). The function runs once for
    each trace, or twice for the first, if it touches a state that isn't in its closure, its
    globals, its defaults, or what it is bound to.

    Args:
        fun: The function, or a method. Left out, `jit` gives a decorator.
        static_argnums: Positions of arguments that are part of the program; hashable ones.
        static_argnames: Their names.
        donate_argnums: Positions of arguments whose memory the program may reuse.
        donate_argnames: Their names.
        donate_states: States whose memory the program may reuse, if it writes them: True for
            all, or a lens in any form. Their old values, and other names for these arrays,
            are deleted by a call, even if the program fails while it runs.
        inline: Whether to dissolve the program in one that calls it.
        keep_unused: Whether to keep arguments that the program doesn't use.
        max_traces: After how many traces to refuse another one, with an error that says
            which argument or state has changed. None for any number.

    Returns:
        A function like `fun`. It has ``lower``, ``trace``, ``eval_shape`` and
        ``clear_cache``, as `jax.jit` has them, and ``states``, what was found.

    Raises:
        ArgumentTypeError: An argument is of the wrong type, or can't be hashed.
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
        inline=inline,
        keep_unused=keep_unused,
        max_traces=max_traces,
    )
    return make if fun is None else make(fun)
