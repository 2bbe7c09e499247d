"""Derivatives of values that carry physical units, as `saiunit` quantities.

JAX differentiates numbers. So units are taken off before, and what they are for a derivative is
worked out from its structure: the unit of the output, divided by that of what is differentiated,
once for each time that it is differentiated.
"""

import functools
import importlib
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax

from ..._errors import DifferentiationError, MissingPackageError


def _saiunit() -> Any:
    return importlib.import_module("saiunit")


def require_units(asked_by: str) -> None:
    """Refuses `unit_aware` where there is no package for units."""
    try:
        _saiunit()
    except ImportError:
        raise MissingPackageError(
            f"asked {asked_by} for unit_aware=True",
            "the package saiunit, which has the units, isn't installed",
            "pip install 'statelens[units]'",
            "unit_aware=False, for plain arrays",
        ) from None


class Bare:
    """A tree with `numbers` in the place of quantities, whose `units` are taken off."""

    def __init__(self, tree: Any):
        quantity = _saiunit().Quantity
        leaves, self.treedef = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, quantity))
        # None for what is no quantity: that of one without a unit is one again.
        self._own = [x.unit if isinstance(x, quantity) else None for x in leaves]
        self.units = [_saiunit().UNITLESS if unit is None else unit for unit in self._own]
        numbers = [x.mantissa if isinstance(x, quantity) else x for x in leaves]
        self.numbers = self.treedef.unflatten(numbers)

    def rebuilt(self, numbers: Any) -> Any:
        """Puts the units on other numbers."""
        return _with_units(self.treedef, jax.tree.leaves(numbers), self._own)


def _with_units(treedef: Any, numbers: list[Any], units: list[Any]) -> Any:
    quantity = _saiunit().Quantity
    pairs = zip(numbers, units, strict=True)
    return treedef.unflatten([x if unit is None else quantity(x, unit=unit) for x, unit in pairs])


def with_units(
    transform: Callable[..., Any],
    order: int,
    fun: Callable[..., Any],
    values: Any,
    **params: Any,
) -> tuple[Any, Any]:
    """Takes a derivative of values that carry units, by a transform that does so `order` times."""
    inside = Bare(values)
    outside: list[Bare] = []

    def bare(numbers: Any) -> tuple[Any, Any]:
        value, aux = fun(inside.rebuilt(numbers))
        outside.append(Bare(value))
        return outside[-1].numbers, aux

    derivative, aux = transform(bare, argnums=0, has_aux=True, **params)(inside.numbers)
    return _attached(derivative, order, outside[-1], inside), aux


def _attached(derivative: Any, order: int, out: Bare, inside: Bare) -> Any:
    leaves, treedef = jax.tree.flatten(derivative)
    of_each = out.treedef
    for _ in range(order):
        of_each = of_each.compose(inside.treedef)
    outputs = out.units
    if order == 1 and treedef == inside.treedef and treedef != of_each:
        outputs = outputs[:1]
        if any(unit != outputs[0] for unit in out.units):
            raise DifferentiationError(
                "asked for the gradient of a sum of outputs",
                f"their units differ: {', '.join(map(str, dict.fromkeys(out.units)))}",
                "jacrev, for the derivative of each",
            )
    elif treedef != of_each:
        raise DifferentiationError(
            "asked for a derivative with units",
            f"its structure is that of no gradient, Jacobian or Hessian: {treedef}",
            "unit_aware=False, and units put on by hand",
        )
    each = itertools.product(outputs, *[inside.units] * order)
    units = [functools.reduce(operator.truediv, units) for units in each]
    return _with_units(treedef, leaves, [None if unit.is_unitless else unit for unit in units])
