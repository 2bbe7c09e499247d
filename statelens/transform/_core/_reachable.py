"""Which states a function can reach: by closure, by globals, by what is bound to it.

A staged function takes the states that it touches as inputs, so they have to be known before
it is traced. Most are found by looking where Python code finds things. One that is missed is
met while tracing, and costs a second trace; one that is found for nothing is dropped again.
The names that led there are followed from then on: where one leads elsewhere, as after
``model = Model()`` in a notebook, the trace is stale.
"""

import functools
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from types import CellType, CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np

from ..._tree import FOREIGN, METHODS, MISSING, MutableNode, cells, format
from ...state import State

FUNCTIONS = (FunctionType, *METHODS, functools.partial)

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

# A walk that is longer than that costs more than the second trace that it saves.
_MOST_OBJECTS = 20_000


class Step(NamedTuple):
    """One step from an object to what it reaches.

    Attributes:
        name: By what name.
        value: What it leads to.
        find: Finds where it leads now; None if it leads there for ever.
    """

    name: str
    value: Any
    find: Callable[[], Any] | None = None


def reachable(roots: list[Any]) -> list[State]:
    """Lists the states that can be reached from functions and other objects, in order."""
    states: dict[State, None] = {}
    seen: set[int] = set()
    stack = list(reversed(roots))
    while stack and len(seen) < _MOST_OBJECTS:
        node = stack.pop()
        steps_of = _steps_from(type(node))
        if steps_of is _no_steps or id(node) in seen:
            continue
        seen.add(id(node))
        if steps_of is None:
            states[node] = None
        else:
            stack.extend(reversed([step.value for step in steps_of(node)]))
    return list(states)


class Followed(NamedTuple):
    """What led from functions to states and modules.

    Attributes:
        names: The names that did, what each leads to, and what finds it again.
        containers: The containers that did, and that hold nothing but states and modules.
    """

    names: list[tuple[str, Any, Callable[[], Any]]]
    containers: list[Any]


def follow(targets: Container[int], roots: list[Any]) -> Followed:
    """Finds what leads from functions to states and modules, which are given by id."""
    # Kept while this lasts, so that no other object takes an id.
    seen: dict[int, Any] = {}
    led_by: dict[int, list[tuple[int, Step]]] = {}
    stack = list(roots)
    while stack and len(seen) < _MOST_OBJECTS:
        node = stack.pop()
        steps_of = _steps_from(type(node))
        if steps_of is _no_steps or id(node) in seen:
            continue
        seen[id(node)] = node
        # What is read of a module, the trace has noted by itself.
        if steps_of is None or isinstance(node, MutableNode):
            continue
        for step in steps_of(node):
            led_by.setdefault(id(step.value), []).append((id(node), step))
            stack.append(step.value)
    found = Followed([], [])
    leading = [each for each in seen if each in targets]
    uniform = {each: _holds_states_only(node) for each, node in seen.items()}
    while leading:
        for source, step in led_by.pop(leading.pop(), ()):
            leading.append(source)
            if uniform[source]:
                found.containers.append(seen[source])
            elif step.find is not None:
                found.names.append((step.name, step.value, step.find))
    return found


def _holds_states_only(node: Any) -> bool:
    items = node.values() if isinstance(node, dict) else node
    return isinstance(node, (list, deque, dict, set)) and all(
        isinstance(item, (State, MutableNode)) for item in items
    )


@functools.lru_cache(maxsize=4096)
def _steps_from(cls: type) -> Callable[[Any], Iterable[Step]] | None:
    """Returns what lists the steps from objects of a class; None for states."""
    if issubclass(cls, State):
        return None
    if hasattr(cls, "_reachable"):  # classes of this library know best
        return lambda node: [Step("", value) for value in node._reachable()]
    for kinds, steps in _STEPS:
        if issubclass(cls, kinds):
            return steps
    return _of_another if is_foreign(cls.__module__) else _of_object


def _no_steps(node: Any) -> Iterable[Step]:
    return ()


def _of_another(node: Any) -> Iterable[Step]:
    attributes = getattr(node, "__dict__", {})
    return _of_mapping(attributes) if "__wrapped__" in attributes else ()


