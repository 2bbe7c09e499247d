"""Functions that have hardly begun when they return: generators and coroutines."""

from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, NoReturn

from .._errors import ArgumentTypeError

_NAMES = {
    GeneratorType: "a generator",
    CoroutineType: "a coroutine",
    AsyncGeneratorType: "an asynchronous generator",
}
UNFINISHED = tuple(_NAMES)
"""What runs on when the function that returned it has ended."""


def refuse_unfinished(out: Any, fun: Callable[..., Any]) -> NoReturn:
    """Refuses what is `UNFINISHED` of a function that ran in a frame."""
    if not isinstance(out, AsyncGeneratorType):
        out.close()  # so that Python doesn't warn that it was never awaited
    raise ArgumentTypeError(
        f"asked to run {getattr(fun, '__qualname__', fun)!s}, which reads and writes states",
        f"it returned {_NAMES[type(out)]}, whose body would run when the transform has ended: "
        "what it writes would be lost",
        "a function that returns when it is done, with a list in place of what is yielded",
        "the transform on what the body does in one step, and the generator or coroutine around it",
    )
