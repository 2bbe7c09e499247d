"""Which states a function can reach: by closure, by globals, by what is bound to it.

A staged function takes the states that it touches as inputs, so they have to be known before
it is traced. Most are found by looking where Python code finds things. One that is missed is
met while tracing, and costs a second trace; one that is found for nothing is dropped again.
The names that led there are followed from then on: where one leads elsewhere, as after
``model = Model()`` in a notebook, the trace is stale.
"""

import functools
import operator
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from itertools import islice
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np

from ..._tree import METHODS, MISSING, PLAIN_TYPES, MutableNode, cells, format, is_foreign, slots_of
from ...state import Link, State

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

# To look further for states costs more than the second trace that it saves.
_MOST_OBJECTS = 20_000


class Step(NamedTuple):
    """One step from an object to what it reaches.

    Attributes:
        name: By what name.
        value: What it leads to.
        look: Looks where it leads now, given the object, which it doesn't keep alive.
        is_fixed: Whether it leads there for ever.
    """

    name: str
    value: Any
    look: Callable[[Any], Any]
    is_fixed: bool = False


def reachable(roots: list[Any]) -> list[State]:
    """Lists the states that can be reached from functions and other objects, in order."""
    states: dict[State, None] = {}
    seen: set[int] = set()
    stack = list(reversed(roots))
    while stack and len(seen) < _MOST_OBJECTS:
        node = stack.pop()
        steps_of = steps_from(type(node))
        if steps_of is _no_steps or id(node) in seen:
            continue
        seen.add(id(node))
        if steps_of is None:
            states[node] = None
        else:
            stack.extend(reversed([step.value for step in steps_of(node)]))
    return list(states)


def follow(targets: Container[int], roots: list[Any]) -> list[Link]:
    """Finds what leads from functions to states and modules, which are given by id.

    A link says where the object comes from that it starts at: a root, or an earlier link.
    """
    # Kept while this lasts, so that no other object takes an id.
    seen: dict[int, Any] = {}
    steps: list[tuple[int, Step]] = []
    queue = deque(roots)
    while queue:
        node = queue.popleft()
        steps_of = steps_from(type(node))
        if steps_of is _no_steps or id(node) in seen:
            continue
        seen[id(node)] = node
        # What is read of a module, the trace has noted by itself.
        if steps_of is None or isinstance(node, MutableNode):
            continue
        for step in steps_of(node):
            if _may_lead(step.value):
                steps.append((id(node), step))
                queue.append(step.value)
    leading = _leading_to(targets, seen, steps)
    sources = {id(root): place for place, root in reversed(list(enumerate(roots)))}
    links: list[Link] = []
    for source, step in steps:
        # What was met first comes first, so that it is known where each step starts.
        if id(step.value) in leading and not _holds_states_only(seen[source]):
            sources.setdefault(id(step.value), len(roots) + len(links))
            is_uniform = _holds_states_only(step.value)
            links.append(
                Link(step.name, sources[source], step.look, step.value, step.is_fixed, is_uniform)
            )
    return links


def _leading_to(
    targets: Container[int], seen: Iterable[int], steps: list[tuple[int, Step]]
) -> set[int]:
    sources: dict[int, list[int]] = {}
    for source, step in steps:
        sources.setdefault(id(step.value), []).append(source)
    stack = [each for each in seen if each in targets]
    leading = set[int]()
    while stack:
        each = stack.pop()
        if each not in leading:
            leading.add(each)
            stack += sources.get(each, ())
    return leading


def _holds_states_only(node: Any) -> bool:
    items = node.values() if isinstance(node, dict) else node
    return isinstance(node, (list, deque, dict, set)) and all(
        isinstance(item, (State, MutableNode)) for item in items
    )


def _may_lead(value: Any) -> bool:
    """Says whether a value isn't plain data, of which there may be much."""
    cls = type(value)
    if cls in (list, tuple, dict, set, frozenset, deque):
        items = value.values() if cls is dict else value
        return not all(map(_is_data, set(map(type, items))))
    return not _is_data(cls)


def _is_data(cls: type) -> bool:
    return steps_from(cls) is _no_steps and not issubclass(cls, (type, ModuleType))


@functools.lru_cache(maxsize=4096)
def steps_from(cls: type) -> Callable[[Any], Iterable[Step]] | None:
    """Returns what lists the steps from objects of a class; None for states."""
    if issubclass(cls, State):
        return None
    if hasattr(cls, "_reachable"):  # classes of this library know best
        return _of_reachable
    for kinds, steps in _STEPS:
        if issubclass(cls, kinds):
            return steps
    return _of_another if is_foreign(cls.__module__) else _of_object


def _no_steps(node: Any) -> Iterable[Step]:
    return ()


def _of_reachable(node: Any) -> Iterable[Step]:
    for number, value in enumerate(node._reachable()):
        yield Step("", value, functools.partial(_reached, number), is_fixed=True)


def _reached(number: int, node: Any) -> Any:
    return _item(number, node._reachable())


def _of_another(node: Any) -> Iterable[Step]:
    return _of_fields(node) if "__wrapped__" in getattr(node, "__dict__", {}) else ()


def _of_object(node: Any) -> Iterable[Step]:
    yield from _of_fields(node)
    for name, slot in slots_of(type(node)).items():
        look = functools.partial(_in_slot, slot)
        yield Step(name, look(node), look)
    yield from named_in(node)


