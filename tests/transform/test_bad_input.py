"""What is wrong in a call is said by name, by an error of statelens, and changes nothing.

Each row is a call with one thing wrong. Its error derives from `StateLensError` and from the
builtin that fits, its text names what is wrong, and says what is there and what to write instead;
and all states are as they were, down to the objects in them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

import statelens as sl

T = sl.transform
A, B, C, D, E = (
    sl.ArgumentError,
    sl.ArgumentTypeError,
    sl.StructureError,
    sl.SelectionError,
    sl.StateTypeError,
)


BUILTINS = (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError, AttributeError)


class World(sl.nn.Module):
    """A parameter, a counter and a key, and functions of them."""

    def __init__(self):
        super().__init__()
        self.w = sl.ParamState(jnp.ones(2), name="w")
        self.other = sl.ParamState(jnp.ones(3), name="other")
        self.calls = sl.State(jnp.zeros((), jnp.int32), name="calls")
        self.rng = sl.random.RandomState(0, name="rng")

    def touch(self):
        self.calls.value += 1
        return self.rng.uniform()

    def loss(self, x=1.0):
        return jnp.sum(self.w.value * x) ** 2 + self.touch()

    def vector(self, x=1.0):
        return self.w.value * x + self.touch()

    def out(self, value):
        """Makes a function that touches all states, and returns a value."""

        def fun(*args):
            self.touch()
            return value

        return fun

    def grow(self, *args):
        """Leaves the parameter with another shape."""
        self.touch()
        self.w.value = jnp.ones(5)
        return args[0] if args else 0.0


X, XS = jnp.ones(2), jnp.ones((3, 2))
KEY = jax.random.key(0)
MESH = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
P = PartitionSpec

ROWS = []


def row(name, call, error, match):
    ROWS.append((name, call, error, match))


# The gradient family: what all of them take.

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
SCALAR = [
    "grad",
    "value_and_grad",
    "fwd_grad",
    "hessian_diag",
    "hvp",
]


def called(name, fun, *args, states=None, **options):
    """Calls a derivative; a product is given a vector first."""
    vector = options.pop("vector", jnp.ones(2))
    first = (vector,) if name in ("hvp", "gauss_newton_vp") else ()
    return getattr(T, name)(fun, states, **options)(*first, *args)


for n in DERIVATIVES:
    asked = "jacrev" if n == "jacobian" else "grad" if n == "value_and_grad" else n

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

for n in SCALAR:
    row(
        f"{n}: no scalar",
        lambda w, n=n: called(n, w.vector, X, states=w.w),
        sl.DifferentiationError,
        r"gradient of a loss, which is a scalar\nit returned an array of shape \(2,\)",
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
    "grad: a complex state",
    lambda w: sl.grad(w.out(1.0), sl.State(1j * X, name="z"))(),
    sl.DifferentiationError,
    r"derivative by 'z'\nit is of dtype complex64.*holomorphic=True",
)
row(
    "grad: the loss is complex",
    lambda w: sl.grad(lambda x: w.loss(x) * 1j)(X),
    sl.DifferentiationError,
    r"asked grad for the gradient of a loss.*complex64.*Instead.*holomorphic=True",
)
row(
    "grad: the loss is an integer",
    lambda w: sl.grad(lambda x: w.loss(x).astype(int))(X),
    sl.DifferentiationError,
    r"asked grad for the gradient of a loss.*int32",
)
row(
    "grad: the loss is None",
    lambda w: sl.grad(w.out(None))(X),
    sl.DifferentiationError,
    r"asked grad .*returned None.*return",
)
row(
    "grad: the loss is a pair",
    lambda w: sl.grad(w.out((1.0, 2.0)))(X),
    sl.DifferentiationError,
    r"asked grad .*a pair\nInstead: has_aux=True",
)
row(
    "grad: the loss is a text",
    lambda w: sl.grad(w.out("loss"))(X),
    sl.DifferentiationError,
    r"asked grad .*a str",
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
row(
    "jacrev: the output is a text",
    lambda w: T.jacrev(w.out("a"), argnums=0)(X),
    sl.DifferentiationError,
    r"asked jacrev",
)
row(
    "jacrev: an integer output",
    lambda w: T.jacrev(w.out(jnp.arange(2)), argnums=0)(X),
    sl.DifferentiationError,
    r"asked jacrev.*int32",
)
row(
    "hessian: the loss is an integer",
    lambda w: T.hessian(w.out(1), w.w, check_states=False)(),
    sl.DifferentiationError,
    r"asked hessian.*int",
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
    r"asked (for a Jacobian in chunks|jacfwd).*int32",
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
    "gauss_newton_vp: the loss is no scalar",
    lambda w: T.gauss_newton_vp(w.vector, w.w, loss=lambda y: y)(jnp.ones(2), X),
    sl.DifferentiationError,
    r"which is a scalar\nit returned an array of shape \(2,\)",
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

# jit.

row("jit: no function", lambda w: sl.jit(3), B, r"asked jit to compile a int")
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

NO = lambda x: x  # noqa: E731
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

# Checks, checkpoints, looking at functions.

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


def test_rows_have_names_of_their_own():
    names = [name for name, *_ in ROWS]
    assert len(set(names)) == len(names) >= 80
    asked = {name.partition(":")[0] for name in names}
    # What makes no call of its own: JAX's sets of checks, and other names for the same.
    rest = {n for n in T.__all__ if n.endswith(("_checks", "check", "check_error"))} | {"remat"}
    assert asked | rest == set(T.__all__)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [pytest.param(*rest, id=name) for name, *rest in ROWS],
)
def test_refused(call, error, match):
    world = World()
    states = world.states()
    before = states.values_dict()
    with pytest.raises(error, match="(?s)" + match) as caught:
        call(world)
    assert isinstance(caught.value, sl.StateLensError)
    assert isinstance(caught.value, BUILTINS)
    assert "\nInstead" in str(caught.value)
    assert all(states[path].value is value for path, value in before.items())
