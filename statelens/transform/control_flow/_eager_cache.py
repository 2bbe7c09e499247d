"""Control flow outside of any trace: staged once, and run by what is known of it.

JAX keeps what it has traced for a function by the function's identity. A loop over a function
that touches states is another function each time, so it is kept here: a second call with the
same function and shapes gathers, runs and commits, and doesn't run Python code again.
"""

import dis
import functools
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

from ..._tree import MutableNode
from ...state import TOP, State, current_trace
from .._core import FUNCTIONS, LruCache, inner_codes, named_in
from ..compilation import JitFunction

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)


def staged(
    control: Callable[..., Any],
    functions: tuple[Callable[..., Any], ...],
    options: tuple[Hashable, ...],
    *operands: Any,
) -> Any:
    """Runs ``control(functions, options, *operands)``, staged where nothing is being traced."""
    if current_trace() != TOP or jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return control(functions, options, *operands)
    key = (control, tuple(map(_identity, functions)), options)
    ended = functools.partial(programs.evict, key)
    try:
        hash(key)
        references = [_reference(function, lambda _: ended()) for function in functions]
    except TypeError:
        return _Program(control, [lambda f=f: f for f in functions], options)(*operands)
    program = programs.get(key)
    if program is None or not program.is_current():
        program = _Program(control, references, options)
        programs.put(key, program)
    return program(*operands)


class _Control:
    """Control flow over functions, as a function of its operands."""

    def __init__(
        self,
        control: Callable[..., Any],
        # The functions are kept by their callers; what is cached must not keep them too.
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
        return _Snapshot(self._reachable())


class _Program:
    """Control flow over functions, compiled, with what the functions depended on."""

    def __init__(self, *control: Any):
        self._control = _Control(*control)
        self._compiled = JitFunction(self._control)
        self._snapshot: _Snapshot | None = None

    def is_current(self) -> bool:
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


programs: LruCache[Hashable, _Program] = LruCache(256)
"""The programs by what they run; each ends with its functions."""


class _Snapshot:
    """What a trace takes over from Python: what the names in functions stand for.

    Each name is compared by what it stands for, and one level inside of that: what is in a list
    or a dictionary, the attributes of an object, the names in another function. What lies deeper
    is taken as JAX takes it, as it was when the function was traced.
    """

    def __init__(self, functions: tuple[Callable[..., Any], ...]):
        seen: dict[int, Any] = {}
        self._parts = [part for function in functions for part in _parts(function, seen)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Snapshot) or len(self._parts) != len(other._parts):
            return False
        pairs = zip(self._parts, other._parts, strict=True)
        return all(a is b or _are_equal(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


def _are_equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and isinstance(a, _PLAIN) and bool(a == b)


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """Lists what is in a value, and what functions depend on, as what can be compared."""
    if not isinstance(value, FUNCTIONS):
        yield from map(_weakly, _inside(value))
    if _is_end(type(value)) or id(value) in seen:
        return
    # Kept while this lasts, so that no other object takes the id.
    seen[id(value)] = value
    # What a function itself assigns, a count of its runs say, is not what it depends on.
    own = _stored_names(value.__code__) if isinstance(value, FunctionType) else ()
    for name, each in named_in(value):
        if name not in own:
            yield _weakly(each)
            if "." not in name:
                yield from _parts(each, seen)


@functools.lru_cache(maxsize=4096)
def _is_end(cls: type) -> bool:
    """Says whether objects of a class reach nothing by name."""
    return issubclass(cls, (State, ModuleType, type, jax.Array, list, tuple, set, dict, *_PLAIN))


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    if isinstance(value, (list, tuple, set)):
        return value
    # Of a module, what a trace has read is noted while it is traced.
    is_opaque = _is_end(type(value)) or isinstance(value, MutableNode)
    return () if is_opaque else getattr(value, "__dict__", {}).values()


@functools.lru_cache(maxsize=4096)
def _stored_names(code: CodeType) -> frozenset[str]:
    stores = ("STORE_GLOBAL", "STORE_DEREF")
    own = {i.argval for i in dis.get_instructions(code) if i.opname in stores}
    return frozenset(own.union(*map(_stored_names, inner_codes(code))))


def _weakly(value: Any) -> Any:
    """Gives what stands for a value in a comparison, without keeping it alive."""
    if isinstance(value, _PLAIN):
        return value
    try:
        return weakref.ref(value)  # two of one object are the same
    except TypeError:
        return value


def _identity(function: Callable[..., Any]) -> Hashable:
    if isinstance(function, MethodType):
        return id(function.__self__), function.__func__
    return id(function)


def _reference(function: Callable[..., Any], ended: Callable[[Any], None]) -> Callable[[], Any]:
    if isinstance(function, MethodType):
        return weakref.WeakMethod(function, ended)
    return weakref.ref(function, ended)
