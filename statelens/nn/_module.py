"""The facade's module: a mutable object that is a pytree all the same.

`Module` gives a class with plain attributes the mutable style: states are attributes, and
are read and assigned by their ``.value``. It has no layers of its own; those of
`equinox.nn` can be attributes as they are, and their arrays are selected, trained and
threaded by path like states. To JAX a module is a pytree: a graph whose shared parts stay
shared, whose children are its states and arrays, and whose other attributes are structure.

    >>> import jax.numpy as jnp, statelens as sl
    >>> class Scale(sl.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = sl.ParamState(jnp.ones(3))
    ...     def __call__(self, x):
    ...         return x * self.factor.value
    >>> Scale()
    Scale(  # 3 in ParamState
      factor=ParamState(f32[3]),
    )
"""

import abc
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any, Self

import jax.tree_util as jtu

from .._errors import ArgumentError, FrozenTreeError, user_facing
from .._tree import MISSING, BoundMethod, Cell, MutableNode, Path, open_hidden
from ..state import Readers, active_frame, own, owned
from ._cached_lookup import CachedLookup, active_reads
from ._display import shown
from ._graph import (
    Structure,
    contains_mutables,
    flatten_graph,
    flatten_graph_with_keys,
    nodes_with_path,
    unflatten_graph,
)
from ._hidden import HiddenCell, is_hidden, refuse_dropping
from ._mode import refuse_mode
from ._operations import Operations
from ._renewal import take_over

__all__ = ["Module"]


# What `vars` and `getattr` give, past the `__getattribute__` that they would go through.
_vars = vars(MutableNode)["__dict__"].__get__
_getattribute = object.__getattribute__

_HIDDEN = "_statelens_hidden"
_STRUCTURE = "_statelens_structure"
_READERS = "_statelens_readers"


def _hidden_in(module: "Module") -> dict[str, HiddenCell]:
    return _vars(module).get(_HIDDEN, {})


