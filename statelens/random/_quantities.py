"""Parameters that carry a physical unit, as `saiunit` quantities.

JAX draws numbers. So the unit that the parameters share is taken off before, and put on the
samples.
"""

import sys
from collections.abc import Mapping
from typing import Any, Protocol

from .._errors import ArgumentTypeError


class Quantity(Protocol):
    """A number or an array with a unit."""

    @property
    def mantissa(self) -> Any:
        """The numbers."""
        ...

    @property
    def unit(self) -> Any:
        """The unit in which they are."""
        ...


def take_units(given: dict[str, Any], powers: Mapping[str, int]) -> Any:
    """Takes the units off a sampler's parameters, in place.

    Args:
        given: The arguments by name.
        powers: Which of them are numbers, and of which power of the samples' unit.

    Returns:
        The unit of the samples, that of the first parameter that has one; or None.
    """
    # No value is a quantity where the package hasn't been imported.
    if "saiunit" not in sys.modules:
        return None
    numbers = {name: _joined(value) for name, value in given.items() if name in powers}
    measured = {name: value for name, value in numbers.items() if _is_quantity(value)}
    unit = None
    for name, value in measured.items():
        if unit is None and powers[name] == 1 and not value.is_unitless:
            unit = value.unit
    for name, value in measured.items():
        given[name] = _in_unit(name, value, unit, powers[name])
    return unit


def _in_unit(name: str, value: Any, unit: Any, power: int) -> Any:
    """Returns the numbers of a quantity in the samples' unit."""
    if value.is_unitless:
        return value.mantissa
    if power and unit is not None:
        try:
            return value.in_unit(unit**power).mantissa
        except sys.modules["saiunit"].UnitMismatchError:
            pass
    asked = f"asked for samples with {name}={value}"
    if not power:
        raise ArgumentTypeError(
            asked,
            f"{name} has the unit {value.unit}, and is a number without a unit here",
            f"{name} in a unit of your choice, as in {name}=value.to_decimal(unit)",
        )
    fits = "nothing with a unit" if unit is None else f"what is in {unit**power}"
    raise ArgumentTypeError(
        asked,
        f"{name} has the unit {value.unit}, and {fits} would fit the other parameters",
        "parameters whose units fit each other; plain numbers are in the unit of the others",
    )


def with_unit(samples: Any, unit: Any) -> Any:
    """Returns samples as a quantity, where there is a unit."""
    return samples if unit is None else sys.modules["saiunit"].Quantity(samples, unit=unit)


def numbers_of(value: Any) -> Any:
    """Returns the numbers of a quantity, and anything else as it is."""
    value = _joined(value)
    return value.mantissa if _is_quantity(value) else value


def _joined(value: Any) -> Any:
    """Returns a list of quantities as one quantity, and anything else as it is."""
    if isinstance(value, (list, tuple)) and any(map(_is_quantity, value)):
        return sys.modules["saiunit"].math.asarray(value)
    return value


def _is_quantity(value: Any) -> bool:
    package = sys.modules.get("saiunit")
    return package is not None and isinstance(value, package.Quantity)
