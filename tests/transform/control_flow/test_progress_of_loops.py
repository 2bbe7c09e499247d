"""Every loop moves a bar to its end, and says on the way where it is."""

import io
import re

import jax
import jax.numpy as jnp
import pytest

import statelens as sl

pytest.importorskip("tqdm.auto")

T = sl.transform
XS = jnp.arange(20.0)
LOOPS = {
    "scan": lambda f, **how: T.scan(lambda c, x: (c + f(x), x), 0.0, XS, **how)[0],
    "scan in reverse": lambda f, **how: T.scan(
        lambda c, x: (c + f(x), x), 0.0, XS, reverse=True, **how
    )[0],
    "for_loop": lambda f, **how: jnp.sum(T.for_loop(f, XS, **how)),
    "checkpointed_scan": lambda f, **how: T.checkpointed_scan(
        lambda c, x: (c + f(x), x), 0.0, XS, **how
    )[0],
    "checkpointed_for_loop": lambda f, **how: jnp.sum(T.checkpointed_for_loop(f, XS, **how)),
    "while_loop": lambda f, **how: T.while_loop(
        lambda c: c[0] < 20, lambda c: (c[0] + 1, c[1] + f(XS[c[0]])), (0, 0.0), **how
    )[1],
    "bounded_while_loop": lambda f, **how: T.bounded_while_loop(
        lambda c: c[0] < 20,
        lambda c: (c[0] + 1, c[1] + f(XS[c[0]])),
        (0, 0.0),
        max_steps=32,
        **how,
    )[1],
}


@pytest.mark.parametrize("outer", [lambda f: f, sl.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("freq", [5, 7])
@pytest.mark.parametrize("name", LOOPS)
def test_a_bar_comes_to_its_end(name, freq, outer):
    text, total = io.StringIO(), sl.State(jnp.zeros(()))

    def body(x):
        total.value += x
        return 2 * x

    bar = T.ProgressBar(freq=freq, file=text, mininterval=0, desc="steps")
    out = outer(lambda: LOOPS[name](body, pbar=bar))()
    jax.effects_barrier()
    assert (out, total.value) == (2 * XS.sum(), XS.sum())
    assert text.getvalue().startswith("\rsteps: ")
    assert any(end in text.getvalue() for end in ("20/20 [", "20/32 [", "20it ["))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "outer",
    [
        lambda f: f,
        lambda f: jax.jit(jax.grad(f)),
        lambda f: lambda x: T.vmap(f)(x * jnp.ones(3)),
        lambda f: lambda x: T.vmap(jax.grad(f))(x * jnp.ones(3)),
    ],
    ids=["eager", "grad", "vmap", "vmap_grad"],
)
def test_the_last_steps_come_last_where_there_are_fewer_of_them(outer, reverse):
    text = io.StringIO()
    desc = "at {x:.0f}", lambda at: {"x": at["x"]}
    bar = T.ProgressBar(freq=8, file=text, mininterval=0, desc=desc)

    def run(x, pbar=bar):
        return T.scan(lambda c, k: (jnp.sin(c), c * k), x, XS, reverse=reverse, pbar=pbar)[0]

    assert jnp.allclose(outer(run)(1.0), outer(lambda x: run(x, None))(1.0))
    jax.effects_barrier()
    places = re.findall(r"(at \d+): .*? (\d+)/20 \[", text.getvalue())
    last = [12, 4, 0] if reverse else [7, 15, 19]
    steps = zip(last, (8, 16, 20), strict=True)
    assert list(dict.fromkeys(places)) == [(f"at {x}", str(n)) for x, n in steps]


@pytest.mark.parametrize("freq", [5, None])
def test_lanes_that_end_at_different_steps_share_one_bar(freq):
    text = io.StringIO()
    bar = T.ProgressBar(freq=freq, file=text, mininterval=0)
    run = T.vmap(lambda x: T.while_loop(lambda x: x < 100, lambda x: x + 1, x, pbar=bar))
    assert run(jnp.array([97, 77, 200])).tolist() == [100, 100, 200]
    jax.effects_barrier()
    steps = [int(n) for n in re.findall(r"(\d+)it \[", text.getvalue())]
    assert list(dict.fromkeys(steps)) == ([5, 10, 15, 20, 23] if freq else list(range(1, 24)))
    assert text.getvalue().count("\n") == 1
