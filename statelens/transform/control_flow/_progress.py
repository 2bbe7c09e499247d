"""`ProgressBar`: a tqdm bar that a compiled loop moves along.

A loop asks a bar to `start`, which gives what it shows the steps by that are done: every so many
of them, by a callback to the host, where the tqdm bar lives. A loop that isn't run in chunks
ticks in each step, which is an integer comparison in the compiled program.
"""

import functools
import inspect
import string
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback

from ..._errors import ArgumentError, ArgumentTypeError, MissingPackageError, user_facing
from .._core import parse_count
from ._bars import Bars

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

    @user_facing
    def __init__(
        self,
        freq: int | None = None,
        count: int | None = None,
        desc: str | tuple[str, Callable[[dict[str, Any]], dict[str, Any]]] | None = None,
        **kwargs: Any,
    ):
        self.freq: int | None = parse_count(freq, "freq", "ProgressBar")
        self.count: int | None = parse_count(count, "count", "ProgressBar")
        if freq is not None and count is not None:
            raise ArgumentError(
                f"asked ProgressBar for freq={freq} and count={count}",
                "each says by itself how often the bar is updated",
                "freq=n, to update every n steps",
                "count=n, to update n times in all",
            )
        self.text: str | None
        self.describe: Callable[..., Any] | None
        self.text, self.describe = _read_desc(desc)
        _check_options(kwargs)
        self.kwargs = kwargs

    def _key(self) -> tuple[Any, ...]:
        return self.freq, self.count, self.text, self.describe

    # Loops keep what they compiled by their options: an equal bar has to be the same one.
    def __eq__(self, other: object) -> bool:
        # (By no global: at Python's exit, when these are gone, what is compiled is forgotten.)
        if type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key() and self.kwargs == other.kwargs

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        given = {"freq": self.freq, "count": self.count, "desc": self.text, **self.kwargs}
        shown = ", ".join(f"{k}={v!r}" for k, v in given.items() if v is not None)
        return f"ProgressBar({shown})"

    def _open_tqdm(self) -> Callable[..., Any]:
        return functools.partial(load_tqdm("a ProgressBar"), **self.kwargs)

    def _fill(self, values: dict[str, Any]) -> str | None:
        """Gives the text to show, from what the description's function has given."""
        if self.text is None or self.describe is None:
            return self.text
        return self.text.format(**values)

    @user_facing
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

    A loop that is run in chunks calls `show` after each; another one calls `tick` in its body.
    `done` is called after either.

    Attributes:
        every: How many steps lie between two updates; None for more and more.
    """

    def __init__(self, bar: ProgressBar, total: int | None, every: int | None, replays: bool):
        self._bar = bar
        self._total = total
        self.every = every
        self._host = Bars(bar._open_tqdm(), total, bar._fill)
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
        steps = _furthest(index) + 1
        jax.lax.cond(
            self._is_due(steps),
            lambda: self.show(steps, first=1, **parts),
            lambda: None,
        )

    def show(self, steps: Any, *, first: int, **parts: Any) -> None:
        """Shows how many steps are done, `first` if not more; `parts` are of the last one."""
        steps = _furthest(steps)
        values, texts = self._describe(steps - 1, jax.tree.map(_still, parts))
        move = functools.partial(self._host.move, first, texts)
        jax.debug.callback(move, self._place(steps), values)

    def due(self, steps: Any) -> Any:
        """Gives the number of steps after which to show them, for that at a chunk's beginning."""
        return steps + (1 << self._rarity(steps + 1) if self.every is None else self.every)

    def done(self, steps: Any) -> None:
        """Closes the bar; to be called after a loop that may end before `total` is reached.

        Args:
            steps: How many steps were run, as the loop gave it out: the callback waits for
                the loop by waiting for this number.
        """
        steps = _furthest(steps)
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
                f"asked ProgressBar to fill in {self._bar.text!r}",
                f"its function returned {got}",
                f"a dict with the keys {sorted(needed)}",
            )
        arrays, texts = eqx.partition(values, eqx.is_array)
        return _across_lanes(index, jax.tree.map(_still, arrays))[1], texts


def _still(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf


def _furthest(steps: Any) -> jax.Array:
    return _across_lanes(jnp.asarray(steps, jnp.int32), None)[0]


@custom_vmap
def _across_lanes(steps: jax.Array, values: Any) -> tuple[jax.Array, Any]:
    """Gives the number of steps of the lane that is furthest on, and the first lane's values."""
    return steps, values


@_across_lanes.def_vmap
def _of_lanes(axis_size: int, in_batched: Any, steps: jax.Array, values: Any) -> tuple[Any, Any]:
    one = jax.tree.map(lambda x, batched: x[0] if batched else x, values, in_batched[1])
    most = jnp.max(steps, axis=0) if in_batched[0] else steps
    return _across_lanes(most, one), jax.tree.map(lambda _: False, (steps, values))


def as_progress_bar(spec: ProgressBar | int | None) -> ProgressBar | None:
    """Reads a loop's `pbar`: a bar, a number of steps after which to update one, or None."""
    if spec is None or isinstance(spec, ProgressBar):
        return spec
    return ProgressBar(freq=parse_count(spec, "pbar", "a loop"))


def _read_desc(desc: Any) -> tuple[str | None, Callable[..., Any] | None]:
    if desc is None or isinstance(desc, str):
        return desc, None
    if isinstance(desc, (tuple, list)) and len(desc) == 2:
        text, describe = desc
        if isinstance(text, str) and callable(describe):
            return text, describe
    raise ArgumentTypeError(
        f"asked ProgressBar for desc={desc!r}",
        "that is neither a text nor a text with a function",
        'desc="training"',
        'desc=("loss {loss:.3f}", lambda at: {"loss": at["y"]})',
    )


def _check_options(kwargs: dict[str, Any]) -> None:
    load_tqdm("a ProgressBar")
    from tqdm.std import tqdm as plain

    known = {*inspect.signature(plain.__init__).parameters, "display"}
    known -= {"self", "iterable", "total", "initial", "kwargs"}
    for name in kwargs:
        if name not in known:
            raise ArgumentError(
                f"asked ProgressBar for {name}={kwargs[name]!r}",
                "the loop says what is counted"
                if name in ("iterable", "total", "initial")
                else "tqdm has no such option",
                f"one of {', '.join(sorted(known))}",
            )


def load_tqdm(asked_for: str) -> Any:
    """Imports tqdm, for what is asked for."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingPackageError(
            f"asked for {asked_for}",
            "it is drawn by tqdm, which isn't installed",
            "pip install 'statelens[progress]'",
        ) from None
    return tqdm
