"""What importing the package does, and how its files lie."""

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