def _of_object(node: Any) -> Iterable[Step]:
    yield from _of_mapping(getattr(node, "__dict__", {}))
    for name in _slots(type(node)):
        find = functools.partial(getattr, node, name, MISSING)
        yield Step(name, find(), find)
    yield from named_in(node)


@functools.lru_cache(maxsize=4096)
def _slots(cls: type) -> tuple[str, ...]:
    names = [getattr(base, "__slots__", ()) for base in cls.__mro__]
    listed = [name for each in names for name in ([each] if isinstance(each, str) else each)]
    return tuple(name for name in listed if not name.startswith("__"))


def _of_mapping(node: Mapping[Any, Any]) -> Iterable[Step]:
    for key, value in node.items():
        yield Step(str(key), value, functools.partial(node.get, key, MISSING))


def _of_items(node: Iterable[Any]) -> Iterable[Step]:
    return [Step("", item) for item in node]


def _of_sequence(node: Any) -> Iterable[Step]:
    return [
        Step(f"[{number}]", item, functools.partial(_item, node, number))
        for number, item in enumerate(node)
    ]


def _item(node: Any, number: int) -> Any:
    return node[number] if number < len(node) else MISSING


_STEPS: list[tuple[Any, Callable[[Any], Iterable[Step]]]] = [
    (_ENDS, _no_steps),
    (FUNCTIONS, lambda node: named_in(node)),
    (Mapping, _of_mapping),
    ((list, deque), _of_sequence),
    ((tuple, set, frozenset), _of_items),
    (weakref.ref, lambda node: [Step("", node())]),
    (MutableNode, _of_object),
    ((SimpleNamespace, Namespace), lambda node: _of_mapping(vars(node))),
]


def named_in(function: Any) -> Iterator[Step]:
    """Gives what a function reaches in one step."""
    if isinstance(function, METHODS):
        yield Step("__self__", function.__self__)
        yield Step("__func__", function.__func__)
    elif isinstance(function, functools.partial):
        yield Step("func", function.func)
        yield from (Step(f"args[{number}]", arg) for number, arg in enumerate(function.args))
        yield from _of_mapping(function.keywords)
    elif isinstance(function, FunctionType):
        if not is_foreign(function.__module__):
            yield from _named_in_code(function)
        if "__wrapped__" in vars(function):
            yield Step("__wrapped__", vars(function)["__wrapped__"])
    elif isinstance(call := _call_of(function), FunctionType):
        yield Step("__call__", call)


def _named_in_code(function: FunctionType) -> Iterator[Step]:
    code, names = function.__code__, _names(function.__code__)
    closure = zip(code.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in closure:
        yield from _steps_by(name, functools.partial(_contents, cell), names)
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield from (Step("__defaults__", value) for value in defaults)
    globals_ = function.__globals__
    for name in names:
        yield from _steps_by(name, functools.partial(globals_.get, name, MISSING), names)


def _steps_by(name: str, find: Callable[[], Any], inner_names: Iterable[str]) -> Iterator[Step]:
    value = find()
    yield Step(name, value, find)
    # Of the attributes of a module or a class, those that the code may mean.
    if isinstance(value, (ModuleType, type)) and not is_foreign(_module_of(value)):
        for inner in inner_names:
            find_inner = functools.partial(vars(value).get, inner, MISSING)
            yield Step(f"{name}.{inner}", find_inner(), find_inner)


def _module_of(value: ModuleType | type) -> str:
    return value.__module__ if isinstance(value, type) else value.__name__


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    inner = (name for part in inner_codes(code) for name in _names(part))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def inner_codes(code: CodeType) -> list[CodeType]:
    """Lists the code of the functions that are made in a function."""
    return [part for part in code.co_consts if isinstance(part, CodeType)]


def is_foreign(module: str | None) -> bool:
    """Says whether a module is not of the user's making, and knows nothing of states."""
    return (module or "").partition(".")[0] in FOREIGN


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
        steps_of = _steps_from(type(layer))
        found += [layer, *(step.value for step in (steps_of(layer) if steps_of else ()))]
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
    while isinstance(function, (functools.partial, *METHODS)):
        yield function
        function = function.func if isinstance(function, functools.partial) else function.__func__
    yield function


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it isn't assigned yet
        return MISSING
