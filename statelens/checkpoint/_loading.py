"""What of a file goes where in a tree, what doesn't fit, and the values of what does."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .._errors import CheckpointError
from ._encoding import NUMBERS, Spec, bytes_of, encode, spec_of, to_host
from ._names import Slot, Target
from ._placing import misfit, placed
from ._report import Mismatch, Report
from ._rules import Conversion, Rule, by_file, of_file, unused


class Source(Protocol):
    """What is loaded from: arrays by name."""

    name: str
    specs: dict[str, Spec]
    is_ours: bool

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Returns an array in the memory of the host; the data of a key."""
        ...

    def fetch(self, wanted: Mapping[int, tuple[str, Any]]) -> dict[int, Any]:
        """Returns arrays as the leaves whose places they take, and where those lie."""
        ...


class Joined:
    """Several sources as one: the files in which somebody has saved a large model."""

    def __init__(self, sources: Sequence[Source]):
        self.name = listed(source.name for source in sources)
        self.is_ours = any(source.is_ours for source in sources)
        self.specs: dict[str, Spec] = {}
        self._source_of: dict[str, Source] = {}
        for source in sources:
            for name, spec in source.specs.items():
                if name in self.specs:
                    raise CheckpointError(
                        f"asked to load {self.name} as one",
                        f"{name!r} is in two of them, one being {source.name}",
                        "files that have their arrays apart",
                    )
                self.specs[name], self._source_of[name] = spec, source

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Returns an array in the memory of the host; the data of a key."""
        return self._source_of[name].read(name)

    def fetch(self, wanted: Mapping[int, tuple[str, Any]]) -> dict[int, Any]:
        """Returns arrays as the leaves whose places they take, and where those lie."""
        found = {}
        for number, (name, leaf) in wanted.items():
            found |= self._source_of[name].fetch({number: (name, leaf)})
        return found


class Loading:
    """What of a source goes where in a tree, and what doesn't fit."""

    def __init__(self, source: Source, target: Target, rules: tuple[Rule, ...]):
        self._source = source
        self._slots = target.slots
        # By number of the slot: the names of arrays that are to be equal, or what a rule made.
        self._names: dict[int, list[str]] = {}
        self._made: dict[int, Any] = {}
        self._mismatched: dict[int, Mismatch] = {}
        self._unexpected: list[str] = []
        self._renamed: dict[str, str] = {}
        numbers = {name: n for n, slot in enumerate(self._slots) for name in slot.names}
        conversions = by_file(rules, source.specs)
        self._unused = unused(rules, conversions, source.specs, of_file)
        for conversion in conversions:
            present = [name for name in conversion.files if name in source.specs]
            wanted = {i: numbers[x] for i, x in enumerate(conversion.names) if x in numbers}
            if not wanted:
                if conversion.names and target.names.isdisjoint(conversion.names):
                    self._unexpected += present
                    if conversion.rule is not None:
                        self._renamed |= dict.fromkeys(present, conversion.names[0])
            elif conversion.load is not None:
                self._make(conversion, present, wanted)
            else:
                for number in wanted.values():
                    self._names.setdefault(number, []).extend(present)
        for number, names in self._names.items():
            self._check(number, names)

    def _mismatch(self, number: int, what: str, found: str, expected: str | None = None) -> None:
        slot = self._slots[number]
        expected = str(spec_of(slot.leaf)) if expected is None else expected
        self._mismatched.setdefault(number, Mismatch(slot.path, what, found, expected))

    def _make(self, conversion: Conversion, present: list[str], wanted: dict[int, int]) -> None:
        """Calls the function of a rule, if all that it takes is there."""
        if len(present) < len(conversion.files):
            lacking = listed(x for x in conversion.files if x not in present)
            for number in wanted.values():
                self._mismatch(number, "structure", f"made of arrays of which it lacks {lacking}")
            return
        assert conversion.load is not None
        arrays = list(map(self._source.read, conversion.files))
        made = outputs(conversion.load, conversion.names, arrays)
        for position, number in wanted.items():
            array, leaf = made[position], self._slots[number].leaf
            wrong = misfit(leaf, spec_of(array))
            if number in self._made:
                self._mismatch(number, "structure", f"{present[0]!r} and another by another rule")
            elif wrong is not None:
                self._mismatch(number, *wrong)
            else:
                self._made[number] = placed(leaf, array, copy=True)

    def _check(self, number: int, names: list[str]) -> None:
        """Compares an array with its place by what the header says of it."""
        read, specs = self._source.read, self._source.specs
        first, *others = names
        wrong = misfit(self._slots[number].leaf, specs[first])
        if wrong is not None:
            self._mismatch(number, *wrong)
        if number in self._made:
            self._mismatch(number, "structure", f"{first!r} and another by another rule")
        for other in others:
            if specs[first] != specs[other] or not are_equal(read(first), read(other)):
                self._mismatch(number, "structure", f"several that differ, {first!r} and {other!r}")

    def report(self) -> Report:
        """Says what fits and what doesn't."""
        found = {*self._names, *self._made, *self._mismatched}
        missing = {
            number: slot
            for number, slot in enumerate(self._slots)
            # Nobody else saves Python's numbers.
            if number not in found and (self._source.is_ours or type(slot.leaf) not in NUMBERS)
        }
        unexpected = self._compare_structure(missing)
        loaded = [n for n in sorted({*self._names, *self._made}) if n not in self._mismatched]
        return Report(
            tuple(self._slots[number].path for number in loaded),
            tuple(slot.path for slot in missing.values()),
            tuple(unexpected),
            tuple(self._mismatched[number] for number in sorted(self._mismatched)),
            self._unused,
            tuple((name, self._renamed[name]) for name in unexpected if name in self._renamed),
        )

    def _compare_structure(self, missing: dict[int, Slot]) -> list[str]:
        """Takes for mismatches where one side has an array and the other one several below it."""
        numbers = {slot.names[0]: number for number, slot in missing.items()}
        below: dict[int, list[str]] = {}
        for name in self._unexpected:
            for above in _above(name):
                if above in numbers:
                    below.setdefault(numbers[above], []).append(name)
        for number, names in below.items():
            self._mismatch(number, "structure", f"a node with {names[0]!r}")
        explained = set().union(*below.values())
        for name, number in numbers.items():
            for above in set(_above(name)).intersection(self._unexpected):
                self._mismatch(number, "structure", f"an array at {above!r}")
                explained.add(above)
        for number in self._mismatched.keys() & missing.keys():
            del missing[number]
        return [name for name in self._unexpected if name not in explained]

    def values(self) -> dict[int, Any]:
        """Reads what fits, one array at a time, and puts it where it belongs."""
        fits = [number for number in self._names if number not in self._mismatched]
        wanted = {n: (self._names[n][0], self._slots[n].leaf) for n in fits}
        made = {n: made for n, made in self._made.items() if n not in self._mismatched}
        return {**made, **self._source.fetch(wanted)}


def _above(name: str) -> list[str]:
    """Lists the paths that a written path goes through."""
    return [name[: at.start()] for at in re.finditer(r"[.\[]", name) if at.start()]


def listed(names: Iterable[str]) -> str:
    """Writes names one after the other."""
    return ", ".join(map(repr, names))


def outputs(
    function: Callable[..., Any], names: tuple[str, ...], arrays: list[np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """Calls the function of a rule; one array may be given alone."""
    made = function(*arrays)
    made = list(made) if isinstance(made, (tuple, list)) else [made]
    if len(made) != len(names):
        raise CheckpointError(
            f"asked the function of a rule for {listed(names)}",
            f"it gave {len(made)} arrays for {len(names)} patterns",
            "an array for each pattern, as a tuple or list",
        )
    return list(map(to_host, made))


def are_equal(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Says whether two arrays are the same, bit for bit."""
    one, other = encode(one), encode(other)
    is_alike = (one.shape, one.dtype) == (other.shape, other.dtype)
    return is_alike and np.array_equal(bytes_of(one), bytes_of(other))
