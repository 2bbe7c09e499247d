"""What is wrong in a call of a loop or a branch is said by name, and changes nothing."""

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.transform.bad_input import (
    NO,
    XS,
    A,
    B,
    C,
    D,
    Rows,
    T,
    X,
    check_refused,
)

row = Rows()


# Loops.

CARRY = lambda c, x: (c, x)  # noqa: E731
for n in ("scan", "checkpointed_scan"):
    f = getattr(T, n)
    row(f"{n}: no function", lambda w, f=f: f(3, 0.0, XS), B, rf"asked {n} for f=3")
    row(f"{n}: nothing to run over", lambda w, f=f: f(CARRY, 0.0), A, rf"asked {n} to run\nthere")
    row(f"{n}: a number", lambda w, f=f: f(CARRY, 0.0, 1.0), A, rf"asked {n} to run over float32")
    row(
        f"{n}: other sizes",
        lambda w, f=f: f(CARRY, 0.0, (XS, jnp.ones(4))),
        A,
        rf"asked {n} for 3 steps\n.*\(4,\)",
    )
    row(f"{n}: length", lambda w, f=f: f(CARRY, 0.0, XS, length=4), A, rf"asked {n} for 4 steps")
    row(f"{n}: length a text", lambda w, f=f: f(CARRY, 0.0, XS, "3"), B, rf"{n} for length='3'")
    row(f"{n}: length < 0", lambda w, f=f: f(CARRY, 0.0, None, -1), A, rf"{n} for length=-1")
    row(f"{n}: no pair", lambda w, f=f: f(w.out(0.0), 0.0, XS), B, rf"asked {n} to run.*not a pair")
    row(
        f"{n}: the carry changes",
        lambda w, f=f: f(w.out((jnp.ones(2), None)), 0.0, XS),
        C,
        rf"asked {n} to carry.*float32\[2\]",
    )
    row(
        f"{n}: a state changes",
        lambda w, f=f: f(lambda c, x: (w.grow(c), x), 0.0, XS),
        C,
        rf"asked {n} to carry ParamState\(.*'w'\).*float32\[2\].*float32\[5\]",
    )
    row(f"{n}: pbar", lambda w, f=f: f(CARRY, 0.0, XS, pbar="yes"), B, r"pbar='yes'")
row("scan: unroll", lambda w: T.scan(CARRY, 0.0, XS, unroll="all"), B, r"unroll='all'")
row("scan: unroll < 0", lambda w: T.scan(CARRY, 0.0, XS, unroll=-1), A, r"unroll=-1")
for n in ("checkpointed_scan", "checkpointed_for_loop"):
    f = lambda *a, n=n, **k: (  # noqa: E731
        T.checkpointed_scan(CARRY, 0.0, XS, **k)
        if n == "checkpointed_scan"
        else T.checkpointed_for_loop(lambda x: x, XS, **k)
    )
    row(f"{n}: checkpoints", lambda w, f=f: f(checkpoints=0), A, rf"asked {n} for checkpoints=0")
    row(f"{n}: base", lambda w, f=f: f(base=1), A, rf"asked {n} for base=1")
for n in ("for_loop", "checkpointed_for_loop"):
    f = getattr(T, n)
    row(f"{n}: no function", lambda w, f=f: f(3, XS), B, rf"asked {n} for f=3")
    row(f"{n}: nothing to run over", lambda w, f=f: f(w.touch), A, rf"asked {n} to run\nthere")
    row(f"{n}: sizes", lambda w, f=f: f(w.loss, XS, jnp.ones(4)), A, rf"asked {n} for 3 steps")
    row(f"{n}: length", lambda w, f=f: f(w.touch, length=1.5), B, rf"asked {n} for length=1.5")
    row(
        f"{n}: a state changes",
        lambda w, f=f: f(w.grow, XS),
        C,
        rf"asked {n} to carry ParamState\(.*'w'\)",
    )


def go_on(x):
    return x < 3


for n in ("while_loop", "bounded_while_loop"):
    more = {"max_steps": 3} if n == "bounded_while_loop" else {}
    f = getattr(T, n)
    row(f"{n}: cond_fun", lambda w, f=f, m=more: f(1, go_on, 0.0, **m), B, rf"{n} for cond_fun=1")
    row(f"{n}: body_fun", lambda w, f=f, m=more: f(go_on, 1, 0.0, **m), B, rf"{n} for body_fun=1")
    row(
        f"{n}: cond_fun gives a number",
        lambda w, f=f, m=more: f(lambda x: x, w.loss, 0.0, **m),
        B,
        rf"asked {n} whether to go on\ncond_fun returned float32\[\]",
    )
    row(
        f"{n}: cond_fun gives None",
        lambda w, f=f, m=more: f(lambda x: None, w.loss, 0.0, **m),
        B,
        rf"asked {n} whether to go on\ncond_fun returned",
    )
    row(
        f"{n}: cond_fun writes",
        lambda w, f=f, m=more: f(lambda x: w.loss() < 3, lambda x: x, 0.0, **m),
        D,
        rf"asked {n} whether to go on\ncond_fun wrote State\(.*'calls'\)",
    )
    row(
        f"{n}: the value changes",
        lambda w, f=f, m=more: f(go_on, w.out(jnp.ones(2)), 0.0, **m),
        C,
        rf"asked {n} to carry.*float32\[2\]",
    )
    row(
        f"{n}: a state changes",
        lambda w, f=f, m=more: f(go_on, w.grow, 0.0, **m),
        C,
        rf"asked {n} to carry ParamState\(.*'w'\)",
    )
