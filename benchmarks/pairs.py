"""The same work written three times: in JAX by hand, and in the two styles of statelens.

Each work gives a case for each way to write it, over the same values. A case that writes
states has what they hold afterwards as the last of its results, as a pure function returns it.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import statelens as sl

from . import models
from .cases import FACADE, FUNCTIONAL, HAND, Case, Cases
from .network import CountingNet, Net, forward, layers, loss

T = sl.transform


X, XS = jnp.ones(3), jnp.linspace(0.0, 1.0, 12).reshape(4, 3)


def descend(value: jax.Array, gradient: jax.Array) -> jax.Array:
    return value - 0.1 * gradient


def evaluation() -> Cases:
    return {
        HAND: Case(jax.jit(forward), (layers(), X)),
        FUNCTIONAL: Case(sl.jit(forward), (layers(), X)),
        FACADE: Case(sl.jit(Net()), (X,)),
    }


def hand_step(layers: Any, x: jax.Array) -> Any:
    value, gradients = jax.value_and_grad(loss)(layers, x)
    return value, jax.tree.map(descend, layers, gradients)


@sl.grad(grad_states=sl.inexact, return_value=True)
def loss_and_gradients(layers: Any, x: jax.Array) -> jax.Array:
    return loss(layers, x)


def functional_step(layers: Any, x: jax.Array) -> Any:
    gradients, value = loss_and_gradients(layers, x)
    return value, jax.tree.map(descend, layers, gradients)


def facade_step(net: Net) -> Callable[[jax.Array], jax.Array]:
    params = net.states(sl.ParamState)

    def step(x):
        gradients, value = sl.grad(net.loss, params, return_value=True)(x)
        for path, state in params.items():
            state.value = descend(state.value, gradients[path])
        return value

    return step


def training_step() -> Cases:
    net = Net()
    return {
        HAND: Case(jax.jit(hand_step), (layers(), X)),
        FUNCTIONAL: Case(sl.jit(functional_step), (layers(), X)),
        FACADE: Case(sl.jit(facade_step(net)), (X,), net.states().values_dict),
    }


def donated_step() -> Cases:
    net = Net()
    return {
        HAND: Case(jax.jit(hand_step, donate_argnums=0), (layers(), X)),
        FUNCTIONAL: Case(sl.jit(functional_step, donate_states=sl.inexact), (layers(), X)),
        FACADE: Case(sl.jit(facade_step(net), donate_states=True), (X,), net.states().values_dict),
    }


def adam_step() -> Cases:
    optimizer = optax.adam(1e-2)

    def by_hand(layers, memory, x):
        value, gradients = jax.value_and_grad(loss)(layers, x)
        updates, memory = optimizer.update(gradients, memory, layers)
        return value, optax.apply_updates(layers, updates), memory

    def functional(layers, memory, x):
        gradients, value = loss_and_gradients(layers, x)
        updates, memory = optimizer.update(gradients, memory, layers)
        return value, sl.inexact.apply_updates(layers, updates), memory

    net = Net()
    params = net.states(sl.ParamState)
    memory = sl.State(optimizer.init(params.values_dict()))

    def facade(x):
        gradients, value = sl.grad(net.loss, params, return_value=True)(x)
        values = params.values_dict()
        updates, memory.value = optimizer.update(gradients, memory.value, values)
        params.assign(optax.apply_updates(values, updates))
        return value

    return {
        HAND: Case(jax.jit(by_hand), (layers(), optimizer.init(layers()), X)),
        FUNCTIONAL: Case(sl.jit(functional), (layers(), optimizer.init(layers()), X)),
        FACADE: Case(sl.jit(facade), (X,), lambda: (params.values_dict(), memory.value)),
    }


def several_steps() -> Cases:
    """A loop over batches in one call."""

    def looped(scan, step):
        def run(layers, xs):
            layers, values = scan(lambda layers, x: step(layers, x)[::-1], layers, xs)
            return values, layers

        return run

    net = Net()
    step = facade_step(net)
    return {
        HAND: Case(jax.jit(looped(jax.lax.scan, hand_step)), (layers(), XS)),
        FUNCTIONAL: Case(sl.jit(looped(T.scan, functional_step)), (layers(), XS)),
        FACADE: Case(sl.jit(lambda xs: T.for_loop(step, xs)), (XS,), net.states().values_dict),
    }


def counted(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function of parameters count its calls."""
    return lambda calls, *args: (fun(*args), calls + 1)


