"""What importing the package does, and how its files lie."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import statelens as sl

ROOT = Path(sl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FUNCTIONS = [name for name in sl.__all__ if inspect.isfunction(getattr(sl, name))]


def test_importing_it_does_not_import_optax():
    code = "import sys, statelens; print('optax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_no_private_api_of_jax_is_used(file):
    assert "jax._src" not in file.read_text()


def layers():
    """The names in the table of the package's docstring, from the bottom up."""
    table = sl.__doc__.split("=====\n", 1)[1]
    found = [re.findall(r"``(\w+)``", line) for line in table.splitlines()]
    return {name: level for level, names in enumerate(found) for name in names}


def layer_of(file):
    parts = file.relative_to(ROOT).parts
    return "transform" if parts[0] == "transform" else file.stem


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.parent != ROOT or file.stem != "__init__"], ids=str
)
def test_imports_point_downwards_only(file):
    order = layers()
    here = layer_of(file)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside = file.parent != ROOT and node.level == 1
            imported = here if inside else (node.module or "").split(".")[0]
            if imported:
                assert order[imported] <= order[here], f"{here} imports {imported}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    text = inspect.getdoc(getattr(sl, name))
    for section in ("Args:", "Returns:", "Example:", ">>> "):
        assert section in text, section
    for parameter in inspect.signature(getattr(sl, name)).parameters:
        assert re.search(rf"^\s+\**{parameter}:", text, re.MULTILINE), parameter


@pytest.mark.parametrize("name", sl.__all__)
def test_public_names_have_a_docstring_or_are_modules(name):
    assert getattr(sl, name).__doc__
