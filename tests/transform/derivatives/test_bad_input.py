"""What is wrong in a call of a derivative is said by name, and changes nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.transform.bad_input import (
    KEY,
    XS,
    A,
    B,
    C,
    D,
    E,
    Rows,
    T,
    X,
    check_refused,
)

row = Rows()


DERIVATIVES = [
    "grad",
    "value_and_grad",
    "vector_grad",
    "fwd_grad",
    "jacrev",
    "jacfwd",
    "jacobian",
    "hessian",
    "hessian_diag",
    "hvp",
    "gauss_newton_vp",
]


def called(name, fun, *args, states=None, **options):
    """Calls a derivative; a product is given a vector first."""
    vector = options.pop("vector", jnp.ones(2))
    first = (vector,) if name in ("hvp", "gauss_newton_vp") else ()
    return getattr(T, name)(fun, states, **options)(*first, *args)


for n in DERIVATIVES:
    asked = "jacrev" if n == "jacobian" else n

    row(
        f"{n}: no function",
        lambda w, n=n: called(n, 3, X),
        B,
        rf"asked {asked} (for fun=3|to different).* int",
    )
    row(
        f"{n}: an array among states",
        lambda w, n=n: called(n, w.loss, X, states=[w.w, jnp.ones(2)]),
        E,
        rf"asked {asked} for the state at '\[1\]'.*not a state",
    )
    row(
        f"{n}: a state twice",
        lambda w, n=n: called(n, w.loss, X, states=[w.w, w.w]),
        D,
        rf"asked {asked} for states\nthe same state is given twice",
    )
    row(
        f"{n}: argnums out of range",
        lambda w, n=n: called(n, w.loss, X, argnums=3),
        A,
        rf"asked {asked} for argnums=3\nthe call has 1 positional",
    )
    row(
        f"{n}: argnums is a text",
        lambda w, n=n: called(n, w.loss, X, argnums="x"),
        B,
        rf"asked {asked} for argnums='x'\nthat is a str",
    )
    row(
        f"{n}: an integer state",
        lambda w, n=n: called(n, w.loss, X, states=w.calls),
        sl.DifferentiationError,
        rf"asked {asked} for the derivative by 'calls'\nit is of dtype int32",
    )
    row(
        f"{n}: a lens that matches nothing",
        lambda w, n=n: called(n, lambda t: jnp.sum(t["a"]) + w.touch(), {"a": X}, states="b"),
        sl.PathError,
        rf"asked (by )?{asked}.*'?b'?",
    )
    row(
        f"{n}: an untouched state",
        lambda w, n=n: called(
            n, w.loss if n not in ("jacrev",) else w.vector, X, states=w.other, vector=jnp.ones(3)
        ),
        sl.UntouchedStateError,
        rf"asked {asked} for the derivative by the state 'other'",
    )
    row(
        f"{n}: no pair for has_aux",
        lambda w, n=n: called(n, w.loss, X, states=w.w, has_aux=True),
        B,
        r"has_aux",
    )


row(
    "grad: states that are none",
    lambda w: sl.grad(w.loss, [jnp.ones(2)])(X),
    sl.StateLensError,
    r"grad_states",
)
row("grad: no arguments", lambda w: sl.grad(w.loss)(), A, r"asked grad for the .* by argument 0")
row(
    "grad: argnums of a keyword",
    lambda w: sl.grad(w.loss, argnums=0)(x=X),
    A,
    r"argnums=0\nthe call has 0 positional.*not by keyword",
)
row("grad: argnums twice", lambda w: sl.grad(w.loss, argnums=(0, 0)), A, r"argnums=\(0, 0\)\n.*twi")
row("grad: argnums negative", lambda w: sl.grad(w.loss, argnums=-1), A, r"argnums=-1\na negative")
row("grad: argnums a bool", lambda w: sl.grad(w.loss, argnums=True), B, r"argnums=True\n.*bool")
row("grad: argnums a float", lambda w: sl.grad(w.loss, argnums=1.0), B, r"argnums=1.0\n.*float")
row(
    "grad: argnums 0 beside a lens",
    lambda w: sl.grad(w.loss, "a", argnums=0),
    A,
    r"argnums=0 beside an unbound lens\nargument 0 is the tree",
)
row(
    "grad: a lens and no argument",
    lambda w: sl.grad(w.touch, "a")(),
    A,
    r"asked grad for the states that a lens selects\nthe call has no positional",
)
row(
    "grad: an integer argument",
    lambda w: sl.grad(w.loss)(3),
    sl.DifferentiationError,
    r"asked grad for the derivative by .*argument 0.*int",
)
row(
    "grad: a whole module of Equinox",
    lambda w: sl.grad(lambda model: w.loss(model(X)))(eqx.nn.MLP(2, 2, 2, 1, key=KEY)),
    sl.DifferentiationError,
    r"derivative by 'argument 0' at 'activation'\nit is a \w+, which has none.*statelens.inexact",
)
row(
    "grad: an integer in an argument",
    lambda w: sl.grad(lambda tree: w.loss(tree["x"]))({"x": X, "deep": [jnp.arange(2)]}),
    sl.DifferentiationError,
    r"derivative by 'argument 0' at 'deep\[0\]'\nit is of dtype int32.*allow_int",
)
row(
    "grad: an integer that is allowed, and holomorphic",
    lambda w: sl.grad(lambda n: w.loss(n) * 1j, allow_int=True, holomorphic=True)(2),
    sl.DifferentiationError,
    r"derivative by 'argument 0'\nit is of dtype int32.*no holomorphic=True",
)
row(
    "grad: a reference",
    lambda w: sl.grad(lambda ref: w.loss(ref[...]))(jax.new_ref(X)),
    sl.DifferentiationError,
    r"derivative by 'argument 0'\nit is a Ref",
)
row(
    "grad: a pattern, and an array",
    lambda w: sl.grad(w.loss, "w")(X),
    sl.PathError,
    r"asked grad for 'w'.*the tree is an array, which has no paths.*model.states",
)
row(
    "grad: a pattern with a wildcard",
    lambda w: sl.grad(w.out(0.0), "layer[0].**")({"layers": [X], "other": X}),
    sl.PathError,
    r"asked grad for 'layer\[0\]\.\*\*'.*'layers\.\*\*'",
)
row(
    "jacfwd: a complex state",
    lambda w: sl.transform.jacfwd(w.out(1.0), sl.State(1j * X, name="z"))(),
    sl.DifferentiationError,
    r"derivative by 'z'\nit is of dtype complex64.*holomorphic=True.*jacrev",
)
row(
    "grad: a write to a tree argument",
    lambda w: sl.grad(lambda m: m.loss(1.0), "w")(w),
    sl.FrozenTreeError,
    r"asked to write the state 'calls'.*thread\(fun\)",
)
row(
    "grad: nan",
    lambda w: sl.grad(lambda: w.loss() + jnp.sum(jnp.sqrt(w.w.value - 1)), w.w, debug_nan=True)(),
    sl.NonFiniteError,
    r"grad",
)
row(
    "grad: a state written by a plain transform",
    lambda w: jax.vmap(lambda x: w.loss(x))(XS),
    sl.TracerLeakError,
    r"assign a value to State\(.*'calls'\).*statelens.transform.vmap",
)
row("jacrev: chunk_size 0", lambda w: T.jacrev(w.loss, chunk_size=0), A, r"jacrev for chunk_size=0")
row(
    "jacfwd: chunk_size a float",
    lambda w: T.jacfwd(w.loss, chunk_size=1.5),
    B,
    r"asked jacfwd for chunk_size=1.5\nthat is a float",
)
row(
    "jacfwd: an integer in chunks",
    lambda w: T.jacfwd(w.vector, chunk_size=1)(jnp.arange(2)),
    sl.DifferentiationError,
    r"asked jacfwd for the derivative by .*int32",
)
row(
    "hessian_diag: chunk_size a text",
    lambda w: T.hessian_diag(w.loss, chunk_size="all"),
    B,
    r"asked hessian_diag for chunk_size='all'",
)
row(
    "fwd_grad: key a float",
    lambda w: T.fwd_grad(w.loss, key=0.5),
    B,
    r"asked (fwd_grad for key=|for the random key of )0.5",
)
row(
    "fwd_grad: drct_der_clip",
    lambda w: T.fwd_grad(w.loss, drct_der_clip="much"),
    B,
    r"asked fwd_grad for drct_der_clip='much'",
)
row(
    "fwd_grad: several keys",
    lambda w: T.fwd_grad(w.loss, key=jax.random.split(jax.random.key(0)))(X),
    sl.StateLensError,
    r"asked fwd_grad for key=.*(2,)",
)
row(
    "fwd_grad: tangent_size 0",
    lambda w: T.fwd_grad(w.loss, tangent_size=0),
    A,
    r"asked fwd_grad for tangent_size=0",
)
row(
    "hvp: a vector of another shape",
    lambda w: T.hvp(w.loss, w.w)(jnp.ones(3), X),
    C,
    r"asked hvp for a product with a vector\nit is float32\[3\].*float32\[2\]",
)
row(
    "hvp: a vector of another structure",
    lambda w: T.hvp(w.loss, w.w)([jnp.ones(2)], X),
    C,
    r"asked hvp for a product with a vector\nit is a list of 1, not float32\[2\]",
)
row(
    "hvp: a vector by other keys",
    lambda w: T.hvp(w.loss, {"w": w.w})({"v": jnp.ones(2)}, X),
    C,
    r"asked hvp for values by \['w'\]\nthe values are given by \['v'\]",
)
row(
    "hvp: a vector for states, none for arguments",
    lambda w: T.hvp(w.loss, w.w, argnums=0)(jnp.ones(2), X),
    C,
    r"asked hvp for a product with a vector",
)
row(
    "hvp: a vector that is a text",
    lambda w: T.hvp(w.loss, w.w)("v", X),
    C,
    r"asked hvp for a product with a vector.*(str|text|'v')",
)
row(
    "hvp: a vector of which one part has another shape",
    lambda w: T.hvp(lambda t: jnp.sum(t["a"] * t["b"]), ...)(
        {"a": jnp.ones(3), "b": X}, {"a": X, "b": X}
    ),
    C,
    r"asked hvp for a product with a vector\n'a' is float32\[3\], not float32\[2\]\n",
)
row(
    "hvp: a vector of which one state's part has another shape",
    lambda w: T.hvp(w.loss, w.states("w"))({("w",): jnp.ones(3)}, X),
    C,
    r"asked hvp for a product with a vector\n'w' is float32\[3\], not float32\[2\]\n",
)
row(
    "scan: a carry of a model that changes its dtype",
    lambda w: T.scan(
        lambda m, x: (sl.inexact.cast(m, jnp.bfloat16), x),
        {"layers": [{"w": X}, {"w": X}], "n": (X, X)},
        XS,
    ),
    C,
    r"after a step 'layers\[0\].w' is bfloat16\[2\], not float32\[2\]; .*; and 1 more",
)
row(
    "scan: a carry with other keys",
    lambda w: T.scan(lambda c, x: ({"a": c["a"], "c": x}, x), {"a": 1.0, "b": X}, XS),
    C,
    r"after a step it is a dict of a, c, not a dict of a, b\n",
)
row(
    "scan: a carry with another static part",
    lambda w: T.scan(lambda c, x: ((c[0], "no"), x), (1.0, "yes"), XS),
    C,
    r"after a step '\[1\]' is 'no', not 'yes'\n",
)
row(
    "grad: a class of states, and a number as the tree",
    lambda w: sl.grad(w.loss, sl.ParamState)(2.0),
    sl.SelectionError,
    r"selects nothing\nthe tree is a float, and only arrays and states.*model\.states",
)
row("hvp: no vector", lambda w: T.hvp(w.loss, w.w)(), B, r"asked hvp .*vector")
row(
    "gauss_newton_vp: loss is no function",
    lambda w: T.gauss_newton_vp(w.vector, w.w, loss=1),
    B,
    r"asked gauss_newton_vp for loss=1",
)
row(
    "gauss_newton_vp: a vector of another shape",
    lambda w: T.gauss_newton_vp(w.vector, w.w)(jnp.ones(3), X),
    C,
    r"asked gauss_newton_vp for a product with a vector",
)
row(
    "GradientTransform: no transform",
    lambda w: T.GradientTransform(w.loss, 3, w.w),
    B,
    r"transform=3",
)
row(
    "GradientTransform: transform_params",
    lambda w: T.GradientTransform(w.loss, jax.grad, w.w, transform_params=3),
    B,
    r"transform_params=3",
)


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_refused(call, error, match):
    check_refused(call, error, match)
