"""Mistakes inside of whole programs, of the user's or of another library: told at the user's line.

What is wrong in one call has its row in the tables of the rooms.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

import statelens as sl
from tests.transform.bad_input import XS, B, E, Rows, T, World, X, check_refused

MLP = eqx.nn.MLP(2, 2, 4, 2, key=jax.random.key(0))
HEAD = sl.lens("layers[-1].**") & sl.inexact


def loss(model, x):
    return jnp.sum(jax.vmap(model)(x) ** 2)


PATH = sl.PathError
row = Rows()

# States and lenses in each other's place.
row("grad_states: a module", lambda w: sl.grad(w.loss, w)(), B, r"a World, neither")
row("grad_states: values", lambda w: sl.grad(w.loss, {"w": X})(), sl.StateLensError, r"state")
row(
    "grad_states: functions", lambda w: sl.grad(loss, "activation")(MLP, XS), sl.PathError, r"activ"
)
row("grad_states: arrays, bound", lambda w: sl.grad(loss, HEAD.bind(MLP))(MLP, XS), E, r"layers")
row(
    "jvp: a tangent of the whole",
    lambda w: T.jvp(loss, (MLP, XS), (MLP,), grad_states=HEAD),
    sl.StateLensError,
    r"tangent",
)
row("combine: one half", lambda w: sl.combine(MLP, None), sl.StructureError, r"asked to combine")
row("jit: a generator", lambda w: sl.jit(lambda: (w.touch() for _ in X))(), B, r"generator")

# What the user's function, JAX or Optax raises.
row("a missing argument of grad", lambda w: sl.grad(loss, HEAD)(MLP), TypeError, r"missing")
row("a name that isn't there", lambda w: sl.jit(lambda: w.nothing)(), AttributeError, r"nothing")
IN = {
    "jit": lambda fun: sl.jit(fun)(),
    "cond": lambda fun: T.cond(True, fun, lambda: 1),
    "for_loop": lambda fun: T.for_loop(lambda i: fun(), X),
    "checkpoint": lambda fun: T.checkpoint(fun)(),
    "grad in vmap in jit": lambda fun: sl.jit(T.vmap(sl.grad(lambda x: fun())))(X),
}
for name, run in IN.items():
    row(f"{name}: an error", lambda w, run=run: run(lambda: {}["x"]), KeyError, r"x")
    row(
        f"{name}: an error of Optax",
        lambda w, run=run: run(lambda: optax.sgd(1.0).update({"a": X}, 3, X, 4)),
        Exception,
        r"sgd|argument|init|tuple",
    )


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match, World)
