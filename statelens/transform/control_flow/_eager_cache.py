"""Control flow outside of any trace: staged once and used again.

JAX keeps what it has traced for a function by the function's identity. A loop over a function
that touches states is another function each time, so it is kept here: a second call with the
same function and shapes gathers, runs and commits, and doesn't run Python code again.
"""

import dis
import functools
import hashlib
import math
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import jax
import numpy as np

from ..._lru_cache import LruCache
from ..._tree import METHODS, PLAIN_TYPES, MutableNode, is_same, reference
from ...state import TOP, State, current_trace
from .._core import FUNCTIONS, inner_codes, named_in
from ..compilation import JitFunction

_PLAIN = (*PLAIN_TYPES, np.generic)
_CONTAINERS = (list, tuple, set, frozenset, dict, deque)
_MOST_NESTED = 8
# Where a program has no constant of more bytes, what is larger has given it its shape, if anything.
_MOST_BYTES = 1 << 16


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
    try:
        hash(key)
        references = [reference(function, programs.evicts(key)) for function in functions]
    except TypeError:
        return _Program(control, [lambda f=f: f for f in functions], options).run(*operands)
    program = programs.get(key)
    if program is None or not program.is_current():
        program = _Program(control, references, options)
        programs.put(key, program)
    return program.run(*operands)


class _Program:
    """Control flow over functions, as a function of its operands that is compiled."""

    def __init__(
        self,
        control: Callable[..., Any],
        # The functions are kept by their callers; what is cached must not keep them too.
        references: list[Callable[[], Any]],
        options: tuple[Hashable, ...],
    ):
        self.__name__ = control.__name__.strip("_")
        self._control = control
        self._references = references
        self._options = options
        self._traces = 0
        self._most_bytes = float(_MOST_BYTES)
        self._snapshot: list[Any] | None = None
        self._compiled = JitFunction(self)

    def __call__(self, *operands: Any) -> Any:
        self._traces += 1
        return self._control(self._reachable(), self._options, *operands)

    def _reachable(self) -> tuple[Any, ...]:
        return tuple(each() for each in self._references)

    def is_current(self) -> bool:
        """Says whether all that was traced is what it was."""
        now = _snapshot(self._reachable(), self._most_bytes)
        return self._snapshot is not None and _are_same(self._snapshot, now)

    def run(self, *operands: Any) -> Any:
        """Runs the program, which is traced where it has to be."""
        before = self._traces
        try:
            result = self._compiled(*operands)
            if self._traces > before:
                constants = self._compiled.trace(*operands).jaxpr.consts
                if any(each.nbytes > _MOST_BYTES for each in constants):
                    self._most_bytes = math.inf
            return result
        finally:
            if self._traces > before:
                # As a trace has left it: what it has appended to a list, say, is done.
                self._snapshot = _snapshot(self._reachable(), self._most_bytes)


programs: LruCache[Hashable, _Program] = LruCache(256)
"""The programs by what they run; each ends with its functions."""


def _snapshot(functions: tuple[Callable[..., Any], ...], most_bytes: float) -> list[Any]:
    """Lists what a trace takes over from Python: what the names in functions stand for."""
    # And what is inside of that: the items of lists and dictionaries, the attributes of an object,
    # the names in another function. What lies deeper is taken as JAX takes it, as it was when the
    # function was traced.
    seen: dict[int, Any] = {}
    return [part for function in functions for part in _parts(function, seen, most_bytes)]


def _are_same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(is_same, before, now))


def _parts(value: Any, seen: dict[int, Any], most_bytes: float) -> Iterator[Any]:
    """Lists what is in a value, and what functions depend on, as what can be compared."""
    if not isinstance(value, FUNCTIONS):
        yield from (_stand_in(each, most_bytes) for each in _attributes_of(value))
    if _is_end(type(value)) or id(value) in seen:
        return
    # Kept while this lasts, so that no other object takes the id.
    seen[id(value)] = value
    # What a function itself assigns, a count of its runs say, is not what it depends on.
    own = _stored_names(value.__code__) if isinstance(value, FunctionType) else ()
    for step in named_in(value):
        if step.name not in own:
            yield _stand_in(step.value, most_bytes)
            if "." not in step.name:
                yield from _parts(step.value, seen, most_bytes)


@functools.lru_cache(maxsize=4096)
def _is_end(cls: type) -> bool:
    """Says whether objects of a class reach nothing by name."""
    return issubclass(cls, (State, ModuleType, type, jax.Array, *_CONTAINERS, *_PLAIN))


def _attributes_of(value: Any) -> Iterable[Any]:
    # Of a module, what a trace has read is noted while it is traced; of what this library has made
    # of a function, nothing but the function matters.
    is_opaque = _is_end(type(value)) or isinstance(value, MutableNode)
    if is_opaque or hasattr(type(value), "_reachable"):
        return ()
    return getattr(value, "__dict__", {}).values()


@functools.lru_cache(maxsize=4096)
def _stored_names(code: CodeType) -> frozenset[str]:
    stores = ("STORE_GLOBAL", "STORE_DEREF")
    own = {i.argval for i in dis.get_instructions(code) if i.opname in stores}
    return frozenset(own.union(*map(_stored_names, inner_codes(code))))


def _stand_in(value: Any, most_bytes: float, nested: int = _MOST_NESTED) -> Any:
    """Gives what stands for a value in a comparison, without keeping it alive."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, _CONTAINERS) and nested:
        items = (*value, *value.values()) if isinstance(value, dict) else value
        return weakref.ref(type(value)), tuple(
            [_stand_in(item, most_bytes, nested - 1) for item in items]
        )
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        # It may have been changed in place.
        is_compared = value.nbytes <= most_bytes
        return value.shape, str(value.dtype), _digest(value) if is_compared else weakref.ref(value)
    try:
        return weakref.ref(value)  # two of one object are the same
    except TypeError:
        return weakref.ref(type(value)) if isinstance(value, _CONTAINERS) else value


def _digest(array: np.ndarray) -> bytes:
    content: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.blake2b(content).digest()


def _identity(function: Callable[..., Any]) -> Hashable:
    if isinstance(function, METHODS):
        return id(function.__self__), function.__func__
    return id(function)