row(
    "bounded_while_loop: max_steps",
    lambda w: T.bounded_while_loop(go_on, w.loss, 0.0, max_steps=0),
    A,
    r"max_steps=0",
)
row(
    "bounded_while_loop: max_steps None",
    lambda w: T.bounded_while_loop(go_on, lambda x: x + 1, 0.0, max_steps=None),
    sl.StateLensError,
    r"max_steps=None",
)
row(
    "bounded_while_loop: base",
    lambda w: T.bounded_while_loop(go_on, w.loss, 0.0, max_steps=3, base=1),
    A,
    r"base=1",
)
row("ProgressBar: both", lambda w: T.ProgressBar(freq=1, count=2), A, r"freq=1 and count=2")
row("ProgressBar: freq", lambda w: T.ProgressBar(freq=0), A, r"freq=0")
row("ProgressBar: count", lambda w: T.ProgressBar(count=1.5), B, r"count=1.5")
row("ProgressBar: desc", lambda w: T.ProgressBar(desc=3), B, r"desc=3")
row("ProgressBar: an option", lambda w: T.ProgressBar(colr="red"), A, r"colr='red'\ntqdm has no")


# Branches.

row("cond: pred an array", lambda w: T.cond(X > 0, NO, NO, 1.0), B, r"by pred\nit is of shape")
row("cond: pred a text", lambda w: T.cond("x", NO, NO, 1.0), B, r"by pred\nit is a str")
row("cond: pred None", lambda w: T.cond(None, NO, NO, 1.0), B, r"by pred\nit is a NoneType")
row("cond: true_fun", lambda w: T.cond(True, 1, NO, 1.0), B, r"asked cond for true_fun=1")
row("cond: false_fun", lambda w: T.cond(True, NO, 1, 1.0), B, r"asked cond for false_fun=1")
row(
    "cond: outputs",
    lambda w: T.cond(True, w.out(1.0), w.out((1.0, 2.0)), 1.0),
    C,
    r"asked cond to run one of 2 branches\n.*: it is a tuple of 2, not float32\[\]",
)
row(
    "cond: output dtypes",
    lambda w: T.cond(True, w.out(X), w.out(jnp.arange(2)), 1.0),
    C,
    r"asked cond to run one of 2 branches\nwhat one returns.*it is int32\[2\], not float32\[2\]",
)
row(
    "cond: states",
    lambda w: T.cond(True, w.grow, w.out(1.0), 1.0),
    C,
    r"asked cond.*leaves ParamState\(.*'w'\) as float32\[5\], another one as float32\[2\]",
)
row("switch: index a float", lambda w: T.switch(1.0, [NO], 1.0), B, r"asked switch for index=1.0")
row("switch: index an array", lambda w: T.switch(XS, [NO], 1.0), B, r"asked switch.*by index")
row("switch: index a bool", lambda w: T.switch(True, [NO], 1.0), B, r"switch for index=True")
row("switch: no branch", lambda w: T.switch(0, [], 1.0), A, r"asked switch to run a branch")
row("switch: branches", lambda w: T.switch(0, NO, 1.0), B, r"asked switch for branches=")
row("switch: a branch", lambda w: T.switch(0, [NO, 3], 1.0), B, r"switch for branches\[1\]=3")
row(
    "switch: states",
    lambda w: T.switch(0, [w.grow, w.out(1.0), w.grow], 1.0),
    C,
    r"asked switch to run one of 3 branches.*'w'\)",
)
row("ifelse: numbers", lambda w: T.ifelse([True], [NO] * 3, 1.0), A, r"ifelse for conditions=1")
row("ifelse: conditions", lambda w: T.ifelse(True, [NO], 1.0), A, r"ifelse for conditions=bool")
row("ifelse: an array", lambda w: T.ifelse([X > 0], [NO], 1.0), B, r"ifelse to choose by a cond")
row("ifelse: branches", lambda w: T.ifelse([True], NO, 1.0), B, r"asked ifelse for branches=")
row("ifelse: none holds", lambda w: T.ifelse([False], [NO], 1.0), A, r"ifelse.*no condition is")
row(
    "ifelse: a branch", lambda w: T.ifelse([True], [None], 1.0), B, r"ifelse for branches\[0\]=None"
)


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match)
