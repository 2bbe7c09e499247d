"""Specs: what people may write where a lens is meant."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias, get_origin

import numpy as np

from .._errors import ArgumentTypeError, StateTypeError
from .._tree import Cell, flatten_as_jax
from ._algebra import Not, Numbers, Optional, Or
from ._coverage import Selector
from ._selectors import Everything, Masked, OfArrays, Predicate
from ._text import of_class, parse_selector

LensSpec: TypeAlias = Any
"""A pattern, a class, ``...``, `None`, a predicate ``(path, unit) -> bool``, a list or
tuple of specs, a prefix tree of booleans, or another lens."""


def selector_of(spec: LensSpec, *, optional: bool = False, numbers: bool = False) -> Selector:
    """Returns the selector that a spec means."""
    selector = _selector_of(spec)
    if numbers and not isinstance(selector, Numbers):
        selector = Numbers(selector)
    return Optional(selector) if optional and not isinstance(selector, Optional) else selector


def _selector_of(spec: LensSpec) -> Selector:
    selector = getattr(spec, "selector", spec)
    if isinstance(selector, Selector):
        return selector
    if spec is None:
        return Not(Everything())
    if spec is ...:
        return Everything()
    if isinstance(spec, str):
        return parse_selector(spec)
    # `State[int]` is no class, but stands for one.
    cls = get_origin(spec) or spec
    if isinstance(cls, type):
        return of_class(cls)
    if isinstance(spec, Cell):
        raise StateTypeError(
            f"asked for a lens of {spec!r}",
            "that is a state itself, not a way to select one",
            "grad_states=[state] to differentiate just this one",
            "its path or its class, as in lens('layers[0].weight')",
        )
    leaves, structure = flatten_as_jax(spec)
    if leaves and all(isinstance(leaf, (bool, np.bool_)) for leaf in leaves):
        return Masked(tuple(map(bool, leaves)), structure)
    if isinstance(spec, (list, tuple)):
        selectors = list(map(_selector_of, spec)) or [Not(Everything())]
        return Or(*selectors) if len(selectors) > 1 else selectors[0]
    if callable(spec) and leaves == [spec]:
        # A filter of leaves, such as `equinox.is_array`, and not a predicate of two.
        if _takes(spec, 1) and not _takes(spec, 2):
            return OfArrays(getattr(spec, "__name__", repr(spec)), spec)
        return Predicate(spec)
    raise ArgumentTypeError(
        f"asked for a lens of {type(spec).__name__}: {spec!r:.80}",
        "a lens is made of a path pattern, a class, a predicate, a list of these, or booleans",
        "argnums, to differentiate by an argument as jax.grad does"
        if isinstance(spec, int)
        else "lens('**.weight') for leaves by their path",
        "lens(ParamState) for states of a class",
    )


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Says whether a function is known to take so many arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True
