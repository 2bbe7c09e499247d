"""Programs: functions staged by JAX with the states that they touch as inputs.

Which states those are is known after a first trace. If that trace was given states that the
function doesn't touch, or if states are to be donated (which has to be said before), a second
program is made that repeats the equations of the first one; the function isn't run again.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

import jax
import jax.core
import jax.extend.core
import jax.tree_util as jtu

from ..._tree import TreeDef, is_array
from ...state import (
    Reads,
    State,
    Writes,
    active_frame,
    capture,
    concrete_types,
    epoch,
    has_tracers,
    store_all,
)
from .._core import (
    PROGRAM_ERRORS,
    Partitioned,
    UndeclaredStates,
    as_partitioned,
    forget_errors,
    has_modules,
    merge_static,
    refuse_shared_arrays,
    reraise,
    split_static,
    staged_writes,
    states_in,
)
from ._layout import StateLayout, arguments, laid_out
from ._packing import Block, Box, alone, given_value, packed_writes, states_of, unpacked
from ._pool import Pool

RUN_ERRORS = (UndeclaredStates, *PROGRAM_ERRORS)
"""What a staged function may raise that isn't to be let out as it is."""


class Signature(NamedTuple):
    """What a trace is made for: the structure and the kinds of all arguments."""

    treedef: TreeDef
    kinds: tuple[Any, ...]


def signature_of(args: Any) -> Signature:
    """Describes arguments as far as a trace depends on them."""
    leaves, treedef = jax.tree.flatten(args)
    return Signature(treedef, tuple(map(jax.typeof, leaves)))


class Host(Protocol):
    """Whose function it is that a program runs.

    Attributes:
        lends: Whether the first of the prepared arguments is what is lent of the user's first.
        donated_args: Positions and names of prepared arguments that are donated.
    """

    lends: bool
    donated_args: frozenset[int | str]

    def stage(self, pure: Callable[..., Any], states: StateLayout) -> Any:
        """Stages a pure function by `jax.jit`.

        Args:
            pure: The function, of the values of states, and then what `laid_out` gives; the first
                of that is donated, if arguments may be.
            states: How the values of states come.
        """

    def restore(self, args: Any, kwargs: Any) -> tuple[Callable[..., Any], Any, Any]:
        """Returns the function to run, and its arguments as the caller gave them."""
        ...

    def on_trace(self, program: "Program", args: Any) -> None:
        """Is called before the function is run."""


