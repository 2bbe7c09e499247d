"""Trees of arrays and of other things, as JAX's staged functions take them.

A staged function takes arrays. What else is in an argument (a function, a text, the numbers
that an Equinox module keeps) is part of the program, and a program is chosen by it. Numbers
that are passed as they are, or in lists, tuples, dictionaries and states, are traced, as
`jax.jit` does.
"""

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from ..._errors import ArgumentTypeError, explain
from ..._tree import Cell, TreeDef, format, from_jax, is_array, is_numeric
from ...state import Deferred
from ._assembly import Hole, assembly
from ._identity import Identity
from ._module_cache import Getter, at, forget_some, get, places_of_containers, put

CONTAINERS = (list, tuple, dict, type(None))


# As a node whose fields JAX knows it is flattened without a call of Python.
@functools.partial(jtu.register_dataclass, data_fields=["dynamic"], meta_fields=["static"])
class Partitioned(Deferred):
    """A tree of which only some leaves are traced.

    Attributes:
        dynamic: The leaves that are traced.
        static: All else of the tree.
    """

    __slots__ = ("dynamic", "static")

    def __init__(self, dynamic: list[Any], static: "Static"):
        self.dynamic = dynamic
        self.static = static

    def with_dynamic(self, leaves: list[Any]) -> "Partitioned":
        """Returns a tree of the same structure for one thing for each leaf."""
        return Partitioned([leaves[position] for position in self.static.holes], self.static)

    @property
    def tree(self) -> Any:
        """The tree as it was."""
        return self.static.filled(self.dynamic)


class Static:
    """The static half of a tree: its structure, and its leaves but for the traced ones.

    Attributes:
        leaves: For each leaf what it is if it isn't traced, else `_TRACED`.
        treedef: The structure.
        holes: Where the traced leaves are.
        values: The leaves themselves, but for the traced ones.
        returned: How to put the tree together, if it is one that was returned before.
    """

    def __init__(self, leaves: Sequence[Any], treedef: TreeDef):
        self.leaves = tuple(leaves)
        self.holes = [position for position, leaf in enumerate(leaves) if leaf is _TRACED]
        self.returned: _Returned | None = None
        self.treedef = treedef
        self.values = [leaf.value if isinstance(leaf, Constant) else leaf for leaf in leaves]

    def filled(self, traced: Sequence[Any]) -> Any:
        """Returns the tree with these leaves traced."""
        if len(traced) == len(self.leaves):
            return self.treedef.unflatten(traced)
        values = self.values.copy()
        for hole, leaf in zip(self.holes, traced, strict=True):
            values[hole] = leaf
        return self.treedef.unflatten(values)

    @property
    def paths(self) -> list[str]:
        """Where in the tree the traced leaves are, as JAX writes it."""
        try:
            tree = self.treedef.unflatten(range(len(self.leaves)))
            places = {leaf: jtu.keystr(keys) for keys, leaf in jtu.tree_leaves_with_path(tree)}
            return [places[hole] for hole in self.holes]
        except Exception:  # a node of another library may take nothing but arrays
            return [f"[{hole}]" for hole in self.holes]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Static):
            return False
        return self.leaves == other.leaves and self.treedef == other.treedef

    def __hash__(self) -> int:
        return hash((self.leaves, self.treedef))

    def __repr__(self) -> str:
        return f"{self.treedef} of {', '.join(map(repr, self.leaves))}"


class _Traced:
    def __repr__(self) -> str:
        return "<traced>"


_TRACED = _Traced()


