"""`jit`: `jax.jit`, for functions that read and write states.

What it adds: states that the function touches are inputs of the compiled program, and are
found by themselves; those that it writes are outputs, and are stored when the call has
succeeded. On later calls it does no more than gather values, call the compiled function, and
store the writes.
"""

import functools
import inspect
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from .._active import active_frame
from .._cell import Holder
from .._errors import ArgumentTypeError, SelectionError, explain, user_facing
from .._frames import capture
from .._halves import combine
from ..state import State, is_alive
from ._ahead_of_time import AheadOfTime
from ._discover import Undeclared
from ._dispatch import dispatch
from ._mixed import apart, constants, mixed, unmixed
from ._options import Choice, count, names, positions, positions_of
from ._packing import boxes
from ._program import Program, Replay, signature_of, split_result
from ._pure import prepared, states_in
from ._reach import reachable
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


_MOST_PROGRAMS = 64
_MOST_ATTEMPTS = 20


class JitFunction:
    """A function compiled by `jax.jit`, aware of states; `jit` makes it."""

    # What a call comes down to is an object's own. Python finds it sooner in a slot than by a
    # property, or by a method that passes its arguments on.
    __call__: Callable[..., Any]
    __slots__ = ("__call__", "__dict__", "__weakref__")

    def __init__(
        self,
        fun: Callable[..., Any],
        *,
        name: str = "jit",
        static_argnums: Any = None,
        static_argnames: Any = None,
        donate_argnums: Any = None,
        donate_states: Any = None,
        pack_states: Any = None,
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
            "pack_states": pack_states,
            "max_traces": max_traces,
            **options,
        }
        self._of_method = {
            **self._given,
            "static_argnums": _after_self(positions(static_argnums, "static_argnums", name)),
            "donate_argnums": _after_self(positions(donate_argnums, "donate_argnums", name)),
        }
        named = names(static_argnames, "static_argnames", name)
        self._static: frozenset[int | str] = frozenset(
            positions(static_argnums, "static_argnums", name)
            | positions_of(fun, named, name)
            | named
        )
        donated = positions(donate_argnums, "donate_argnums", name)
        donated_names = names(options.pop("donate_argnames", None), "donate_argnames", name)
        donated |= positions_of(fun, donated_names, name)
        options["donate_argnames"] = tuple(sorted(donated_names))
        self._options = options
        self._donated_args = donated
        self._donation = Choice(donate_states, "donate_states", name)
        self._packing = Choice(pack_states, "pack_states", name)
        self.lends = self._donation.selector is not None
        self._guard = TraceGuard(count(max_traces, "max_traces", name))
        self._programs: list[Program] = []
        self.__call__ = self._call
        self._bound: dict[int, JitFunction] = {}
        functools.update_wrapper(self, fun, updated=())  # type: ignore[arg-type]

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
            return MethodType(self, instance)  # type: ignore[arg-type]
        if id(instance) not in self._bound:
            try:
                reference: Any = weakref.ref(
                    instance, functools.partial(_forget, self._bound, id(instance))
                )
            except TypeError:  # it has __slots__; then it is kept
                reference = functools.partial(_identity, instance)
            method = _Method(self._fun, reference)
            self._bound[id(instance)] = JitFunction(method, name=self._name, **self._of_method)
        return _Bound(self._bound[id(instance)], instance)

    @property
    def states(self) -> TouchedStates:
        """The states that the function was found to read and to write, so far."""
        read = dict.fromkeys(cell for program in self._programs for cell in program.touched)
        written = dict.fromkeys(cell for program in self._programs for cell in program.written)
        return TouchedStates(tuple(read), tuple(written))

    @user_facing
    def _call(self, /, *args: Any, **kwargs: Any) -> Any:
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            captured = capture(self._fun, args, kwargs, frozen=states_in(args, kwargs))
            captured.writes.commit()
            return captured.out
        return self._finished(*self._prepared(args, kwargs))

    def _install(self, call: Callable[..., Any]) -> None:
        self.__call__ = call

    def _start_again(self, args: Any, kwargs: Any, undeclared: Undeclared | None) -> Any:
        return self._finished((None, *args), kwargs, undeclared)

    def _finished(self, args: Any, kwargs: Any, undeclared: Undeclared | None = None) -> Any:
        program, result = self._settle(
            args, kwargs, lambda program, _: program.run(args, kwargs), undeclared
        )
        is_only = all(other is program or not other.holds() for other in self._serving())
        # A program that takes values by themselves is for frames, where calls go this way.
        is_plain = program.is_plain and is_only and not self.lends and not program.is_for_frames
        self.__call__ = self._call
        if is_plain:
            dispatch(program, self._static, self._call, self._start_again, self._install)
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
        program, traced = self._look(args, kwargs)
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
        program, traced = self._look(args, kwargs)
        return unmixed(split_result(traced.out_info, program.outs)[0])

    def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, Any]:
        args, kwargs = self._prepared(args, kwargs)
        return self._settle(
            args, kwargs, lambda program, traced: traced or _traced(program, args, kwargs)
        )

    def clear_cache(self) -> None:
        """Forgets all traces and compiled programs."""
        for program in self._programs:
            program.staged.clear_cache()
        self._programs.clear()
        self._guard.clear()
        self.__call__ = self._call

    def _prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        lent = None
        if args and self.lends:
            lent, rest = self._donation.halves(args[0])
            lent, args = mixed(lent, lambda: "argument 0"), (rest, *args[1:])
        positional, named = prepared(args, kwargs, self._static, apart)
        return (lent, *positional), named

    def restore(self, args: Any, kwargs: Any) -> tuple[Callable[..., Any], Any, Any]:
        """Returns the function to run, and its arguments as the caller gave them."""
        lent, *positional = map(unmixed, args)
        if lent is not None:
            positional[0] = combine(lent, positional[0])
        return self._fun, tuple(positional), {name: unmixed(arg) for name, arg in kwargs.items()}

    def stage(self, pure: Callable[..., Any], donated: int, taken: int) -> Any:
        """Stages a pure function by `jax.jit`; see `_program.Host`."""

        def staged(*args: Any, **kwargs: Any) -> Any:
            return pure(*args, **kwargs)

        # What JAX's messages call the program, and what is given to it.
        staged.__name__ = getattr(self._fun, "__name__", type(self._fun).__name__)
        staged.__signature__ = _signature(taken, self.lends)  # type: ignore[attr-defined]
        lent = (taken,) if self.lends else ()
        args = (number + taken + len(lent) for number in self._donated_args)
        return jax.jit(staged, donate_argnums=(*range(donated), *lent, *args), **self._options)

    def on_trace(self, program: Program, args: Any) -> None:
        """Counts the traces, and refuses one too many."""
        self._guard.count(repr(self), *args)

    def _settle(
        self,
        args: Any,
        kwargs: Any,
        run: Callable[[Program, Any], Any],
        undeclared: Undeclared | None = None,
    ) -> tuple[Program, Any]:
        """Runs a program that takes all states that the function touches.

        Args:
            args: The arguments, prepared.
            kwargs: The keyword arguments, prepared.
            run: What to do with the program, given its trace too, if it has just been traced.
            undeclared: What came of an attempt that has been made.

        Returns:
            The program, and what came of running it.
        """
        program = self._known(args, kwargs)
        cells: list[State] | None = None
        for _ in range(_MOST_ATTEMPTS):
            if undeclared is not None:
                if getattr(undeclared.owner, "host", None) is not self:
                    raise undeclared
                program, cells, undeclared = None, list(undeclared.cells), None
                self._guard.take_back()
            try:
                traced = None
                if program is None:
                    program, traced = self._first(cells, args, kwargs)
                return program, run(program, traced)
            except Undeclared as error:
                undeclared = error
        raise SelectionError(
            explain(
                f"asked {self._name} for the states that {self._fun!r} touches",
                f"they were others each time that it was traced, {_MOST_ATTEMPTS} times",
                "make states before the call, not anew in each",
            )
        )

    def _known(self, args: Any, kwargs: Any) -> Program | None:
        """Finds the program that has been made for such arguments, or that may do for them."""
        holding = [program for program in self._serving() if program.holds()]
        if len(holding) > 1:
            signature = signature_of((args, kwargs))
            for program in holding:
                if signature in program.signatures:
                    return program
        return holding[-1] if holding else None

    def _packs(self) -> bool:
        """Says whether states may be packed here. In a frame each has a value by itself."""
        return not self._packing.is_empty and active_frame.get() is None

    def _serving(self) -> list[Program]:
        """Lists the programs for calls from here, in a frame or outside of all."""
        if self._packing.is_empty:
            return self._programs
        if self._packs():
            return [program for program in self._programs if not program.is_for_frames]
        return [program for program in self._programs if not program.blocks]

    def _first(self, cells: list[State] | None, args: Any, kwargs: Any) -> tuple[Program, Any]:
        """Makes a program, by tracing the function with states that are believed to do.

        Gives the trace beside it, if the program is the one that was traced.
        """
        if cells is None:
            roots = [self._fun, *constants(args, kwargs)]
            found = dict.fromkeys(reachable(roots))
            for known in self._programs if self._packs() else ():
                found |= known.touched  # it may have been made for other shapes of the same
            cells = [cell for cell in found if is_alive(cell)]
        probe = Program(self, (), cells)
        traced = _traced(probe, args, kwargs)
        donated = {cell: None for cell in probe.written if cell in self._donation}
        packed = [cell for cell in probe.written if cell in self._packing]
        is_for_frames = len(packed) > 1 and not self._packs()
        kept = [cell for cell in cells if cell in probe.touched and cell not in donated]
        packed = packed if self._packs() else []
        lost, taken = boxes(list(donated), packed), boxes(kept, packed)
        if not lost and taken == cells:
            program = probe
        else:
            replay = Replay(probe, traced, (args, kwargs))
            program = Program(self, lost, taken, replay)
        program.is_for_frames = is_for_frames
        if probe.can_raise or can_raise(traced.jaxpr):
            program.expect_errors()
        self._programs = [*self._programs[1 - _MOST_PROGRAMS :], program]
        return program, traced if program is probe else None

    def _reachable(self) -> list[Any]:
        return [self._fun]

    def __getstate__(self) -> dict[str, Any]:
        # What was compiled can't be taken along; it is made anew.
        return {**vars(self), "_programs": [], "_bound": {}}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)
        self.__call__ = self._call


