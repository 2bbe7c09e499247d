"""What a trace closes over is let go when it ends; JAX looks for what isn't, if it is asked to."""

import gc
import weakref

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import statelens as sl
import statelens.transform as T

XS = jnp.arange(3.0)


def _in_a_loop(body):
    return T.for_loop(body, XS)


def _shard_map(body):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    return T.shard_map(lambda x: (body(1.0), x)[1], mesh, P(), P())(XS)


RUNS = {
    "for_loop": _in_a_loop,
    "for_loop with a bar": lambda body: T.for_loop(body, XS, pbar=2),
    "scan": lambda body: T.scan(lambda c, x: (c + body(x), x), 0.0, XS),
    "while_loop": lambda body: T.while_loop(lambda i: i < 3, lambda i: i + body(1.0), 0.0),
    "bounded_while_loop": lambda body: T.bounded_while_loop(
        lambda i: i < 3, lambda i: i + body(1.0), 0.0, max_steps=3
    ),
    "cond": lambda body: T.cond(True, lambda: body(1.0), lambda: 0.0),
    "switch": lambda body: T.switch(0, [lambda: body(1.0), lambda: 0.0]),
    "ifelse": lambda body: T.ifelse([True], [lambda: body(1.0), lambda: 0.0]),
    "map": lambda body: T.map(body, XS),
    "map in chunks": lambda body: T.map(lambda x: (body(1.0), x)[1], XS, batch_size=2),
    "shard_map": _shard_map,
    "checkpoint": lambda body: T.checkpoint(body)(1.0),
    "jit": lambda body: sl.jit(body)(1.0),
    "a loop in jit": lambda body: sl.jit(lambda: _in_a_loop(body))(),
    "a loop in grad": lambda body: sl.grad(lambda x: _in_a_loop(lambda y: body(x * y)).sum())(1.0),
    "a loop in vmap": lambda body: T.vmap(lambda x: (_in_a_loop(body), x)[1])(XS),
    "branches in a loop": lambda body: _in_a_loop(
        lambda x: T.cond(x > 1, lambda: body(x), lambda: 0.0)
    ),
    "a loop in branches": lambda body: T.cond(True, lambda: _in_a_loop(body).sum(), lambda: 0.0),
    "a compiled body": lambda body: _in_a_loop(sl.jit(body)),
}


def _body_over(total, array):
    def body(x):
        total.value = total.value + array[0]
        return x

    return body


@pytest.mark.parametrize("name", RUNS)
def test_no_trace_is_held_past_its_end(name):
    total = sl.State(jnp.zeros(()))
    with jax.checking_leaks():
        RUNS[name](_body_over(total, jnp.full(3, 2.0)))
    assert total.value >= 2.0


CHECKPOINTED = {
    "checkpointed_scan": lambda body: T.checkpointed_scan(lambda c, x: (c + body(x), x), 0.0, XS),
    "checkpointed_for_loop": lambda body: T.checkpointed_for_loop(body, XS),
}


def _leaks(run):
    try:
        with jax.checking_leaks():
            run()
    except Exception as error:
        return "Leaked trace" in str(error)
    return False


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_a_checkpointed_loop_holds_a_trace_only_if_equinoxs_does(name):
    @jax.jit
    def of_equinox(x, xs):
        return eqxi.scan(lambda c, x: (c + x, c), x, xs, kind="checkpointed", checkpoints=2)

    body = _body_over(sl.State(jnp.zeros(())), jnp.full(3, 2.0))
    is_of_equinox = _leaks(lambda: of_equinox(0.0, XS))
    assert _leaks(lambda: CHECKPOINTED[name](body)) <= is_of_equinox


@pytest.mark.parametrize("name", RUNS | CHECKPOINTED)
def test_an_array_that_a_body_closes_over_is_let_go(name):
    array = jnp.full(3, 2.0)
    reference = weakref.ref(array)
    (RUNS | CHECKPOINTED)[name](_body_over(sl.State(jnp.zeros(())), array))
    del array
    jax.clear_caches()
    gc.collect()
    assert reference() is None


def test_a_run_that_was_given_up_leaves_nothing_in_the_program():
    total, printed = sl.State(jnp.zeros(())), []

    def body(x):
        jax.debug.callback(printed.append, x)
        total.value = total.value + x
        return x

    jaxpr, _ = T.make_jaxpr(lambda: T.for_loop(body, XS))()
    assert str(jaxpr).count("scan[") == 1
    jax.block_until_ready(T.for_loop(body, XS))
    jax.effects_barrier()
    assert sorted(map(float, printed)) == [0.0, 1.0, 2.0]
