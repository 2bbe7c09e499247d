"""Every loop moves a bar to its end, and says on the way where it is."""

import io

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
@pytest.mark.parametrize("name", LOOPS)
def test_a_bar_comes_to_its_end(name, outer):
    text, total = io.StringIO(), sl.State(jnp.zeros(()))

    def body(x):
        total.value += x
        return 2 * x

    bar = T.ProgressBar(freq=5, file=text, mininterval=0, desc="steps")
    out = outer(lambda: LOOPS[name](body, pbar=bar))()
    jax.effects_barrier()
    assert (out, total.value) == (2 * XS.sum(), XS.sum())
    assert text.getvalue().startswith("\rsteps: ")
    assert any(end in text.getvalue() for end in ("20/20 [", "20/32 [", "20it ["))
