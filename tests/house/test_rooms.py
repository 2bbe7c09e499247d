"""The rooms of the house: which there are, who may import whom, and how large they are.

A room is a folder of `statelens/` or of `statelens/transform/`, or a file of its own. Its face is
its `__init__.py`, or the file itself. The faces of the whole package, of `transform` and of `path`
are for users: no room imports from them.
"""

import ast
import functools
import importlib.metadata
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import statelens as sl
from tests.helpers import REPOSITORY

# From the ground up: a file imports from rooms that stand in lines above its own, only.
ORDER = [
    ["_errors"],
    ["_jax_version", "_lru_cache"],
    ["_tree"],
    ["lens"],
    ["state"],
    ["thread", "random", "nn"],
    ["transform/_core"],
    ["transform/compilation"],
    ["transform/control_flow", "transform/inspection"],
    ["transform/batching"],
    ["transform/derivatives"],
    ["compat", "optim", "sharding", "display"],
    ["checkpoint"],
]
FLOORS = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}

ROOT = Path(sl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FOR_USERS = [ROOT / name for name in ("__init__.py", "transform/__init__.py", "path.py")]

MOST_LINES = 400
MOST_ROOMS = {"": 14, "transform": 8}
LONGEST_CHAIN = 16
LONGEST_ESSAY = 10


def shown(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def room_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return "/".join(parts[: 2 if parts[0] == "transform" else 1])


def is_face(file: Path) -> bool:
    return file.name == "__init__.py" or file in FOR_USERS


ROOMS = sorted({room_of(file) for file in FILES if file not in FOR_USERS})


# Which file imports which.


class Import(NamedTuple):
    """A name that a file imports from a file of the package, or None for the file as a whole."""

    line: int
    file: Path
    name: str | None
    is_for_types: bool


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node: ast.AST, is_for_types: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Lists import statements, those in functions as well, and which are for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, is_for_types
        elif isinstance(child, ast.If) and is_type_checking(child.test):
            for branch, of_types in ((child.body, True), (child.orelse, is_for_types)):
                yield from statements(ast.Module(branch, []), of_types)
        else:
            yield from statements(child, is_for_types)


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def module_file(parts: tuple[str, ...]) -> Path | None:
    """The file of a module, by its name after `statelens`."""
    place = ROOT.joinpath(*parts)
    for file in (place / "__init__.py", place.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def target_of(file: Path, statement: ast.ImportFrom) -> tuple[str, ...] | None:
    """The module that names are taken from, by its name after `statelens`."""
    names = tuple(statement.module.split(".")) if statement.module else ()
    if statement.level:
        package = file.relative_to(ROOT).parent.parts
        return package[: len(package) - statement.level + 1] + names
    return names[1:] if names[0] == ROOT.name else None


@functools.cache
def imports_of(file: Path) -> list[Import]:
    found = []
    for statement, is_for_types in statements(tree_of(file)):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                package, *parts = alias.name.split(".")
                if package == ROOT.name and (module := module_file(tuple(parts))):
                    found.append(Import(statement.lineno, module, None, is_for_types))
        elif isinstance(statement, ast.ImportFrom):
            parts = target_of(file, statement)
            source = None if parts is None else module_file(parts)
            if parts is None or source is None:
                continue
            for alias in statement.names:
                module = module_file((*parts, alias.name)) if source.stem == "__init__" else None
                of = (source, alias.name) if module is None else (module, None)
                found.append(Import(statement.lineno, *of, is_for_types))
    return found


def test_imports_are_found():
    assert len(FILES) > 50
    found = {shown(each.file) for file in FILES for each in imports_of(file)}
    assert found >= {"_errors.py", "lens/__init__.py", "state/_state.py", "transform/__init__.py"}
    # Each file is imported by another one.
    assert found | {"__init__.py"} >= {shown(file) for file in FILES if not is_face(file)}


# Who may import whom.


def test_every_room_has_its_place_in_the_order():
    assert set(ROOMS) - set(FLOORS) == set()


def outside_imports() -> Iterator[tuple[str, str, str, Import]]:
    """Lists imports from other rooms: what to say of it, whose room, which room, the import."""
    for file in FILES:
        if file not in FOR_USERS:
            for each in imports_of(file):
                if each.file in FOR_USERS or room_of(each.file) != room_of(file):
                    says = f"{shown(file)}:{each.line} imports {each.name} of {shown(each.file)}"
                    yield says, room_of(file), room_of(each.file), each


def test_imports_go_one_way():
    wrong = [
        says
        for says, ours, theirs, each in outside_imports()
        if each.file in FOR_USERS or FLOORS[theirs] >= FLOORS[ours]
    ]
    assert not wrong, "\n".join(wrong)


def test_a_room_is_imported_by_its_face_only():
    wrong = [
        says
        for says, _, theirs, each in outside_imports()
        if each.file not in (ROOT / theirs / "__init__.py", ROOT / f"{theirs}.py")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", [file for file in FILES if is_face(file)], ids=shown)
def test_a_face_defines_nothing(file):
    tree = tree_of(file)
    assert len((ast.get_docstring(tree) or "").splitlines()) <= LONGEST_ESSAY
    others = [node for node in tree.body[1:] if not isinstance(node, (ast.Import, ast.ImportFrom))]
    targets = [ast.unparse(node).partition(" = ")[0] for node in others]
    assert set(targets) <= {"__all__", "__version__"}


# How large they are.


@pytest.mark.parametrize("file", FILES, ids=shown)
def test_no_file_is_long(file):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES


@pytest.mark.parametrize("folder", MOST_ROOMS)
def test_there_are_few_rooms(folder):
    entries = [entry for entry in (ROOT / folder).iterdir() if not entry.name.startswith("__")]
    rooms = [entry.name for entry in entries if entry.is_dir() or entry in FILES]
    found = sorted(name for name in rooms if ROOT / folder / name not in FOR_USERS)
    assert 0 < len(found) <= MOST_ROOMS[folder], found


# How far one has to follow imports.


def definers(file: Path, name: str | None) -> set[Path]:
    """The files that define what is imported: a face defines nothing, and passes it on."""
    if not is_face(file):
        return {file}
    passed_on = [x for x in imports_of(file) if name in (None, x.name or x.file.stem)]
    return set(itertools.chain(*(definers(each.file, each.name) for each in passed_on)))


@functools.cache
def needed_by(file: Path) -> list[Path]:
    found = [definers(x.file, x.name) for x in imports_of(file) if not x.is_for_types]
    return sorted(set(itertools.chain(*found)) - {file})


def chain_from(file: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """The longest chain of imports that begins with a file."""
    if file in above:
        raise AssertionError("a circle: " + " -> ".join(map(shown, (*above, file))))
    if file not in _chains:
        below = [chain_from(each, (*above, file)) for each in needed_by(file)]
        _chains[file] = [file, *max(below, key=len, default=[])]
    return _chains[file]


_chains: dict[Path, list[Path]] = {}


def test_chains_of_imports_are_short():
    longest = max((chain_from(file) for file in FILES if not is_face(file)), key=len)
    said = f"{len(longest)} files: " + " -> ".join(map(shown, longest))
    print(said)
    assert len(longest) <= LONGEST_CHAIN, said


# What it stands on.


def foreign_imports() -> set[str]:
    found = set()
    for file in FILES:
        for statement, _ in statements(tree_of(file)):
            if isinstance(statement, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in statement.names}
            elif isinstance(statement, ast.ImportFrom) and not statement.level:
                found.add((statement.module or "").partition(".")[0])
    return found


def test_nothing_is_declared_and_unused():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    modules = importlib.metadata.packages_distributions()
    used = {name for module in foreign_imports() for name in modules.get(module, [module])}
    assert names <= used
