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

from .._cell import Holder
from .._trace import TOP, current_trace
from ..state import State
from ._jit import JitFunction

_PLAIN = (bool, int, float, complex, str, bytes, type(None))

_memo: dict[Hashable, tuple["_Snapshot", JitFunction]] = {}


class _Snapshot:
    """What a trace takes over from Python: what the names in functions stand for.

    Numbers, texts and functions are compared, and one level of lists, dictionaries and other
    objects. What lies deeper, and what functions that are called refer to, is taken as JAX takes
    it, as it was when the function was traced.
    """

    def __init__(self, functions: tuple[Callable[..., Any], ...]):
        self._values = [part for fun in functions for v in _values(fun) for part in _level(v)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Snapshot) or len(self._values) != len(other._values):
            return False
        pairs = zip(self._values, other._values, strict=True)
        return all(a is b or _are_equal(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


def _are_equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and isinstance(a, _PLAIN) and a == b


def _level(value: Any) -> Iterator[Any]:
    if isinstance(value, (*_PLAIN, FunctionType, type)):
        yield value
    elif isinstance(value, (list, tuple, set)):
        yield from map(_weakly, value)
    elif isinstance(value, dict):
        yield from map(_weakly, (*value.keys(), *value.values()))
    elif not isinstance(value, (Holder, State, ModuleType, MethodType)):
        yield from map(_weakly, getattr(value, "__dict__", {}).values())


def _weakly(value: Any) -> Any:
    """Gives what stands for a value in a comparison, without keeping it alive."""
    if isinstance(value, _PLAIN):
        return value
    try:
        return weakref.ref(value)  # two of one object are the same
    except TypeError:
        return value


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
        run = functools.partial(control, functions, options)
        return JitFunction(_named(control, run))(*operands)
    snapshot = _Snapshot(functions)
    known = _memo.get(key)
    if known is None or known[0] != snapshot:
        # The functions are kept by their callers; what is kept here must not keep them too.
        run = _WeakControl(control, references, options)
        known = snapshot, JitFunction(_named(control, run))
        if key not in _memo:
            for function in functions:
                weakref.finalize(_owner(function), _memo.pop, key, None)
        _memo[key] = known
    return known[1](*operands)


class _WeakControl:
    """Control flow over functions that it doesn't keep alive."""

    def __init__(
        self,
        control: Callable[..., Any],
        references: list[Callable[[], Any]],
        options: tuple[Hashable, ...],
    ):
        self._control = control
        self._references = references
        self._options = options

    def __call__(self, *operands: Any) -> Any:
        return self._control(self._reachable(), self._options, *operands)

    def _reachable(self) -> tuple[Any, ...]:
        return tuple(reference() for reference in self._references)


def _named(control: Callable[..., Any], run: Any) -> Any:
    run.__name__ = control.__name__.strip("_")
    return run


def _owner(function: Callable[..., Any]) -> Any:
    return function.__self__ if isinstance(function, MethodType) else function


def _identity(function: Callable[..., Any]) -> Hashable:
    if isinstance(function, MethodType):
        return id(function.__self__), function.__func__
    return id(function)


def _reference(function: Callable[..., Any]) -> Callable[[], Any]:
    if isinstance(function, MethodType):
        if not isinstance(function.__self__, Holder):
            # Nobody says when its attributes change.
            raise TypeError
        return weakref.WeakMethod(function)
    return weakref.ref(function)


def _values(function: Callable[..., Any]) -> list[Any]:
    """Lists what the names in a function's code stand for, outside of it."""
    function = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(function, FunctionType):
        return []
    code, scope = function.__code__, function.__globals__
    found = [scope.get(name) for name in code.co_names]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            found.append(None)
    # What the function itself assigns, a count of its runs say, is not what it depends on.
    names = zip((*code.co_names, *code.co_freevars), found, strict=True)
    stored = _stored_names(code)
    return [value for name, value in names if name not in stored]


@functools.lru_cache(maxsize=4096)
def _stored_names(code: CodeType) -> frozenset[str]:
    stores = ("STORE_GLOBAL", "STORE_DEREF")
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname in stores)