class Module(Operations, abc.ABC):
    """The base of mutable modules.

    Attributes may be states, modules, Equinox layers, arrays, containers of these, or
    anything else. They are visited in sorted order, depth first. To JAX the arrays of an
    Equinox layer are leaves of the module itself, so that functions which look for layers in
    a tree (`equinox.tree_at`) have to be given the layer; `sl.nodes` finds and replaces layers,
    and `train` and `eval` set their mode.

    A layer that has state (`equinox.nn.BatchNorm`, `equinox.nn.SpectralNorm`) and the
    `equinox.nn.State` that goes with it are two attributes, and the second is assigned where
    the layer is called, as in ``y, self.norm_state = self.norm(x, self.norm_state)``. It is a
    state then, carried and written by every transform, and never trained.

    Args:
        name: What to call the module.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> class Regressor(sl.nn.Module):
        ...     def __init__(self, n_in, n_out=1):
        ...         super().__init__()
        ...         self.weight = sl.ParamState(jnp.zeros((n_in, n_out)))
        ...         self.bias = sl.ParamState(jnp.zeros((n_out,)))
        ...     def __call__(self, x):
        ...         return x @ self.weight.value + self.bias.value
        >>> list(Regressor(2).states())
        [('bias',), ('weight',)]
    """

    def __init__(self, name: str | None = None):
        if name is not None:
            self.name = name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _register(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Makes a blank module, and notes in which call it was made."""
        module = super().__new__(cls)
        own(module)
        return module

    @user_facing
    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
            return
        if hasattr(Module, name):
            raise ArgumentError(
                f"asked to set the attribute {name!r} of a {type(self).__name__}",
                "every nn.Module has a method of this name",
                "another name",
            )
        before = self._read_attribute(name)
        if take_over(self, name, before, value):
            self._forget_structure()
            return
        held = contains_mutables(before)
        if held:
            refuse_dropping(self, name, before, value)
        reads = active_reads()
        if reads is not None:
            reads.rerecord(self, name, value)
        hides = is_hidden(value)
        if hides or held or contains_mutables(value):
            self._refuse_inside_frames(name)
        # First, since it may refuse the value.
        now = HiddenCell(value, name=name) if hides else value
        try:
            _hidden_in(self).pop(name, None)
            _vars(self).pop(name, None)
            (_vars(self).setdefault(_HIDDEN, {}) if hides else _vars(self))[name] = now
        finally:
            # Last: a reader that has looked before the write must look again.
            self._changed(name, *[None] * (before is MISSING))

    # To type checkers a module has the attributes that its class declares, and no others.
    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            attributes = _vars(self)
            hidden = attributes.get(_HIDDEN)
            # Before all else, so that a class attribute of the name doesn't hide the array.
            cell = None if hidden is None else hidden.get(name)
            frame = active_frame.get()
            if frame is not None and frame.reads is not None:
                if cell is not None or name in attributes:
                    frame.reads.record(self, name, cell or attributes[name], inside=True)
                elif name == "__dict__":
                    self._record_all()
                elif not hasattr(Module, name):
                    # What is found in the class, or nowhere, may be set here before the next call.
                    frame.reads.record(self, name, MISSING)
            found = _getattribute(self, name) if cell is None else cell.value
            # What can be done with a module isn't part of a model; a forward pass of that name is.
            if type(found) is MethodType and getattr(Module, name, None) is not found.__func__:
                return BoundMethod.of(self, found)
            return found

        @user_facing
        def __getattr__(self, name: str) -> Any:
            if name == "inference":
                refuse_mode(self)
            missing = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(missing, name=name, obj=self)

    def _refuse_inside_frames(self, name: str) -> None:
        """Refuses to add or remove states in a call that might yet fail, or be traced."""
        if not owned(self):
            raise FrozenTreeError(
                f"asked to set or delete the attribute {name!r} of a {type(self).__name__}",
                "a transform is running, and the module's states can't change in it, "
                "only their values",
                f"make {name!r} a state or an array before the call, and assign its value",
                "statelens.thread(fun), if the module is its first argument",
            )

    @user_facing
    def __delattr__(self, name: str) -> None:
        if contains_mutables(self._read_attribute(name)):
            self._refuse_inside_frames(name)
        try:
            if _hidden_in(self).pop(name, None) is None:
                object.__delattr__(self, name)
        finally:
            self._changed(name, None)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_hidden_in(self)})

    def _snapshot(self) -> Callable[[], None]:
        before = dict(_vars(self))
        hidden = dict(_hidden_in(self))

        def restore() -> None:
            readers = self._readers
            _vars(self).clear()
            _vars(self).update(before)
            if _HIDDEN in before:
                _vars(self)[_HIDDEN] = hidden
            _vars(self)[_READERS] = readers
            self._forget_structure()
            readers.notify_all()

        return restore

    def _read_attribute(self, name: str | None) -> Any:
        attributes, hidden = _vars(self), _hidden_in(self)
        if name is None:
            return tuple(sorted({*attributes, *hidden} - {_HIDDEN, _STRUCTURE, _READERS}))
        return hidden.get(name, attributes.get(name, MISSING))

    @property
    def _readers(self) -> Readers:
        return _vars(self).setdefault(_READERS, Readers())

    def _changed(self, *names: str | None) -> None:
        """Is called when attributes were set; None stands for which ones there are."""
        self._forget_structure()
        readers = _vars(self).get(_READERS)
        if readers is not None:
            readers.notify(*names)

    def _forget_structure(self) -> None:
        structure = _vars(self).get(_STRUCTURE)
        if structure is not None:
            structure.root = None

    def _cell_of(self, name: Any) -> Cell | None:
        return _hidden_in(self).get(name)

    def _record_all(self) -> dict[str, Any]:
        names = self._read_attribute(None)
        found = {name: self._read_attribute(name) for name in names}
        reads = active_reads()
        if reads is not None:
            reads.record(self, None, names)
            for name, value in found.items():
                reads.record(self, name, value)
        return found

    def _attributes(self) -> dict[str, Any]:
        """Returns the attributes as they read, in the order in which they are visited."""
        found = self._record_all()
        for name, cell in _hidden_in(self).items():
            found[name] = open_hidden(cell)
        return found

    def _keep(self, kept: CachedLookup | None, find: Callable[[], Any]) -> CachedLookup:
        return kept if kept is not None and kept.is_valid() else CachedLookup(find)

    def _hidden_cells(self) -> dict[Path, Cell]:
        return {
            (*path, name): cell
            for path, node in nodes_with_path(self)
            for name, cell in _hidden_in(node).items()
        }

    @property
    def _made_from(self) -> Structure | None:
        """The structure that the module was made from, if JAX made it."""
        return _vars(self).get(_STRUCTURE)

    def _restore(self, attributes: dict[str, Any], structure: Structure) -> None:
        """Fills a blank module with attributes."""
        own(self)
        hidden = {name: value for name, value in attributes.items() if is_hidden(value)}
        for name, value in attributes.items():
            if name not in hidden:
                _vars(self)[name] = value
        if hidden:
            _vars(self)[_HIDDEN] = {k: HiddenCell(value, name=k) for k, value in hidden.items()}
        _vars(self)[_STRUCTURE] = structure

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in _vars(self).items() if k not in (_STRUCTURE, _READERS)}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        _vars(self).update(attributes)

    def __copy__(self) -> "Module":
        copy = type(self).__new__(type(self))
        _vars(copy).update(self.__getstate__())
        _vars(copy)[_HIDDEN] = {name: cell.copy() for name, cell in _hidden_in(self).items()}
        return copy

    def __repr__(self) -> str:
        return shown(self)


def _register(cls: type[Module]) -> None:
    jtu.register_pytree_with_keys(cls, flatten_graph_with_keys, unflatten_graph, flatten_graph)


_register(Module)
