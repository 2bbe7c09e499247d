"""Random programs that read, write and draw, run by states and by hand.

A program is a list of steps, some of which hold programs to be run by a transform. `ByStates` runs
one by the stateful transforms, `ByHand` by plain JAX, with values threaded explicitly.
"""

import random

import jax
import jax.numpy as jnp

import statelens as sl

T = sl.transform

NAMES = ("a", "b", "c")
LANES = 3


class Failure(Exception):
    """What a program raises to be given up."""


def make(seed):
    """Makes a program."""
    return _Maker(random.Random(seed)).steps(depth=2, kinds=_KINDS)


_SIMPLE = ("mix", "draw", "assign", "assign")
_NESTING = (
    *("jit", "cond", "for_loop", "scan", "while_loop", "checkpoint", "grad", "hidden", "kept"),
    *("failing", "vmap", "per_example_grad"),
)
_KINDS = frozenset((*_SIMPLE, *_NESTING))
# What can't be inside: a write of lanes would be one for all, and JAX has no derivative of a
# `while_loop` backwards.
_REFUSED = {
    "vmap": {"assign", "kept", "failing"},
    "per_example_grad": {"assign", "kept", "failing", "while_loop"},
    "grad": {"while_loop"},
    "failing": {"while_loop"},
}


class _Maker:
    def __init__(self, rng):
        self.rng = rng

    def steps(self, depth, kinds):
        return [self.step(depth, kinds) for _ in range(self.rng.randint(1, 3))]

    def step(self, depth, kinds):
        some = _SIMPLE + _NESTING * (depth > 0)
        kind = self.rng.choice([each for each in some if each in kinds])
        inside = kinds - _REFUSED.get(kind, set())
        count = 2 if kind == "cond" else kind in _NESTING
        programs = [self.steps(depth - 1, inside) for _ in range(count)]
        return kind, self.rng.choice(NAMES), self.rng.uniform(-1, 1), programs


def draws(steps):
    """Says whether lanes that run a program may come to read the key, in an overlay too."""
    return any(kind == "draw" or any(map(draws, programs)) for kind, _, _, programs in steps)


def run(machine, steps, x):
    """Runs a program on a number."""
    for kind, name, factor, programs in steps:
        bodies = [lambda x, steps=steps: run(machine, steps, x) for steps in programs]
        if kind == "mix":
            x = jnp.sin(factor * x + machine.read(name).mean())
        elif kind == "assign":
            machine.write(name, jnp.sin(factor * machine.read(name) + x))
        elif kind == "draw":
            x = x + factor * machine.draw()
        elif kind == "cond":
            x = machine.cond(jnp.sin(9 * x) > 0, *bodies, x)
        elif kind == "grad":
            x = x + machine.grad(bodies[0], name, x).mean()
        elif kind in ("vmap", "per_example_grad"):
            lanes = x + jnp.arange(LANES)
            x = getattr(machine, kind)(bodies[0], lanes, draws(programs[0])).mean()
        else:
            x = getattr(machine, kind)(bodies[0], x)
    return x


def fail_after(body):
    def failing(x):
        body(x)
        raise Failure

    return failing


class ByStates:
    """Runs programs by stateful transforms."""

    def __init__(self, values, key):
        self.cells = {name: sl.ParamState(value) for name, value in values.items()}
        self.rng = sl.random.RandomState(key)

    def values(self):
        return {name: cell.value for name, cell in self.cells.items()}, self.rng.value

    def read(self, name):
        return self.cells[name].value

    def write(self, name, value):
        self.cells[name].value = value

    def draw(self):
        return self.rng.uniform()

    def jit(self, body, x):
        return sl.jit(body)(x)

    def checkpoint(self, body, x):
        return T.checkpoint(body)(x)

    def cond(self, pred, yes, no, x):
        return T.cond(pred, yes, no, x)

    def for_loop(self, body, x):
        return T.for_loop(lambda i: body(x + i), jnp.arange(2.0)).mean()

    def scan(self, body, x):
        return T.scan(lambda c, i: (body(c + i), None), x, jnp.arange(2.0))[0]

    def while_loop(self, body, x):
        return T.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, body(c[1])), (0, x))[1]

    def grad(self, body, name, x):
        cell = self.cells[name]
        return sl.grad(body, grad_states=cell, check_states=False)(x)

    def vmap(self, body, xs, draws):
        return T.vmap(body)(xs)

    def per_example_grad(self, body, xs, draws):
        return T.per_example_grad(body, argnums=0)(xs)

    def kept(self, body, x):
        with sl.overlay() as trial:
            x = body(x)
        trial.commit()
        return x

    def hidden(self, body, x):
        with sl.overlay():
            return body(x)

    def failing(self, body, x):
        for transform in (sl.jit, sl.grad, T.checkpoint):
            try:
                transform(fail_after(body))(x)
            except Failure:
                continue
            raise AssertionError("the failure was swallowed")
        return x


class ByHand:
    """Runs programs by plain JAX: all values go into each transform, and come out of it."""

    def __init__(self, values, key):
        self.now = dict(values), key

    def values(self):
        return self.now

    def read(self, name):
        return self.now[0][name]

    def write(self, name, value):
        self.now = self.now[0] | {name: value}, self.now[1]

    def draw(self):
        values, key = self.now
        key, own = jax.random.split(key)
        self.now = values, key
        return jax.random.uniform(own)

    def pure(self, body):
        def fun(now, *args):
            outside, self.now = self.now, now
            try:
                return body(*args), self.now
            finally:
                self.now = outside

        return fun

    def keep(self, result):
        out, self.now = result
        return out

    def jit(self, body, x):
        return self.keep(jax.jit(self.pure(body))(self.now, x))

    def checkpoint(self, body, x):
        return self.keep(jax.checkpoint(self.pure(body))(self.now, x))

    def cond(self, pred, yes, no, x):
        return self.keep(jax.lax.cond(pred, self.pure(yes), self.pure(no), self.now, x))

    def for_loop(self, body, x):
        def step(now, i):
            out, now = self.pure(body)(now, x + i)
            return now, out

        self.now, outs = jax.lax.scan(step, self.now, jnp.arange(2.0))
        return outs.mean()

    def scan(self, body, x):
        def step(carry, i):
            now, x = carry
            x, now = self.pure(body)(now, x + i)
            return (now, x), None

        (self.now, x), _ = jax.lax.scan(step, (self.now, x), jnp.arange(2.0))
        return x

    def while_loop(self, body, x):
        def step(carry):
            i, now, x = carry
            x, now = self.pure(body)(now, x)
            return i + 1, now, x

        _, self.now, x = jax.lax.while_loop(lambda c: c[0] < 2, step, (0, self.now, x))
        return x

    def grad(self, body, name, x):
        def loss(value, now):
            return self.pure(body)((now[0] | {name: value}, now[1]), x)

        return self.keep(jax.grad(loss, has_aux=True)(self.read(name), self.now))

    def vmap(self, body, xs, draws):
        values, key = self.now
        first, *lanes = jax.random.split(key, LANES + 1)
        self.now = values, first if draws else key
        return jax.vmap(lambda key, x: self.pure(body)((values, key), x)[0])(jnp.stack(lanes), xs)

    def per_example_grad(self, body, xs, draws):
        return self.vmap(jax.grad(body), xs, draws)

    def kept(self, body, x):
        return body(x)

    def hidden(self, body, x):
        return self.pure(body)(self.now, x)[0]

    def failing(self, body, x):
        return x