def _derivative(by_hand: Any, functional: Any, facade: Callable[[CountingNet], Any]) -> Cases:
    """Gives cases of a derivative of the network, which counts its calls."""
    net = CountingNet()
    return {
        HAND: Case(jax.jit(counted(by_hand)), (0, layers(), X)),
        FUNCTIONAL: Case(sl.jit(counted(functional)), (0, layers(), X)),
        FACADE: Case(sl.jit(facade(net)), (X,), lambda: net.calls.value),
    }


def gradient() -> Cases:
    return _derivative(
        jax.grad(loss),
        sl.grad(loss, sl.inexact),
        lambda net: sl.grad(net.loss, net.states(sl.ParamState)),
    )


def gradient_in_jax_jit() -> Cases:
    """Compiled by JAX itself, which takes all states as arguments and gives them back."""

    def threaded(gradient):
        return jax.jit(lambda calls, layers, x: (gradient(layers, x), (calls + 1, layers)))

    net = CountingNet()
    states = net.states()
    pure = sl.functionalize(sl.grad(net.loss, net.states(sl.ParamState)), states)
    return {
        HAND: Case(threaded(jax.grad(loss)), (0, layers(), X)),
        FUNCTIONAL: Case(threaded(sl.grad(loss, sl.inexact)), (0, layers(), X)),
        FACADE: Case(jax.jit(pure), (states.values_dict(), X)),
    }


def jacobian() -> Cases:
    return _derivative(
        jax.jacrev(forward),
        T.jacrev(forward, sl.inexact),
        lambda net: T.jacrev(net, net.states(sl.ParamState)),
    )


def jacobian_forward() -> Cases:
    return _derivative(
        jax.jacfwd(forward),
        T.jacfwd(forward, sl.inexact),
        lambda net: T.jacfwd(net, net.states(sl.ParamState)),
    )


def hessian() -> Cases:
    return _derivative(
        jax.hessian(loss),
        T.hessian(loss, sl.inexact),
        lambda net: T.hessian(net.loss, net.states(sl.ParamState)),
    )


def hvp() -> Cases:
    def facade(net):
        params = net.states(sl.ParamState)
        product = T.hvp(net.loss, params)
        return lambda x: product(params.values_dict(), x)

    return _derivative(
        lambda layers, x: jax.jvp(jax.grad(lambda ls: loss(ls, x)), (layers,), (layers,))[1],
        lambda layers, x: T.hvp(loss, sl.inexact)(layers, layers, x),
        facade,
    )


def vjp() -> Cases:
    def by_hand(layers, x):
        out, pullback = jax.vjp(lambda layers: forward(layers, x), layers)
        return out, pullback(out)[0]

    def functional(layers, x):
        out, pullback = T.vjp(forward, layers, x, grad_states=sl.inexact)
        return out, pullback(out)

    def facade(net):
        def run(x):
            out, pullback = T.vjp(net, x, grad_states=net.states(sl.ParamState), argnums=None)
            return out, pullback(out)

        return run

    return _derivative(by_hand, functional, facade)


def vmap() -> Cases:
    net = CountingNet()
    return {
        HAND: Case(jax.jit(counted(jax.vmap(forward, (None, 0)))), (0, layers(), XS)),
        FUNCTIONAL: Case(sl.jit(counted(T.vmap(forward, in_axes=(None, 0)))), (0, layers(), XS)),
        FACADE: Case(sl.jit(T.vmap(net)), (XS,), lambda: net.calls.value),
    }


