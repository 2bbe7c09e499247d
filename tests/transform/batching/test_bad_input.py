"""What is wrong in a call of `vmap` or `shard_map` is said by name, and changes nothing."""

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.transform.bad_input import MESH, XS, A, B, D, P, Rows, T, X, check_refused

row = Rows()


# vmap.

row("vmap: no function", lambda w: T.vmap(3), B, r"asked vmap for fun=3")
row("vmap: in_axes a text", lambda w: T.vmap(w.loss, in_axes="x"), B, r"asked vmap for in_axes='x'")
row("vmap: in_axes too many", lambda w: T.vmap(w.loss, in_axes=(0, 0))(XS), A, r"in_axes=\(0, 0\)")
row("vmap: in_axes no axis", lambda w: T.vmap(w.loss, in_axes=5)(XS), A, r"asked vmap .*5")
row("vmap: in_axes in a tuple", lambda w: T.vmap(w.loss, in_axes=("x",))(XS), B, r"in_axes=")
row("vmap: out_axes a text", lambda w: T.vmap(w.loss, out_axes="x")(XS), B, r"out_axes='x'")
row("vmap: out_axes None", lambda w: T.vmap(w.loss, out_axes=None)(XS), A, r"out_axes=None")
row("vmap: axis_size a text", lambda w: T.vmap(w.loss, axis_size="3"), B, r"axis_size='3'")
row("vmap: axis_size negative", lambda w: T.vmap(w.loss, axis_size=-1), A, r"axis_size=-1")
row(
    "vmap: axis_size contradicts",
    lambda w: T.vmap(w.loss, axis_size=4)(XS),
    A,
    r"asked vmap .*axis_size=4",
)
row(
    "vmap: sizes that differ",
    lambda w: T.vmap(lambda x, y: w.touch())(XS, jnp.ones(4)),
    A,
    r"asked vmap .*3.*4",
)
row("vmap: nothing is mapped", lambda w: T.vmap(w.touch)(), A, r"asked vmap .*axis_size")
row(
    "vmap: a place that is none",
    lambda w: T.vmap(w.loss, in_states={w.w: "a"}),
    B,
    r"asked vmap for in_states with the place 'a'",
)
row(
    "vmap: in_states no states",
    lambda w: T.vmap(w.loss, in_states=3),
    B,
    r"in_states",
)
row(
    "vmap: a state in two places",
    lambda w: T.vmap(w.loss, in_states={0: w.w, 1: [w.w]}),
    D,
    r"asked vmap for in_states\n.*'w'\) is given two places: 0 and 1",
)
row(
    "vmap: a part of a state",
    lambda w: T.vmap(w.loss, in_states=w.states(sl.lens("w")[:1])),
    D,
    r"asked vmap for in_states of .*part of a state",
)
row(
    "vmap: a state has no such axis",
    lambda w: T.vmap(w.loss, in_states={w.w: 3})(jnp.ones(2)),
    A,
    r"asked vmap .*'w'.*3",
)
row(
    "vmap: a state of another size",
    lambda w: T.vmap(w.loss, in_states=w.w)(XS),
    A,
    r"asked vmap .*'w'.*2.*3",
)
row(
    "vmap: a lens and no argument",
    lambda w: T.vmap(w.loss, in_states="a")(),
    A,
    r"asked vmap for the axes of states that a lens selects\nthe call has no",
)
row(
    "vmap: a lens that matches nothing",
    lambda w: T.vmap(lambda t: w.touch(), in_states="b")({"a": XS}),
    sl.PathError,
    r"asked (by )?vmap.*'b'",
)
row(
    "vmap: a shared state written per lane",
    lambda w: T.vmap(lambda x: setattr(w.other, "value", x))(XS),
    D,
    r"asked vmap to write ParamState\(.*'other'\), which all lanes share.*out_states",
)
row(
    "vmap: out_states by a lens, and no pair",
    lambda w: T.vmap(lambda t: w.touch(), out_states="a")({"a": XS}),
    B,
    r"out_states.*\(out, tree\)",
)
row(
    "vmap_new_states: no function",
    lambda w: T.vmap_new_states(3),
    B,
    r"asked vmap_new_states for fun=3",
)
row(
    "vmap_new_states: axis_size",
    lambda w: T.vmap_new_states(w.touch, axis_size=1.5),
    B,
    r"asked vmap_new_states for axis_size=1.5",
)
row(
    "vmap_new_states: state_tag",
    lambda w: T.vmap_new_states(w.touch, axis_size=2, state_tag=3),
    B,
    r"state_tag=3",
)
row(
    "vmap_new_states: state_to_exclude",
    lambda w: T.vmap_new_states(w.touch, axis_size=2, state_to_exclude=3),
    B,
    r"state_to_exclude",
)
row("map: no function", lambda w: T.map(3, XS), B, r"asked map for f=3")
row("map: batch_size 0", lambda w: T.map(w.loss, XS, batch_size=0), A, r"map for batch_size=0")
row("map: nothing", lambda w: T.map(w.touch), A, r"asked (map|for_loop) to run\nthere is nothing")
row(
    "map: a number", lambda w: T.map(w.loss, 1.0, batch_size=2), A, r"asked map to run over float32"
)


# shard_map.


def sharded(fun, **options):
    return T.shard_map(fun, **{"mesh": MESH, "in_specs": P("d"), "out_specs": P(), **options})


row("shard_map: no function", lambda w: sharded(3), B, r"asked shard_map for fun=3")
row("shard_map: mesh", lambda w: sharded(w.loss, mesh=3), B, r"asked shard_map for mesh=3")
row("shard_map: no mesh", lambda w: sharded(w.loss, mesh=None)(X), A, r"asked shard_map.*mesh")
row("shard_map: no out_specs", lambda w: sharded(w.loss, out_specs=None)(X), B, r"out_specs=None")
row("shard_map: in_specs a text", lambda w: sharded(w.loss, in_specs="d")(X), B, r"in_specs='d'")
row("shard_map: in_specs", lambda w: sharded(w.loss, in_specs=(P(), P()))(X), A, r"in_specs=")
row("shard_map: an axis", lambda w: sharded(w.loss, in_specs=P("e"))(X), A, r"shard_map.*'e'")
row(
    "shard_map: one option by two names",
    lambda w: sharded(w.loss, in_states=P(), state_in_specs=P()),
    A,
    r"asked shard_map for in_states and state_in_specs",
)
row(
    "shard_map: all states along another axis",
    lambda w: sharded(w.loss, in_states=P("e"))(X),
    A,
    r"asked shard_map.*'e'",
)
row(
    "shard_map: in_states a place",
    lambda w: sharded(w.loss, in_states={w.w: 0}),
    B,
    r"asked shard_map for in_states with the place 0",
)
row(
    "shard_map: in_states another axis",
    lambda w: sharded(w.loss, in_states={w.w: P("e")})(X),
    A,
    r"asked shard_map.*'e'",
)
row(
    "shard_map: out_states by a lens",
    lambda w: sharded(w.loss, out_states="w"),
    B,
    r"asked shard_map for out_states by a lens that isn't bound",
)
row(
    "shard_map: a lens and no argument",
    lambda w: sharded(w.touch, in_states="w")(),
    A,
    r"asked shard_map for the states that a lens selects\nthe call has no",
)
row(
    "shard_map: a state that differs",
    lambda w: sharded(lambda x: setattr(w.other, "value", x))(jnp.ones(3)),
    D,
    r"asked shard_map to write ParamState\(.*'other'\), which is whole on every device",
)


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match)
