"""What a function returns that has no derivative is refused in the name of what was asked for."""

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.transform.bad_input import XS, Rows, T, World, X, check_refused

row = Rows()

OF_A_LOSS = {
    "grad": lambda w, f: sl.grad(f, w.w)(X),
    "value_and_grad": lambda w, f: T.value_and_grad(f, w.w)(X),
    "hessian_diag": lambda w, f: T.hessian_diag(f, w.w)(X),
    "hvp": lambda w, f: T.hvp(f, w.w)(X, X),
    "gauss_newton_vp": lambda w, f: T.gauss_newton_vp(w.vector, w.w, loss=f)(X, X),
    "fwd_grad": lambda w, f: T.fwd_grad(f, w.w, tangent_size=2, key=0)(X),
    "per_example_grad": lambda w, f: T.per_example_grad(f, w.w)(XS),
    "fisher_diag": lambda w, f: T.fisher_diag(f, w.w)(XS),
    "accumulate_grad": lambda w, f: T.accumulate_grad(f, w.w, microbatches=3)(XS),
}
NO_LOSS = {
    "None": (lambda x: None, r"it returned None\nInstead: return the loss"),
    "a vector": (lambda x: jnp.ones((3, 2)) * x, r"of shape \(3, 2\)\nInstead: jnp\.mean"),
    "an integer": (lambda x: jnp.sum(x).astype(int), r"it is of dtype int32"),
    "a complex number": (lambda x: jnp.sum(x) * 1j, r"dtype complex64, where a real floating"),
    "a pair": (lambda x: (jnp.sum(x), 1), r"it returned a pair\nInstead: has_aux=True"),
    "a dictionary": (lambda x: {"loss": jnp.sum(x)}, r"it returned a dict"),
}
for name, call in OF_A_LOSS.items():
    for what, (loss, found) in NO_LOSS.items():
        row(
            f"{name}: of {what}",
            lambda w, call=call, loss=loss: call(w, lambda x: loss(w.w.value * x)),
            sl.DifferentiationError,
            rf"asked {name} for the gradient of a loss, which is a scalar\n.*{found}",
        )

OF_OUTPUTS = {
    "vector_grad": lambda w, f: T.vector_grad(f, w.w)(X),
    "jacrev": lambda w, f: T.jacrev(f, w.w)(X),
    "jacrev chunked": lambda w, f: T.jacrev(f, w.w, chunk_size=1)(X),
    "jacfwd": lambda w, f: T.jacfwd(f, w.w)(X),
    "jacfwd chunked": lambda w, f: T.jacfwd(f, w.w, chunk_size=1)(X),
    "hessian": lambda w, f: T.hessian(f, w.w)(X),
    "gauss_newton_vp": lambda w, f: T.gauss_newton_vp(f, w.w)(X, X),
}
NO_OUTPUT = {
    "None": (lambda x: None, r"it returned None\nInstead: return floating-point numbers"),
    "integers": (lambda x: x.astype(int), r"(no floating-point number|of dtype int32) in it"),
    "booleans": (lambda x: x > 0, r"(no floating-point number|of dtype bool) in it"),
    "nothing": (lambda x: [], r"there is no floating-point number in it"),
}
for full_name, call in OF_OUTPUTS.items():
    name, *chunks = full_name.split()
    for what, (fun, found) in NO_OUTPUT.items():
        row(
            f"{name}: outputs are {' '.join([what, *chunks])}",
            lambda w, call=call, fun=fun: call(w, lambda x: fun(w.w.value * x)),
            sl.DifferentiationError,
            rf"asked {name} for the derivative of a function's output\n.*{found}",
        )
for name, call in {**OF_A_LOSS, **OF_OUTPUTS}.items():
    if not name.endswith("chunked"):
        row(
            f"{name}: of a text",
            lambda w, call=call: call(w, w.out("loss")),
            sl.DifferentiationError,
            rf"asked {name} .*a str",
        )


@pytest.mark.parametrize(("call", "error", "match"), row)
def test_a_bad_output_is_refused(call, error, match):
    check_refused(call, error, match)


@pytest.mark.parametrize("name", ["grad", "value_and_grad", "hvp", "hessian_diag"])
def test_what_has_the_option_is_told_of_holomorphic_functions(name):
    world = World()
    with pytest.raises(sl.DifferentiationError, match=rf"2\. {name}\(\.\.\., holomorphic=True\)"):
        OF_A_LOSS[name](world, lambda x: 1j * world.w.value[0])


def test_integers_beside_what_has_a_derivative_count_for_nothing():
    w = sl.ParamState(X)
    both = T.vector_grad(lambda: (w.value * X, jnp.arange(3)), w)()
    assert both.tolist() == T.vector_grad(lambda: w.value * X, w)().tolist()


def test_what_a_micro_batch_writes_keeps_its_shape():
    w, last = sl.ParamState(X), sl.State(jnp.zeros(()), name="last")

    def loss(x):
        last.value = x[0]
        return jnp.sum(w.value * x)

    with pytest.raises(
        sl.StructureError, match=r"asked accumulate_grad to carry State\(.*'last'\)"
    ):
        T.accumulate_grad(loss, w, microbatches=3)(XS)
