"""Control flow outside of any trace: staged once, and run by what is known of it.

JAX keeps what it has traced for a function by the function's identity. A loop over a function
that touches states is another function each time, so it is kept here: a second call with the
same function and shapes gathers, runs and commits, and doesn't run Python code again.
"""

import dis
import functools
import weakref
from collections.abc import Callable, Hashable
from types import CodeType, FunctionType, MethodType
from typing import Any

import jax

from .._trace import TOP, current_trace
from ._jit import JitFunction

_IMMUTABLE = (bool, int, float, complex, str, bytes, type(None), FunctionType, type)

_memo: dict[Hashable, tuple["_Snapshot", JitFunction]] = {}


class _Snapshot:
    """Values that a trace takes over from Python: those of names that functions refer to."""

    def __init__(self, functions: tuple[Callable[..., Any], ...]):
        self._values = [value for fun in functions for value in _plain_values(fun)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Snapshot) or len(self._values) != len(other._values):
            return False
        pairs = zip(self._values, other._values, strict=True)
        return all(a is b or (type(a) is type(b) and a == b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


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
        functions = tuple(reference() for reference in self._references)
        return self._control(functions, self._options, *operands)


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
        return weakref.WeakMethod(function)
    return weakref.ref(function)


def _plain_values(function: Callable[..., Any]) -> list[Any]:
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
    return [v for name, v in names if isinstance(v, _IMMUTABLE) and name not in stored]


@functools.lru_cache(maxsize=4096)
def _stored_names(code: CodeType) -> frozenset[str]:
    stores = ("STORE_GLOBAL", "STORE_DEREF")
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname in stores)
