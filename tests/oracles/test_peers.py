"""The same stateful program, value for value, in the libraries that have one like it.

The peers are optional; install one to have its tests run.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

pytestmark = pytest.mark.slow

XS = jnp.linspace(-1.0, 1.0, 5).reshape(-1, 1)
YS = 3.0 * XS + 1.0


def train(library, grad, steps=5):
    """A program in the mutable style; the library is named once, at the top."""

    class Regressor(library.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = library.ParamState(jnp.zeros((1, 1)))
            self.bias = library.ParamState(jnp.zeros((1,)))
            self.calls = library.State(jnp.zeros((), jnp.int32))

        def __call__(self, x):
            self.calls.value = self.calls.value + 1
            return x @ self.weight.value + self.bias.value

    model = Regressor()

    def loss(x, y):
        out = model(x)
        return jnp.mean((out - y) ** 2), {"mean": jnp.mean(out)}

    params = model.states(library.ParamState)
    step = grad(loss, grad_states=params, argnums=0, has_aux=True, return_value=True)
    seen = []
    for _ in range(steps):
        (gradients, by_x), value, aux = step(XS, YS)
        for path, state in params.items():
            state.value = state.value - 0.1 * gradients[path]
        seen.append((list(gradients.items()), by_x, value, aux))
    return seen, [(path, state.value) for path, state in model.states().items()]


def test_brainstate_gives_the_same_numbers():
    brainstate = pytest.importorskip("brainstate", reason="the peer brainstate isn't installed")
    ours, theirs = train(sl, sl.grad), train(brainstate, brainstate.transform.grad)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_equinox_gives_the_same_gradients():
    model = eqx.nn.MLP(1, 1, 8, 2, key=jax.random.key(0))
    loss = lambda model, x, y: jnp.mean((jax.vmap(model)(x) - y) ** 2)  # noqa: E731
    value, gradients = eqx.filter_value_and_grad(loss)(model, XS, YS)
    ours, our_value = sl.grad(loss, sl.inexact, return_value=True)(model, XS, YS)
    assert eqx.tree_equal(ours, gradients)
    assert our_value == value


def test_flax_nnx_gives_the_same_gradients():
    nnx = pytest.importorskip("flax.nnx", reason="the peer flax isn't installed")

    class Regressor(nnx.Module):
        def __init__(self):
            self.weight = nnx.Param(jnp.zeros((1, 1)))
            self.bias = nnx.Param(jnp.zeros((1,)))

        def __call__(self, x):
            return x @ self.weight[...] + self.bias[...]

    theirs = nnx.grad(lambda model: jnp.mean((model(XS) - YS) ** 2))(Regressor())
    seen, _ = train(sl, sl.grad, steps=1)
    (ours, *_), *_ = seen
    for path, gradient in ours:
        np.testing.assert_allclose(theirs[path[0]][...], gradient, rtol=1e-6)
