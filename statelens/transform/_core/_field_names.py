"""Which fields of plain objects the code that a function runs may read, by their names.

Nothing says what a trace reads of an object that isn't ours. But what it reads has a name, and the
name stands in the code: in the function's, in that of functions which it reaches, or in a method of
an object, if that method's name stands in such code too.
"""

import dis
import functools
import operator
import sys
from collections.abc import Container, Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ..._tree import is_foreign
from ...state import ALL_FIELDS
from ._reachable import contents_of_cells, inner_codes, steps_from

# By these a field may be read whose name stands nowhere in the code.
_READERS = frozenset(
    {
        "attrgetter",
        "dir",
        "getattr",
        "vars",
    }
)
_ATTRIBUTE_READERS = frozenset({"__dict__", "__getattribute__", "__getstate__", "attrgetter"})
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
_VARIABLES = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "IMPORT_NAME", "IMPORT_FROM")

# To look further costs more than to compare all fields.
_MOST_FUNCTIONS = 2_000


def field_names(roots: Iterable[Any]) -> frozenset[str]:
    """Lists the names that the code of functions has, of the classes of objects, and so on.

    Where any field may be read, ``"__dict__"`` is one of them.
    """
    names = set[str]()
    seen: dict[int, Any] = {}
    classes: dict[type | ModuleType, None] = {}
    functions, stack = 0, list(roots)
    while stack:
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen[id(node)] = node
            if _reads_any(node):
                return ALL_FIELDS
            if isinstance(node, (type, ModuleType)):
                classes[node] = None
                continue
            steps_of = steps_from(type(node))
            steps = steps_of(node) if steps_of is not None else ()
            # What only `super` needs is looked at as such.
            stack += [step.value for step in steps if step.name != "__class__"]
            if isinstance(node, FunctionType):
                functions += 1
                if is_foreign(node.__module__):
                    stack += contents_of_cells(node)
                else:
                    names |= _names_in(node.__code__)
                    stack += _imported(node)
            elif is_foreign(type(node).__module__):
                # What wraps a function, such as a method of a module of Equinox's.
                stack += filter(callable, getattr(node, "__dict__", {}).values())
            else:
                classes[type(node)] = None
        if "__dict__" in names or functions > _MOST_FUNCTIONS:
            return ALL_FIELDS
        stack += [each for cls in classes for each in _members(cls, names) if id(each) not in seen]
    return frozenset(names)


def _reads_any(node: Any) -> bool:
    """Says whether an object may read fields of others by any name."""
    if isinstance(node, (operator.attrgetter, operator.methodcaller)):
        return True
    name = getattr(node, "__name__" if isinstance(node, ModuleType) else "__module__", None)
    return name in ("copy", "dataclasses") and (callable(node) or isinstance(node, ModuleType))


def _members(owner: type | ModuleType, names: Container[str]) -> Iterator[Any]:
    """Gives what of a class or a module may be used by code with these names."""
    bases = owner.__mro__ if isinstance(owner, type) else (owner,)
    overridden = set[str]()
    for base in bases:
        if is_foreign(base.__module__ if isinstance(base, type) else base.__name__):
            continue
        for name, member in list(vars(base).items()):
            is_met = name in names or (isinstance(base, type) and _is_implicit(name, member))
            if is_met and (f"super.{name}" in names or name not in overridden):
                overridden.add(name)
                yield from _functions_in(member)


def _functions_in(member: Any) -> Iterator[Any]:
    if isinstance(member, property):
        yield from (member.fget, member.fset, member.fdel)
    elif isinstance(member, (staticmethod, classmethod)):
        yield member.__func__
    elif isinstance(member, functools.cached_property):
        yield member.func
    else:
        yield member


def _is_implicit(name: str, member: Any) -> bool:
    """Says whether a method may be called though nothing names it."""
    if not name.startswith("__") or name in ("__repr__", "__str__"):
        return False
    # What `dataclasses` makes reads all fields, and is seldom meant.
    return not isinstance(member, FunctionType) or not (
        is_foreign(member.__module__) or member.__code__.co_filename == "<string>"
    )


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> frozenset[str]:
    """Lists what names of fields a code has; ``"__dict__"`` if it may read any."""
    steps = list(dis.get_instructions(code))
    attributes = {step.argval for step in steps if step.opname in _ATTRIBUTES}
    variables = {step.argval for step in steps if step.opname in _VARIABLES}
    is_matched = any(step.opname == "MATCH_CLASS" for step in steps)
    if is_matched or variables & _READERS or attributes & _ATTRIBUTE_READERS:
        return ALL_FIELDS
    if "super" in variables:
        attributes |= {f"super.{name}" for name in attributes}
    if "hasattr" in variables:
        attributes |= {text for text in code.co_consts if isinstance(text, str)}
    return frozenset(attributes.union(*map(_names_in, inner_codes(code))))


def _imported(function: FunctionType) -> list[Any]:
    """Lists the modules that a function imports itself."""
    package = function.__globals__.get("__package__")
    names = _imports_in(function.__code__)
    found = [sys.modules.get(each) for name in names for each in (name, f"{package}.{name}")]
    return [module for module in found if module is not None]


@functools.lru_cache(maxsize=4096)
def _imports_in(code: CodeType) -> frozenset[str]:
    own = {s.argval for s in dis.get_instructions(code) if s.opname == "IMPORT_NAME"}
    return frozenset(own.union(*map(_imports_in, inner_codes(code))))
