"""Paths: where a leaf lies in a pytree, and how that is written."""

from ._tree import Path, format, parse, resolve

__all__ = ["Path", "format", "parse", "resolve"]
