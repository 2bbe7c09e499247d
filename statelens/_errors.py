"""Errors: what was asked, what is there, what to write instead.

Every error of the library derives from `StateLensError` and from the builtin that a
caller would expect, so that ``except KeyError`` and ``except StateLensError`` both work.
`user_facing` ends the traceback at the user's own line, as JAX does for its own frames.
"""

import functools
import os
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax

P = ParamSpec("P")
R = TypeVar("R")

# What JAX itself hides where an error leaves one of its functions; of a pullback it doesn't. Of
# Equinox it hides the transforms, as we do the loops, and not the layers.
HIDDEN = tuple(
    os.path.dirname(os.path.abspath(file)) + os.sep
    for file in (__file__, jax.__file__, eqx.__file__)
)
"""The folders of this package, of JAX and of Equinox, whose frames aren't the user's."""

_LAYERS = os.path.dirname(os.path.abspath(eqx.nn.__file__)) + os.sep


class StateLensError(Exception):
    """The base of every error that statelens raises.

    Args:
        asked: What was asked for.
        found: What is there instead: paths, shapes, dtypes, closest matches.
        *remedies: What to write instead.
    """

    def __init__(self, asked: str = "", found: str = "", *remedies: str):
        super().__init__(explain(asked, found, *remedies))

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        # Tracebacks show the name under which people import it.
        cls.__module__ = "statelens"

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, which would escape our line breaks.
        return self.args[0]


class PathError(StateLensError, KeyError):
    """A path or a pattern that names nothing in the tree."""


class PatternError(StateLensError, ValueError):
    """A path or lens text that can't be parsed; the message points at the character."""


class SelectionError(StateLensError, ValueError):
    """A selection that can't be used: empty, overlapping, or not total."""


class StructureError(StateLensError, ValueError):
    """A value whose structure, shape or dtype isn't that of what it replaces."""


class ArgumentError(StateLensError, ValueError):
    """An argument of a transform that is out of range or contradicts another one."""


class ArgumentTypeError(StateLensError, TypeError):
    """An argument of a type that can't be used there."""


class StateTypeError(StateLensError, TypeError):
    """A `State` where its value is meant, or something else where a `State` is meant."""


class DifferentiationError(StateLensError, TypeError):
    """Something that has no derivative: an integer state, a loss that isn't a scalar."""


class UntouchedStateError(StateLensError, ValueError):
    """A state that was to be differentiated and that the function never touched."""


class TracerLeakError(StateLensError, TypeError):
    """A traced value that would outlive the transform that it belongs to."""


class EndedFrameError(StateLensError, RuntimeError):
    """Code goes on in a transform or an overlay that has ended, as a task may."""


class StaleStateWarning(StateLensError, UserWarning):  # noqa: N818  (a warning)
    """A value of a state that a trace of plain JAX takes for a constant, and may use again."""


class NonFiniteError(StateLensError, FloatingPointError):
    """A derivative has a nan or inf."""


class MissingPackageError(StateLensError, ImportError):
    """An optional package that a feature stands on isn't installed."""


class CheckpointError(StateLensError, ValueError):
    """A file that is no whole checkpoint, or that doesn't fit the tree it is loaded into.

    Attributes:
        report: A `checkpoint.Report` of all that doesn't fit; None where that isn't the matter.
    """

    report: Any = None


class CheckpointFileError(CheckpointError, OSError):
    """A checkpoint that can't be read or written: no such file, no permission, a full disk."""


class RetraceError(StateLensError, RuntimeError):
    """A compiled function was traced more often than was allowed."""


class FrozenTreeError(StateLensError, AttributeError):
    """A write to a state of a tree argument, which would be lost."""


def check_callable(fun: Any, option: str, asked_by: str) -> Any:
    """Refuses what isn't a function.

    Args:
        fun: What was given.
        option: What it was given as.
        asked_by: The transform, for the message.

    Returns:
        The function.

    Raises:
        ArgumentTypeError: It isn't callable.
    """
    if not callable(fun):
        raise ArgumentTypeError(
            f"asked {asked_by} for {option}={fun!r}",
            f"that is a {type(fun).__name__}, not a function",
            "the function itself, not what it returns",
        )
    return fun


def explain(asked: str, found: str = "", *remedies: str) -> str:
    """Returns the three parts of a message; several remedies are numbered.

    Args:
        asked: What was asked for.
        found: What is there instead: paths, shapes, dtypes, closest matches.
        *remedies: What to write instead.

    Returns:
        The message.
    """
    lines = [asked, found]
    if len(remedies) == 1:
        lines.append(f"Instead: {remedies[0]}")
    elif remedies:
        lines.append("Instead, one of:")
        lines += [f"  {i}. {remedy}" for i, remedy in enumerate(remedies, 1)]
    return "\n".join(line for line in lines if line)


def hide_own_frames(error: BaseException) -> None:
    """Drops this package's frames, JAX's and Equinox's, from the error's traceback.

    Frames of a layer of Equinox stay: they show where in the model it went wrong.

    A bare ``raise`` after this call adds no frame of its own, so that the user's frame is
    the last one. ``JAX_TRACEBACK_FILTERING=off`` keeps everything.

    Args:
        error: The error that is being handled.
    """
    if getattr(jax.config, "jax_traceback_filtering", None) != "off":
        error.__traceback__ = _without_own_frames(error.__traceback__)


def _without_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    frames = []
    while traceback is not None:
        if is_users(traceback.tb_frame):
            frames.append(traceback)
        traceback = traceback.tb_next
    kept = None
    for frame in reversed(frames):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def is_users(frame: FrameType) -> bool:
    """Says whether a frame is the user's, or of a layer that the user has made.

    Args:
        frame: A frame.

    Returns:
        Whether it is to be seen in a traceback.
    """
    file = frame.f_code.co_filename
    if file == "<string>":  # what a dataclass writes
        file = frame.f_globals.get("__file__", file)
    return file.startswith(_LAYERS) or not file.startswith(HIDDEN)


def user_facing(function: Callable[P, R]) -> Callable[P, R]:
    """Makes errors that leave `function` show the user's frames only.

    Args:
        function: A public function.

    Returns:
        The function, with the frames that `hide_own_frames` drops removed from any traceback.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            hide_own_frames(error)
            raise

    return call
