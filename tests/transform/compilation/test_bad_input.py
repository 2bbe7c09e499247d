"""What is wrong in a call of `jit` is said by name, and changes nothing."""

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.transform.bad_input import XS, A, B, Rows, X, check_refused

row = Rows()


row("jit: no function", lambda w: sl.jit(3), B, r"asked jit for fun=3\nthat is a int")
row("jit: static_argnums", lambda w: sl.jit(w.loss, static_argnums="x"), B, r"static_argnums='x'")
row("jit: static_argnums < 0", lambda w: sl.jit(w.loss, static_argnums=-1), A, r"static_argnums=-1")
row("jit: static_argnames", lambda w: sl.jit(w.loss, static_argnames=3), B, r"static_argnames=3")
row("jit: an unknown name", lambda w: sl.jit(w.loss, static_argnames="y"), A, r"argument 'y'.*'x'")
row("jit: donate_argnums", lambda w: sl.jit(w.loss, donate_argnums="x"), B, r"donate_argnums='x'")
row("jit: donate_argnames", lambda w: sl.jit(w.loss, donate_argnames=3), B, r"donate_argnames=3")
row(
    "jit: donate_states",
    lambda w: sl.jit(w.loss, donate_states=3),
    B,
    r"donate_states",
)
row("jit: max_traces 0", lambda w: sl.jit(w.loss, max_traces=0), A, r"asked jit for max_traces=0")
row(
    "jit: one trace too many",
    lambda w: (lambda f: (f(X), f(XS)))(sl.jit(lambda x: jnp.sum(x), max_traces=1)),
    sl.RetraceError,
    r"at most 1 traces.*argument 0 was float32\[2\], and is float32\[3,2\]",
)
row(
    "jit: an argument that can't be hashed",
    lambda w: sl.jit(w.out(0.0), static_argnums=0)([1]),
    B,
    r"argument 0.*list, which can't be hashed",
)
row(
    "jit: an object that can't be hashed",
    lambda w: sl.jit(w.out(0.0))({"a": {1, 2}}),
    B,
    r"argument 0 at 'a'.*set",
)
row(
    "jit: a state of an argument",
    lambda w: sl.jit(lambda m: m.loss())(w),
    sl.FrozenTreeError,
    r"write the state 'calls' of a tree.*thread\(fun\)",
)
row(
    "jit: an output that is a set",
    lambda w: sl.jit(w.out({1}))(X),
    B,
    r"the output.*set",
)


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match)
