"""Every derivative against plain JAX on the pure form of the same function."""

import functools

import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close
from tests.transform.derivatives.by_hand import (
    BIAS,
    FORMS,
    PLAIN,
    PRODUCTS,
    WEIGHT,
    Setting,
    X,
    every_name,
    ours,
    program,
    vector_like,
)


def in_place(name, gradient, value, aux, has_aux, return_value):
    """The table of what is returned."""
    if name == "value_and_grad":
        return ((value, aux) if has_aux else value), gradient
    extra = (value,) * return_value + (aux,) * has_aux
    return (gradient, *extra) if extra else gradient


def compare(name, form, by_args, rows):
    """Compares rows of the table; `by_args` differentiates by x as well (or by x alone)."""
    setting, counter = Setting(form), sl.State(jnp.zeros((), jnp.int32))

    def fun(*args, has_aux):
        counter.value += 1
        out = program(name, *setting.read(*args), args[-1])
        return (out, {"aux": 2 * args[-1]}) if has_aux else out

    position = len(setting.args)
    if form == "nothing":
        values, argnums = X, (None if by_args == "default" else position)
        pure = lambda x: program(name, WEIGHT, BIAS, x)  # noqa: E731
    elif by_args:
        values, argnums = (setting.values, X), position
        pure = lambda v: program(name, *setting.pure(v[0]), v[1])  # noqa: E731
    else:
        values, argnums = setting.values, None
        pure = lambda v: program(name, *setting.pure(v), X)  # noqa: E731
    gradient, value, aux = PLAIN[name](pure, values), pure(values), {"aux": 2 * X}
    vector = (vector_like(values),) if name in PRODUCTS else ()
    for calls, (has_aux, return_value) in enumerate(rows, 1):
        options = {} if name == "value_and_grad" else {"return_value": return_value}
        derivative = ours(
            name,
            functools.partial(fun, has_aux=has_aux),
            setting.states,
            argnums,
            has_aux=has_aux,
            **options,
        )
        expected = in_place(name, gradient, value, aux, has_aux, return_value)
        close(derivative(*vector, *setting.args, X), expected)
        assert counter.value == calls


@every_name
@pytest.mark.parametrize("form", FORMS)
def test_by_states_in_every_form(name, form):
    rows = [(True, True)]
    if form == "bound":
        rows += [(False, False), (True, False), (False, True)]
    compare(name, form, False, rows)


@every_name
@pytest.mark.parametrize("form", ["bound"])
def test_by_states_and_an_argument(name, form):
    compare(name, form, True, [(True, True)])


@every_name
@pytest.mark.parametrize("argnums", ["default", "given"])
def test_by_an_argument_alone(name, argnums):
    compare(name, "nothing", argnums, [(True, True)])
