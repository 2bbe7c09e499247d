"""What is wrong in a call of `vjp`, by examples, or of a rule is said, and changes nothing."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.transform.bad_input import NO, XS, A, B, C, D, E, Rows, T, X, check_refused

row = Rows()


# vjp, jvp, linearize.

for n in ("vjp", "linearize", "jvp"):
    with_primals = {"vjp": T.vjp, "linearize": T.linearize, "jvp": lambda f, *x: T.jvp(f, x, x)}[n]
    row(
        f"{n}: no function",
        lambda w, f=with_primals: f(3, X),
        B,
        rf"asked {n} for fun=3\nthat is a int",
    )
    row(
        f"{n}: nothing to differentiate by",
        lambda w, n=n: getattr(T, n)(w.loss, *([()] if n == "jvp" else [])),
        A,
        rf"asked {n} for a derivative\nthere is nothing",
    )
    row(
        f"{n}: no pair for has_aux",
        lambda w, n=n: (
            T.jvp(w.loss, (X,), (X,), has_aux=True)
            if n == "jvp"
            else getattr(T, n)(w.loss, X, has_aux=True)
        ),
        B,
        r"has_aux",
    )
    row(
        f"{n}: an untouched state",
        lambda w, n=n: (
            T.jvp(w.loss, (), grad_states=w.other, state_tangents=jnp.ones(3))
            if n == "jvp"
            else getattr(T, n)(w.loss, grad_states=w.other)
        ),
        sl.UntouchedStateError,
        rf"asked {n} for the derivative by the state 'other'",
    )
row("vjp: argnums", lambda w: T.vjp(w.loss, X, argnums=2), A, r"asked vjp for argnums=2")
row("vjp: argnums a text", lambda w: T.vjp(w.loss, X, argnums="x"), B, r"asked vjp for argnums='x'")
row(
    "vjp: the output is a text",
    lambda w: T.vjp(w.out("a"), X),
    sl.DifferentiationError,
    r"asked vjp",
)
row(
    "vjp: an integer state",
    lambda w: T.vjp(w.loss, grad_states=w.calls),
    sl.DifferentiationError,
    r"asked vjp for the derivative by 'calls'\nit is of dtype int32",
)
row(
    "linearize: argnums", lambda w: T.linearize(w.loss, X, argnums=1), A, r"linearize for argnums=1"
)
row("jvp: primals no tuple", lambda w: T.jvp(w.loss, X, (X,)), B, r"asked jvp for primals=")
row("jvp: tangents no tuple", lambda w: T.jvp(w.loss, (X,), X), B, r"asked jvp for tangents=")
row("jvp: too few tangents", lambda w: T.jvp(w.loss, (X,), ()), A, r"for 1 primals\nthere are 0")
row(
    "jvp: state_tangents alone",
    lambda w: T.jvp(w.loss, (X,), (X,), state_tangents=X),
    A,
    r"one of grad_states and state_tangents is missing",
)
row(
    "jvp: grad_states alone",
    lambda w: T.jvp(w.loss, (X,), (X,), grad_states=w.w),
    A,
    r"one of grad_states and state_tangents is missing",
)
row(
    "jvp: a tangent of another shape",
    lambda w: T.jvp(w.loss, (X,), (jnp.ones(3),)),
    C,
    r"asked jvp for a product with a tangent\n'\[0\]' is float32\[3\], not float32\[2\]",
)
row(
    "jvp: a state tangent of another form",
    lambda w: T.jvp(w.loss, (), grad_states={"w": w.w}, state_tangents=[X]),
    C,
    r"asked jvp for values by \['w'\]\nthe values are given by \[0\]",
)


# Parts of a batch.

for n in ("per_example_grad", "fisher_diag", "accumulate_grad"):
    more = {"microbatches": 2} if n == "accumulate_grad" else {}
    f = getattr(T, n)
    row(
        f"{n}: no function",
        lambda w, f=f, more=more: f(3, w.w, **more),
        B,
        rf"asked {n} (for fun=3|to diff)",
    )
    row(
        f"{n}: no batch",
        lambda w, f=f, more=more: f(w.loss, w.w, **more)(),
        A,
        rf"asked {n} for a gradient of each part of a batch\nthe call has no",
    )
    row(
        f"{n}: batch_argnums out of range",
        lambda w, f=f, more=more: f(w.loss, w.w, batch_argnums=2, **more)(XS),
        A,
        rf"asked {n} for batch_argnums=\(2,\)\nthe call has 1",
    )
    row(
        f"{n}: batch_argnums a text",
        lambda w, f=f, more=more: f(w.loss, w.w, batch_argnums="x", **more)(XS),
        B,
        r"batch_argnums='x'",
    )
    row(
        f"{n}: a number for a batch",
        lambda w, f=f, more=more: f(w.loss, w.w, **more)(1.0),
        A,
        rf"asked {n} ",
    )
row(
    "per_example_grad: a state written by each",
    lambda w: T.per_example_grad(lambda x: w.loss(setattr(w.other, "value", x) or x), w.w)(XS),
    D,
    r"asked (vmap|per_example_grad) to write ParamState\(.*'other'\), which all lanes share",
)
row(
    "per_example_grad: other batch sizes",
    lambda w: T.per_example_grad(lambda x, y: w.loss(x) + y, w.w)(XS, jnp.ones(4)),
    A,
    r"asked per_example_grad .*(3|4)",
)
row(
    "accumulate_grad: microbatches None",
    lambda w: T.accumulate_grad(w.loss, w.w, microbatches=None),
    A,
    r"microbatches=None",
)
row(
    "accumulate_grad: microbatches 0",
    lambda w: T.accumulate_grad(w.loss, w.w, microbatches=0),
    A,
    r"asked accumulate_grad for microbatches=0",
)
row(
    "accumulate_grad: microbatches don't divide",
    lambda w: T.accumulate_grad(lambda x: w.loss(x[0]), w.w, microbatches=2)(XS),
    A,
    r"asked accumulate_grad for microbatches=2\nan array of the batch is of shape \(3, 2\)",
)


# Rules of one's own.


def with_vjp(fun, bwd, states=None):
    made = T.custom_vjp(fun, states=states)
    made.def_fwd(lambda perturbed, x: (fun(x), None))
    made.def_bwd(bwd)
    return made


for n in ("custom_vjp", "custom_jvp"):
    f = getattr(T, n)
    rule = "def_fwd" if n == "custom_vjp" else "def_jvp"
    row(f"{n}: no function", lambda w, f=f: f(3), B, rf"asked {n} for fun=3")
    row(f"{n}: states", lambda w, f=f: f(w.loss, states=3), E, rf"asked {n} for .*state.*int")
    row(f"{n}: no rule", lambda w, f=f: f(w.loss)(X), A, rf"no rule: .{rule} was not called")
    row(
        f"{n}: the rule is no function",
        lambda w, f=f, rule=rule: getattr(f(w.loss), rule)(3),
        B,
        rf"asked {n} for {rule[4:]}=3",
    )
row(
    "custom_vjp: half a rule",
    lambda w: (lambda f: (f.def_fwd(NO), f(X)))(T.custom_vjp(w.loss)),
    A,
    r"no rule: .def_bwd was not called",
)
row(
    "custom_vjp: the function writes a state of the rule",
    lambda w: with_vjp(w.grow, lambda *a: (None, (None,)), w.w)(X),
    D,
    r"asked custom_vjp for a derivative by ParamState\(.*'w'\)\nthe function writes it",
)
row(
    "custom_vjp: cotangents are no pair",
    lambda w: sl.grad(with_vjp(w.loss, lambda *a: X, w.w), w.w)(X),
    B,
    r"asked the backward rule of custom_vjp\(loss\) for cotangents",
)
row(
    "custom_vjp: cotangents are no tuple",
    lambda w: sl.grad(with_vjp(w.loss, lambda *a: None))(X),
    B,
    r"asked the backward rule of custom_vjp\(loss\) for cotangents",
)
row(
    "custom_vjp: cotangents of another shape",
    lambda w: sl.grad(with_vjp(w.loss, lambda *a: (jnp.ones(7),)))(X),
    C,
    r"custom_vjp.*float32\[7\]",
)
row(
    "custom_vjp: cotangents of another shape in a pullback",
    lambda w: T.vjp(with_vjp(jnp.sum, lambda *a: (jnp.ones(7),)), X)[1](1.0),
    C,
    r"custom_vjp.*float32\[7\]",
)
row(
    "custom_vjp: cotangents of another shape in a loop",
    lambda w: sl.grad(
        lambda x: T.checkpointed_scan(
            lambda c, x: (c + with_vjp(jnp.sum, lambda *a: (jnp.ones(7),))(x), None), 0.0, x
        )[0]
    )(X),
    C,
    r"custom_vjp.*float32\[7\]",
)
row(
    "custom_vjp: fwd gives no pair",
    lambda w: (
        lambda f: (f.def_fwd(lambda p, x: w.loss(x)), f.def_bwd(lambda *a: (X,)), sl.grad(f)(X))
    )(T.custom_vjp(w.loss)),
    B,
    r"asked the forward rule of custom_vjp\(loss\)",
)
row(
    "custom_jvp: the rule gives no pair",
    lambda w: (lambda f: (f.def_jvp(lambda p, t: w.loss(*p)), sl.grad(f)(X)))(T.custom_jvp(w.loss)),
    B,
    r"asked the rule of custom_jvp\(loss\)",
)


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match)


def test_a_rule_that_plain_jax_runs_shows_no_frame_of_ours():
    fun = with_vjp(jnp.sum, lambda *a: (jnp.ones(7),))
    with pytest.raises(C, match=r"float32\[7\], and belongs to float32\[2\]") as caught:
        jax.grad(fun)(X)
    package = pathlib.Path(sl.__file__).parent
    inner = [entry for entry in caught.traceback if "_rule" in entry.path.name]
    assert not [entry for entry in inner if package in entry.path.parents]
