"""Low-rank adapters: a few new parameters beside a weight that is held still (Hu et al., 2021).

What is trained is the product of two thin matrices, ``W + scale * B @ A``. All that it takes are
nodes: one line puts an adapter around each linear layer that a lens selects, another takes it away.
"""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._errors import user_facing
from ..lens import LensSpec, nodes, nodes_in
from ..lens import lens as make_lens
from ..transform._core import parse_count

Tree = TypeVar("Tree")


class LowRank(eqx.Module):
    """A linear layer, or another adapter, with a product of low rank beside its weight.

    Attributes:
        base: The layer.
        a: The matrix that is applied first, of `rank` rows.
        b: The other, of `rank` columns, zero at first.
        scale: By what the product is multiplied.
    """

    base: Any
    a: jax.Array
    b: jax.Array
    scale: float = eqx.field(static=True)

    def __init__(self, base: eqx.nn.Linear, rank: int, key: Any, scale: float = 1.0):
        *stacked, n_out, n_in = base.weight.shape
        dtype = base.weight.dtype
        self.base, self.scale = base, scale
        self.a = jax.random.normal(key, (*stacked, rank, n_in), dtype) / n_in**0.5
        self.b = jnp.zeros((*stacked, n_out, rank), dtype)

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        """Applies the layer, and adds what the product makes of the input."""
        y = self.base(x, key=key)
        # What is a "scalar" to Equinox has no axis.
        return y + self.scale * (self.b @ (self.a @ jnp.atleast_1d(x))).reshape(y.shape)

    def merged(self) -> eqx.nn.Linear:
        """Returns the layer alone, with the product added to its weight."""
        base: Any = merge(self.base) if isinstance(self.base, LowRank) else self.base
        weight = base.weight + self.scale * self.b @ self.a
        return eqx.tree_at(lambda layer: layer.weight, base, weight)


@user_facing
def lora(model: Tree, lens: LensSpec, rank: int, key: Any, *, scale: float = 1.0) -> Tree:
    """Puts a low-rank adapter around each linear layer that a lens selects.

    The model computes what it did before, as one of the two matrices is zero. What is to be
    trained is selected by ``sl.nodes(sl.optim.LowRank) / "{a,b}"``, in either style.

    Args:
        model: An immutable model, of which a new one is returned; or a facade module, which is
            changed in place.
        lens: Which layers: a pattern of their paths, ``...`` for all, or whatever `nodes` takes.
            Of what it selects those are meant that are an `equinox.nn.Linear`.
        rank: The rank of the product.
        key: A random key, from which the matrices `a` are drawn.
        scale: By what the product is multiplied.

    Returns:
        The model with the adapters.

    Raises:
        SelectionError: The lens selects no linear layer.
        PathError: A pattern that isn't optional matches nothing.
        ArgumentError: `rank` is less than one.
        ArgumentTypeError: `rank` is no integer.

    Source:
        Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021.

    Example:
        >>> import equinox as eqx, jax, statelens as sl
        >>> model = eqx.nn.MLP(64, 10, 64, 2, key=jax.random.key(0))
        >>> model = sl.optim.lora(model, "layers[:-1]", 4, jax.random.key(1))
        >>> adapters = sl.nodes(sl.optim.LowRank) / "{a,b}"
        >>> adapters.count(model), sl.trainable.count(model)
        (1024, 9994)
    """
    parse_count(rank, "rank", "lora")
    layers = nodes(make_lens(eqx.nn.Linear) & lens)
    paths = [met.path for met in nodes_in(layers.selector, model, "lora")]
    keys = dict(zip(paths, jax.random.split(key, len(paths)), strict=True))
    return layers.update(
        model, lambda path, layer: LowRank(layer, rank, keys[path], scale), with_path=True
    )


@user_facing
def merge(model: Tree) -> Tree:
    """Takes the adapters of `lora` away, and adds their products to the weights.

    Args:
        model: A model with adapters. A facade module is changed in place.

    Returns:
        The model with plain layers, which computes the same. Layers that have no adapter are the
        same objects.

    Raises:
        SelectionError: There is no adapter.

    Example:
        >>> import equinox as eqx, jax, statelens as sl
        >>> model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
        >>> adapted = sl.optim.lora(model, ..., 2, jax.random.key(1))
        >>> type(sl.optim.merge(adapted).layers[0]).__name__
        'Linear'
    """
    return nodes(LowRank).update(model, LowRank.merged)
