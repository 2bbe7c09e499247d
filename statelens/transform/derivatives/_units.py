"""Derivatives of values that carry physical units, as `saiunit` quantities.

JAX differentiates numbers. So units are taken off before, and what they are for a derivative is
worked out from its structure: the unit of the output, divided by that of what is differentiated,
once for each time that it is differentiated.
"""

import importlib
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
        none = _saiunit().UNITLESS
        self.units = [x.unit if isinstance(x, quantity) else none for x in leaves]
        self._are_quantities = [isinstance(x, quantity) for x in leaves]
        numbers = [x.mantissa if isinstance(x, quantity) else x for x in leaves]
        self.numbers = self.treedef.unflatten(numbers)

    def rebuilt(self, numbers: Any) -> Any:
        """Puts the units on other numbers."""
        quantity = _saiunit().Quantity
        leaves = [
            quantity(x, unit=unit) if is_quantity else x
            for x, unit, is_quantity in zip(
                jax.tree.leaves(numbers), self.units, self._are_quantities, strict=True
            )
        ]
        return self.treedef.unflatten(leaves)


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
    first = out.treedef.compose(inside.treedef)
    second = first.compose(inside.treedef)
    if order == 1 and treedef == inside.treedef and treedef != first:
        if any(unit != out.units[0] for unit in out.units):
            raise DifferentiationError(
                "asked for the gradient of a sum of outputs",
                f"their units differ: {', '.join(map(str, dict.fromkeys(out.units)))}",
                "jacrev, for the derivative of each",
            )
        units = [out.units[0] / unit for unit in inside.units]
    elif order == 1 and treedef == first:
        units = [of_out / unit for of_out in out.units for unit in inside.units]
    elif order == 2 and treedef == second:
        units = [
            of_out / (unit * other)
            for of_out in out.units
            for unit in inside.units
            for other in inside.units
        ]
    else:
        raise DifferentiationError(
            "asked for a derivative with units",
            f"its structure is that of no gradient, Jacobian or Hessian: {treedef}",
            "unit_aware=False, and units put on by hand",
        )
    quantity = _saiunit().Quantity
    found = [
        leaf if unit.is_unitless else quantity(leaf, unit=unit)
        for leaf, unit in zip(leaves, units, strict=True)
    ]
    return treedef.unflatten(found)
