"""Hyperparameters by name, in what `optax.inject_hyperparams` keeps."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey, SequenceKey

from .._errors import PathError

_FIELD = "hyperparams"


def hyperparams_in(state: Any) -> dict[str, Any]:
    """Returns hyperparameters by name; by group and name where several have one of that name."""
    return {name: value for name, (_, _, value, _) in _found(state).items()}


def with_hyperparams(state: Any, values: dict[str, Any]) -> Any:
    """Returns a state of an optimiser with other hyperparameters."""
    found = _found(state)
    places = {}
    for name, value in values.items():
        if name not in found:
            raise PathError(
                f"asked to set the hyperparameter {name!r}",
                f"those that can be set are {', '.join(map(repr, found))}"
                if found
                else "this optimiser has none that can be set",
                "optax.inject_hyperparams(optax.adam)(learning_rate=...), which keeps them",
            )
        node, key, old, is_scheduled = found[name]
        if is_scheduled:
            raise PathError(
                f"asked to set the hyperparameter {name!r}",
                "a schedule gives it at each step",
                "optax.inject_hyperparams with a number for it, and not a schedule",
            )
        places.setdefault(id(node), {})[key] = jnp.asarray(value, jnp.asarray(old).dtype)

    def renewed(node: Any) -> Any:
        if not _is_injected(node):
            return node
        inner = jax.tree.map(renewed, node.inner_state, is_leaf=_is_injected)
        new = {**node.hyperparams, **places.get(id(node), {})}
        return node._replace(hyperparams=new, inner_state=inner)

    return jax.tree.map(renewed, state, is_leaf=_is_injected)


def _is_injected(node: Any) -> bool:
    return hasattr(node, _FIELD) and hasattr(node, "_replace")


def _found(state: Any) -> dict[str, tuple[Any, str, Any, bool]]:
    """Lists by name the node that has it, its key there, its value, and if a schedule gives it."""
    entries = []
    for path, node in jax.tree.leaves_with_path(state, is_leaf=_is_injected):
        entries += _entries(path, node)
    # By its own name where that is one; else by its part's too; else by all that leads to it.
    forms = [
        ((key,), (*_keys(path, DictKey), key), (*_keys(path, DictKey, SequenceKey), key))
        for path, _, key, _, _ in entries
    ]
    found = {}
    for each, (_, node, key, value, is_scheduled) in zip(forms, entries, strict=True):
        alone = [form for place, form in enumerate(each) if _is_one(form, place, forms)]
        found[".".join((alone or each[-1:])[0])] = node, key, value, is_scheduled
    return found


def _is_one(form: tuple[str, ...], place: int, forms: list[Any]) -> bool:
    return sum(each[place] == form for each in forms) == 1


def _keys(path: Any, *kinds: type) -> list[str]:
    """Lists the keys of a path that are of some kinds."""
    found = [part for part in path if isinstance(part, kinds)]
    return [str(getattr(part, "key", getattr(part, "idx", None))) for part in found]


def _entries(path: Any, node: Any) -> list[Any]:
    if not _is_injected(node):
        return []
    scheduled = getattr(node, "hyperparams_states", {})
    own = [(path, node, key, v, key in scheduled) for key, v in node.hyperparams.items()]
    for inner_path, inner in jax.tree.leaves_with_path(node.inner_state, is_leaf=_is_injected):
        own += _entries((*path, *inner_path), inner)
    return own
