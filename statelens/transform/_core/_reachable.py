"""Which states a function can reach: by closure, by globals, by what is bound to it.

A staged function takes the states that it touches as inputs, so they have to be known before
it is traced. Most are found by looking where Python code finds things. One that is missed is
met while tracing, and costs a second trace; one that is found for nothing is dropped again.
"""

import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import jax.core
import numpy as np

from ..._tree import MutableNode, cells, format
from ...lens import BoundLens, View
from ...state import State

# What has nothing below it.
_ENDS = (
    jax.Array,
    jax.core.Tracer,
    np.ndarray,
    np.generic,
    str,
    bytes,
    bool,
    int,
    float,
    complex,
    type(None),
    type,
    ModuleType,
)

# Code of these is not of the user's making, and holds no states.
_FOREIGN = sys.stdlib_module_names - {"__main__"} | {
    "statelens",
    "jax",
    "jaxlib",
    "numpy",
    "equinox",
    "optax",
}

# A walk that is longer than that costs more than the second trace that it saves.
_MOST_OBJECTS = 20_000


def reachable(roots: list[Any]) -> list[State]:
    """Lists the states that can be reached from objects.

    Args:
        roots: Functions, or anything else.

    Returns:
        The states, each once and in the order in which they are met.
    """
    states: dict[State, None] = {}
    seen: set[int] = set()
    stack = list(reversed(roots))
    while stack and len(seen) < _MOST_OBJECTS:
        node = stack.pop()
        step = _step_from(type(node))
        if step is _nowhere or id(node) in seen:
            continue
        seen.add(id(node))
        if step is None:
            states[node] = None
        else:
            stack.extend(reversed(list(step(node))))
    return list(states)


@functools.lru_cache(maxsize=4096)
def _step_from(cls: type) -> Callable[[Any], Iterable[Any]] | None:
    """Returns what lists where one step leads to from objects of a class; None for states."""
    if issubclass(cls, State):
        return None
    for kinds, step in _STEPS:
        if issubclass(cls, kinds):
            return step
    return _of_another if is_foreign(cls.__module__) else _of_object


def _nowhere(node: Any) -> Iterable[Any]:
    return ()


def _of_function(node: FunctionType) -> Iterator[Any]:
    if not is_foreign(node.__module__):
        yield from _in_function(node)
    elif "__wrapped__" in vars(node):
        yield node.__wrapped__


def _of_another(node: Any) -> Iterator[Any]:
    if hasattr(node, "_reachable"):
        yield from node._reachable()
    elif "__wrapped__" in getattr(node, "__dict__", ()):
        yield from vars(node).values()


def _of_object(node: Any) -> Iterator[Any]:
    yield from getattr(node, "__dict__", {}).values()
    call = call_of(node)
    if isinstance(call, FunctionType) and not is_foreign(call.__module__):
        yield call


_STEPS: list[tuple[Any, Callable[[Any], Iterable[Any]]]] = [
    (_ENDS, _nowhere),
    (View, lambda node: [node.cell]),
    (BoundLens, lambda node: [node.module]),
    (MethodType, lambda node: [node.__self__, node.__func__]),
    (FunctionType, _of_function),
    (functools.partial, lambda node: [node.func, *node.args, *node.keywords.values()]),
    (Mapping, lambda node: node.values()),
    ((list, tuple, set, frozenset), lambda node: node),
    (weakref.ref, lambda node: [node()]),
    (MutableNode, _of_object),
]


def _in_function(function: FunctionType) -> Iterator[Any]:
    yield from closed_over(function)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = _names(function.__code__)
    for name in names:
        value = function.__globals__.get(name)
        yield value
        if isinstance(value, ModuleType) and not is_foreign(value.__name__):
            yield from (vars(value).get(inner) for inner in names)
    wrapped = vars(function).get("__wrapped__")
    if wrapped is not None:
        yield wrapped


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    inner = (name for c in code.co_consts if isinstance(c, CodeType) for name in _names(c))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def is_foreign(module: str | None) -> bool:
    """Says whether a module is not of the user's making, and knows nothing of states."""
    return (module or "").partition(".")[0] in _FOREIGN


def code_of(function: Callable[..., Any]) -> CodeType | None:
    """Returns the code that a function runs, if it is written in Python."""
    return getattr(innermost(function), "__code__", None)


def innermost(function: Callable[..., Any]) -> Any:
    """Returns the function inside of a bound method, a partial one, or an object's call."""
    *_, inner = unwrapped(function)
    is_function = hasattr(inner, "__code__")
    return inner if is_function else getattr(inner, "__wrapped__", None) or call_of(inner)


def owners_of(function: Callable[..., Any]) -> list[Any]:
    """Lists the states and modules that a function is bound to, or closes over itself."""
    found: list[Any] = []
    for layer in unwrapped(function):
        if isinstance(layer, MethodType):
            found.append(layer.__self__)
        elif isinstance(layer, functools.partial):
            found += [*layer.args, *layer.keywords.values()]
        elif isinstance(layer, FunctionType):
            found += closed_over(layer)
        else:
            found.append(layer)
    return [each for each in found if isinstance(each, (State, MutableNode))]


def labels_of(function: Callable[..., Any]) -> dict[State, str]:
    """Gives what to call the states of modules that a function is bound to, or names itself."""
    found: dict[State, str] = {}
    for layer in unwrapped(function):
        step = _step_from(type(layer))
        for owner in [layer, *(step(layer) if step else ())]:
            for cell, path in cells(owner).items() if isinstance(owner, MutableNode) else ():
                if isinstance(cell, State):
                    found.setdefault(cell, format(path))
    return found


def unwrapped(function: Any) -> Iterator[Any]:
    """Goes from a bound method or a partial function to the function inside."""
    while isinstance(function, (functools.partial, MethodType)):
        yield function
        function = function.func if isinstance(function, functools.partial) else function.__func__
    yield function


def closed_over(function: FunctionType) -> list[Any]:
    """Lists what a function closes over, None for what isn't assigned yet."""
    return [_contents(cell) for cell in function.__closure__ or ()]


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def call_of(node: Any) -> Any:
    """Finds the ``__call__`` that an object's class defines."""
    for cls in type(node).__mro__:
        if "__call__" in vars(cls):
            return vars(cls)["__call__"]
    return None
