"""`ProgressBar`: a tqdm bar that a compiled loop moves along.

A loop asks a bar to `start`, which gives what its body ticks once in each step. A tick is an
integer comparison in the compiled program; only every so many steps does it call back to the
host, where the tqdm bar lives. JAX gives such a callback no memory of its own, so that a bar
is known by its position: a tick for step 1 opens one, any other moves the bar that has come
nearest. Two runs of one program at the same time thus move two bars.
"""

import dataclasses
import functools
import inspect
import string
import threading
import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback

from ..._errors import ArgumentError, ArgumentTypeError, MissingPackageError, explain
from .._core import parse_count as whole_number

DEFAULT_COUNT = 100
_PARTS = ("x", "carry", "y")


class ProgressBar:
    """A progress bar for `scan`, `for_loop` and `while_loop`, drawn by tqdm.

    It needs tqdm: ``pip install 'statelens[progress]'``. Each run of the loop draws a bar of
    its own, the second run of a compiled loop too. Under `jax.vmap` there is one bar for all
    lanes, at the step of the one that is furthest on.

    Args:
        freq: Update the bar every so many steps.
        count: Update the bar so many times in all; 100 if `freq` isn't given either. In a
            loop of unknown length, update it whenever one or two percent more steps are done.
        desc: A text that stands before the bar. Or a text with fields in braces and a
            function that gives the values to fill them with; it is traced, every so many
            steps only, and gets a dict of the step's number ``i``, its input ``x``, the new
            ``carry`` and the output ``y`` (None for what the loop has not).
        **kwargs: Anything else that tqdm takes: ``file``, ``disable``, ``leave``, ``unit``.

    Raises:
        ArgumentError: Both `freq` and `count` are given; a number is not positive; tqdm has
            no such option.
        ArgumentTypeError: An argument is of the wrong type.
        MissingPackageError: tqdm isn't installed.

    Example:
        >>> import io, jax, jax.numpy as jnp, statelens as sl
        >>> out = io.StringIO()
        >>> desc = ("sum {total:.0f}", lambda at: {"total": at["carry"]})
        >>> bar = ProgressBar(freq=5, desc=desc, file=out).start(20)
        >>> def body(carry, i):
        ...     bar.tick(i, carry=carry + i)
        ...     return carry + i, None
        >>> total, _ = jax.lax.scan(body, 0, jnp.arange(20))
        >>> jax.effects_barrier()
        >>> "sum 190: 100%" in out.getvalue()
        True
    """

    def __init__(
        self,
        freq: int | None = None,
        count: int | None = None,
        desc: str | tuple[str, Callable[[dict[str, Any]], dict[str, Any]]] | None = None,
        **kwargs: Any,
    ):
        self.freq = whole_number(freq, "freq", "ProgressBar")
        self.count = whole_number(count, "count", "ProgressBar")
        if freq is not None and count is not None:
            raise ArgumentError(
                explain(
                    f"asked ProgressBar for freq={freq} and count={count}",
                    "each says by itself how often the bar is updated",
                    "freq=n, to update every n steps",
                    "count=n, to update n times in all",
                )
            )
        self.text, self.describe = _read_desc(desc)
        _check_options(kwargs)
        self.kwargs = kwargs

    def _key(self) -> tuple[Any, ...]:
        return self.freq, self.count, self.text, self.describe

    # Loops keep what they compiled by their options: an equal bar has to be the same one.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProgressBar):
            return NotImplemented
        return self._key() == other._key() and self.kwargs == other.kwargs

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        given = {"freq": self.freq, "count": self.count, "desc": self.text, **self.kwargs}
        shown = ", ".join(f"{k}={v!r}" for k, v in given.items() if v is not None)
        return f"ProgressBar({shown})"

    def start(self, total: int | None, *, replays: bool = False) -> "Progress":
        """Makes ready for one loop; to be called where the loop is traced, just before it.

        Args:
            total: The number of steps, or the most that there can be; None if unknown.
            replays: Whether a derivative of the loop runs its steps again, as with
                checkpoints; these are not counted. Not possible within `jax.checkpoint`.

        Returns:
            What the loop's body ticks.
        """
        every = self.freq
        if every is None and total is not None:
            every = -(-total // (self.count or DEFAULT_COUNT)) or 1
        return Progress(self, total, every, replays)


class Progress:
    """One loop's progress, as the program sees it.

    A loop that can be run in chunks calls `mark` after each; another one calls `tick` in its
    body. `done` is called after either.

    Attributes:
        every: How many steps lie between two updates; None for more and more.
    """

    def __init__(self, bar: ProgressBar, total: int | None, every: int | None, replays: bool):
        self._bar = bar
        self._total = total
        self.every = every
        self._host = _Bars(bar, total)
        self._run: Any = None
        if replays:
            number = jax.ShapeDtypeStruct((), jnp.int32)
            self._run = io_callback(self._host.begin, number)

    def tick(self, index: Any, **parts: Any) -> None:
        """Counts a step; to be called once in the body, where it is traced.

        Args:
            index: The step's number from 0, as a traced integer: 0, 1, 2, ... in the order
                in which steps are run.
            **parts: ``x``, ``carry`` and ``y`` of this step, for the description.
        """
        steps = _furthest(jnp.asarray(index, jnp.int32)) + 1
        if self._bar.describe is None:
            parts = {}
        parts, static = eqx.partition(parts, eqx.is_array_like)
        parts = jax.lax.stop_gradient(parts)

        def show(steps: Any, parts: Any) -> None:
            self._show(steps, steps, eqx.combine(parts, static))

        jax.lax.cond(self._is_due(steps), show, lambda *_: None, steps, parts)

    def mark(self, steps: Any, *, is_first: Any, **parts: Any) -> None:
        """Shows how many steps are done; to be called after a chunk of steps.

        Args:
            steps: How many steps are done, as a traced integer.
            is_first: Whether it is the first chunk.
            **parts: As for `tick`, of the chunk's last step.
        """
        steps = _furthest(jnp.asarray(steps, jnp.int32))
        is_first = _furthest(jnp.asarray(is_first, jnp.int32))
        parts = jax.lax.stop_gradient(eqx.filter(parts, eqx.is_array_like))
        # One operand says both: the first chunk's number is negative.
        self._show(steps, steps * (1 - 2 * is_first), parts)

    def due(self, steps: Any) -> Any:
        """Gives the number of steps after which to show them, for that at a chunk's beginning."""
        return steps + (1 << self._rarity(steps + 1) if self.every is None else self.every)

    def _show(self, steps: Any, place: Any, parts: dict[str, Any]) -> None:
        values, texts = self._describe(steps - 1, parts)
        move = functools.partial(self._host.move, texts)
        jax.debug.callback(move, self._place(place), values)

    def done(self, steps: Any) -> None:
        """Closes the bar; to be called after a loop that may end before `total` is reached.

        Args:
            steps: How many steps were run, as the loop gave it out: the callback waits for
                the loop by waiting for this number.
        """
        steps = _furthest(jnp.asarray(steps, jnp.int32))
        jax.debug.callback(self._host.close, self._place(steps))

    def _place(self, steps: jax.Array) -> jax.Array:
        # Most of what a callback costs are its operands, each by itself.
        return steps if self._run is None else jnp.stack([steps, self._run])

    def _is_due(self, steps: jax.Array) -> jax.Array:
        if self.every is None:
            return steps & ((1 << self._rarity(steps)) - 1) == 0
        due = (steps == 1) | (jax.lax.rem(steps, self.every) == 0)
        return due if self._total is None else due | (steps == self._total)

    @staticmethod
    def _rarity(steps: Any) -> Any:
        # 64 to 128 updates for each doubling of the number of steps.
        return jnp.maximum(31 - jax.lax.clz(jnp.asarray(steps, jnp.int32)) - 6, 0)

    def _describe(self, index: jax.Array, parts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._bar.describe is None:
            return {}, {}
        values = self._bar.describe({"i": index, **dict.fromkeys(_PARTS), **parts})
        fields = [field for _, field, _, _ in string.Formatter().parse(self._bar.text or "")]
        needed = {field.partition(".")[0].partition("[")[0] for field in fields if field}
        if not isinstance(values, dict) or not needed <= values.keys():
            got = sorted(values) if isinstance(values, dict) else f"a {type(values).__name__}"
            raise ArgumentError(
                explain(
                    f"asked ProgressBar to fill in {self._bar.text!r}",
                    f"its function returned {got}",
                    f"a dict with the keys {sorted(needed)}",
                )
            )
        arrays, texts = eqx.partition(values, eqx.is_array)
        return _first_lane(jax.lax.stop_gradient(arrays)), texts


@dataclasses.dataclass(eq=False)
class _Open:
    run: int | None
    tqdm: Any
    opened: int
    moved: int
    steps: int = 1


class _Bars:
    """The open bars of one loop, on the host; called back by the program."""

    def __init__(self, bar: ProgressBar, total: int | None):
        self._bar = bar
        self._total = total
        self._lock = threading.Lock()
        self._open: list[_Open] = []
        self._begun = self._now = 0
        self._waiting: set[int] = set()
        # A bar of a run that an error ended must not be left for Python to tear down at its
        # exit: that crashes within tqdm.
        weakref.finalize(self, _close_all, self._open)

    def begin(self) -> Any:
        with self._lock:
            self._begun += 1
            self._waiting.add(self._begun)
            return np.int32(self._begun)

    def move(self, texts: dict[str, Any], place: Any, values: dict[str, Any]) -> None:
        steps, run = _read_place(place)
        with self._lock:
            self._now += 1
            opens, steps = steps < 0 or steps == 1, abs(steps)
            if opens and (run is None or run in self._waiting):
                one = self._new(run, steps, self._text(texts, values))
            elif (one := self._nearest(run, steps - 1)) is not None:
                one.tqdm.set_description(self._text(texts, values), refresh=False)
                one.tqdm.update(steps - one.steps)
                one.steps, one.moved = steps, self._now
            if one is not None and steps == self._total:
                self._finish(one)

    def close(self, place: Any) -> None:
        steps, run = _read_place(place)
        with self._lock:
            one = None if steps == self._total else self._nearest(run, steps)
            if one is not None:
                one.tqdm.update(steps - one.steps)
                self._finish(one)

    def _text(self, texts: dict[str, Any], values: dict[str, Any]) -> str | None:
        if self._bar.text is None or self._bar.describe is None:
            return self._bar.text
        arrays = {k: np.asarray(v) for k, v in values.items() if v is not None}
        filled = {k: v.item() if v.ndim == 0 else v for k, v in arrays.items()}
        return self._bar.text.format(**texts | filled)

    def _new(self, run: int | None, steps: int, desc: str | None) -> _Open:
        if run is not None:
            self._waiting.remove(run)
        # The bar is opened by the end of the first steps, so that these aren't timed.
        tqdm = _tqdm()(total=self._total, desc=desc, initial=steps, **self._bar.kwargs)
        one = _Open(run, tqdm, opened=self._now, moved=self._now, steps=steps)
        self._open.append(one)
        return one

    def _nearest(self, run: int | None, most: int) -> _Open | None:
        found = [one for one in self._open if one.run == run and one.steps <= most]
        return max(reversed(found), key=lambda one: one.steps, default=None)

    def _finish(self, one: _Open) -> None:
        # Bars that stood still since this one was opened are of runs that an error ended.
        for each in [one, *(other for other in self._open if other.moved < one.opened)]:
            each.tqdm.close()
            self._open.remove(each)


def _close_all(bars: list[_Open]) -> None:
    for one in bars:
        one.tqdm.close()


@custom_vmap
def _furthest(steps: jax.Array) -> jax.Array:
    return steps


@_furthest.def_vmap
def _furthest_lane(axis_size: int, in_batched: Any, steps: jax.Array) -> tuple[jax.Array, bool]:
    return _furthest(jnp.max(steps, axis=0) if in_batched[0] else steps), False


@custom_vmap
def _first_lane(values: Any) -> Any:
    return values


@_first_lane.def_vmap
def _first_of_lanes(axis_size: int, in_batched: Any, values: Any) -> tuple[Any, Any]:
    one = jax.tree.map(lambda x, batched: x[0] if batched else x, values, in_batched[0])
    return _first_lane(one), jax.tree.map(lambda _: False, values)


def as_progress_bar(spec: ProgressBar | int | None) -> ProgressBar | None:
    """Reads a loop's `pbar`: a bar, a number of steps after which to update one, or None."""
    if spec is None or isinstance(spec, ProgressBar):
        return spec
    return ProgressBar(freq=whole_number(spec, "pbar", "a loop"))


def _read_place(place: Any) -> tuple[int, int | None]:
    steps, *run = np.asarray(place).reshape(-1).tolist()
    return steps, run[0] if run else None


def _read_desc(desc: Any) -> tuple[str | None, Callable[..., Any] | None]:
    if desc is None or isinstance(desc, str):
        return desc, None
    if isinstance(desc, (tuple, list)) and len(desc) == 2:
        text, describe = desc
        if isinstance(text, str) and callable(describe):
            return text, describe
    raise ArgumentTypeError(
        explain(
            f"asked ProgressBar for desc={desc!r}",
            "that is neither a text nor a text with a function",
            'desc="training"',
            'desc=("loss {loss:.3f}", lambda at: {"loss": at["y"]})',
        )
    )


def _check_options(kwargs: dict[str, Any]) -> None:
    _tqdm()
    from tqdm.std import tqdm as plain

    known = {*inspect.signature(plain.__init__).parameters, "display"}
    known -= {"self", "iterable", "total", "initial", "kwargs"}
    for name in kwargs:
        if name not in known:
            raise ArgumentError(
                explain(
                    f"asked ProgressBar for {name}={kwargs[name]!r}",
                    "the loop says what is counted"
                    if name in ("iterable", "total", "initial")
                    else "tqdm has no such option",
                    f"one of {', '.join(sorted(known))}",
                )
            )


def _tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingPackageError(
            explain(
                "asked for a ProgressBar",
                "it is drawn by tqdm, which isn't installed",
                "pip install 'statelens[progress]'",
            )
        ) from None
    return tqdm
