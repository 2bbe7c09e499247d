"""`checkpoint` and `named_scope`."""

import functools

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close, counter

close = functools.partial(close, rtol=1e-6)

T = sl.transform


# checkpoint.


def chain(w, x):
    for _ in range(3):
        x = jnp.sin(w * x)
    return jnp.sum(x)


@pytest.mark.parametrize("prevent_cse", [False, True])
@pytest.mark.parametrize("policy", [None, "everything_saveable", "nothing_saveable"])
def test_checkpoint_has_the_values_and_the_gradients(prevent_cse, policy):
    w, calls, x = sl.ParamState(jnp.array([0.5, 2.0])), counter(), jnp.array([1.0, -0.5])
    policy = policy and getattr(jax.checkpoint_policies, policy)

    @T.checkpoint(prevent_cse=prevent_cse, policy=policy)
    def layer(x):
        calls.value += 1
        return chain(w.value, x)

    close(layer(x), chain(w.value, x))
    assert calls.value == 1
    close(sl.grad(layer, w, argnums=0)(x), jax.grad(chain, (0, 1))(w.value, x))
    assert calls.value == 2
    close(T.jvp(layer, (x,), (x,))[1], jax.jvp(lambda x: chain(w.value, x), (x,), (x,))[1])
    close(
        T.hessian(layer, w)(x),
        jax.hessian(chain)(w.value, x),
        rtol=1e-5,
    )
    assert calls.value == 4


def residuals(policy):
    """Counts the sines and cosines of the backward pass, and what is kept for it."""
    w = sl.ParamState(jnp.array([0.5, 2.0]))
    fun = lambda x: chain(w.value, x)  # noqa: E731
    if policy is not None:
        fun = T.checkpoint(fun, policy=policy)
    pure = sl.functionalize(sl.grad(fun, w), w)
    text = str(jax.make_jaxpr(pure)(w.value, jnp.ones(2)))
    return text.count(" = sin "), text.count(" = cos "), "checkpoint[" in text or "remat" in text


def test_what_checkpoint_keeps_is_seen_in_the_program():
    kept = jax.checkpoint_policies
    sines, cosines, is_marked = residuals(None)
    assert (sines, cosines, is_marked) == (3, 3, False)
    again, cosines, is_marked = residuals(kept.nothing_saveable)
    assert is_marked
    # All but the last one are computed again for the derivatives.
    assert again > sines
    assert cosines == 3
    assert residuals(kept.everything_saveable)[0] == sines


def test_checkpoint_takes_static_arguments_functions_and_modules():
    calls, model = counter(), sl.nn.Module()
    model.w = sl.ParamState(jnp.array(3.0))

    def layer(mode, activation, module, x, *, scale):
        calls.value += 1
        assert isinstance(mode, int)
        assert scale == "double"
        return activation(mode * module.w.value * x)

    layer = T.checkpoint(layer, static_argnums=0)
    close(layer(2, jnp.tanh, model, 0.1, scale="double"), jnp.tanh(0.6))
    gradient = sl.grad(lambda x: layer(2, jnp.tanh, model, x, scale="double"), model.w)
    close(gradient(0.1), 0.2 * (1 - jnp.tanh(0.6) ** 2))
    assert calls.value == 2
    assert T.remat is T.checkpoint


def test_checkpoint_decorates_methods_and_returns_anything():
    class Layer(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.h = sl.HiddenState(jnp.zeros(()))

        @T.checkpoint
        def step(self, x):
            self.h.value = self.h.value + x
            return {"h": self.h.value, "kind": "leaky", "f": jnp.sin}

    layer = Layer()
    assert layer.step(1.0) == {"h": 1.0, "kind": "leaky", "f": jnp.sin}
    assert layer.h.value == 1.0


# named_scope.


def test_a_named_scope_is_in_the_program():
    w = sl.ParamState(jnp.ones(2))

    @T.named_scope("the_head")
    def head(x):
        w.value = w.value + 1
        return w.value * x

    @sl.jit
    def fun(x):
        with T.named_scope("the_body"):
            x = jnp.sin(x)
        return head(x)

    text = fun.lower(jnp.ones(2)).as_text(debug_info=True)
    assert "the_head" in text
    assert "the_body" in text
    assert w.value[0] == 1.0
    fun(jnp.ones(2))
    assert w.value[0] == 2.0
