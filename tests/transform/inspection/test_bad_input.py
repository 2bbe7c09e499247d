"""What is wrong in a check, or in a look at a function, is said by name and changes nothing."""

import pytest

from tests.transform.bad_input import A, B, Rows, T, X, check_refused

row = Rows()


row("checkpoint: no function", lambda w: T.checkpoint(3), B, r"asked checkpoint for fun=3")
row("checkpoint: policy", lambda w: T.checkpoint(w.loss, policy=3), B, r"checkpoint for policy=3")
row(
    "checkpoint: static_argnums",
    lambda w: T.checkpoint(w.loss, static_argnums="x"),
    B,
    r"asked checkpoint for static_argnums='x'",
)
row(
    "checkpoint: a static list",
    lambda w: T.checkpoint(w.out(0.0), static_argnums=0)([1]),
    B,
    r"argument 0.*list, which can't be hashed",
)
row("named_scope: no text", lambda w: T.named_scope(3), B, r"asked for a scope named 3")
row("error_if: pred", lambda w: T.error_if(X, 1, "no"), B, r"error_if .*pred=1\nthat is of int32")
row("error_if: pred a text", lambda w: T.error_if(X, "x", "no"), B, r"error_if .*pred='x'\n.*str")
row("error_if: msg", lambda w: T.error_if(X, True, 3), B, r"asked error_if for the error msg=3")
row("jit_error_if: pred", lambda w: T.jit_error_if(1.0, "no"), B, r"jit_error_if .*pred=1.0")
row("jit_error_if: error", lambda w: T.jit_error_if(True, 3), B, r"asked jit_error_if for error=3")
row(
    "jit_error_if: a field without a value",
    lambda w: T.jit_error_if(True, "x is {}"),
    A,
    r"asked jit_error_if .*x is \{\}",
)
row("checkify: no function", lambda w: T.checkify(3), B, r"asked checkify for fun=3")
row("checkify: errors", lambda w: T.checkify(w.loss, errors=3)(X), B, r"errors=3")
row("eval_shape: no function", lambda w: T.eval_shape(3), B, r"asked eval_shape for fun=3")
row("eval_shape: a set", lambda w: T.eval_shape(w.loss, {1}), B, r"argument 0.*set")
row("make_jaxpr: no function", lambda w: T.make_jaxpr(3), B, r"asked (make_jaxpr) for fun=3")
row(
    "make_jaxpr: static_argnames",
    lambda w: T.make_jaxpr(w.loss, static_argnames="y"),
    A,
    r"argument 'y'\nthe function takes 'x'",
)
row("StatefulFunction: fun", lambda w: T.StatefulFunction(3), B, r"StatefulFunction for fun=3")
row(
    "StatefulFunction: static_argnums",
    lambda w: T.StatefulFunction(w.loss, static_argnums=1.5),
    B,
    r"static_argnums=1.5",
)
row(
    "StatefulFunction: too few values",
    lambda w: T.StatefulFunction(w.loss).jaxpr_call([], X),
    A,
    r"StatefulFunction\(loss\) to run with 0 values of states\nit touches",
)
row("StateFinder: fun", lambda w: T.StateFinder(3), B, r"asked StateFinder for fun=3")
row("StateFinder: usage", lambda w: T.StateFinder(w.loss, usage="x"), A, r"usage='x'.*'both'")
row("StateFinder: usage 3", lambda w: T.StateFinder(w.loss, usage=3), B, r"usage=3.*'both'")
row(
    "StateFinder: return_type",
    lambda w: T.StateFinder(w.loss, return_type="set"),
    A,
    r"return_type='set'.*'tuple'",
)
row("StateFinder: key_fn", lambda w: T.StateFinder(w.loss, key_fn="n")(X), B, r"key_fn='n'")
row("StateFinder: filter", lambda w: T.StateFinder(w.loss, filter=3), B, r"filter")


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match)
