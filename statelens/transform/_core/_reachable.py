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
from ...state import State

FUNCTIONS = (FunctionType, MethodType, functools.partial)

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
    """Lists the states that can be reached from functions and other objects, in order."""
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
    if hasattr(cls, "_reachable"):  # classes of this library know best
        return lambda node: node._reachable()
    for kinds, step in _STEPS:
        if issubclass(cls, kinds):
            return step
    return _of_another if is_foreign(cls.__module__) else _of_object


def _nowhere(node: Any) -> Iterable[Any]:
    return ()


def _of_another(node: Any) -> Iterable[Any]:
    attributes = getattr(node, "__dict__", {})
    return attributes.values() if "__wrapped__" in attributes else ()


def _of_object(node: Any) -> Iterable[Any]:
    return [*getattr(node, "__dict__", {}).values(), *_of_function(node)]


def _of_function(node: Any) -> Iterable[Any]:
    return [value for _, value in named_in(node)]


_STEPS: list[tuple[Any, Callable[[Any], Iterable[Any]]]] = [
    (_ENDS, _nowhere),
    (FUNCTIONS, _of_function),
    (Mapping, lambda node: node.values()),
    ((list, tuple, set, frozenset), lambda node: node),
    (weakref.ref, lambda node: [node()]),
    (MutableNode, _of_object),
]


def named_in(function: Any) -> Iterator[tuple[str, Any]]:
    """Gives what a function reaches in one step, by the name under which it does."""
    if isinstance(function, MethodType):
        yield "__self__", function.__self__
        yield "__func__", function.__func__
    elif isinstance(function, functools.partial):
        yield "func", function.func
        yield from ((f"args[{number}]", arg) for number, arg in enumerate(function.args))
        yield from function.keywords.items()
    elif isinstance(function, FunctionType):
        if not is_foreign(function.__module__):
            yield from _named_in_code(function)
        if "__wrapped__" in vars(function):
            yield "__wrapped__", vars(function)["__wrapped__"]
    elif isinstance(call := _call_of(function), FunctionType):
        yield "__call__", call


def _named_in_code(function: FunctionType) -> Iterator[tuple[str, Any]]:
    yield from zip(function.__code__.co_freevars, _closed_over(function), strict=True)
    yield from (("__defaults__", value) for value in function.__defaults__ or ())
    yield from (("__defaults__", value) for value in (function.__kwdefaults__ or {}).values())
    names = _names(function.__code__)
    for name in names:
        value = function.__globals__.get(name)
        yield name, value
        # Of a module's attributes, those that the code may mean.
        if isinstance(value, ModuleType) and not is_foreign(value.__name__):
            yield from ((f"{name}.{inner}", vars(value).get(inner)) for inner in names)


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    inner = (name for part in inner_codes(code) for name in _names(part))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def inner_codes(code: CodeType) -> list[CodeType]:
    """Lists the code of the functions that are made in a function."""
    return [part for part in code.co_consts if isinstance(part, CodeType)]


def is_foreign(module: str | None) -> bool:
    """Says whether a module is not of the user's making, and knows nothing of states."""
    return (module or "").partition(".")[0] in _FOREIGN


def code_of(function: Callable[..., Any]) -> CodeType | None:
    """Returns the code that a function runs, if it is written in Python."""
    return getattr(innermost(function), "__code__", None)


def innermost(function: Callable[..., Any]) -> Any:
    """Returns the function inside of a bound method, a partial one, or an object's call."""
    *_, inner = _unwrapped(function)
    if hasattr(inner, "__code__"):
        return inner
    return getattr(inner, "__wrapped__", None) or _call_of(inner)


def _call_of(node: Any) -> Any:
    """Finds the ``__call__`` that an object's class defines."""
    return getattr(type(node), "__call__", None)  # noqa: B004  to look at, not to call


def owners_of(function: Callable[..., Any]) -> list[State | MutableNode]:
    """Lists the states and modules that a function is, is bound to, or names itself."""
    found: list[Any] = []
    for layer in _unwrapped(function):
        step = _step_from(type(layer))
        found += [layer, *(step(layer) if step else ())]
    return [each for each in found if isinstance(each, (State, MutableNode))]


def labels_of(function: Callable[..., Any]) -> dict[State, str]:
    """Gives what to call the states of modules that a function is bound to, or names itself."""
    found: dict[State, str] = {}
    for owner in owners_of(function):
        for cell, path in cells(owner).items() if isinstance(owner, MutableNode) else ():
            if isinstance(cell, State):
                found.setdefault(cell, format(path))
    return found


def _unwrapped(function: Any) -> Iterator[Any]:
    """Goes from a bound method or a partial function to the function inside."""
    while isinstance(function, (functools.partial, MethodType)):
        yield function
        function = function.func if isinstance(function, functools.partial) else function.__func__
    yield function


def _closed_over(function: FunctionType) -> list[Any]:
    """Lists what a function closes over, None for what isn't assigned yet."""
    return [_contents(cell) for cell in function.__closure__ or ()]


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
