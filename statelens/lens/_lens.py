"""The lens: one selection, and everything that can be done with it.

A lens is a predicate over (path, unit): it says which arrays and which states of a tree are
meant. It splits a tree in two halves, the *focus* and the *rest*, that combine back into
it; all other operations follow from that. A lens is a value: it can be combined with other
lenses, hashed, compared, and, when it is built of patterns, written as text and read back.

    >>> import equinox as eqx, jax, statelens as sl
    >>> model = eqx.nn.MLP(4, 2, 32, 3, key=jax.random.key(0))
    >>> head = sl.lens("layers[-1].**")
    >>> [sl.path.format(path) for path in head.paths(model)]
    ['layers[3].weight', 'layers[3].bias']
    >>> head.count(model)
    66
"""

from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from .._errors import ArgumentError, ArgumentTypeError, user_facing
from .._tree import Index, Path, looking
from ._algebra import And, Not, Or, Sliced, Within, without
from ._bound import BoundLens
from ._coverage import MOST_NESTED, Selector
from ._messages import refuse_several
from ._partition import mark, split
from ._replace import read_all
from ._selection import focus_on
from ._spec import LensSpec, selector_of
from ._units import arrays_in
from ._updates import TreeUpdates

__all__ = ["Lens", "lens", "partition"]

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Lens(TreeUpdates):
    """A selection of units by path, class, predicate or mask; see `lens`.

    ``a & b`` is what both select, ``a | b`` what either does, ``a - b`` what only the first
    does, ``~a`` what `a` leaves, ``a / b`` what `b` selects inside the nodes that `a`
    selects, and ``a[index]`` a part of each array: by NumPy basic indexing, or ``a[[1, 5, 99]]``
    by different positions along an axis.

    Attributes:
        selector: What is selected.
    """

    selector: Selector

    def __post_init__(self) -> None:
        # What asks a selector goes down into it, and Python's calls go only so deep.
        if self.selector.nesting > MOST_NESTED:
            raise ArgumentError(
                "asked for a lens made of other lenses",
                f"they lie in one another more than {MOST_NESTED} deep",
                "a list of lenses, or & and |, of which any number stand in a row",
                "one pattern for nodes in nodes, as in 'encoder.**.weight'",
            )

    @user_facing
    def __and__(self, other: LensSpec) -> "Lens":
        return Lens(And(self.selector, selector_of(other)))

    @user_facing
    def __rand__(self, other: LensSpec) -> "Lens":
        return Lens(And(selector_of(other), self.selector))

    @user_facing
    def __or__(self, other: LensSpec) -> "Lens":
        return Lens(Or(self.selector, selector_of(other)))

    @user_facing
    def __ror__(self, other: LensSpec) -> "Lens":
        return Lens(Or(selector_of(other), self.selector))

    @user_facing
    def __sub__(self, other: LensSpec) -> "Lens":
        return Lens(without(self.selector, selector_of(other)))

    @user_facing
    def __rsub__(self, other: LensSpec) -> "Lens":
        return Lens(without(selector_of(other), self.selector))

    @user_facing
    def __truediv__(self, other: LensSpec) -> "Lens":
        return Lens(Within(self.selector, selector_of(other)))

    @user_facing
    def __rtruediv__(self, other: LensSpec) -> "Lens":
        return Lens(Within(selector_of(other), self.selector))

    @user_facing
    def __invert__(self) -> "Lens":
        return Lens(Not(self.selector))

    @user_facing
    def __getitem__(self, index: Any) -> "Lens":
        return Lens(Sliced(self.selector, Index.of(index)))

    @user_facing
    def __bool__(self) -> NoReturn:
        raise ArgumentTypeError(
            f"asked whether {self!r} is true, as by 'and', 'or', 'not', 'in' or a < b < c",
            "a lens is neither true nor false",
            "& for 'and', | for 'or', ~ for 'not', with parentheses around comparisons",
            "lens.paths(tree), which lists what is selected in a tree",
        )

    def __str__(self) -> str:
        """The lens as text, which `lens` reads back.

        What is no text stands in ``@<...>`` and can't be read: a function, a class of the user's,
        a mask, and a comparison with what is no text, number or dtype. Instead there is what it
        selects in a tree: ``" | ".join(map(sl.path.format, lens.paths(tree)))``.
        """
        return self.selector.written()

    def __repr__(self) -> str:
        return f"lens({str(self)!r})"

    @user_facing
    def partition(self, tree: T) -> tuple[T, T]:
        """Splits a tree in the focus and the rest.

        Args:
            tree: Any pytree.

        Returns:
            Two trees of the same structure: what is selected, with None elsewhere, and the
            rest, with None where the focus has something. `combine` puts them together.

        Raises:
            PathError: A pattern that isn't optional matches nothing.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("w").partition({"b": jnp.zeros(1), "w": jnp.ones(1)})[0]
            {'b': None, 'w': Array([1.], dtype=float32)}
        """
        focused = focus_on(self.selector, tree, required_by="partition", may_be_empty=True)
        return split(*focused)

    @user_facing
    def focus(self, tree: T) -> T:
        """Returns the first half of `partition` alone: what is selected, with None elsewhere.

        Args:
            tree: Any pytree.

        Returns:
            A tree of the same structure: what an Optax optimiser is given to start with.

        Raises:
            PathError: A pattern that isn't optional matches nothing.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("w").focus({"b": jnp.zeros(1), "w": jnp.ones(1)})
            {'b': None, 'w': Array([1.], dtype=float32)}
        """
        focused = focus_on(self.selector, tree, required_by="focus", may_be_empty=True)
        return split(*focused)[0]

    @user_facing
    def get(self, tree: Any) -> dict[Path, Any]:
        """Returns what is selected, by path.

        Args:
            tree: Any pytree.

        Returns:
            States and arrays in the tree's order; of a state of which a part is selected,
            the value of that part.

        Raises:
            PathError: A pattern that isn't optional matches nothing.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("**.b").get({"layer": {"b": jnp.zeros(1)}})
            {('layer', 'b'): Array([0.], dtype=float32)}
        """
        leaves, _, entries = focus_on(self.selector, tree, required_by="get", may_be_empty=True)
        return dict(zip(entries.paths, read_all(leaves, entries), strict=True))

    @user_facing
    def only(self, tree: Any) -> Any:
        """Returns the one unit that is selected.

        Args:
            tree: Any pytree.

        Returns:
            The state or array.

        Raises:
            SelectionError: Several units are selected, or none.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("b").only({"b": jnp.zeros(1), "w": jnp.ones(1)})
            Array([0.], dtype=float32)
        """
        leaves, _, entries = focus_on(self.selector, tree, required_by="only")
        refuse_several(entries.paths, repr(self), "get(tree)")
        return read_all(leaves, entries)[0]

    @user_facing
    def mask(self, tree: Any) -> Any:
        """Returns a tree of booleans: an Equinox `filter_spec`, or a mask for Optax.

        Args:
            tree: Any pytree.

        Returns:
            The tree with True for each leaf in the focus and False for all others.

        Raises:
            PathError: A pattern that isn't optional matches nothing.
            SelectionError: The lens selects a part of an array.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("b").mask({"b": jnp.ones(1), "w": jnp.ones(1)})
            {'b': True, 'w': False}
        """
        focused = looking(focus_on, self.selector, tree, required_by="a mask", may_be_empty=True)
        return mark(focused, repr(self))

    @user_facing
    def paths(self, tree: Any) -> tuple[Path, ...]:
        """Returns the paths that are selected, in order.

        Args:
            tree: Any pytree.

        Returns:
            The paths.

        Raises:
            PathError: A pattern that isn't optional matches nothing.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("**").paths({"b": jnp.ones(1), "w": [jnp.ones(1)]})
            (('b',), ('w', 0))
        """
        focused = looking(focus_on, self.selector, tree, required_by="paths", may_be_empty=True)
        return focused.entries.paths

    @user_facing
    def count(self, tree: Any) -> int:
        """Returns the number of scalars in the focus.

        Args:
            tree: Any pytree.

        Returns:
            The sum of the sizes of all selected arrays.

        Raises:
            PathError: A pattern that isn't optional matches nothing.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("w").count({"b": jnp.ones(1), "w": jnp.ones((2, 3))})
            6
        """
        return sum(array.size for array in self._arrays(tree, "count"))

    @user_facing
    def nbytes(self, tree: Any) -> int:
        """Returns the number of bytes that the focus takes.

        Args:
            tree: Any pytree.

        Returns:
            The sum of the sizes of all selected arrays, in bytes.

        Raises:
            PathError: A pattern that isn't optional matches nothing.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("w").nbytes({"b": jnp.ones(1), "w": jnp.ones((2, 3))})
            24
        """
        return sum(array.size * array.dtype.itemsize for array in self._arrays(tree, "nbytes"))

    def _arrays(self, tree: Any, required_by: str) -> list[Any]:
        leaves, _, entries = looking(
            focus_on, self.selector, tree, required_by=required_by, may_be_empty=True
        )
        return arrays_in(read_all(leaves, entries))

    @user_facing
    def bind(self, module: Any) -> BoundLens[Any]:
        """Binds the lens to the live states of a module.

        Args:
            module: A facade module, or any tree that holds states.

        Returns:
            A mapping from path to state, which is at the same time a lens that knows its
            tree; of a state of which a part is selected, a view of that part.

        Raises:
            PathError: A pattern matches nothing.

        Example:
            >>> import jax.numpy as jnp, statelens as sl
            >>> sl.lens("a").bind({"a": sl.State(jnp.ones(1)), "b": sl.State(jnp.ones(1))})
            {
              ('a',): State(f32[1]),
            }
        """
        bound = BoundLens(self.selector, module)
        bound.units(required_by="bind")
        return bound


