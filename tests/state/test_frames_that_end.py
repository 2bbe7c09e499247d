"""Code that was started in a transform or an overlay doesn't go on in it after its end."""

import asyncio
import contextvars
import threading

import jax
import jax.numpy as jnp
import pytest

import statelens as sl


def made():
    return sl.State(jnp.zeros(2), name="a")


def assert_refused(go):
    with pytest.raises(sl.EndedFrameError, match="that has ended since"):
        go()


def test_a_task_made_in_an_overlay():
    a = made()

    async def later(ended):
        await ended.wait()
        assert_refused(lambda: a.value)
        assert_refused(lambda: setattr(a, "value", jnp.ones(2)))
        assert_refused(lambda: sl.jit(lambda: a.value)())
        assert_refused(lambda: sl.grad(lambda x: x)(1.0))
        assert_refused(lambda: sl.overlay({a: jnp.ones(2)}).__enter__())

    async def main():
        ended = asyncio.Event()
        with sl.overlay({a: jnp.ones(2)}):
            task = asyncio.create_task(later(ended))
            await asyncio.sleep(0)
        ended.set()
        await task

    asyncio.run(main())
    assert (a.value == 0).all()


def test_a_task_made_in_an_overlay_that_lasts_longer():
    a = made()

    async def main():
        with sl.overlay({a: jnp.ones(2)}) as trial:
            await asyncio.create_task(add(a))
        return trial.writes[a]

    async def add(a):
        a.value = a.value + 1

    assert (asyncio.run(main()) == 2).all()
    assert (a.value == 0).all()


@pytest.mark.parametrize("transform", [sl.jit, sl.grad, sl.transform.vmap])
def test_a_context_copied_while_a_function_is_traced(transform):
    a = made()
    contexts = []

    def f(x):
        a.value = a.value + 1
        contexts.append(contextvars.copy_context())
        return x

    transform(f)(jnp.ones(1) if transform is sl.transform.vmap else 1.0)
    assert_refused(lambda: contexts[0].run(lambda: a.value))
    assert_refused(lambda: contexts[0].run(setattr, a, "value", jnp.ones(2)))
    assert (a.value == 1).all()


def test_a_thread_inherits_nothing():
    a = made()
    seen = []
    with sl.overlay({a: jnp.ones(2)}):
        thread = threading.Thread(target=lambda: seen.append(a.value))
        thread.start()
        thread.join()
    assert (seen[0] == 0).all()


@pytest.mark.parametrize("order", ["xy", "yx"])
def test_generators_may_close_their_overlays_in_any_order(order):
    a, b = made(), made()

    def overlaid(value):
        with sl.overlay({a: jnp.full(2, value)}):
            yield

    generators = {"x": overlaid(1.0), "y": overlaid(2.0)}
    next(generators["x"])
    next(generators["y"])
    assert (b.value == 0).all()
    for name in order:
        generators[name].close()
    assert (a.value == 0).all()
    a.value = jnp.full(2, 9.0)
    assert contextvars.Context().run(lambda: (a.value == 9).all())


def test_an_overlay_is_not_opened_in_itself():
    a = made()
    trial = sl.overlay({a: jnp.ones(2)})
    with trial, pytest.raises(sl.ArgumentError, match="open already"), trial:
        pass
    assert (a.value == 0).all()
    with trial:  # but again, once it has ended
        assert (a.value == 1).all()


def test_what_an_overlay_has_written_is_there_after_its_end():
    a = sl.State({"x": jnp.zeros(2)})
    with sl.overlay() as trial:
        a.value["x"] = jnp.ones(2)
    assert (trial.writes[a]["x"] == 1).all()
    assert (a.value["x"] == 0).all()
    trial.commit()
    assert jax.tree.all(jax.tree.map(lambda x: bool((x == 1).all()), a.value))
