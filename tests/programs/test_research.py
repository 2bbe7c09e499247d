"""Small research programs in the mutable style, each beside the same program in pure JAX."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import statelens as sl
from tests.helpers import close

pytestmark = pytest.mark.slow

close = functools.partial(close, rtol=1e-4)

T = sl.transform


def values(states):
    return {path[-1]: state.value for path, state in states.items()}


def uniform(key, *shape):
    return 0.5 * jax.random.uniform(key, shape, minval=-1.0)


# A gated recurrent network: its hidden state is a state, the loss runs it over a sequence.


def gru_step(p, h, x):
    joined = jnp.concatenate([x, h])
    z, r = jnp.split(jax.nn.sigmoid(joined @ p["gates"] + p["bias"]), 2)
    candidate = jnp.tanh(jnp.concatenate([x, r * h]) @ p["candidate"])
    return (1 - z) * h + z * candidate


class GRU(sl.nn.Module):
    def __init__(self, key, n_in=2, n=4):
        super().__init__()
        a, b, c = jax.random.split(key, 3)
        self.gates = sl.ParamState(uniform(a, n_in + n, 2 * n))
        self.bias = sl.ParamState(jnp.zeros(2 * n))
        self.candidate = sl.ParamState(uniform(b, n_in + n, n))
        self.out = sl.ParamState(uniform(c, n, 1), tag="readout")
        self.h = sl.HiddenState(jnp.zeros(n))
        self.steps = sl.LongTermState(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.steps.value += 1
        self.h.value = gru_step(values(self.states(sl.ParamState)), self.h.value, x)
        return self.h.value @ self.out.value

    def reset(self):
        self.h.value = jnp.zeros_like(self.h.value)


def sequence_loss(p, xs, ys):
    def step(h, x):
        h = gru_step(p, h, x)
        return h, h @ p["out"]

    last, outs = jax.lax.scan(step, jnp.zeros(4), xs)
    return jnp.mean((outs - ys) ** 2), last


@pytest.mark.parametrize("loop", [T.for_loop, T.checkpointed_for_loop], ids=["plain", "remat"])
def test_a_recurrent_network_learns_a_running_mean(loop):
    xs = jax.random.normal(jax.random.key(1), (9, 2))
    ys = jnp.cumsum(xs, 0)[:, :1] / jnp.arange(1, 10)[:, None]
    model = GRU(jax.random.key(0))
    params = model.states(sl.ParamState)
    optimizer = optax.adam(1e-2)
    theirs = values(params)
    moments = sl.State(optimizer.init(params.values_dict()))
    kept = optimizer.init(theirs)

    def loss(xs, ys):
        model.reset()
        return jnp.mean((loop(model, xs) - ys) ** 2)

    @sl.jit
    def train_step(xs, ys):
        grads, value = sl.grad(loss, params, return_value=True)(xs, ys)
        updates, moments.value = optimizer.update(grads, moments.value, params.values_dict())
        for path, update in updates.items():
            params[path].value += update
        return value

    @jax.jit
    def pure_step(p, kept, xs, ys):
        (value, last), grads = jax.value_and_grad(sequence_loss, has_aux=True)(p, xs, ys)
        updates, kept = optimizer.update(grads, kept, p)
        return optax.apply_updates(p, updates), kept, value, last

    first = None
    for _ in range(8):
        value = train_step(xs, ys)
        theirs, kept, their_value, last = pure_step(theirs, kept, xs, ys)
        first = value if first is None else first
        close(value, their_value)
    assert value < first
    close((values(params), model.h.value), (theirs, last))
    assert model.steps.value == 8 * 9


def test_a_recurrent_network_over_a_batch_with_a_frozen_readout():
    """Lanes have hidden states of their own; the readout is left alone; loops run in lanes."""
    model = GRU(jax.random.key(0))
    lens = sl.lens(sl.ParamState) & ~sl.tagged("readout")
    params = lens.bind(model)
    theirs = values(model.states(sl.ParamState))
    xs = jax.random.normal(jax.random.key(1), (3, 5, 2))
    ys = jnp.cos(xs[..., :1])
    model.h.value = jnp.zeros((3, 4))

    def one_sequence(xs):
        return T.for_loop(model, xs)

    def loss(xs, ys):
        run = T.vmap(one_sequence, in_states={model.h: 0})
        return jnp.mean((run(xs) - ys) ** 2)

    def pure_loss(focus, out, xs, ys):
        run = jax.vmap(lambda xs, ys: sequence_loss({**focus, "out": out}, xs, ys))
        losses, last = run(xs, ys)
        return losses.mean(), last

    out = theirs.pop("out")
    (value, last), their_grads = jax.value_and_grad(pure_loss, has_aux=True)(theirs, out, xs, ys)
    grads, our_value = sl.jit(sl.grad(loss, params, return_value=True))(xs, ys)
    close(our_value, value)
    close({path[-1]: g for path, g in grads.items()}, their_grads)
    close(model.h.value, last)
    assert model.steps.value == 5


# An ensemble, each member with noise and a batch of its own, in one program.


def member_loss(p, x, y):
    hidden = jnp.tanh(x @ p["w1"] + p["b1"])
    return jnp.mean((hidden @ p["w2"] - y) ** 2)


class Member(sl.nn.Module):
    def __init__(self, key):
        super().__init__()
        a, b = jax.random.split(key)
        self.w1, self.b1 = sl.ParamState(uniform(a, 1, 6)), sl.ParamState(jnp.zeros(6))
        self.w2 = sl.ParamState(uniform(b, 6, 1))
        self.seen = sl.LongTermState(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        self.seen.value += len(x)
        return jnp.tanh(x @ self.w1.value + self.b1.value) @ self.w2.value


def test_an_ensemble_is_made_trained_and_asked_for_its_spread():
    keys = jax.random.split(jax.random.key(0), 4)
    x = jnp.linspace(-1.0, 1.0, 8)[:, None]
    y = jnp.sin(3 * x)
    rng = sl.random.RandomState(5)
    ensemble = T.vmap_new_states(Member)(keys)
    params = ensemble.states(sl.ParamState)
    theirs = values(params)

    def member_step(x, y):
        noise = 0.1 * rng.normal(size=x.shape)
        fun = lambda: jnp.mean((ensemble(x + noise) - y) ** 2)  # noqa: E731
        grads, value = sl.grad(fun, params, return_value=True)()
        for path, state in params.items():
            state.value -= 0.1 * grads[path]
        return value

    train = sl.jit(T.vmap(member_step, in_axes=None, axis_size=4, in_states=ensemble.states()))

    @jax.jit
    def pure_step(p, key, x, y):
        key, *lanes = jax.random.split(key, 5)

        def one(p, key):
            noise = 0.1 * jax.random.normal(jax.random.split(key)[1], x.shape)
            value, grads = jax.value_and_grad(member_loss)(p, x + noise, y)
            return jax.tree.map(lambda v, g: v - 0.1 * g, p, grads), value

        return *jax.vmap(one)(p, jnp.stack(lanes)), key

    key = rng.value
    for _ in range(5):
        theirs, their_losses, key = pure_step(theirs, key, x, y)
        close(train(x, y), their_losses)
    close(values(params), theirs)
    assert rng.value == key
    assert ensemble.seen.value.tolist() == [40] * 4
    outs = T.vmap(ensemble, in_axes=None, in_states=ensemble.states())(x)
    expected = jax.vmap(lambda p: jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"])(theirs)
    close(outs.std(0), expected.std(0))


# A spiking network: membranes forget between runs, a branch holds those that have fired.


@jax.custom_jvp
def spike(v):
    return (v > 0).astype(v.dtype)


@spike.defjvp
def _(primals, tangents):
    return spike(*primals), tangents[0] / (1 + 5 * jnp.abs(primals[0])) ** 2


class Spiking(sl.nn.Module):
    def __init__(self, key, n_in=3, n=5):
        super().__init__()
        a, b = jax.random.split(key)
        self.w_in = sl.ParamState(2 * uniform(a, n_in, n))
        self.w_rec = sl.ParamState(uniform(b, n, n))
        self.decay = sl.ParamState(jnp.asarray(0.9))
        self.v = sl.ShortTermState(jnp.zeros(n))
        self.s = sl.ShortTermState(jnp.zeros(n))
        self.quiet = sl.ShortTermState(jnp.zeros((), jnp.int32))
        self.total = sl.LongTermState(jnp.zeros(()))

    def __call__(self, x):
        def rest(x):
            self.quiet.value -= 1
            self.v.value *= self.decay.value
            self.s.value = jnp.zeros_like(self.s.value)

        def run(x):
            drive = x @ self.w_in.value + self.s.value @ self.w_rec.value
            v = self.decay.value * self.v.value + drive
            self.s.value = spike(v - 0.5)
            self.v.value = v * (1 - self.s.value)
            many = self.s.value.sum() > 2
            self.quiet.value = jnp.where(many, 2, 0).astype(jnp.int32)

        T.cond(self.quiet.value > 0, rest, run, x)
        self.total.value += self.s.value.sum()
        return self.s.value

    def reset(self):
        for state in self.states(sl.ShortTermState).values():
            state.value = jnp.zeros_like(state.value)


def spiking_run(p, xs):
    def step(carry, x):
        def rest(v, s, quiet):
            return v * p["decay"], jnp.zeros_like(s), quiet - 1

        def run(v, s, quiet):
            v = p["decay"] * v + x @ p["w_in"] + s @ p["w_rec"]
            s = spike(v - 0.5)
            return v * (1 - s), s, jnp.where(s.sum() > 2, 2, 0).astype(jnp.int32)

        carry = jax.lax.cond(carry[2] > 0, rest, run, *carry)
        return carry, carry[1]

    return jax.lax.scan(step, (jnp.zeros(5), jnp.zeros(5), jnp.zeros((), jnp.int32)), xs)


def test_a_spiking_network_with_a_refractory_branch():
    net = Spiking(jax.random.key(2))
    params = net.states(sl.ParamState)
    xs = jax.random.uniform(jax.random.key(3), (30, 3))

    def loss(xs):
        net.reset()
        spikes = T.for_loop(net, xs)
        return jnp.mean((spikes.mean(0) - 0.2) ** 2), spikes

    def pure_loss(p, xs):
        carry, spikes = spiking_run(p, xs)
        return jnp.mean((spikes.mean(0) - 0.2) ** 2), (carry, spikes)

    p = values(params)
    pure = jax.value_and_grad(pure_loss, argnums=(0, 1), has_aux=True)
    (value, (carry, spikes)), (by_p, by_x) = pure(p, xs)
    assert 0 < spikes.sum() < spikes.size
    run = sl.grad(loss, params, argnums=0, has_aux=True, return_value=True)
    for transform in (run, sl.jit(run)):
        (grads, along), our_value, our_spikes = transform(xs)
        close((our_value, our_spikes, along), (value, spikes, by_x))
        close({path[-1]: g for path, g in grads.items()}, by_p)
        close((net.v.value, net.s.value, net.quiet.value), carry)
    close(net.total.value, 2 * spikes.sum())
    # A batch of inputs, each with membranes of its own.
    batch = jnp.stack([xs, 0.5 * xs, 2 * xs])
    for state in net.states(sl.ShortTermState).values():
        state.value = jnp.zeros((3, *jnp.shape(state.value)), jnp.result_type(state.value))
    outs = T.vmap(
        lambda xs: T.for_loop(net, xs),
        in_states=net.states(sl.ShortTermState),
        out_states=net.total,
    )(batch)
    close(outs, jax.vmap(lambda xs: spiking_run(p, xs)[1])(batch))
    close(net.total.value, 2 * spikes.sum() + outs.sum((1, 2)))


# A physics-informed network: derivatives by the input inside of one by the parameters.


class Field(sl.nn.Module):
    def __init__(self, key, n=8):
        super().__init__()
        a, b = jax.random.split(key)
        self.w1, self.b1 = sl.ParamState(2 * uniform(a, 2, n)), sl.ParamState(jnp.zeros(n))
        self.w2 = sl.ParamState(uniform(b, n))
        self.speed = sl.ParamState(jnp.asarray(0.5), tag="physics")
        self.calls = sl.LongTermState(jnp.zeros((), jnp.int32))

    def __call__(self, point):
        self.calls.value += 1
        return jnp.tanh(point @ self.w1.value + self.b1.value) @ self.w2.value

    def residual(self, point):
        """The wave equation: u_tt - c^2 u_xx."""
        second = T.jacfwd(T.jacrev(lambda point: self(point)))(point)
        return second[0, 0] - self.speed.value**2 * second[1, 1]


def field(p, point):
    return jnp.tanh(point @ p["w1"] + p["b1"]) @ p["w2"]


def residual_loss(p, points, known):
    def residual(point):
        second = jax.jacfwd(jax.jacrev(lambda point: field(p, point)))(point)
        return second[0, 0] - p["speed"] ** 2 * second[1, 1]

    residuals = jax.vmap(residual)(points)
    return jnp.mean(residuals**2) + jnp.mean((jax.vmap(lambda q: field(p, q))(points) - known) ** 2)


def test_a_physics_informed_network_finds_fields_and_constants():
    net = Field(jax.random.key(4))
    points = jax.random.uniform(jax.random.key(5), (7, 2))
    known = jnp.sin(points[:, 1] - points[:, 0])
    params = net.states(sl.ParamState)
    p = values(params)

    def loss(points, known):
        residuals = T.vmap(net.residual)(points)
        return jnp.mean(residuals**2) + jnp.mean((T.vmap(net)(points) - known) ** 2)

    close(loss(points, known), residual_loss(p, points, known))
    value, grads = jax.value_and_grad(residual_loss)(p, points, known)
    ours, our_value = sl.jit(sl.grad(loss, params, return_value=True))(points, known)
    close(our_value, value)
    close({path[-1]: g for path, g in ours.items()}, grads)
    physics = net.states(sl.tagged("physics"))
    close(sl.grad(loss, physics)(points, known)[("speed",)], grads["speed"])

    # Newton's direction by products with the Hessian, never the matrix.
    v = {path: jnp.cos(g) for path, g in ours.items()}
    product = jax.jvp(
        jax.grad(residual_loss),
        (p, points, known),
        ({k[-1]: g for k, g in v.items()}, points * 0, known * 0),
    )[1]
    ours = T.hvp(loss, params)(v, points, known)
    close({path[-1]: g for path, g in ours.items()}, product)
    by_example = T.per_example_grad(lambda point: net.residual(point) ** 2, params)(points)
    theirs = jax.vmap(
        lambda point: jax.grad(
            lambda p: jnp.square(
                (lambda h: h[0, 0] - p["speed"] ** 2 * h[1, 1])(
                    jax.hessian(lambda point: field(p, point))(point)
                )
            )
        )(p)
    )(points)
    close({path[-1]: g for path, g in by_example.items()}, theirs)


# Learning to learn: a gradient through an inner loop of gradient steps on states.


def inner_loss(fast, x, y):
    return jnp.mean((jnp.tanh(x @ fast["w"]) @ fast["v"] - y) ** 2)


@pytest.mark.parametrize("loop", ["for_loop", "scan", "bounded_while_loop", "python"])
def test_learning_to_learn(loop):
    steps = 3
    start = {"w": uniform(jax.random.key(0), 2, 4), "v": uniform(jax.random.key(1), 4, 1)}
    slow = {name: sl.ParamState(value, name=f"slow {name}") for name, value in start.items()}
    fast = {name: sl.ShortTermState(value, name=f"fast {name}") for name, value in start.items()}
    rate = sl.ParamState(jnp.asarray(-1.0), name="log rate")
    count = sl.LongTermState(jnp.zeros((), jnp.int32))
    keys = jax.random.split(jax.random.key(2), 3)
    xs = jnp.stack([jax.random.normal(key, (5, 2)) for key in keys])
    ys = jnp.sin(xs.sum(-1, keepdims=True)) * jnp.arange(1.0, 4.0)[:, None, None]

    def current():
        return {name: state.value for name, state in fast.items()}

    def adapt(x, y):
        """One step of the inner learner, by its own gradient."""
        count.value += 1
        grads = sl.grad(lambda: inner_loss(current(), x, y), fast)()
        for name, state in fast.items():
            state.value = state.value - jnp.exp(rate.value) * grads[name]

    def run_loop(x, y):
        if loop == "python":
            for _ in range(steps):
                adapt(x, y)
        elif loop == "for_loop":
            T.for_loop(lambda _: adapt(x, y), jnp.arange(steps))
        elif loop == "scan":
            T.scan(lambda c, _: (c, adapt(x, y)), 0, jnp.arange(steps))
        else:

            def body(i):
                adapt(x, y)
                return i + 1

            T.bounded_while_loop(lambda i: i < steps, body, 0, max_steps=5)

    def task_loss(x, y):
        for name, state in fast.items():
            state.value = slow[name].value
        run_loop(x[:3], y[:3])
        return inner_loss(current(), x[3:], y[3:])

    def outer_loss(xs, ys):
        return jnp.mean(T.vmap(task_loss, out_states=list(fast.values()))(xs, ys))

    def pure_outer(outer, xs, ys):
        def task(x, y):
            fast = outer["slow"]
            for _ in range(steps):
                grads = jax.grad(inner_loss)(fast, x[:3], y[:3])
                fast = jax.tree.map(lambda v, g: v - jnp.exp(outer["rate"]) * g, fast, grads)
            return inner_loss(fast, x[3:], y[3:]), fast

        losses, fast = jax.vmap(task)(xs, ys)
        return losses.mean(), fast

    outer = {"slow": start, "rate": jnp.asarray(-1.0)}
    (value, their_fast), theirs = jax.value_and_grad(pure_outer, has_aux=True)(outer, xs, ys)
    learned = {**slow, "rate": rate}
    for run in (outer_loss, sl.jit(outer_loss)):
        grads, our_value = sl.grad(run, learned, return_value=True)(xs, ys)
        close(our_value, value)
        close(grads, {**theirs["slow"], "rate": theirs["rate"]})
        close(current(), their_fast)
        for name, state in fast.items():
            state.value = start[name]
    assert count.value == 2 * steps