def _signature(states: int, lends: bool) -> inspect.Signature:
    """Returns the signature of a function of so many states, what is lent, and any arguments."""
    first = [*(f"state_{number}" for number in range(states)), *(["lent"] if lends else [])]
    args = inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)
    kwargs = inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)
    return inspect.Signature(
        [*(inspect.Parameter(name, args.POSITIONAL_ONLY) for name in first), args, kwargs]
    )


def _traced(program: Program, args: Any, kwargs: Any) -> Any:
    return program.staged.trace(*program.inputs(args), **kwargs)


class _Method:
    """A method of an object that it doesn't keep alive."""

    def __init__(self, function: Callable[..., Any], instance: Callable[[], Any]):
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._instance = instance
        self.__signature__ = _without_self(function)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._function(self._instance(), *args, **kwargs)

    def _reachable(self) -> list[Any]:
        return [self._instance(), self._function]


class _Bound:
    """A compiled method together with its object, which it keeps alive."""

    def __init__(self, function: JitFunction, instance: Any):
        functools.update_wrapper(self, function, updated=())  # type: ignore[arg-type]
        self._bound_function = function
        self.__self__ = instance

    @property
    def __call__(self) -> Callable[..., Any]:
        """Calls the method."""
        return self._bound_function.__call__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound_function, name)

    def _reachable(self) -> list[Any]:
        return [self.__self__, self._bound_function]


