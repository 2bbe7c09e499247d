"""`JitFunction`: a compiled function, with a program for each set of states that it touches.

A first call traces the function, finds the states that it touches, and makes a program that
takes them. Later calls find the program again; as long as one is all that they need, they go
through `_dispatch`.
"""

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Self, TypeVar, overload

import jax

from ..._errors import check_callable, user_facing
from ..._tree import is_key
from ...lens import combine
from ...state import State, is_alive, peek
from .._core import (
    Arguments,
    Choice,
    after_self,
    as_partitioned,
    constants,
    innermost,
    is_closed_over,
    labels_of,
    merge_arguments,
    merge_static,
    parse_arguments,
    parse_count,
    reachable,
    retry,
    run_and_commit,
    split_arguments,
    split_items,
)
from ._ahead_of_time import AheadOfTime
from ._arguments import InputSignature, signature_of
from ._dispatch import Dispatch
from ._methods import BoundMethod, Method
from ._program import Program, Replay
from ._shardings import Shardings
from ._trace_guard import TraceGuard


class TouchedStates(NamedTuple):
    """What a compiled function does with states, as far as it has been traced.

    Attributes:
        read: The states that it touches; they are inputs of its programs.
        written: Those that it writes; they are outputs.
    """

    read: tuple[State, ...]
    written: tuple[State, ...]


_MOST_PROGRAMS = 64


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
Q = ParamSpec("Q")
T = TypeVar("T")