class Constant:
    """A leaf that is part of the program; 1, 1.0 and True are three different ones."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constant) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)


def split_static(tree: Any, name: Callable[[], str]) -> Any:
    """Sets apart what isn't traced; a tree of which all is traced comes back as it is.

    Args:
        tree: Any pytree.
        name: Gives what to call the tree in messages.

    Returns:
        The tree itself, or a `Partitioned` one. `merge_static` undoes it.

    Raises:
        ArgumentTypeError: A leaf that isn't traced can't be compared and hashed.
    """
    found = as_partitioned(tree, name)
    if not isinstance(found, Partitioned) or len(found.dynamic) == len(found.static.leaves):
        return tree
    return found


def as_partitioned(tree: Any, name: Callable[[], str]) -> Any:
    """Sets apart what isn't traced as `split_static` does; JAX need not go through a tree once more.

    Args:
        tree: Any pytree.
        name: Gives what to call the tree in messages.

    Returns:
        An array or number as it is, any other tree as a `Partitioned` one.

    Raises:
        ArgumentTypeError: A leaf that isn't traced can't be compared and hashed.
    """
    found = get(tree)
    if found is not None:
        return found
    if is_numeric(tree) or isinstance(tree, Partitioned):
        return tree
    return _apart(tree, name)


def _apart(tree: Any, name: Callable[[], str]) -> Partitioned:
    leaves, treedef = jax.tree.flatten(tree)
    known = _look_up(tree, treedef, tuple(map(type, leaves)))
    # Objects that have been seen are the same constants again; they are kept, so that no other
    # object takes their place.
    constants = [leaves[position] for position in known.static]
    dynamic = [leaves[hole] for hole in known.holes] if constants else leaves
    ids = tuple(map(id, constants))
    seen = known.seen.get(ids)
    if seen is None:
        for position in known.static:
            _check_hashable(leaves[position], tree, position, name)
        half: list[Any] = list(map(Constant, leaves))
        for hole in known.holes:
            half[hole] = _TRACED
        forget_some(known.seen)
        seen = known.seen[ids] = constants, Static(half, treedef)
    found = Partitioned(dynamic, seen[1])
    if known.containers is not None:
        put(tree, found, [at(tree, place) for place in known.containers])
    return found


class _Part(NamedTuple):
    """A module in a tree that is returned.

    Attributes:
        number: Which of the modules that lie in no other one it is.
        span: Which of the tree's traced leaves are its own.
        static: What isn't traced of it.
    """

    number: int
    span: slice
    static: "Static"


class _Returned:
    """How to put together a tree that is returned, and what to remember of the modules in it."""

    def __init__(self, static: "Static", tree: Any):
        places = iter(range(len(static.holes)))
        leaves = [
            Hole(next(places)) if leaf is _TRACED else value
            for leaf, value in zip(static.leaves, static.values, strict=True)
        ]
        self._assembly = assembly(tree, leaves)
        self._parts: list[_Part] | None = None

    def tree(self, traced: list[Any]) -> Any:
        """Puts the tree together."""
        tree, modules, containers = self._assembly.assemble(traced)
        if self._parts is None:
            self._parts = [
                _Part(number, span, as_partitioned(modules[number], lambda: "the output").static)
                for number, span in enumerate(self._assembly.spans)
                if places_of_containers(modules[number]) is not None
            ]
        for number, span, static in self._parts:
            put(modules[number], Partitioned(traced[span], static), containers[number])
        return tree


def returned(out: Partitioned) -> Any:
    """Gives the tree that a program has returned, and remembers the modules in it."""
    static = out.static
    if static.returned is None:
        tree = out.tree
        # A node that isn't flattened to what it was made of is left to JAX.
        if jax.tree.structure(tree) != static.treedef:
            return tree
        static.returned = _Returned(static, tree)
    return static.returned.tree(out.dynamic)


class _Known:
    """What is known of trees of one structure, with leaves of the same classes.

    Attributes:
        holes: Where the traced leaves are.
        static: Where the others are.
        seen: The others that have been met, by their identity, and what stands for them.
        containers: Where lists and dictionaries are, if they are modules to be remembered.
        identity: The structure that they have, since another one may equal it.
    """

    def __init__(
        self, treedef: TreeDef, is_traced: list[bool], containers: tuple[Getter, ...] | None = None
    ):
        self.containers = containers
        self.identity = Identity(treedef)
        self.holes = [position for position, traced in enumerate(is_traced) if traced]
        self.static = [position for position, traced in enumerate(is_traced) if not traced]
        self.seen: dict[tuple[int, ...], tuple[list[Any], Static]] = {}


# For a structure and classes of leaves, or whether they are traced: a few, since structures that
# are equal need not be the same.
_known: dict[Hashable, list[_Known]] = {}
_MOST_ALIKE = 8


def _look_up(tree: Any, treedef: TreeDef, kinds: tuple[type, ...]) -> _Known:
    try:
        known = _find((treedef, kinds), treedef)
    except TypeError:
        # Something static in a node can't be hashed; JAX says so, where it matters.
        return _Known(treedef, _are_traced(tree))
    if known is None:
        # A program gives by its trace what its next call takes: both have the same static half
        # then, and JAX, which compares them at each call, sees that at once.
        is_traced = _are_traced(tree)
        like = treedef, tuple(is_traced)
        known = _find(like, treedef) or _Known(treedef, is_traced, places_of_containers(tree))
        _add(like, known)
        _add((treedef, kinds), known)
    return known


def _find(key: Hashable, treedef: TreeDef) -> _Known | None:
    for known in _known.get(key, ()):
        if known.identity.is_that_of(treedef):
            return known
    return None


def _add(key: Hashable, known: _Known) -> None:
    others = [other for other in _known.pop(key, ()) if other is not known]
    forget_some(_known)
    _known[key] = [known, *others[: _MOST_ALIKE - 1]]


def constant(value: Any, name: Callable[[], str]) -> Partitioned:
    """Makes all of a value part of the program."""
    _check_hashable(value, None, None, name)
    return Partitioned([], Static([Constant(value)], jax.tree.structure(0)))


def split_numbers(tree: Any) -> Any:
    """Takes a tree apart where its values are still good: what holds states ends with a trace.

    An array, or nothing, comes back as it is.
    """
    if tree is None or is_array(tree):
        return tree
    leaves, treedef = jax.tree.flatten(tree)
    is_traced = list(map(is_numeric, leaves))
    half = [
        _TRACED if traced else Constant(leaf)
        for leaf, traced in zip(leaves, is_traced, strict=True)
    ]
    traced = [leaf for leaf, t in zip(leaves, is_traced, strict=True) if t]
    return Partitioned(traced, Static(half, treedef))


def merge_static(tree: Any) -> Any:
    """Gives back the tree that `split_static` was given."""
    return tree.tree if isinstance(tree, Partitioned) else tree


def constants(args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Lists what `split_static` has set apart in arguments."""
    return [
        leaf.value
        for arg in (*args, *kwargs.values())
        if isinstance(arg, Partitioned)
        for leaf in arg.static.leaves
        if leaf is not _TRACED
    ]


def _are_traced(tree: Any) -> list[bool]:
    """Says of each leaf whether it is traced."""
    found: list[bool] = []
    for top in jax.tree.leaves(tree, is_leaf=lambda node: not isinstance(node, CONTAINERS)):
        if isinstance(top, Cell):
            found += map(is_numeric, jax.tree.leaves(top))
        elif jtu.all_leaves([top]):
            found.append(is_numeric(top))
        else:
            for leaf in jax.tree.leaves(top, is_leaf=lambda node: isinstance(node, Cell)):
                found += _are_traced(leaf) if isinstance(leaf, Cell) else [is_array(leaf)]
    return found


def _check_hashable(leaf: Any, tree: Any, position: int | None, name: Callable[[], str]) -> None:
    try:
        hash(leaf)
    except TypeError:
        where = name()
        if position is not None:
            keys, _ = jtu.tree_flatten_with_path(tree)[0][position]
            where += f" at '{format(from_jax(keys)[0])}'" if keys else ""
        raise ArgumentTypeError(
            explain(
                f"asked to make {where} part of the program, since it isn't an array",
                f"it is a {type(leaf).__name__}, which can't be hashed",
                "an array, which is traced",
                "something hashable, such as a tuple in place of a list",
            )
        ) from None
