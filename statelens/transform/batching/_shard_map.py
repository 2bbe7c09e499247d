"""`shard_map`: each device runs a function on its part of arguments and of states.

What it adds to `jax.shard_map`: a partition of each state, coming in and going out.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

import jax
from jax.sharding import PartitionSpec

from ..._errors import ArgumentError, ArgumentTypeError, user_facing
from ...state import State, Writes
from .._core import Attempt, Decorator, Wrapper, applied, discover, wrong_type
from ._devices import Devices, is_spec
from ._mapped_call import MappedCall
from ._placement import Placement, read_placement

P = ParamSpec("P")
R = TypeVar("R")


class _Sharded(Wrapper):
    """A function under `jax.shard_map`, aware of states."""

    name = "shard_map"

    def __init__(
        self,
        fun: Callable[..., Any],
        mesh: Any,
        in_specs: Any,
        out_specs: Any,
        in_states: Any,
        out_states: Any,
        options: dict[str, Any],
    ):
        super().__init__(fun)
        if mesh is not None and not isinstance(
            mesh, (jax.sharding.Mesh, jax.sharding.AbstractMesh)
        ):
            raise wrong_type(
                "shard_map", "mesh", mesh, 'a mesh, as in jax.make_mesh((8,), ("data",))'
            )
        self._asked = mesh, in_specs, out_specs, options
        self._in_states = in_states
        self._out_states = out_states
        self._placements()

    def _placements(self) -> tuple[Placement, Placement]:
        in_placement = _read(self._in_states, "in_states")
        out_placement = _read(self._out_states, "out_states")
        out_placement.cells = {**in_placement.cells, **out_placement.cells}
        if out_placement.selectors:
            raise ArgumentTypeError(
                "asked shard_map for out_states by a lens that isn't bound",
                "there is no tree to look at among the outputs",
                "out_specs, for a tree that the function returns",
                "bind the lens to the model, as in lens.bind(model)",
            )
        return in_placement, out_placement

    @user_facing
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(self._attempted, args, kwargs)
        out, written = discover(call, "shard_map", self._fun)
        Writes(tuple(written), tuple(written.values())).commit()
        return out

    def _attempted(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], attempt: Attempt
    ) -> tuple[Any, dict[State, Any]]:
        placements = self._placements()
        # The partition of states of which nothing is said.
        default = self._in_states if is_spec(self._in_states) else PartitionSpec()
        defaults = default, self._out_states if is_spec(self._out_states) else default
        devices = Devices(*self._asked, attempt, placements, defaults)
        return MappedCall(devices, self._fun, *placements, args, kwargs)()


def _read(states: Any, option: str) -> Placement:
    if is_spec(states):
        return Placement()
    return read_placement(states, option, "shard_map", is_spec, PartitionSpec())


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
        mesh: The mesh; None for the one that is set.
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
    options: dict[str, Any] = {"check_vma": check_vma}
    if axis_names is not None:
        options["axis_names"] = axis_names

    def make(fun: Callable[..., Any]) -> Any:
        return _Sharded(fun, mesh, in_specs, out_specs, *states, options)

    states = (
        _one(in_states, state_in_specs, "in_states", "state_in_specs"),
        _one(out_states, state_out_specs, "out_states", "state_out_specs"),
    )
    return applied(make, fun)