def scan() -> Cases:
    def looped(scan):
        def run(calls, layers, xs):
            def body(carry, x):
                calls, hidden = carry
                return (calls + 1, forward(layers, hidden) + x), hidden

            (calls, hidden), out = scan(body, (calls, xs[0]), xs)
            return (hidden, out), calls

        return run

    net = CountingNet()
    return {
        HAND: Case(jax.jit(looped(jax.lax.scan)), (0, layers(), XS)),
        FUNCTIONAL: Case(sl.jit(looped(T.scan)), (0, layers(), XS)),
        FACADE: Case(
            sl.jit(lambda xs: T.scan(net.step, xs[0], xs)), (XS,), lambda: net.calls.value
        ),
    }


def gradient_of_scan() -> Cases:
    """A gradient through a loop whose body calls the network."""

    def unrolled(scan):
        def run(layers, calls, xs):
            def body(carry, x):
                calls, hidden = carry
                return (calls + 1, forward(layers, hidden) + x), hidden

            (calls, hidden), _ = scan(body, (calls, xs[0]), xs)
            return jnp.mean(hidden**2), calls

        return run

    net = CountingNet()

    def objective(xs):
        hidden, _ = T.scan(net.step, xs[0], xs)
        return jnp.mean(hidden**2)

    by_state = sl.grad(objective, net.states(sl.ParamState))
    by_leaf = sl.grad(unrolled(T.scan), sl.inexact, has_aux=True)
    return {
        HAND: Case(jax.jit(jax.grad(unrolled(jax.lax.scan), has_aux=True)), (layers(), 0, XS)),
        FUNCTIONAL: Case(sl.jit(by_leaf), (layers(), 0, XS)),
        FACADE: Case(sl.jit(by_state), (XS,), lambda: net.calls.value),
    }


def while_loop() -> Cases:
    def looped(while_loop):
        def run(calls, layers, x):
            def body(carry):
                calls, x = carry
                return calls + 1, jnp.abs(forward(layers, x)) + x + 1

            calls, x = while_loop(lambda carry: jnp.sum(carry[1]) < 9, body, (calls, x))
            return x, calls

        return run

    net = CountingNet()
    return {
        HAND: Case(jax.jit(looped(jax.lax.while_loop)), (0, layers(), X)),
        FUNCTIONAL: Case(sl.jit(looped(T.while_loop)), (0, layers(), X)),
        FACADE: Case(
            sl.jit(lambda x: T.while_loop(net.is_small, net.grow, x)),
            (X,),
            lambda: net.calls.value,
        ),
    }


def equinox_step(model: Any, spec: Any, *shape: int) -> Cases:
    """A step of gradient descent on what a lens selects in a model."""
    return models.step(model, squares, (jnp.ones(shape),), optax.sgd(0.1), spec)


def squares(model: Any, x: jax.Array) -> jax.Array:
    return jnp.mean(jax.vmap(model)(x) ** 2)


class Conv(eqx.Module):
    conv: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self):
        keys = jax.random.split(jax.random.key(0))
        self.conv = eqx.nn.Conv2d(1, 2, 3, key=keys[0])
        self.head = eqx.nn.Linear(8, 1, key=keys[1])

    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(x)).ravel())


def mlp() -> eqx.nn.MLP:
    return eqx.nn.MLP(4, 1, 8, 2, key=jax.random.key(0))


WORKS: dict[str, Callable[[], Cases]] = {
    "evaluation": evaluation,
    "training step": training_step,
    "training step, donated": donated_step,
    "training step by Optax": adam_step,
    "training steps in one call": several_steps,
    "gradient": gradient,
    "gradient in jax.jit": gradient_in_jax_jit,
    "Jacobian, reverse": jacobian,
    "Jacobian, forward": jacobian_forward,
    "Hessian": hessian,
    "Hessian-vector product": hvp,
    "pullback": vjp,
    "vmap": vmap,
    "scan": scan,
    "gradient of a scan": gradient_of_scan,
    "while loop": while_loop,
    "step of an Equinox model": lambda: equinox_step(mlp(), sl.inexact, 3, 4),
    "step of two layers of it": lambda: equinox_step(mlp(), "layers[-1].** | layers[0].bias", 3, 4),
    "step of a convolution": lambda: equinox_step(Conv(), "**", 3, 1, 4, 4),
    "step of what follows it": lambda: equinox_step(Conv(), "head.**", 3, 1, 4, 4),
}
