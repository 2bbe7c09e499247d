"""`jit` in other transforms, and those in it."""

import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, counted
from tests.transform.compilation.net import Net, plain_net, values_of

close = functools.partial(close, rtol=1e-6)

X = jnp.array([1.0, 2.0, 3.0])


def test_jit_in_jit():
    net = Net()
    run, runs = counted(lambda x: net(x))
    inner = sl.jit(run)
    outer = sl.jit(lambda x: inner(inner(x)))
    values, x = values_of(net), X
    for _ in range(2):
        x, values = plain_net(values, x)
    close(outer(X), x)
    close(values_of(net), values)
    assert (outer.states.written, set(outer.states.read)) == (
        (net.calls,),
        set(net.states().values()),
    )
    outer(X), inner(X)
    assert (len(runs), net.calls.value) == (1, 5)


def test_in_jax_jit_by_functionalize():
    net = Net()
    pure = sl.functionalize(sl.jit(lambda x: net(x)), net.states())
    values = net.states().values_dict()
    out, new = jax.jit(pure)(values, X)
    close(out, plain_net(values_of(net), X)[0])
    assert (new["calls",], net.calls.value) == (1, 0)


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
def test_in_jax_jit_by_itself_a_write_is_refused():
    net = Net()
    f = sl.jit(lambda x: net(x))
    f(X)
    with pytest.raises(sl.TracerLeakError, match=r"(?s)plain JAX transform.*statelens.jit"):
        jax.jit(lambda x: f(x))(X)
    assert net.calls.value == 1


def loss_of(net):
    return lambda x: jnp.sum(net(x) ** 2)


def plain_gradient(net):
    def loss(w, b):
        return jnp.sum(plain_net((w, b, 0), X)[0] ** 2)

    return list(jax.grad(loss, (0, 1))(net.w.value, net.b.value))


def test_jit_in_grad():
    net = Net()
    run, runs = counted(loss_of(net))
    gradient = sl.grad(sl.jit(run), [net.w, net.b])
    close(gradient(X), plain_gradient(net))
    close(gradient(X), plain_gradient(net))
    assert (len(runs), net.calls.value) == (1, 2)


def test_grad_in_jit():
    net = Net()
    run, runs = counted(loss_of(net))
    gradient = sl.jit(lambda x: sl.grad(run, [net.w, net.b])(x))
    close(gradient(X), plain_gradient(net))
    close(gradient(X), plain_gradient(net))
    assert (len(runs), net.calls.value) == (1, 2)
    decorated = sl.jit(sl.grad(loss_of(net), [net.w, net.b], argnums=0))
    close(decorated(X)[0], plain_gradient(net))


def test_grad_by_an_argument_through_jit():
    net = Net()
    f = sl.jit(loss_of(net))
    expected = jax.grad(lambda x: jnp.sum(plain_net(values_of(net), x)[0] ** 2))(X)
    close(sl.grad(f)(X), expected)
    close(sl.jit(sl.grad(sl.jit(f)))(X), expected)
    assert net.calls.value == 2


def test_vmap_of_jit_by_functionalize():
    net = Net()
    pure = sl.functionalize(sl.jit(lambda x: net(x)), net.states())
    xs = jnp.stack([X, -X])
    out, new = jax.vmap(pure, (None, 0))(net.states().values_dict(), xs)
    close(out, jnp.tanh(xs @ net.w.value + net.b.value))
    assert new["calls",].tolist() == [1, 1]


