"""Control flow outside of any trace: staged once, and run by what is known of it.

JAX keeps what it has traced for a function by the function's identity. A loop over a function
that touches states is another function each time, so it is kept here: a second call with the
same function and shapes gathers, runs and commits, and doesn't run Python code again.
"""

import dis
import functools
import weakref
from collections.abc import Callable, Hashable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

from ..._tree import MutableNode
from ...state import TOP, State, current_trace
from .._core import call_of, closed_over, is_foreign, unwrapped
from ..compilation import JitFunction

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def staged(
    control: Callable[..., Any],
    functions: tuple[Callable[..., Any], ...],
    options: tuple[Hashable, ...],
    *operands: Any,
) -> Any:
    """Runs control flow, staged by itself where nothing is being traced.

    Args:
        control: Called with `functions`, `options` and `operands`; the same object each time.
        functions: The functions that the control flow runs.
        options: What else the program depends on.
        *operands: Pytrees of arrays.

    Returns:
        What `control` returns.
    """
    eager = current_trace() == TOP and not jax.config.jax_disable_jit  # type: ignore[attr-defined]
    if not eager:
        return control(functions, options, *operands)
    try:
        key = (control, tuple(map(_identity, functions)), options)
        hash(key)
        references = [_reference(function) for function in functions]
    except TypeError:
        return _Staged(control, [lambda f=f: f for f in functions], options)(*operands)
    known = _memo.get(key)
    if known is None or not known.holds():
        if known is None:
            for function in functions:
                weakref.finalize(_owner(function), _memo.pop, key, None)
        # The functions are kept by their callers; what is kept here must not keep them too.
        known = _memo[key] = _Staged(control, references, options)
    return known(*operands)


class _Control:
    """Control flow over functions, as a function of its operands.

    Attributes:
        traces: How often it was traced.
    """

    def __init__(
        self,
        control: Callable[..., Any],
        references: list[Callable[[], Any]],
        options: tuple[Hashable, ...],
    ):
        self.__name__ = control.__name__.strip("_")
        self.traces = 0
        self._control = control
        self._references = references
        self._options = options

    def __call__(self, *operands: Any) -> Any:
        self.traces += 1
        return self._control(self._reachable(), self._options, *operands)

    def _reachable(self) -> tuple[Any, ...]:
        return tuple(reference() for reference in self._references)

    def snapshot(self) -> "_Snapshot":
        """Returns what the functions depend on, as it is now."""
        return _Snapshot(self._reachable())


class _Staged:
    """Control flow over functions, compiled, with what the functions depended on."""

    def __init__(self, *control: Any):
        self._control = _Control(*control)
        self._compiled = JitFunction(self._control)
        self._snapshot: _Snapshot | None = None

    def holds(self) -> bool:
        """Says whether all that was traced is what it was."""
        return self._snapshot == self._control.snapshot()

    def __call__(self, *operands: Any) -> Any:
        before = self._control.traces
        try:
            return self._compiled(*operands)
        finally:
            if self._control.traces > before:
                # As a trace has left it: what it has appended to a list, say, is done.
                self._snapshot = self._control.snapshot()


_memo: dict[Hashable, _Staged] = {}


class _Snapshot:
    """What a trace takes over from Python: what the names in functions stand for.

    Each name is compared by what it stands for, and one level inside of that: what is in a list
    or a dictionary, the attributes of an object, the names in another function. What lies deeper
    is taken as JAX takes it, as it was when the function was traced.
    """

    def __init__(self, functions: tuple[Callable[..., Any], ...]):
        seen: set[int] = set()
        self._parts = [part for function in functions for part in _parts(function, seen)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Snapshot) or len(self._parts) != len(other._parts):
            return False
        pairs = zip(self._parts, other._parts, strict=True)
        return all(a is b or _are_equal(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


def _are_equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and isinstance(a, _PLAIN) and bool(a == b)


def _parts(function: Any, seen: set[int]) -> Iterator[Any]:
    """Lists what a function depends on, each as something that can be compared."""
    for layer in unwrapped(function):
        if id(layer) not in seen:
            seen.add(id(layer))
            for value in _used_by(layer):
                yield _weakly(value)
                if isinstance(value, (FunctionType, MethodType, functools.partial)):
                    yield from _parts(value, seen)
                else:
                    yield from map(_weakly, _inside(value))


def _used_by(layer: Any) -> list[Any]:
    if isinstance(layer, MethodType):
        return [layer.__self__]
    if isinstance(layer, functools.partial):
        return [*layer.args, *layer.keywords.values()]
    if isinstance(layer, FunctionType):
        return [] if is_foreign(layer.__module__) else _named_values(layer)
    return [layer, call_of(layer)]


def _named_values(function: FunctionType) -> list[Any]:
    """Lists what the names in a function's code stand for, outside of it."""
    code, scope = function.__code__, function.__globals__
    found = {name: scope.get(name) for name in code.co_names}
    found |= zip(code.co_freevars, closed_over(function), strict=True)
    # What the function itself assigns, a count of its runs say, is not what it depends on.
    return [value for name, value in found.items() if name not in _stored_names(code)]


@functools.lru_cache(maxsize=4096)
def _stored_names(code: CodeType) -> frozenset[str]:
    stores = ("STORE_GLOBAL", "STORE_DEREF")
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname in stores)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple, set)):
        yield from value
    elif isinstance(value, dict):
        yield from (*value.keys(), *value.values())
    elif not isinstance(value, (MutableNode, State, ModuleType, type, *_PLAIN)):
        # Of a module, what a trace has read is noted while it is traced.
        yield from getattr(value, "__dict__", {}).values()


def _weakly(value: Any) -> Any:
    """Gives what stands for a value in a comparison, without keeping it alive."""
    if isinstance(value, _PLAIN):
        return value
    try:
        return weakref.ref(value)  # two of one object are the same
    except TypeError:
        return value


def _owner(function: Callable[..., Any]) -> Any:
    return function.__self__ if isinstance(function, MethodType) else function


def _identity(function: Callable[..., Any]) -> Hashable:
    if isinstance(function, MethodType):
        return id(function.__self__), function.__func__
    return id(function)


def _reference(function: Callable[..., Any]) -> Callable[[], Any]:
    return (weakref.WeakMethod if isinstance(function, MethodType) else weakref.ref)(function)
