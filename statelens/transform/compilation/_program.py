"""Programs: functions staged by JAX with the states that they touch as inputs.

Which states those are is known after a first trace. If that trace was given states that the
function doesn't touch, or if states are to be donated (which has to be said before), a second
program is made that repeats the equations of the first one; the function isn't run again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import starmap
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import jax
import jax.core
import jax.extend.core
from jax.tree_util import treedef_is_leaf

from ..._tree import TreeDef, is_key
from ...state import (
    TOP,
    Reads,
    State,
    Writes,
    active_frame,
    copied,
    current_trace,
    has_tracers,
    peek,
    record_reads,
    store_all,
    this_thread,
)
from .._core import (
    PROGRAM_ERRORS,
    Partitioned,
    Taken,
    UndeclaredStates,
    as_partitioned,
    can_raise,
    commit,
    field_names,
    follow,
    merge_output,
    merge_static,
    raise_failed_check,
    refuse_shared_arrays,
    run,
    split_items,
    split_writes,
)
from ._arguments import Inputs, Signature, input_of, lay_out, signature_of

if TYPE_CHECKING:
    from ._jitted import JitFunction


class Layout(NamedTuple):
    """How what a staged function gives is laid out: in tuples of arrays, which C receives alone.

    Attributes:
        cells: The states that it has written.
        touched: Those that its trace has touched.
        statics: For each of their values that isn't one array, the static half; it is given as
            the list of the dynamic leaves.
        impls: For each leaf that is a random key given as numbers, what kind of key it is.
        treedef: The structure of the output.
        is_array: Whether that is one array.
    """

    cells: tuple[State, ...]
    touched: tuple[State, ...]
    statics: dict[int, Any]
    impls: dict[int, Any]
    treedef: TreeDef
    is_array: bool


class Program:
    """A function staged with states as inputs.

    Attributes:
        donated: The states whose buffers the program may reuse.
        kept: The other states that it takes.
        taken: Both, in this order.
        touched: The states that the function was found to touch.
        written: Those of them that it wrote.
        staged: The staged function of `Inputs`. It gives the output, the values that were written,
            and as many times None as there are layouts before theirs in `layouts`: the states
            themselves, in an output's structure, would be kept alive by JAX's caches.
        layouts: How its traces have laid out what they give.
        reads: What the function has read of mutable modules.
        signatures: What it was traced for, by the arguments alone, with weak structures.
        can_raise: Whether it may raise an error while it runs.
        undeclared: What to raise once the first trace is over, if that met other states.
        host: Whose function it is.
    """

    def __init__(
        self,
        host: "JitFunction[Any, Any]",
        donated: Iterable[State],
        kept: Iterable[State],
        replay: "Replay | None" = None,
    ):
        self.donated: tuple[State, ...] = tuple(donated)
        self.kept: tuple[State, ...] = tuple(kept)
        self.taken: tuple[State, ...] = (*self.donated, *self.kept)
        self.touched: dict[State, None] = {}
        self.written: dict[State, None] = {}
        self.signatures: set[Signature] = set()
        self.layouts: list[Layout] = []
        self.can_raise: bool = False
        self.checks: dict[Any, None] = {}
        self.host = host
        self.reads: Reads = Reads() if replay is None else replay.reads
        self.undeclared: UndeclaredStates | None = None
        self._is_probe = replay is None
        self._replay = replay
        # While a call runs that donates: what it has to give back if it is cut short.
        self._backup: list[Any] | None = None
        # Whether it was traced since it was last looked for callbacks.
        self._is_new_trace = False
        self.staged: Any = host.stage(self._pure, bool(self.donated))

    @property
    def is_plain(self) -> bool:
        """Whether it can't raise, and no trace but its own can be in what it takes."""
        return not self.can_raise and not any(cell.is_of_a_trace for cell in self.taken)

    def inputs(self, args: Any, kwargs: Any) -> Inputs:
        """Returns what the staged function is called with, for split arguments."""
        if this_thread.lendings:
            this_thread.check(self.taken)
        donated, kept = (
            tuple([input_of(peek(cell), cell) for cell in cells])
            for cells in (self.donated, self.kept)
        )
        return lay_out(donated, kept, args, kwargs, self.host.donated_args)

    def call(self, inputs: tuple[Any, ...], staged: Callable[..., Any] | None = None) -> Any:
        """Calls the staged function, or a later stage of it; what it donates is never lost."""
        fun = self.staged if staged is None else staged
        if not self.donated:
            return fun(*inputs)
        if self._is_pending or current_trace() != TOP:
            # Tracers too: what a derivative traces has the state's own array in it.
            states = jax.tree.map(copied, inputs[0].states)
            inputs = inputs[0]._replace(states=states), *inputs[1:]
        if self._is_pending:
            return self._with_keys(fun(*inputs))
        results: list[Any] = []
        self._backup = []
        try:
            # One call of C, which receives the result too: no interrupt comes in between.
            results.extend(starmap(fun, (inputs,)))
            if self._backup:
                self.look_for_callbacks(inputs)
                jax.block_until_ready(results if self.can_raise else ())
            given = self._keep_concrete(results)
        except BaseException:
            if self._backup and any(map(_is_deleted, jax.tree.leaves(inputs[0].states))):
                store_all(self.donated, self._backup)
            else:
                self._keep_concrete(results)
            raise
        self._backup = None
        return given[0]

    def _keep_concrete(self, results: list[Any]) -> list[Any]:
        given = list(map(self._with_keys, results))
        for result in given:
            if not has_tracers(result[1]):
                self.keep(result)
        return given

    def _with_keys(self, result: tuple[Any, ...]) -> tuple[Any, ...]:
        """Makes random keys again of their numbers."""
        impls = self._layout(result).impls
        if not impls:
            return result
        leaves, treedef = jax.tree.flatten(result)
        for place, impl in impls.items():
            leaves[place] = _wrap_key_data(leaves[place], impl=impl)
        return treedef.unflatten(leaves)

    @property
    def _is_pending(self) -> bool:
        """Whether what a call writes is stored later, or dropped."""
        # What lies outside of a frame must survive if its writes are dropped, and what there was
        # before a failed check.
        return active_frame.get() is not None or self.can_raise

    def _back_up(self) -> None:
        """Copies what is going to be donated, if a running call traces the program."""
        # From here to the end of the first run it is Python that receives what is computed.
        if self._backup is not None:
            with jax.ensure_compile_time_eval():
                self._backup = [jax.tree.map(copied, peek(cell)) for cell in self.donated]

    def keep(self, result: tuple[Any, ...]) -> None:
        """Stores what was written in the states themselves."""
        layout = self._layout(result)
        # Most values are one array each, and lie there as they are stored.
        values = self.writes(result).values if layout.statics else result[1]
        store_all(layout.cells, values)

    def expect_errors(self, checks: Iterable[Any]) -> None:
        """Notes that the program may raise an error while it runs."""
        self.can_raise = True
        self.checks.update(dict.fromkeys(checks))

    def look_for_callbacks(self, inputs: tuple[Any, ...], traced: Any = None) -> None:
        """Looks whether the last trace, for these inputs, calls back into Python."""
        is_new, self._is_new_trace = self._is_new_trace, False
        if is_new and not self.can_raise:
            traced = traced or self.staged.trace(*inputs)
            if can_raise(traced.jaxpr):
                self.expect_errors(())

    def is_current(self) -> bool:
        """Says whether all that the program has taken over from modules is what it was."""
        return self.reads.attributes_unchanged() and self.reads.containers_unchanged()

    def run(self, args: Any, kwargs: Any, staged: Callable[..., Any] | None = None) -> Any:
        """Runs the staged function, or one of its later stages; nothing is committed yet."""
        inputs = self.inputs(args, kwargs)
        try:
            result = self.call(inputs, staged)
            self.look_for_callbacks(inputs)
            return jax.block_until_ready(result) if self.can_raise else result
        except PROGRAM_ERRORS as error:
            self.reraise(error, args, kwargs)

    def reraise(self, error: Exception, args: Any, kwargs: Any) -> NoReturn:
        """Raises what came of running the program as the caller should see it."""
        raise_failed_check(error, self.checks)
        if self.donated or self.host.donated_args:
            refuse_shared_arrays(self._taken(args, kwargs))
        raise error

    def _taken(self, args: Any, kwargs: Any) -> Iterator[Taken]:
        by_option = ("donate_states", self.donated), (None, self.kept)
        for option, cells in by_option:
            yield from (Taken(repr(cell), peek(cell), option) for cell in cells)
        # What is lent of the first argument comes before it.
        lends = self.host.donates_part
        for label, value in (*enumerate(args), *kwargs.items()):
            own = max(label - lends, 0) if isinstance(label, int) else label
            is_donated = label in self.host.donated_args
            option = (
                "donate_states" if lends and label == 0 else "donate_argnums or donate_argnames"
            )
            yield Taken(f"argument {own!r}", merge_static(value), option if is_donated else None)

    def finish(self, result: Any) -> Any:
        """Commits what a call has written, and gives what it has returned."""
        # Before anything is committed: nodes of other libraries may refuse to be made.
        out = merge_output(self.output(result))
        record_reads(self.taken)
        frame = active_frame.get()
        if frame is not None:
            for cell in self._layout(result).touched:
                frame.touch(cell)
            if frame.reads is not None:
                frame.reads.update(self.reads)
            if self.can_raise:
                frame.expect_errors(self.checks)
        if frame is None and not has_tracers(result[1]):
            # Whatever transform of JAX is running, the program has run, and just once. Values
            # are merged when someone looks at them.
            self.keep(result)
        else:
            commit(None, self.writes(result))
        return out

    def output(self, result: tuple[Any, ...]) -> Any:
        """Returns what the function has returned, still split."""
        layout = self._layout(result)
        return result[0] if layout.is_array else layout.treedef.unflatten(result[0])

    def writes(self, result: tuple[Any, ...]) -> Writes:
        """Returns what the function has written, still split."""
        layout, values = self._layout(result), result[1]
        if layout.statics:
            split = list(values)
            for place, static in layout.statics.items():
                split[place] = Partitioned(split[place], static)
            values = tuple(split)
        return Writes(layout.cells, values)

    def _layout(self, result: tuple[Any, ...]) -> Layout:
        return self.layouts[len(result) - 2]

    def _pure(self, *given: Any) -> Any:
        self._back_up()
        inputs = Inputs(*given)
        args, kwargs = inputs.arguments(self.host.donated_args)
        values = dict(zip(self.taken, inputs.values, strict=True))
        # Once: a later trace may be one in another context, of other settings of JAX.
        replay, self._replay = self._replay, None
        is_staged = not jax.config.jax_disable_jit  # type: ignore[attr-defined]
        if is_staged and replay is not None and replay.fits(values, (args, kwargs)):
            out, writes = replay(values, args, kwargs)
            return self._result(out, replay.touched, writes, args, kwargs)
        fun, restored_args, restored_kwargs = self.host.restore(args, kwargs)
        self.host.on_trace(self, (values, restored_args, restored_kwargs))
        captured = run(fun, restored_args, restored_kwargs, values=values, reads=self.reads)
        nodes = *self.touched, *captured.touched, *self.reads.nodes
        roots = [lambda: fun, *self.reads.roots]
        met = [root() for root in roots]
        self.reads.finish_trace(captured.touched, lambda: field_names((*met, *nodes)))
        self.reads.follow(roots, follow(set(map(id, nodes)), met))
        self._is_new_trace = True
        touched = captured.closed_over
        if not values.keys() >= set(touched) or not set(self.donated) <= set(captured.writes.cells):
            undeclared = UndeclaredStates(self.host, touched)
            if self.layouts or not self._is_probe:
                raise undeclared
            # JAX keeps what a trace has closed over for ever if an exception ends it.
            self.undeclared = undeclared
            return ()
        if captured.can_raise:
            self.expect_errors(captured.checks)
        out = split_items(captured.out, lambda: "the output")
        writes = split_writes(captured.writes, as_partitioned)
        return self._result(out, touched, writes, args, kwargs)

    def _result(self, out: Any, touched: Iterable[State], writes: Writes, *args: Any) -> Any:
        self.reads.stamp = object()  # callers that know an earlier trace look again
        self.signatures.add(signature_of(args).weak)
        touched = tuple(touched)
        self.touched |= dict.fromkeys(touched)
        self.written |= dict.fromkeys(writes.cells)
        values, statics = list(writes.values), {}
        for place, value in enumerate(values):
            if isinstance(value, Partitioned):
                values[place], statics[place] = value.dynamic, value.static
        leaves, treedef = jax.tree.flatten(out)
        is_one = bool(leaves) and treedef_is_leaf(treedef)
        given, impls = (leaves[0] if is_one else tuple(leaves), tuple(values)), {}
        if self.donated:
            # JAX makes keys in Python: an interrupt there would lose all that a call gives.
            flat, structure = jax.tree.flatten(given)
            impls = {place: jax.random.key_impl(x) for place, x in enumerate(flat) if is_key(x)}
            raw = [jax.random.key_data(x) if n in impls else x for n, x in enumerate(flat)]
            given = structure.unflatten(raw)
        layout = Layout(writes.cells, touched, statics, impls, treedef, is_one)
        if layout not in self.layouts:
            self.layouts.append(layout)
        return *given, *(None,) * self.layouts.index(layout)


