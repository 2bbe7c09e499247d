"""`vmap` and `vmap_new_states`: batching, for functions that read and write states.

What they add to `jax.vmap`: each state that is mapped has an axis, coming in and going out; all
lanes share the others, and may write to them only what is the same in all of them; a state
that holds random keys gives each lane a key of its own.
"""

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

from ..._errors import user_facing
from .._core import Attempt, Decorator, Wrapper, applied, discover, parse_count
from ._axes import AXES, read_axes
from ._lanes import Lanes
from ._mapped_call import MappedCall
from ._new_states import NewStates
from ._placement import Placement, read_placements

P = ParamSpec("P")
R = TypeVar("R")


class _Batched(Wrapper):
    """A function mapped by `jax.vmap`, aware of states."""

    def __init__(
        self,
        fun: Callable[..., Any],
        axes: tuple[Any, Any],
        states: tuple[Any, Any],
        options: dict[str, Any],
        new_states: NewStates | None = None,
    ):
        self.name = name = "vmap" if new_states is None else "vmap_new_states"
        super().__init__(fun)
        self._axes = read_axes(*axes, name)
        size = parse_count(options["axis_size"], "axis_size", name, least=0)
        self._options = {**options, "axis_size": size}
        self._states = states
        self._new_states = new_states
        self._placements()

    def _bound_to(self, instance: Any) -> Any:
        in_axes, out_axes = self._axes
        if self._placements()[0].selectors or (
            isinstance(in_axes, tuple) and in_axes and in_axes[0] is not None
        ):
            return MethodType(self, instance)  # the object itself is mapped
        bound = super()._bound_to(instance)
        if isinstance(in_axes, tuple):
            bound._axes = in_axes[1:], out_axes
        return bound

    def _placements(self) -> tuple[Placement, Placement]:
        return read_placements(self._states, self.name, AXES)

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(self._attempted, args, kwargs)
        return discover(call, self.name, self._fun)

    def _attempted(self, args: tuple[Any, ...], kwargs: dict[str, Any], attempt: Attempt) -> Any:
        # A transform that is built on this one has it go by its own name.
        places = *self._axes, *self._placements()
        lanes = Lanes(self.name, attempt, *places, self._options, self._new_states)
        try:
            call = MappedCall(lanes, self._fun, args, kwargs)
            out, written = call()
            lanes.commit(written, call.made)
        except BaseException:
            for restore in reversed(lanes.undo):
                restore()
            raise
        return out


class _Options(TypedDict, total=False):
    """The options of `vmap`."""

    in_axes: Any
    out_axes: Any
    axis_name: Any
    axis_size: int | None
    spmd_axis_name: Any
    in_states: Any
    out_states: Any


class _NewStateOptions(_Options, total=False):
    """Those of `vmap_new_states`."""

    state_tag: str | None
    state_to_exclude: Any


@overload
def vmap(fun: Callable[P, R], **options: Unpack[_Options]) -> Callable[P, R]: ...
@overload
def vmap(fun: None = None, **options: Unpack[_Options]) -> Decorator: ...
@user_facing
def vmap(
    fun: Callable[..., Any] | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    in_states: Any = None,
    out_states: Any = None,
) -> Any:
    """Maps a function over axes of its arguments and of states, as `jax.vmap` does.

    All lanes share the states that aren't mapped. A random key is split: each lane has its own,
    and the state goes on with the next one, unless all lanes have given it one and the same.
    Where no lane can come to read it, it stays what it was (see `statelens.random`).

    Args:
        fun: The function; it may read and write states. Left out, `vmap` gives a decorator.
        in_axes: The axis of each argument, as for `jax.vmap`.
        out_axes: The axis of each output, as for `jax.vmap`: one for all, or a tree that the
            output begins with. What is no array comes back as it is, whatever is said of it.
        axis_name: A name for the axis, for collectives.
        axis_size: The size of the axis, if nothing that is mapped says it.
        spmd_axis_name: As for `jax.vmap`.
        in_states: The states that are mapped: ``{states: axis}``, ``{axis: states}``, or
            states alone, for axis 0. The states are bound in any form; a lens that isn't
            bound selects in the first argument, the rest of which all lanes share.
        out_states: The states that have a value for each lane after the call, likewise. Those
            that are mapped coming in keep their axis. A lens that isn't bound selects in the
            tree of ``(out, tree)``, as `thread` returns it.

    Returns:
        A function like `fun` of stacked arguments.

    Raises:
        SelectionError: A state that all lanes share was written with a value for each.
        ArgumentTypeError: An axis is none.
        ArgumentError: There is no axis for each argument, or a tree of axes is not what the
            argument or the output begins with; the message says where.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> h = sl.HiddenState(jnp.zeros(3))
        >>> def leak(x):
        ...     h.value = 0.5 * h.value + x
        ...     return h.value
        >>> sl.transform.vmap(leak, in_states=h)(jnp.arange(3.0))
        Array([0., 1., 2.], dtype=float32)
        >>> h.value
        Array([0., 1., 2.], dtype=float32)
    """
    options = {"axis_name": axis_name, "axis_size": axis_size, "spmd_axis_name": spmd_axis_name}
    axes, states = (in_axes, out_axes), (in_states, out_states)
    return applied(lambda fun: _Batched(fun, axes, states, options), fun)


@overload
def vmap_new_states(fun: Callable[P, R], **options: Unpack[_NewStateOptions]) -> Callable[P, R]: ...
@overload
def vmap_new_states(fun: None = None, **options: Unpack[_NewStateOptions]) -> Decorator: ...
@user_facing
def vmap_new_states(
    fun: Callable[..., Any] | None = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    state_tag: str | None = None,
    state_to_exclude: Any = None,
    in_states: Any = None,
    out_states: Any = None,
) -> Any:
    """Maps a function that makes states: each has a value for each lane afterwards.

    Modules that were made before the call may be given states in it. If the call fails, they
    have them not.

    Args:
        fun: The function. Left out, `vmap_new_states` gives a decorator.
        in_axes: As for `vmap`.
        out_axes: As for `vmap`.
        axis_name: As for `vmap`.
        axis_size: The size of the axis, if nothing that is mapped says it.
        spmd_axis_name: As for `vmap`.
        state_tag: A tag for the new states.
        state_to_exclude: Which of the new states all lanes share: a lens in any form. Paths are
            those in what the function returns, or in a module that it names and gives states to.
        in_states: As for `vmap`.
        out_states: As for `vmap`.

    Returns:
        A function like `fun`.

    Raises:
        StateLensError: As for `vmap`.
        SelectionError: A new state that all lanes were to share isn't the same in all.
        PathError: A pattern in `state_to_exclude` matches none of the new states.

    Example:
        An ensemble of three models:

        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> ensemble = sl.nn.Module()
        >>> @sl.transform.vmap_new_states
        ... def init(key):
        ...     ensemble.weight = sl.ParamState(jax.random.normal(key, (2,)))
        >>> init(jax.random.split(jax.random.key(0), 3))
        >>> ensemble
        Module(  # 6 in ParamState
          weight=ParamState(f32[3,2]),
        )
    """
    options = {"axis_name": axis_name, "axis_size": axis_size, "spmd_axis_name": spmd_axis_name}
    axes, states = (in_axes, out_axes), (in_states, out_states)
    new = NewStates(state_tag, state_to_exclude)
    return applied(lambda fun: _Batched(fun, axes, states, options, new), fun)
