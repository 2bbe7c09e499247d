"""`shard_map`: each device runs a function on its part of arguments and of states.

What it adds to `jax.shard_map`: a partition of each state, coming in and going out.
"""

import functools
from collections.abc import Callable
from types import NoneType
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

import jax

from ..._errors import ArgumentError, ArgumentTypeError, user_facing
from ...state import State, Writes
from .._core import Attempt, Decorator, Wrapper, applied, discover, wrong_type
from ._devices import SPECS, Devices, is_spec
from ._mapped_call import MappedCall
from ._placement import Placement, read_placements

P = ParamSpec("P")
R = TypeVar("R")


class _Sharded(Wrapper):
    """A function under `jax.shard_map`, aware of states."""

    name = "shard_map"

    def __init__(
        self,
        fun: Callable[..., Any],
        specs: tuple[Any, Any],
        states: tuple[Any, Any],
        options: dict[str, Any],
    ):
        super().__init__(fun)
        mesh = options.get("mesh")
        if not isinstance(mesh, (NoneType, jax.sharding.Mesh, jax.sharding.AbstractMesh)):
            raise wrong_type(
                "shard_map", "mesh", mesh, 'a mesh, as in jax.make_mesh((8,), ("data",))'
            )
        self._specs = specs
        self._states = states
        self._options = options
        self._placements()

    def _placements(self) -> tuple[Placement, Placement]:
        # A partition alone is that of states of which nothing else is said.
        given = (None if is_spec(spec) else spec for spec in self._states)
        before, after = read_placements(given, "shard_map", SPECS)
        in_states, out_states = self._states
        before.default = in_states if is_spec(in_states) else before.default
        after.default = out_states if is_spec(out_states) else before.default
        if after.selectors:
            raise ArgumentTypeError(
                "asked shard_map for out_states by a lens that isn't bound",
                "there is no tree to look at among the outputs",
                "out_specs, for a tree that the function returns",
                "bind the lens to the model, as in lens.bind(model)",
            )
        return before, after

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(self._attempted, args, kwargs)
        out, written = discover(call, "shard_map", self._fun)
        Writes(tuple(written), tuple(written.values())).commit()
        return out

    def _attempted(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], attempt: Attempt
    ) -> tuple[Any, dict[State, Any]]:
        devices = Devices(attempt, *self._specs, *self._placements(), self._options)
        devices.check_specs()
        return MappedCall(devices, self._fun, args, kwargs)()


def _one(given: Any, ported: Any, name: str, other: str) -> Any:
    """Picks the one of two names of an option that was used."""
    if given is not None and ported is not None:
        raise ArgumentError(
            f"asked shard_map for {name} and {other}",
            "these are two names of one option",
            f"one of them: {name}",
        )
    return ported if given is None else given


class _Options(TypedDict, total=False):
    """The options of `shard_map`."""

    in_states: Any
    out_states: Any
    state_in_specs: Any
    state_out_specs: Any
    axis_names: Any
    check_vma: bool


@overload
def shard_map(
    fun: Callable[P, R],
    mesh: Any = None,
    in_specs: Any = None,
    out_specs: Any = None,
    **options: Unpack[_Options],
) -> Callable[P, R]: ...
@overload
def shard_map(
    fun: None = None,
    mesh: Any = None,
    in_specs: Any = None,
    out_specs: Any = None,
    **options: Unpack[_Options],
) -> Decorator: ...
@user_facing
def shard_map(
    fun: Callable[..., Any] | None = None,
    mesh: Any = None,
    in_specs: Any = None,
    out_specs: Any = None,
    *,
    in_states: Any = None,
    out_states: Any = None,
    state_in_specs: Any = None,
    state_out_specs: Any = None,
    axis_names: Any = None,
    check_vma: bool = True,
) -> Any:
    """Runs a function on each device's part of arguments and states, as `jax.shard_map` does.

    Args:
        fun: The function; it may read and write states. Left out, it gives a decorator. A
            state of random keys is as any other: whole on every device, all of which draw the
            same numbers. `jax.random.fold_in` with `jax.lax.axis_index` tells them apart.
        mesh: The mesh; None for the one that is set. Arguments and states that aren't on it yet
            are placed, also along explicit axes, where `jax.shard_map` asks for `jax.reshard`.
        in_specs: The partition of each argument, as for `jax.shard_map`.
        out_specs: The partition of each output, as for `jax.shard_map`.
        in_states: The partition of states: ``{states: PartitionSpec}``, or the other way
            round. The states are bound in any form; a lens that isn't bound selects in the
            first argument, the rest of which is whole on every device. A PartitionSpec alone
            is that of all states.
        out_states: The partition of states after the call, if it is another one.
        state_in_specs: The other name of `in_states`, for ported programs.
        state_out_specs: That of `out_states`.
        axis_names: As for `jax.shard_map`.
        check_vma: As for `jax.shard_map`.

    Returns:
        A function like `fun` of whole arrays. What is in keyword arguments is whole on every
        device.

    Raises:
        SelectionError: A state that is whole on every device was written with a value that
            isn't the same on all.
        ArgumentTypeError: A partition is none.

    Example:
        >>> import jax, jax.numpy as jnp, statelens as sl
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> seen = sl.State(jnp.zeros(()))
        >>> @sl.transform.shard_map(mesh=mesh, in_specs=P("data"), out_specs=P("data"))
        ... def double(x):
        ...     seen.value += jax.lax.psum(x.shape[0], "data")
        ...     return 2 * x
        >>> double(jnp.arange(3.0)), float(seen.value)
        (Array([0., 2., 4.], dtype=float32), 3.0)
    """
    options = {"mesh": mesh, "axis_names": axis_names, "check_vma": check_vma}
    options = {name: option for name, option in options.items() if option is not None}
    states = (
        _one(in_states, state_in_specs, "in_states", "state_in_specs"),
        _one(out_states, state_out_specs, "out_states", "state_out_specs"),
    )
    return applied(lambda fun: _Sharded(fun, (in_specs, out_specs), states, options), fun)
