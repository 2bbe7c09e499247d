"""Signatures of the derivatives: options, and what a type checker makes of them."""

import inspect
import re
import shutil
import subprocess

import jax.numpy as jnp
import pytest

import statelens as sl

T = sl.transform
DERIVATIVES = [
    "grad",
    "value_and_grad",
    "vector_grad",
    "fwd_grad",
    "jacrev",
    "jacfwd",
    "hessian",
    "hessian_diag",
    "hvp",
    "gauss_newton_vp",
    "per_example_grad",
    "fisher_diag",
    "accumulate_grad",
]
every_name = pytest.mark.parametrize("name", DERIVATIVES)


@every_name
def test_an_unknown_option_is_refused_as_python_does(name):
    for fun in (jnp.sum, None):
        message = rf"^{name}\(\) got an unexpected keyword argument 'haz_aux'\. Did you mean 'has"
        with pytest.raises(TypeError, match=message):
            getattr(T, name)(fun, haz_aux=True)
        message = rf"^{name}\(\) got an unexpected keyword argument 'mystery'$"
        with pytest.raises(TypeError, match=message):
            getattr(T, name)(fun, mystery=1)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("value_and_grad", {"return_value": True}),
        ("hessian_diag", {"unit_aware": True}),
        ("per_example_grad", {"holomorphic": True}),
        ("jacfwd", {"allow_int": True}),
    ],
)
def test_an_option_of_another_derivative_is_refused(name, option):
    message = rf"^{name}\(\) got an unexpected keyword argument '{next(iter(option))}'"
    with pytest.raises(TypeError, match=message):
        getattr(T, name)(jnp.sum, **option)


def test_a_missing_option_is_named():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'microbatch"):
        T.accumulate_grad(jnp.sum)


@every_name
def test_all_parameters_are_documented_and_the_function_may_be_left_out(name):
    function = getattr(T, name)
    parameters = inspect.signature(function).parameters
    first = ["fun", "grad_states"]
    assert list(parameters)[:2] == first
    assert parameters["fun"].default is None
    text = inspect.getdoc(function)
    for parameter in parameters:
        assert re.search(rf"^\s+\**{parameter}:", text, re.MULTILINE), parameter
    options = parameters.get("options")
    if options is not None:
        listed = re.search(r"\*\*options: As for `grad`: ([\w,\s]+)\.", text)[1]
        (declared,) = options.annotation.__args__
        assert set(re.split(r",\s+", listed)) == set(inspect.get_annotations(declared))


@every_name
def test_the_function_may_be_passed_by_name(name):
    options = {"microbatches": 2} if name == "accumulate_grad" else {}
    assert repr(getattr(T, name)(fun=jnp.sum, **options)).endswith("(sum)")


USER = """
import jax
import jax.numpy as jnp
import statelens as sl
from typing import assert_type, Any

w = sl.ParamState(jnp.ones(()))
T = sl.transform

def loss(x: float, y: float) -> jax.Array:
    return w.value * x * y

def with_aux(x: float) -> tuple[jax.Array, str]:
    return w.value * x, "aux"

class Model(sl.nn.Module):
    @sl.grad(grad_states=sl.params, return_value=True)
    def loss(self, x: float) -> jax.Array:
        return w.value * x

    @T.vector_grad
    def slope(self, x: float) -> jax.Array:
        return w.value * x

@sl.grad(grad_states=w, has_aux=True)
def decorated(x: int) -> tuple[jax.Array, str]:
    return w.value * x, "aux"

assert_type(sl.grad(loss, w)(1.0, 2.0), Any)
assert_type(sl.grad(loss, w, return_value=True)(1.0, 2.0), tuple[Any, jax.Array])
assert_type(sl.grad(with_aux, w, has_aux=True)(1.0), tuple[Any, str])
assert_type(
    sl.grad(with_aux, w, has_aux=True, return_value=True)(1.0), tuple[Any, jax.Array, str]
)
assert_type(sl.value_and_grad(loss, w)(1.0, y=2.0), tuple[jax.Array, Any])
assert_type(decorated(3), tuple[Any, str])
assert_type(Model().loss(1.0), tuple[Any, jax.Array])
Model().slope(1.0)
T.jacrev(loss, w, 0, chunk_size=2, has_aux=False)(1.0, 2.0)
T.hvp(loss, w)(jnp.ones(()), 1.0, 2.0)
T.accumulate_grad(loss, w, microbatches=2)(1.0, 2.0)
T.per_example_grad(batch_argnums=0)(loss)(1.0, 2.0)
assert_type(T.vjp(loss, 1.0, 2.0)[0], jax.Array)
assert_type(T.vjp(with_aux, 1.0, has_aux=True)[2], str)
assert_type(T.jvp(loss, (1.0, 2.0), (1.0, None))[0], jax.Array)
assert_type(T.linearize(with_aux, 1.0, has_aux=True)[0], jax.Array)
assert_type(T.custom_vjp(loss, states=w)(1.0, 2.0), jax.Array)
assert_type(T.custom_jvp(states=w)(loss)(1.0, 2.0), jax.Array)

sl.grad(loss, w)(1.0)  # wrong
sl.grad(loss, w)(1.0, "2.0")  # wrong
sl.grad(loss, w, has_auxx=True)  # wrong
sl.grad(loss, w, has_aux=True)  # wrong
sl.value_and_grad(loss, w)()  # wrong
sl.value_and_grad(loss, w, return_value=True)  # wrong
decorated()  # wrong
Model().loss()  # wrong
Model().slope(1.0, 2.0)  # wrong
T.jacrev(loss, w, chunk_size="2")  # wrong
T.hessian(loss, w)(1.0)  # wrong
T.hvp(loss, w)(1.0, 2.0)  # wrong
T.accumulate_grad(loss, w)  # wrong
T.fwd_grad(loss, w, key=0)(1.0)  # wrong
T.custom_vjp(loss, states=w)(1.0)  # wrong
T.GradientTransform(loss, jax.grad, w)(1.0)  # wrong
"""


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright isn't installed")
def test_a_type_checker_passes_what_is_right_and_flags_what_is_wrong(tmp_path):
    file = tmp_path / "user.py"
    file.write_text(USER)
    run = subprocess.run(["pyright", str(file)], capture_output=True, text=True, check=False)
    flagged = {int(number) for number in re.findall(r"user\.py:(\d+):\d+ - error", run.stdout)}
    wrong = {n for n, line in enumerate(USER.splitlines(), 1) if line.endswith("# wrong")}
    assert flagged == wrong, run.stdout