class JitFunction(Generic[P, R]):
    """A function compiled by `jax.jit`, aware of states; `jit` makes it."""

    # Replaced by a dispatch once one program serves all calls: a method that passes its
    # arguments on would take as long as all that it would pass them to.
    __call__: Callable[P, R]
    __slots__ = ("__call__", "__dict__", "__weakref__")

    def __init__(
        self,
        fun: Callable[P, R],
        *,
        name: str = "jit",
        static_argnums: Any = None,
        static_argnames: Any = None,
        donate_argnums: Any = None,
        donate_argnames: Any = None,
        donate_states: Any = None,
        in_shardings: Any = None,
        out_shardings: Any = None,
        max_traces: int | None = None,
        **options: Any,
    ):
        self._name = name
        self._fun = check_callable(fun, "fun", name)
        self._static = parse_arguments(fun, static_argnums, static_argnames, "static", name)
        donated = parse_arguments(fun, donate_argnums, donate_argnames, "donate", name)
        self._shardings: Shardings | None = None
        if in_shardings is not None or out_shardings is not None:
            self._shardings = Shardings(in_shardings, out_shardings, name)
        self._of_method = {
            "static_argnums": after_self(self._static),
            "static_argnames": static_argnames,
            "donate_argnums": after_self(donated),
            "donate_argnames": donate_argnames,
            "donate_states": donate_states,
            "max_traces": max_traces,
            **(self._shardings.of_method if self._shardings else {}),
            **options,
        }
        self._options = options
        self._donation = Choice(donate_states, "donate_states", name)
        # Whether the first of the split arguments is what is lent of the user's first.
        self.donates_part: bool = self._donation.selector is not None
        # Of the split arguments, what is lent being the first.
        lent = {0} if self.donates_part else set[int]()
        own = {n + len(lent) if isinstance(n, int) else n for n in donated}
        self.donated_args: frozenset[int | str] = frozenset(lent | own)
        most = parse_count(max_traces, "max_traces", name)
        # Whether arrays go to a program as they are; of others it has to be looked which.
        self.takes_arrays: bool = not (
            self._static or self.donated_args or in_shardings is not None
        )
        self._guard = None if most is None else TraceGuard(most)
        self._programs: list[Program] = []
        self.__call__ = self._call
        self._bound: dict[int, JitFunction] = {}
        functools.update_wrapper(self, fun, updated=())  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"{self._name}({getattr(self._fun, '__name__', self._fun)!s})"

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: "JitFunction[Concatenate[S, Q], R]", instance: S, owner: type | None = None
    ) -> "JitFunction[Q, R]": ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Binds a method.

        A mutable object is closed over by the compiled function, as its states are; an
        immutable pytree, such as an Equinox module, is its first argument.
        """
        if instance is None:
            return self
        if not is_closed_over(instance):
            return MethodType(self, instance)  # type: ignore[arg-type]
        key, bound = id(instance), self._bound
        if key not in bound:
            # In C, as all that is called when something ends: there an interrupt would be lost.
            method = Method(self._fun, instance, functools.partial(bound.pop, key))
            bound[key] = JitFunction(method, name=self._name, **self._of_method)
        return BoundMethod(bound[key], instance)

    @property
    def states(self) -> TouchedStates:
        """The states that the function was found to read and to write, so far."""
        read = dict.fromkeys(cell for program in self._programs for cell in program.touched)
        written = dict.fromkeys(cell for program in self._programs for cell in program.written)
        return TouchedStates(tuple(read), tuple(written))

    @user_facing
    def _call(self, /, *args: Any, **kwargs: Any) -> Any:
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return run_and_commit(self._fun, args, kwargs)
        return self._discover_and_run(self.split(args, kwargs))

    def _discover_and_run(self, split: Arguments, cells: tuple[State, ...] | None = None) -> Any:
        args, kwargs = split
        program, result = self._discover(
            args, kwargs, lambda program, _: program.run(args, kwargs), cells
        )
        # Two programs that are both current differ by arguments: which one is looked up each time.
        is_only = all(other is program or not other.is_current() for other in self._programs)
        self.__call__ = self._call
        if program.is_plain and is_only and program.is_current():
            dispatch = Dispatch(program, self._call, self._discover_and_run)
            self.__call__ = dispatch.call
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
        program, traced = self._program_and_trace(args, kwargs)
        return AheadOfTime(traced, program, self.split, repr(self))

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
        program, traced = self._program_and_trace(args, kwargs)
        return merge_static(program.output(traced.out_info))

    def _program_and_trace(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Program, Any]:
        args, kwargs = self.split(args, kwargs)
        return self._discover(
            args, kwargs, lambda program, traced: traced or _traced(program, args, kwargs)
        )

    def clear_cache(self) -> None:
        """Forgets all traces and compiled programs."""
        for program in self._programs:
            program.staged.clear_cache()
        self._programs.clear()
        if self._guard is not None:
            self._guard.clear()
        self.__call__ = self._call

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Gives arguments as a program takes them: placed, what is lent of the first, and split."""
        if self._shardings is not None:
            args = self._shardings.place(args)
        if not self.donates_part:
            return split_arguments(args, kwargs, self._static, split_items)
        lent = None
        if args:
            lent, rest = self._donation.halves(args[0])
            args = rest, *args[1:]
        positional, named = split_arguments(args, kwargs, self._static, split_items)
        return (as_partitioned(lent, lambda: "argument 0"), *positional), named

    def restore(self, args: Any, kwargs: Any) -> tuple[Callable[..., Any], Any, Any]:
        """Returns the function to run, and its arguments as the caller gave them."""
        positional, named = merge_arguments(args, kwargs)
        if self.donates_part:
            lent, *rest = positional
            if lent is not None:
                rest[0] = combine(lent, rest[0])
            positional = tuple(rest)
        fun = self._shardings.constrained(self._fun) if self._shardings else self._fun
        return fun, positional, named

    def stage(self, pure: Callable[..., Any], donates: bool) -> Any:
        """Stages a pure function of `Inputs`, one by one, by `jax.jit`."""

        def staged(*inputs: Any) -> Any:
            return pure(*inputs)

        # What JAX's messages call the program, where they say it is, and what is given to it.
        staged.__wrapped__ = innermost(self._fun)  # type: ignore[attr-defined]
        staged.__name__ = getattr(self._fun, "__name__", type(self._fun).__name__)
        staged.__signature__ = InputSignature(self._fun, self.donated_args, self.donates_part)  # type: ignore[attr-defined]
        # Said only where there is something: of a function that donates, JAX keeps for long all
        # structures that it was given, and what is static in them.
        donated = 0 if donates or self.donated_args else ()
        return jax.jit(staged, donate_argnums=donated, **self._options)

    def on_trace(self, program: Program, args: Any) -> None:
        """Counts the traces, and refuses one too many, before the function is run."""
        if self._guard is not None:
            reads = [known.reads for known in self._programs if known is not program]
            labels = functools.partial(labels_of, self._fun)
            self._guard.count(repr(self), *args, labels=labels, reads=reads)

    def _discover(
        self,
        args: Any,
        kwargs: Any,
        run: Callable[[Program, Any], T],
        cells: tuple[State, ...] | None = None,
    ) -> tuple[Program, T]:
        """Runs a program that takes all states that the function touches.

        Args:
            args: The arguments, split.
            kwargs: The keyword arguments, split.
            run: What to do with the program, given its trace too, if it has just been traced.
            cells: The states that an attempt has met, if one was made.

        Returns:
            The program, and what came of running it.
        """

        def attempt(cells: tuple[State, ...] | None) -> tuple[Program, T]:
            program, traced = self._known(args, kwargs) if cells is None else None, None
            if cells is not None and self._guard is not None:
                self._guard.take_back()
            if program is None:
                program, traced = self._first(cells, args, kwargs)
            return program, run(program, traced)

        asked = f"asked {self._name} for the states that {self._fun!r} touches"
        return retry(attempt, self, asked, "traced", cells)

    def _known(self, args: Any, kwargs: Any) -> Program | None:
        """Finds the program that has been made for such arguments, or that may do for them."""
        current = [program for program in self._programs if program.is_current()]
        if len(current) < 2:
            return current[0] if current else None
        signature = signature_of((args, kwargs))
        return next((known for known in current if signature in known.signatures), current[-1])

    def _first(
        self, cells: tuple[State, ...] | None, args: Any, kwargs: Any
    ) -> tuple[Program, Any]:
        """Makes a program, by tracing the function with states that are believed to do.

        Gives the trace beside it, if the program is the one that was traced.
        """
        if cells is None:
            roots = [self._fun, *constants(args, kwargs)]
            cells = tuple([cell for cell in reachable(roots) if is_alive(cell)])
        program = probe = Program(self, (), cells)
        traced = _traced(probe, args, kwargs)
        if probe.undeclared is not None:
            raise probe.undeclared
        probe.look_for_callbacks((), traced)
        if self.donates_part:
            self._donation.refuse_unmatched(self.restore(args, kwargs)[1], probe.touched)
        donated: list[State] = []
        # A check that fails must leave the values that there were.
        if not self._donation.is_empty and not probe.can_raise:
            # A program gives keys as numbers, which don't fit where a key was.
            donated = [
                cell
                for cell in probe.written
                if cell in self._donation and not any(map(is_key, jax.tree.leaves(peek(cell))))
            ]
        kept = tuple(cell for cell in cells if cell in probe.touched and cell not in donated)
        # Inside of another trace, whose values it may close over, a second one gains nothing.
        if (donated or kept != cells) and _is_closed(traced):
            program = Program(self, donated, kept, Replay(probe, traced, (args, kwargs)))
        if probe.can_raise:
            program.expect_errors(probe.checks)
        # What leads elsewhere hardly leads back, and what it led to may be let go.
        known = [each for each in self._programs if each.reads.leads_to_the_same()]
        self._programs = [*known[1 - _MOST_PROGRAMS :], program]
        program.reads.on_end = functools.partial(self._forget, program)
        return program, traced if program is probe else None

    def _forget(self, program: Program) -> None:
        """Lets a program go that can't be called again, with the states that it takes."""
        if self._guard is not None:
            self._guard.remember(program.reads.changes())
        self._programs = [known for known in self._programs if known is not program]
        self.__call__ = self._call

    def _reachable(self) -> list[Any]:
        return [self._fun]

    def __getstate__(self) -> dict[str, Any]:
        # What was compiled can't be taken along; it is compiled again.
        guard = None if self._guard is None else TraceGuard(self._guard.most)
        return {**vars(self), "_programs": [], "_bound": {}, "_guard": guard}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)
        self.__call__ = self._call


def _is_closed(traced: Any) -> bool:
    """Says whether a trace takes its inputs only, and no values of an enclosing trace."""
    return len(jax.tree.leaves(traced.args_info)) == len(traced.jaxpr.in_avals)


def _traced(program: Program, args: Any, kwargs: Any) -> Any:
    return program.staged.trace(*program.inputs(args, kwargs))
