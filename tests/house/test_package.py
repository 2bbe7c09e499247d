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


def test_an_older_jax_is_refused_by_an_error_that_says_which_one_is_needed():
    code = """
import jax
jax.__version__, jax.__version_info__ = "0.9.2", (0, 9, 2)
try:
    import statelens
except ImportError as error:
    print(type(error).__name__, error, sep="\\n")
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == [
        "MissingPackageError",
        "asked to import statelens",
        "JAX is installed in version 0.9.2, and 0.10 or newer is needed",
        'Instead: pip install --upgrade "jax>=0.10"',
    ]
    assert '"jax>=0.10"' in (ROOT.parent / "pyproject.toml").read_text()


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