@user_facing
def lens(spec: LensSpec, *, optional: bool = False, numbers: bool = False) -> Lens:
    """Makes a lens.

    Patterns: ``encoder.layers[0].weight`` is one leaf; ``*`` stands for one key, ``**`` for
    any number of keys, ``conv*`` for names that start so; ``[-1]`` and ``[1:4]`` count along
    a sequence; ``{weight,bias}`` is a choice; ``['a b']`` is a key that is no name; ``re:``
    starts a regular expression that the whole written path has to match; a ``?`` at the end
    lets a pattern match nothing. ``embed.weight[7:10]`` is rows, where that is an array and not a
    node. ``@ParamState``, ``@trainable``, ``@inexact``, ``@arrays``, ``@ndim >= 2``,
    ``@dtype == float32``, ``@name == 'bias'`` and ``@tagged('slow')`` stand for the classes and
    predicates of these names. They are all joined by ``& | - ~ /`` as lenses are.

    Args:
        spec: A pattern; a class, of states or of the nodes that units lie in; ``...`` for
            everything or `None` for nothing; a predicate ``(path, unit) -> bool``, or a filter of
            leaves such as `equinox.is_array` (asked once for each tree structure, so that they
            may look at paths, classes, shapes and dtypes, not at the numbers); a list
            or tuple of specs, for what any of them selects; a prefix tree of booleans, as
            an Equinox `filter_spec` is; or another lens.
        optional: Whether it may select nothing, and its patterns may match nothing.
            Otherwise a pattern that matches nothing is an error of every operation, since it
            may be a slip of the pen; a lens that selects nothing for another reason, by its
            class or predicate, is one wherever something is to be done with the selection.
        numbers: Whether Python's numbers among the leaves of a tree are selected as well.
            Otherwise those are that a pattern asks for by name: ``flux``, ``**.flux`` or
            ``{flux,scale}``, and not ``**``.

    Returns:
        The lens.

    Raises:
        PatternError: The text can't be read; the message points at the character.
        ArgumentTypeError: The spec is nothing that selects.

    Example:
        >>> import statelens as sl
        >>> sl.lens("**.weight & ~encoder.**")
        lens('**.weight & ~encoder.**')
    """
    return Lens(selector_of(spec, optional=optional, numbers=numbers))


@user_facing
def partition(tree: T, spec: LensSpec) -> tuple[T, T]:
    """Splits a tree along a lens; `Lens.partition` as a function.

    Args:
        tree: Any pytree.
        spec: Whatever `lens` takes.

    Returns:
        The focus and the rest, which `combine` puts together.

    Raises:
        PathError: A pattern that isn't optional matches nothing.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> sl.partition({"b": jnp.zeros(1), "w": jnp.ones(1)}, "w")[1]
        {'b': Array([0.], dtype=float32), 'w': None}
    """
    return lens(spec).partition(tree)
