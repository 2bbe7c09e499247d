"""Where arguments come in and outputs go out, as `in_shardings` and `out_shardings` of `jax.jit`.

JAX takes them for what it is given itself, and before a trace. Here arguments come split, and what
goes out is known by a trace only; so arguments are placed, and the output is constrained.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec, Sharding

from ..._errors import ArgumentError
from ..._tree import is_numeric
from ...state import is_concrete
from .._core import described, wrong_type


class Shardings:
    """The shardings of a function: trees that the arguments and the output begin with.

    Args:
        of_inputs: Those of the positional arguments, one for all or a tuple; None for any.
        of_output: Those of the output.
        asked_by: The transform, for messages.
    """

    def __init__(self, of_inputs: Any, of_output: Any, asked_by: str):
        self._of_inputs = of_inputs
        self._of_output = of_output
        self._asked_by = asked_by
        for option, given in (("in_shardings", of_inputs), ("out_shardings", of_output)):
            for leaf in jax.tree.leaves(given, is_leaf=_is_sharding):
                if not _is_sharding(leaf):
                    one = "a Sharding, such as NamedSharding(mesh, PartitionSpec('data'))"
                    raise wrong_type(asked_by, option, given, f"{one}, or a tree of them")

    @property
    def of_method(self) -> dict[str, Any]:
        """Those of the bound form of a method, which isn't given the object."""
        given = self._of_inputs
        rest = given[1:] if isinstance(given, (tuple, list)) else given
        return {"in_shardings": rest, "out_shardings": self._of_output}

    def place(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Places arguments where they are to come in."""
        if self._of_inputs is None:
            return args
        given = self._of_inputs
        given = tuple(given) if isinstance(given, list) else given
        return self._applied(_placed, given, args, "in_shardings", "the arguments")

    def constrained(self, fun: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function whose output goes where it is to."""
        if self._of_output is None:
            return fun

        def constrained_fun(*args: Any, **kwargs: Any) -> Any:
            out = fun(*args, **kwargs)
            constrain = jax.lax.with_sharding_constraint
            return self._applied(constrain, self._of_output, out, "out_shardings", "the outputs")

        return constrained_fun

    def _applied(
        self, place: Callable[[Any, Any], Any], given: Any, tree: Any, option: str, what: str
    ) -> Any:
        def below(sharding: Any, part: Any) -> Any:
            if sharding is None:
                return part
            return jax.tree.map(lambda x: place(x, sharding) if _is_array(x) else x, part)

        leaves, treedef = jax.tree.flatten(given, is_leaf=_is_sharding)
        try:
            parts = treedef.flatten_up_to(tree)
        except ValueError:
            raise ArgumentError(
                f"asked {self._asked_by} for {option}={given!r:.200}",
                f"{what} are {described(tree)}",
                f"a tree that {what} begin with, where one stands for all below it, None for any",
            ) from None
        return treedef.unflatten(list(map(below, leaves, parts)))


def _is_sharding(node: Any) -> bool:
    return node is None or isinstance(node, (Sharding, PartitionSpec))


def _is_array(leaf: Any) -> bool:
    return is_numeric(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _lies_by(leaf: Any, sharding: Any) -> bool:
    is_array = isinstance(leaf, jax.Array) and is_concrete(leaf)
    # An array that isn't bound to its devices would follow others to theirs.
    if not (is_array and leaf.committed and isinstance(sharding, Sharding)):
        return False
    return leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def _placed(leaf: Any, sharding: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    if _lies_by(leaf, sharding):
        return leaf
    return jax.device_put(leaf, sharding)