TRANSFORMS = {
    "jit": lambda f: sl.jit(f)(X),
    "for_loop": lambda f: sl.transform.for_loop(f, X[None])[0],
    "vmap": lambda f: sl.transform.vmap(f, in_axes=None, axis_size=2, out_axes=None)(X),
    "checkpoint": lambda f: sl.transform.checkpoint(f)(X),
    "grad": lambda f: sl.grad(lambda x: f(x).sum(), return_value=True)(X)[1] * jnp.ones(3) / 3,
    "jax.jit": lambda f: jax.jit(f)(X),
}


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_traced_value_is_closed_over_and_a_state_is_not_touched(transform, donate):
    other, key = sl.State(jnp.ones(3)), sl.State(jax.random.key(0))
    total = sl.State(jnp.ones(3))
    is_written = transform != "jax.jit"  # which refuses it

    def outer(x):
        y = jnp.sum(x)

        def inner(z):
            if z is None:
                return other.value, key.value  # reachable, not touched
            if is_written:
                total.value = total.value + y
            return 0 * z + total.value * y

        run, runs = counted(inner)
        out = sl.jit(run, donate_states=donate)(x)
        assert len(runs) == 1
        return out

    expected = 1.0 + X.sum() * is_written
    close(TRANSFORMS[transform](outer), jnp.full(3, expected * X.sum()))
    close(total.value, jnp.full(3, expected))


def test_a_module_that_is_made_inside_is_returned_whole():
    @sl.jit
    def make(scale):
        net = Net()
        net.w.value = scale * net.w.value
        net(X)
        return net, {"loose": sl.HiddenState(scale, name="loose", tag="t")}

    net, rest = make(2.0)
    close(net.w.value, 2 * Net().w.value)
    assert (net.calls.value, net.w.name, type(rest["loose"])) == (1, "w", sl.HiddenState)
    assert (rest["loose"].value, rest["loose"].tag) == (2, frozenset({"t"}))
    assert not make.states.read
    other, _ = make(3.0)
    close(other.w.value, 3 * Net().w.value)
    assert other.w is not net.w
    net(X)
    f = sl.jit(lambda x: net(x))
    f(X)
    assert (net.calls.value, other.calls.value) == (3, 1)


def test_a_returned_state_is_a_new_one_and_the_old_one_is_written():
    state = sl.State(jnp.array(1.0))

    @sl.jit
    def f():
        state.value = state.value + 1
        return state

    out = f()
    assert (state.value, out.value) == (2, 2)


def test_writes_to_states_of_an_argument_are_refused():
    net = Net()
    f = sl.jit(lambda net, x: net(x))
    with pytest.raises(sl.FrozenTreeError, match=r"(?s)calls.*statelens\.thread"):
        f(net, X)
    assert net.calls.value == 0
    out, after = sl.jit(sl.thread(lambda net, x: net(x)))(net, X)
    close(out, plain_net(values_of(net), X)[0])
    assert (net.calls.value, after.calls.value) == (0, 1)
    close(sl.jit(lambda net, x: x @ net.w.value)(net, X), X @ net.w.value)


def test_without_jit_it_runs_in_python():
    net = Net()
    run, runs = counted(lambda x: float(net(x)[0]) if x[0] > 0 else None)
    f = sl.jit(run)
    with jax.disable_jit():
        assert isinstance(f(X), float)
        f(X)
        assert (len(runs), net.calls.value) == (2, 2)

        @sl.jit
        def fails(x):
            net(x)
            raise ValueError("later")

        with pytest.raises(ValueError, match="later"):
            fails(X)
        with pytest.raises(sl.FrozenTreeError, match="thread"):
            sl.jit(lambda net: net(X))(net)
    assert net.calls.value == 2


@pytest.mark.parametrize("known", [False, True])
def test_two_threads_call_at_once(known):
    net = Net()
    f = sl.jit(lambda x: net.w.value.sum() + loss_of(net)(x))
    if known:
        f(X)
    results, barrier = [], threading.Barrier(2)
    expected = net.w.value.sum() + jnp.sum(plain_net(values_of(net), X)[0] ** 2)

    def work():
        barrier.wait(timeout=30)
        results.extend(f(X) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 10
    np.testing.assert_allclose(results, expected, rtol=1e-6)
    # What both have read before either has written counts once, as with `+=` in Python.
    assert 1 <= int(net.calls.value) - known <= 10