def _without_self(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _identity(instance: Any) -> Any:
    return instance


def _after_self(argnums: frozenset[int]) -> tuple[int, ...]:
    """Positions of a method's arguments, as its bound form counts them."""
    return tuple(sorted(number - 1 for number in argnums if number))


def _forget(bound: dict[int, Any], key: int, _: weakref.ref) -> None:
    bound.pop(key, None)


@user_facing
def jit(
    fun: Callable[..., Any] | None = None,
    *,
    static_argnums: Any = None,
    static_argnames: Any = None,
    donate_argnums: Any = None,
    donate_argnames: Any = None,
    donate_states: Any = None,
    pack_states: Any = None,
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

    Several steps in one call cost one dispatch: ``jit(lambda *batches: for_loop(step, *batches))``
    for batches that are stacked. Threads that call functions which write the same states at once
    need a lock of their own, as for any object.

    Where many states hold a few numbers each, and the program is called again and again,
    `pack_states` makes a call faster, since it passes one array where there were many: on a CPU,
    a step over states of four numbers took half of the time for a hundred of them, and a
    twentieth for a thousand. What the function writes is packed, where a state holds one array
    on one device; keys, trees and states that are only read stay as they are, and so does a
    state with no other of its dtype (weak types count as others). A value that is read between
    calls is cut out of the array; before a state is assigned, or another program takes it, all
    are, and the next call puts them together again. Where all values are wanted between any two
    calls, that costs more than it saves. Nor is it for models with large arrays: a call copies
    their values, which donation doesn't do. And the program takes longer to compile: several
    times as long, for a thousand states. Packing and donation go together; what was read of a
    state before a call then stays good. Inside of other transforms nothing is packed.

    Args:
        fun: The function, or a method. Left out, `jit` gives a decorator.
        static_argnums: Positions of arguments that are part of the program; hashable ones.
        static_argnames: Their names.
        donate_argnums: Positions of arguments whose memory the program may reuse.
        donate_argnames: Their names.
        donate_states: States whose memory the program may reuse, if it writes them: True for
            all, or a lens in any form. Their old values, and other names for these arrays,
            are deleted by a call, even if the program fails while it runs.
        pack_states: States to keep in one array for each dtype between calls, if it writes
            them: True for all, or a lens in any form. For many small ones; see above.
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

        Many small states in a loop are passed as one array:

        >>> states = [sl.State(jnp.zeros(2)) for _ in range(300)]
        >>> @sl.jit(pack_states=True)
        ... def advance():
        ...     for state in states:
        ...         state.value += 1
        >>> for _ in range(10):
        ...     advance()
        >>> states[4].value
        Array([10., 10.], dtype=float32)
    """
    make = functools.partial(
        JitFunction,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
        donate_argnums=donate_argnums,
        donate_argnames=donate_argnames,
        donate_states=donate_states,
        pack_states=pack_states,
        inline=inline,
        keep_unused=keep_unused,
        max_traces=max_traces,
    )
    return make if fun is None else make(fun)