def _in_slot(slot: Any, node: Any) -> Any:
    try:
        return slot.__get__(node)
    except AttributeError:
        return MISSING


def _of_fields(node: Any) -> Iterable[Step]:
    for name, value in list(getattr(node, "__dict__", {}).items()):
        yield Step(str(name), value, functools.partial(_in_field, name))


def _in_field(name: str, node: Any) -> Any:
    return getattr(node, "__dict__", {}).get(name, MISSING)


def _of_mapping(node: Mapping[Any, Any]) -> Iterable[Step]:
    for number, (key, value) in enumerate(node.items()):
        if _may_lead(value):
            # Other keys might lead back to what they stand for, and are not kept.
            is_plain = isinstance(key, PLAIN_TYPES)
            look = functools.partial(_entry, key) if is_plain else functools.partial(_nth, number)
            yield Step(str(key), value, look)


def _entry(key: Any, node: Mapping[Any, Any]) -> Any:
    return node.get(key, MISSING)


def _nth(number: int, node: Mapping[Any, Any]) -> Any:
    return next(islice(node.values(), number, None), MISSING)


def _of_items(node: Iterable[Any]) -> Iterable[Step]:
    for number, item in enumerate(node):
        if _may_lead(item):
            yield Step(f"[{number}]", item, functools.partial(_item, number))


def _item(number: int, node: Iterable[Any]) -> Any:
    return next(islice(node, number, None), MISSING)


def _of_weak_reference(node: Callable[[], Any]) -> Iterable[Step]:
    return [Step("", node(), operator.call, is_fixed=True)]


_STEPS: list[tuple[Any, Callable[[Any], Iterable[Step]]]] = [
    (_ENDS, _no_steps),
    (FUNCTIONS, lambda node: named_in(node)),
    (Mapping, _of_mapping),
    ((list, deque, tuple, set, frozenset), _of_items),
    (weakref.ref, _of_weak_reference),
    (MutableNode, _of_object),
    ((SimpleNamespace, Namespace), _of_fields),
]


def named_in(function: Any) -> Iterator[Step]:
    """Gives what a function reaches in one step."""
    if isinstance(function, METHODS):
        yield from map(functools.partial(_attribute, function), ("__self__", "__func__"))
    elif isinstance(function, functools.partial):
        yield _attribute(function, "func")
        yield from _parts(function, "args", lambda partial: partial.args)
        yield from _parts(function, "keywords", lambda partial: partial.keywords.values())
    elif isinstance(function, FunctionType):
        if not is_foreign(function.__module__):
            yield from _named_in_code(function)
        if "__wrapped__" in vars(function):
            yield _attribute(function, "__wrapped__")
    elif isinstance(_call_of(function), FunctionType):
        yield Step("__call__", _call_of(function), _call_of, is_fixed=True)


def _attribute(node: Any, name: str) -> Step:
    look = operator.attrgetter(name)
    return Step(name, look(node), look, is_fixed=True)


def _parts(node: Any, name: str, parts_of: Callable[[Any], Iterable[Any]]) -> Iterator[Step]:
    for number, part in enumerate(parts_of(node)):
        yield Step(f"{name}[{number}]", part, functools.partial(_part, parts_of, number))


def _part(parts_of: Callable[[Any], Iterable[Any]], number: int, node: Any) -> Any:
    return _item(number, parts_of(node))


def _named_in_code(function: FunctionType) -> Iterator[Step]:
    code, names = function.__code__, _names(function.__code__)
    for number, name in enumerate(code.co_freevars):
        yield from _steps_by(function, name, functools.partial(_in_cell, number), names)
    yield from _parts(function, "__defaults__", _defaults)
    for name in names:
        yield from _steps_by(function, name, functools.partial(_in_globals, name), names)


def _defaults(function: FunctionType) -> Iterable[Any]:
    return (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())


def contents_of_cells(function: FunctionType) -> list[Any]:
    """Lists what a function closes over."""
    return [_in_cell(number, function) for number in range(len(function.__code__.co_freevars))]


def _in_cell(number: int, function: FunctionType) -> Any:
    try:
        return (function.__closure__ or ())[number].cell_contents
    except ValueError:  # it isn't assigned yet
        return MISSING


def _in_globals(name: str, function: FunctionType) -> Any:
    return function.__globals__.get(name, MISSING)


def _steps_by(
    function: FunctionType, name: str, look: Callable[[Any], Any], inner_names: Iterable[str]
) -> Iterator[Step]:
    value = look(function)
    yield Step(name, value, look)
    # Of the attributes of a module or a class, those that the code may mean.
    if isinstance(value, (ModuleType, type)) and not is_foreign(_module_of(value)):
        for inner in inner_names:
            if inner in vars(value):
                inner_look = functools.partial(_within, look, inner)
                yield Step(f"{name}.{inner}", vars(value)[inner], inner_look)


def _within(look: Callable[[Any], Any], name: str, function: FunctionType) -> Any:
    return getattr(look(function), "__dict__", {}).get(name, MISSING)


def _module_of(value: ModuleType | type) -> str:
    return value.__module__ if isinstance(value, type) else value.__name__


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    inner = (name for part in inner_codes(code) for name in _names(part))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def inner_codes(code: CodeType) -> list[CodeType]:
    """Lists the code of the functions that are made in a function."""
    return [part for part in code.co_consts if isinstance(part, CodeType)]


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
        steps_of = steps_from(type(layer))
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