class Program:
    """A function staged with states as inputs.

    Attributes:
        donated: The states whose buffers the program may reuse, and blocks of packed ones.
        kept: The other states that it takes, and blocks.
        taken: Both, in this order.
        blocks: The blocks among these.
        is_for_frames: Whether it takes values by themselves, since it was made in a frame, that
            would be packed outside.
        touched: The states that the function was found to touch.
        written: Those of them that it wrote.
        layout: How it takes their values.
        staged: The staged function of the values of `donated` and of `kept`, as `layout` gives
            them, and of the arguments as `laid_out` gives them. It gives the output, a tuple of
            the values of the states written, and as many times None as there are places in `outs`
            before that of these; or no more than an array, if that is the output and nothing is
            written.
        outs: What stands for the states written, for each set of them that a trace has written.
        takes_arrays: Whether each state that it takes is known to hold an array.
        gives_arrays: Whether it gives an array for each of what it writes, and all of that is
            among what it takes.
        call_staged: Calls it with the values one by one, and the arguments.
        is_plain: Whether it can't raise, and no trace but its own can be in what it takes.
        reads: What the function has read of mutable modules.
        signatures: What it was traced for, by the arguments alone.
        can_raise: Whether it may raise an error while it runs.
        host: Whose function it is.
        pool: Where the values of the states are while it runs in a row.
    """

    def __init__(
        self,
        host: Host,
        donated: Iterable[Box],
        kept: Iterable[Box],
        replay: "Replay | None" = None,
    ):
        self.donated = tuple(donated)
        self.kept = tuple(kept)
        self.taken = (*self.donated, *self.kept)
        self.pool = Pool(self.taken)
        self.blocks = [box for box in self.taken if isinstance(box, Block)]
        for block in self.blocks:
            block.tell(self._be_looked_at_again)
        # Weakly: a state may lead to all that leads to the program.
        for end in (self.pool.close, *(block.let_go for block in self.blocks)):
            weakref.finalize(self, _call_if_there, weakref.WeakMethod(end)).atexit = False
        self.is_for_frames = False
        self.touched: dict[State, None] = {}
        self.written: dict[State, None] = {}
        self.signatures: set[Signature] = set()
        self.outs: list[tuple[Box, ...]] = []
        self.can_raise = False
        self.gives_arrays = True
        self.host = host
        self.reads = Reads() if replay is None else replay.reads
        self._replay = replay
        self.good_at: object = None
        self._look_at_cells()
        self.layout = StateLayout(len(self.donated), len(self.taken))
        self.staged = host.stage(self._pure, self.layout)
        self.call_staged = self.layout.one_by_one(self.staged)

    def values(self) -> list[Any]:
        """Gathers the values of the states, those that are donated first."""
        donated, kept = list(map(given_value, self.donated)), list(map(given_value, self.kept))
        if donated and active_frame.get() is not None:
            # What lies outside of the frame must survive a call whose writes are dropped.
            donated = jax.tree.map(_copied, donated)
        return [*donated, *kept]

    def inputs(self, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """Returns what the staged function is called with, for prepared arguments."""
        rest = laid_out(args, kwargs, self.host.donated_args)
        return self.layout.inputs((*self.values(), *rest))

    def _look_at_cells(self) -> None:
        self.takes_arrays = all(cell.holds_array for cell in self.taken)
        self.is_plain = not self.can_raise and not any(cell.is_of_a_trace for cell in self.taken)

    def expect_errors(self) -> None:
        """Notes that the program may raise an error while it runs."""
        self.can_raise, self.is_plain = True, False
        self._be_looked_at_again()

    def _be_looked_at_again(self) -> None:
        self.good_at = self.pool.good_at = None

    def holds(self) -> bool:
        """Says whether all that the program has taken over from modules is what it was."""
        if self.good_at is not epoch.now:
            now = epoch.now
            if not self.reads.attributes_hold() or not all(b.fits() for b in self.blocks):
                return False
            self._look_at_cells()
            if all(block.is_full for block in self.blocks):
                self.good_at = now
        return self.reads.contents_hold()

    def run(self, args: Any, kwargs: Any) -> Any:
        """Runs the staged function; what it wrote is not committed yet."""
        forget_errors()
        try:
            result = self.staged(*self.inputs(args, kwargs))
            return jax.block_until_ready(result) if self.can_raise else result
        except PROGRAM_ERRORS as error:
            self.reraise(error, args[1:] if self.host.lends else args, kwargs)

    def reraise(self, error: Exception, args: Any, kwargs: Any) -> NoReturn:
        """Raises what came of running the program as the caller should see it."""
        if "donat" in str(error):
            refuse_shared_arrays(alone(self.donated), alone(self.kept), args, kwargs)
        if not self.can_raise:
            raise error
        reraise(error)

    def finish(self, result: Any) -> Any:
        """Commits what a call has written, and gives what it has returned."""
        out, cells, values = split_result(result, self.outs)
        # Before anything is committed: nodes of other libraries may refuse to be made.
        out = merge_static(out)
        frame = active_frame.get()
        if frame is not None:
            for cell in self.touched:
                frame.touch(cell)
            if frame.reads is not None:
                frame.reads.update(self.reads)
            if self.can_raise:
                frame.expect_errors()
        if frame is None and not has_tracers(values):
            # Whatever transform of JAX is running, the program has run, and just once.
            store_all(cells, values)
        else:
            writes = unpacked(cells, values)
            Writes(tuple(writes), tuple(map(merge_static, writes.values()))).commit()
        return out

    def _pure(self, *given: Any) -> Any:
        states, inputs = self.layout.apart(given)
        args, kwargs = arguments(inputs)
        values = unpacked(self.taken, states)
        is_staged = not jax.config.jax_disable_jit  # type: ignore[attr-defined]
        if is_staged and self._replay is not None and self._replay.fits(values, (args, kwargs)):
            out, writes = self._replay(values, inputs)
            return self._result(out, self._replay.touched, values, writes, args, kwargs)
        fun, restored_args, restored_kwargs = self.host.restore(args, kwargs)
        self.host.on_trace(self, (values, restored_args, restored_kwargs))
        inside = states_in(restored_args, restored_kwargs)
        captured = capture(
            fun,
            restored_args,
            restored_kwargs,
            values={cell: merge_static(value) for cell, value in values.items()},
            frozen=inside,
            reads=self.reads,
        )
        self.reads.settle(captured.touched)
        # A row of calls has taken over what was read before; now it may be more.
        self._be_looked_at_again()
        touched = [cell for cell in captured.touched if cell not in inside]
        writes = captured.writes
        # What is donated in a block goes with it, and isn't lost where it isn't written.
        lost = alone(self.donated)
        if not values.keys() >= set(touched) or not set(writes.cells).issuperset(lost):
            raise UndeclaredStates(self, touched)
        if captured.can_raise:
            self.expect_errors()
        # The leaves of modules come as a list, to be remembered.
        take = as_partitioned if has_modules(captured.out) else split_static
        out = take(captured.out, lambda: "the output")
        return self._result(
            out, touched, values, staged_writes(writes, as_partitioned), args, kwargs
        )

    def _result(
        self,
        out: Any,
        touched: Iterable[State],
        before: Mapping[State, Any],
        writes: Writes,
        *args: Any,
    ) -> Any:
        self.signatures.add(signature_of(args))
        self.touched |= dict.fromkeys(touched)
        self.written |= dict.fromkeys(writes.cells)
        # Where all that is taken is written, what comes out can go in again as it is.
        written = dict(zip(writes.cells, writes.values, strict=True))
        boxes, values = packed_writes(self.taken, len(self.donated), before, written)
        if boxes not in self.outs:
            self.outs.append(boxes)
        if not jtu.all_leaves(values) or not set(self.taken).issuperset(boxes):
            self.gives_arrays = False
            self._be_looked_at_again()
        if not boxes and is_array(out):
            return out
        return out, values, *(None,) * self.outs.index(boxes)


class Replay:
    """A trace that one program has made, for another one to repeat.

    Attributes:
        touched: The states that the function touched in it.
        reads: What the function has read of mutable modules.
    """

    def __init__(self, program: Program, traced: Any, args: Any):
        self.touched = tuple(program.touched)
        self._outs = program.outs
        self.reads = program.reads
        self._cells = tuple(states_of(program.taken))
        values = program.values()
        self._counts = [len(jax.tree.leaves(value)) for value in values]
        self._kinds = {
            cell: signature_of(value) for cell, value in zip(self._cells, values, strict=True)
        }
        self._signature = signature_of(args)
        self._run = jax.extend.core.jaxpr_as_fun(traced.jaxpr)
        self._out_tree = jax.tree.structure(traced.out_info)

    def fits(self, values: Mapping[State, Any], args: Any) -> bool:
        """Says whether a trace with these values and arguments would be the same."""
        return signature_of(args) == self._signature and all(
            signature_of(value) == self._kinds[cell] for cell, value in values.items()
        )

    def __call__(self, values: Mapping[State, Any], inputs: Any) -> tuple[Any, Writes]:
        """Repeats the trace, and gives its output and what it wrote.

        Args:
            values: The values of the states that the function touches; what no equation takes may
                be anything.
            inputs: The arguments as they are laid out.
        """
        leaves: list[Any] = []
        for cell, count in zip(self._cells, self._counts, strict=True):
            leaves += jax.tree.leaves(values[cell]) if cell in values else [None] * count
        result = self._out_tree.unflatten(self._run(*leaves, *jax.tree.leaves(inputs)))
        out, boxes, written = split_result(result, self._outs)
        return out, Writes(tuple(states_of(boxes)), tuple(written))


def split_result(
    result: Any, outs: Sequence[tuple[Box, ...]]
) -> tuple[Any, tuple[Box, ...], Sequence[Any]]:
    """Tells apart what a staged function has given.

    Args:
        result: What it has given.
        outs: What stands for the states written, for each set of them; see `Program`.

    Returns:
        The output, what stands for the states written, and their values.
    """
    if type(result) is not tuple:
        return result, (), ()
    return result[0], outs[len(result) - 2], result[1]


def are_traced(values: Any, are_concrete: bool) -> bool:
    """Says whether what a program has written is traced, by a plain transform that is running.

    Args:
        values: What it has written, at least one value.
        are_concrete: Whether no argument was traced; then all of it is, or nothing.
    """
    if not are_concrete:
        return has_tracers(values)
    for value in values:
        if type(value) in concrete_types:
            return False
        leaves = value.dynamic if type(value) is Partitioned else jax.tree.leaves(value)
        if leaves:
            return has_tracers(leaves[:1])
    return False


def _call_if_there(method: Callable[[], Callable[[], None] | None]) -> None:
    found = method()
    if found is not None:
        found()


def _copied(leaf: Any) -> Any:
    is_concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return jax.numpy.copy(leaf) if is_concrete else leaf
