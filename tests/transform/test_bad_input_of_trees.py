"""What is wrong in a call with an immutable tree is said by name, and changes nothing.

The rows are mistakes of the functional style. Where JAX says by itself what is wrong, its error
comes as it is, and ends at the user's line.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.transform.bad_input import XS, A, B, C, D, E, Net, Rows, T, X, check_refused, loss, touch

row = Rows()
FROZEN, PATH, LEAK = sl.FrozenTreeError, sl.PathError, sl.TracerLeakError
OTHER = jnp.ones(3)


# A forgotten `thread`.

STEPS = {
    "grad": lambda n: sl.grad(touch, "scale")(n),
    "jit": lambda n: sl.jit(touch)(n),
    "vmap": lambda n: T.vmap(touch, in_axes=(None, 0))(n, XS),
    "cond": lambda n: T.cond(True, touch, loss, n),
    "switch": lambda n: T.switch(0, [loss, touch], n),
    "checkpoint": lambda n: T.checkpoint(touch)(n),
    "vjp": lambda n: T.vjp(touch, n, grad_states="scale"),
    "linearize": lambda n: T.linearize(touch, n, grad_states="scale"),
    "hvp": lambda n: T.hvp(touch, "scale")(sl.partition(n, "scale")[0], n),
    "hessian": lambda n: T.hessian(touch, "scale")(n),
    "jacrev": lambda n: T.jacrev(touch, "scale")(n),
    "per_example_grad": lambda n: T.per_example_grad(touch, "scale")(n, XS),
    "accumulate_grad": lambda n: T.accumulate_grad(touch, "scale", microbatches=3)(n, XS),
    "eval_shape": lambda n: T.eval_shape(touch, n),
    "make_jaxpr": lambda n: T.make_jaxpr(touch)(n),
}
for name, step in STEPS.items():
    row(f"{name}: no thread", step, FROZEN, r"write the state 'calls' of a tree.*thread\(fun\)")
row(
    "grad: thread without has_aux",
    lambda n: sl.grad(sl.thread(touch), "scale")(n),
    sl.DifferentiationError,
    r"asked grad for the gradient of a loss.*a pair\n.*has_aux=True",
)
row(
    "grad: thread with has_aux of what gives no pair",
    lambda n: sl.grad(sl.thread(touch, has_aux=True), "scale", has_aux=True)(n),
    B,
    r"asked for has_aux=True of 'touch'\nit returned an array, not a pair",
)
for name, transform in {"jit": jax.jit, "grad": jax.grad, "vmap": jax.vmap}.items():
    row(
        f"{name}: of JAX, over a function that writes",
        lambda n, transform=transform: transform(
            lambda x: x + setattr(n.calls, "value", jnp.sum(x))
        )(X if transform is not jax.grad else 1.0),
        LEAK,
        r"asked to assign a value to State\(.*'calls'\).*functionalize.*thread",
    )
row(
    "scan: of JAX, over a function that writes",
    lambda n: jax.lax.scan(lambda c, x: (c, setattr(n.calls, "value", x)), 0.0, X),
    LEAK,
    r"asked to assign a value to State\(.*'calls'\).*transform\.scan",
)


# A lens that is wrong.

BY_LENS = {
    "grad": lambda n, lens: sl.grad(loss, lens)(n),
    "value_and_grad": lambda n, lens: T.value_and_grad(loss, lens)(n),
    "jacfwd": lambda n, lens: T.jacfwd(loss, lens)(n),
    "hessian": lambda n, lens: T.hessian(loss, lens)(n),
    "hvp": lambda n, lens: T.hvp(loss, lens)(n, n),
    "fwd_grad": lambda n, lens: T.fwd_grad(loss, lens)(n),
    "vjp": lambda n, lens: T.vjp(loss, n, grad_states=lens),
    "per_example_grad": lambda n, lens: T.per_example_grad(loss, lens)(n, XS),
    "vmap": lambda n, lens: T.vmap(loss, in_axes=(None, 0), in_states={0: lens})(n, XS),
}
for name, by in BY_LENS.items():
    row(
        f"{name}: a lens that matches no leaf",
        lambda n, by=by: by(n, "scael"),
        PATH,
        rf"asked (for )?{name}.*'scael', which matches nothing\nthe closest paths are 'scale'",
    )
    row(
        f"{name}: an array where a lens is meant",
        lambda n, by=by: by(n, n.scale),
        B,
        rf"asked {name} for \w+=.*\nthat is an array, neither states nor a lens",
    )
row(
    "grad: a class that no state is of",
    lambda n: sl.grad(loss, sl.ParamState)(n),
    D,
    r"asked grad for .*selects nothing\nthe tree has 4 arrays",
)
row(
    "grad: an integer state by a lens",
    lambda n: sl.grad(loss, "calls")(n),
    sl.DifferentiationError,
    r"asked grad for the derivative by 'calls'\nit is of dtype int32",
)
row(
    "grad: a whole tree with integers in it",
    lambda n: sl.grad(loss)(n),
    sl.DifferentiationError,
    r"asked grad for the derivative by 'argument 0' at 'calls\.value'\nit is of dtype int32",
)
row(
    "grad: the tree by its name",
    lambda n: sl.grad(loss, "scale")(net=n),
    A,
    r"asked grad for the states that a lens selects\nthe call has no positional argument",
)
row(
    "grad: the tree isn't the first argument",
    lambda n: sl.grad(lambda x, n: loss(n, x), "scale")(X, n),
    PATH,
    r"asked grad for 'scale', which matches nothing\nthe tree is an array, which has no paths",
)
row(
    "grad: the tree by its position too",
    lambda n: sl.grad(loss, "scale", argnums=0)(n, X),
    A,
    r"asked grad for argnums=0 beside an unbound lens\nargument 0 is the tree",
)
row(
    "grad: lenses in a dictionary",
    lambda n: sl.grad(loss, {"a": "scale"})(n),
    B,
    r"asked grad for grad_states=\{'a': 'scale'\}\nthat is a dict",
)
for name in ("custom_vjp", "custom_jvp"):
    row(
        f"{name}: a lens where states are meant",
        lambda n, name=name: getattr(T, name)(loss, states="scale"),
        E,
        rf"asked {name} for states='scale'\nthat is a str, not a state\n.*lens\.bind\(model\)",
    )


# What a function returns, and what a derivative is given.

row(
    "grad: has_aux without aux",
    lambda n: sl.grad(loss, "scale", has_aux=True)(n),
    B,
    r"asked for has_aux=True of 'loss'\nit returned an array, not a pair",
)
row(
    "vjp: a cotangent of another shape",
    lambda n: T.vjp(loss, n, grad_states="scale")[1](OTHER),
    ValueError,
    r"float32\[3\], but expected float32\[\]",
)
row(
    "vjp: a cotangent of another dtype",
    lambda n: T.vjp(loss, n, grad_states="scale")[1](1),
    ValueError,
    r"int32\[\], but expected float32\[\]",
)
row(
    "vjp: a cotangent of another structure",
    lambda n: T.vjp(loss, n, grad_states="scale")[1]((1.0, 2.0)),
    ValueError,
    r"tree structure",
)
row(
    "linearize: a tangent that is no tree",
    lambda n: T.linearize(loss, n, grad_states="scale")[1](OTHER),
    C,
    r"asked linearize for a product with a tangent\nit is float32\[3\], not a Net",
)
row(
    "linearize: a tangent with what isn't differentiated",
    lambda n: T.linearize(loss, n, grad_states="scale")[1](n),
    C,
    r"asked linearize for a product with a tangent\n'layer\.weight' is float32\[2,2\], not None",
)
row(
    "jvp: a tangent that is no tree",
    lambda n: T.jvp(loss, (n,), grad_states="scale", state_tangents=OTHER),
    C,
    r"asked jvp for a product with a tangent\nit is float32\[3\], not a Net",
)
row(
    "hvp: a vector that is no tree",
    lambda n: T.hvp(loss, "scale")(OTHER, n),
    C,
    r"asked hvp for a product with a vector\nit is float32\[3\], not a Net",
)


# Axes, carries and branches.

row(
    "vmap: the axes of one argument of two",
    lambda n: T.vmap(loss, in_axes=(None,))(n, XS),
    A,
    r"asked vmap for in_axes=\(None,\)\nthe call has 2",
)
row(
    "vmap: a tree that has no axis",
    lambda n: T.vmap(loss)(n, XS),
    A,
    r"asked vmap to map argument 0 over axis 0\nthere is an array of shape \(\)",
)
row(
    "vmap: axes for another tree",
    lambda n: T.vmap(loss, in_axes=({"a": 0}, 0))(n, XS),
    A,
    r"in_axes=\{'a': 0\} of argument 0\nthe axes are a dict of a, and argument 0 has a Net",
)
row(
    "vmap: arrays of two sizes",
    lambda n: T.vmap(lambda x, y: loss(n, x))(XS, X),
    A,
    r"asked vmap to map over an axis\n.*argument 0: 3, argument 1: 2",
)
row(
    "scan: a carry that is but a part of the tree",
    lambda n: T.scan(lambda n, x: (n.scale, None), n, X),
    C,
    r"asked scan to carry .*it is float32\[2\], not a Net",
)
row(
    "scan: a carry of another dtype",
    lambda n: T.scan(lambda n, x: (sl.inexact.cast(n, jnp.bfloat16), None), n, X),
    C,
    r"asked scan to carry .*'layer\.weight' is bfloat16\[2,2\], not float32\[2,2\]",
)
row(
    "scan: a carry with a state of another shape",
    lambda n: T.scan(
        lambda n, x: (sl.lens("calls").set(n, {"calls": jnp.arange(3)}, replace=True), None), n, X
    ),
    C,
    r"asked scan to carry .*'calls\.value' is int32\[3\], not int32\[\]",
)
row(
    "scan: arrays of two lengths",
    lambda n: T.scan(lambda n, x: (n, None), n, (X, XS)),
    A,
    r"asked scan for 2 steps\n.*\(3, 2\)",
)
row(
    "while_loop: a value that is but a part of the tree",
    lambda n: T.while_loop(lambda n: True, lambda n: n.scale, n),
    C,
    r"asked while_loop to carry .*it is float32\[2\], not a Net",
)
row(
    "cond: a tree or a part of it",
    lambda n: T.cond(True, lambda n: n, lambda n: n.scale, n),
    C,
    r"asked cond to run one of 2 branches\n.*it is float32\[2\], not a Net",
)
row(
    "cond: no operand",
    lambda n: T.cond(True, lambda n: 0.0, lambda n: 0.0),
    TypeError,
    r"missing 1 required positional argument: 'n'",
)
row(
    "switch: two shapes",
    lambda n: T.switch(0, [lambda n: n.scale, lambda n: n.scale[:1]], n),
    C,
    r"asked switch to run one of 2 branches\n.*float32\[1\], not float32\[2\]",
)


# Arguments of a compiled function.

row(
    "jit: a static array",
    lambda n: sl.jit(loss, static_argnums=1)(n, X),
    B,
    r"make argument 1 part of the program, since it is to be static\nit is an array, which can't",
)
row(
    "jit: a static tree",
    lambda n: sl.jit(loss, static_argnames="net")(net=n),
    B,
    r"argument 'net' part of the program, since it is to be static\nit is a Net, which can't",
)
row(
    "jit: an array donated twice",
    lambda n: sl.jit(lambda x, y: (x + 1, y + 1), donate_argnums=(0, 1))(*[jnp.copy(X)] * 2),
    A,
    r"asked jit to donate the array of argument 0\nargument 1 has .* donate_argnums or",
)
row(
    "jit: an array donated and held by the tree",
    lambda n: sl.jit(lambda n, x: n.scale + x, donate_argnums=1)(n, n.scale),
    A,
    r"asked jit to donate the array of argument 1\n(?!.*donate_states).* donate_argnums or",
)
row(
    "jit: an array donated to an earlier call",
    lambda n: (lambda f, x: (f(x), f(x)))(sl.jit(lambda x: x + 1, donate_argnums=0), jnp.copy(X)),
    (RuntimeError, ValueError),  # of an older JAX
    r"[Dd]eleted",
)
row(
    "jit: too few arguments",
    lambda n: sl.jit(lambda n, x: x)(n),
    TypeError,
    r"missing 1 required positional argument: 'x'",
)


# JAX's own words for what a function does.

BAD = lambda n, x=OTHER: n.scale @ x  # noqa: E731
CALLS = {
    "grad": lambda n: sl.grad(BAD, "scale")(n),
    "jit": lambda n: sl.jit(BAD)(n),
    "vmap": lambda n: T.vmap(BAD, in_axes=(None, 0))(n, jnp.ones((4, 3))),
    "scan": lambda n: T.scan(lambda n, x: (n, BAD(n)), n, X),
    "for_loop": lambda n: T.for_loop(lambda x: BAD(n), X),
    "while_loop": lambda n: T.while_loop(lambda n: True, lambda n: (BAD(n), n)[1], n),
    "bounded_while_loop": lambda n: T.bounded_while_loop(
        lambda n: True, lambda n: (BAD(n), n)[1], n, max_steps=2
    ),
    "checkpointed_scan": lambda n: T.checkpointed_scan(lambda n, x: (n, BAD(n)), n, X),
    "cond": lambda n: T.cond(True, BAD, loss, n),
    "checkpoint": lambda n: T.checkpoint(BAD)(n),
    "vjp": lambda n: T.vjp(BAD, n, grad_states="scale"),
    "eval_shape": lambda n: T.eval_shape(BAD, n),
    "map": lambda n: T.map(lambda x: BAD(n), XS),
    "custom_vjp": lambda n: with_rules(BAD, BAD)(n),
    "custom_jvp": lambda n: with_rule(BAD)(n),
}


def with_rules(fun, bwd):
    made = T.custom_vjp(fun)
    made.def_fwd(lambda perturbed, n: (fun(n), n))
    made.def_bwd(lambda n, *others: (bwd(n),))
    return made


def with_rule(fun):
    made = T.custom_jvp(fun)
    made.def_jvp(lambda primals, tangents: (fun(*primals), fun(*tangents)))
    return made


for name, call in CALLS.items():
    row(f"{name}: shapes that don't go together", call, TypeError, r"got \(2,\) and \(3,\)")
row(
    "custom_vjp: shapes in the backward rule",
    lambda n: sl.grad(with_rules(loss, BAD), "scale")(n),
    TypeError,
    r"got \(2,\) and \(3,\)",
)
row(
    "jit: if of a traced value",
    lambda n: sl.jit(lambda n: 1 if n.scale[0] > 0 else 2)(n),
    jax.errors.TracerBoolConversionError,
    r"traced array with shape bool\[\].*n\.scale",
)
row(
    "jit: NumPy of a traced value",
    lambda n: sl.jit(lambda n: np.asarray(n.scale))(n),
    jax.errors.TracerArrayConversionError,
    r"traced array with shape float32\[2\].*n\.scale",
)
row(
    "scan: an index of a traced value",
    lambda n: T.scan(lambda c, x: (c, [1, 2][x]), 0.0, jnp.arange(2)),
    jax.errors.TracerIntegerConversionError,
    r"int32\[\]",
)


# States where values are meant, and after their trace.

USES = {
    "grad": lambda n: sl.grad(lambda n: loss(n) + n.calls, "scale")(n),
    "jit": lambda n: sl.jit(lambda n: jnp.sin(n.calls))(n),
    "vmap": lambda n: T.vmap(lambda x: x @ n.calls)(XS),
    "scan": lambda n: T.scan(lambda c, x: (c + n.calls, x), 0.0, X),
}
for name, use in USES.items():
    row(f"{name}: a state for its value", use, E, r"asked to use State\(.*'calls'\) as an array")
row(
    "cond: a state for its value",
    lambda n: T.cond(n.calls, loss, loss, n),
    B,
    r"asked cond .*by pred\nit is a State",
)


def kept_by(run):
    """Runs a function that hands on what it is given, and gives that."""
    kept = []
    run(kept.append)
    return kept[0]


row(
    "jit: a state that was made in the trace",
    lambda n: kept_by(lambda keep: sl.jit(lambda x: keep(sl.State(x)))(X)).value,
    LEAK,
    r"asked for the value of a State\nthe state was made inside a transformed function",
)
row(
    "jit: a traced value that is stored later",
    lambda n: setattr(n.calls, "value", kept_by(lambda keep: sl.jit(lambda x: keep(x))(X))),
    LEAK,
    r"asked to assign a value to State\(.*'calls'\)",
)


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match, Net)


LAYERS = {
    "jit": lambda n, x: sl.jit(lambda n, x: n(x))(n, x),
    "grad": lambda n, x: sl.grad(lambda n, x: jnp.sum(n(x)), "scale")(n, x),
    "vmap": lambda n, x: T.vmap(n)(x[None]),
    "the layer itself": lambda n, x: sl.jit(n.layer)(x),
}


@pytest.mark.parametrize("call", LAYERS.values(), ids=LAYERS)
def test_an_error_in_a_layer_shows_the_layer(call):
    with pytest.raises(TypeError, match=r"got \(2,\) and \(3,\)") as caught:
        call(Net(), OTHER)
    files = [entry.path.as_posix() for entry in caught.traceback]
    assert "equinox/nn/_linear" in files[-1]
    assert not [file for file in files if "/statelens/" in file or "/jax/" in file]
    assert files[-1] != files[0]


def test_nothing_is_hidden_where_jax_hides_nothing():
    with contextlib.ExitStack() as stack:
        before = jax.config.jax_traceback_filtering
        stack.callback(jax.config.update, "jax_traceback_filtering", before)
        jax.config.update("jax_traceback_filtering", "off")
        with pytest.raises(TypeError, match=r"got \(2,\) and \(3,\)") as caught:
            CALLS["bounded_while_loop"](Net())
    assert [entry for entry in caught.traceback if "equinox" in entry.path.parts]
