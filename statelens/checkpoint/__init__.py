"""Checkpoints: trees and modules in files, each leaf under its path.

`save` writes a safetensors file, whole or not at all, and `load` reads one into a tree of either
style, after it has said of everything that doesn't fit. Rules rename, so that files of other
libraries go in and out. `Checkpoints` keeps those of a run. Nothing is ever pickled.
"""

from ._checkpoints import Checkpoints
from ._encoding import Spec
from ._file import Header, read_header
from ._report import Mismatch, Report
from ._rules import Rule, UnusedRule
from ._save_load import load, save

__all__ = [
    "Checkpoints",
    "Header",
    "Mismatch",
    "Report",
    "Rule",
    "Spec",
    "UnusedRule",
    "load",
    "read_header",
    "save",
]
