"""A generator or a coroutine runs when the transform has ended: that is refused."""

import functools

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import counter

T = sl.transform
X, XS = jnp.ones(()), jnp.ones(2)
OTHER = sl.State(X)


def generator(calls, x):
    calls.value += 1
    yield x


async def coroutine(calls, x):
    calls.value += 1
    return x


async def asynchronous(calls, x):
    calls.value += 1
    yield x


class Called:
    def __init__(self, calls):
        self.calls = calls

    async def __call__(self, x):
        self.calls.value += 1
        return x


KINDS = {
    "a generator": lambda calls: functools.partial(generator, calls),
    "a generator expression": lambda calls: lambda x: (setattr(calls, "value", y) for y in [x]),
    "a coroutine": lambda calls: functools.partial(coroutine, calls),
    "a coroutine of an object": Called,
    "an asynchronous generator": lambda calls: functools.partial(asynchronous, calls),
}
RUNS = {
    "jit": lambda f: sl.jit(f)(X),
    "grad": lambda f: sl.grad(f)(X),
    "vmap": lambda f: T.vmap(f)(XS),
    "for_loop": lambda f: T.for_loop(f, XS),
    "scan": lambda f: T.scan(lambda c, x: f(x), 0.0, XS),
    "while_loop": lambda f: T.while_loop(lambda x: x < 3, f, X),
    "cond": lambda f: T.cond(True, f, f, X),
    "map": lambda f: T.map(f, XS),
    "checkpoint": lambda f: T.checkpoint(f)(X),
    "eval_shape": lambda f: T.eval_shape(f, X),
    "make_jaxpr": lambda f: T.make_jaxpr(f)(X),
    "checkify": lambda f: T.checkify(f)(X),
    "vjp": lambda f: T.vjp(f, X),
    "functionalize": lambda f: sl.functionalize(f, [OTHER])([X], X),
    "thread": lambda f: sl.thread(lambda tree: f(tree))(X),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_later_is_refused(kind, run):
    calls = counter()
    found = " ".join(kind.split()[:2]) if "of" in kind or "expression" in kind else kind
    with pytest.raises(sl.ArgumentTypeError, match=f"it returned {found}.*\n?.*would be lost"):
        RUNS[run](KINDS[kind](calls))
    assert calls.value == 0