class Replay:
    """A trace that one program has made, for another one to repeat.

    Attributes:
        touched: The states that the function touched in it.
        reads: What the function has read of mutable modules.
    """

    def __init__(self, program: Program, traced: Any, args: Any):
        self.touched: tuple[State, ...] = tuple(program.touched)
        self.reads: Reads = program.reads
        self._cells = program.taken
        self._donated_args = program.host.donated_args
        values = program.inputs(*args).values
        self._signatures = {
            cell: signature_of(value) for cell, value in zip(self._cells, values, strict=True)
        }
        self._signature = signature_of(args)
        self._run = jax.extend.core.jaxpr_as_fun(traced.jaxpr)
        self._out_tree = jax.tree.structure(traced.out_info)
        self._program = program

    def fits(self, values: Mapping[State, Any], args: Any) -> bool:
        """Says whether a trace with these values and arguments would be the same."""
        return signature_of(args) == self._signature and all(
            signature_of(value) == self._signatures[cell] for cell, value in values.items()
        )

    def __call__(self, values: Mapping[State, Any], args: Any, kwargs: Any) -> tuple[Any, Writes]:
        """Repeats the trace; gives its output and what it wrote."""
        inputs = lay_out((), (), args, kwargs, self._donated_args)
        leaves = jax.tree.leaves(inputs.donated)
        for cell in self._cells:
            # No result depends on the others, but a compiled function in it may take them.
            leaves += jax.tree.leaves(values[cell]) if cell in values else self._zeros(cell)
        leaves += jax.tree.leaves((inputs.args, inputs.kwargs))
        result = self._out_tree.unflatten(self._run(*leaves))
        return self._program.output(result), self._program.writes(result)

    def _zeros(self, cell: State) -> list[Any]:
        return [jax.numpy.zeros(leaf.shape, leaf.dtype) for leaf in self._signatures[cell].types]


# Compiled, so that an interrupt meets none of JAX's own Python, which it may leave in pieces.
_wrap_key_data = jax.jit(jax.random.wrap_key_data, static_argnames="impl", inline=True)


def _is_deleted(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not has_tracers(leaf) and leaf.is_deleted()
