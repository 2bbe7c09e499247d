"""What programs return: trees whose modules go in again at the next call."""

from typing import Any

import equinox as eqx
import jax

from ._assembly import Assembly
from ._module_cache import places_of_containers, put
from ._static import MOST_NESTED, Partitioned, is_plain_tuple, remade


def merge_output(out: Any, nested: int = MOST_NESTED) -> Any:
    """Merges what a program gives, of `split_items`; modules are cached as they were split."""
    if isinstance(out, Partitioned):
        return _merged(out)
    if nested and is_plain_tuple(type(out)):
        return remade(out, [merge_output(item, nested - 1) for item in out])
    return out


def _merged(out: Partitioned) -> Any:
    static = out.static
    if static.assembly is None:
        tree = out.tree
        # A node that isn't flattened to what it was made of is left to JAX, and what may change
        # in ways that aren't known isn't cached.
        is_known = isinstance(tree, eqx.Module) and places_of_containers(tree) is not None
        if not is_known or jax.tree.structure(tree) != static.treedef:
            return tree
        static.assembly = Assembly(tree, static)
    module, containers = static.assembly.assemble(out.dynamic)
    put(module, out, containers)
    return module
