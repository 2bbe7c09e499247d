"""`vmap` over states that all lanes share, or that are dealt out to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

XS = jnp.arange(6.0).reshape(3, 2)


# States that all lanes share.


def test_a_shared_state_may_be_written_what_is_the_same_in_all_lanes():
    w, count = sl.State(jnp.asarray(2.0)), sl.State(jnp.zeros((), jnp.int32))

    def fun(x):
        count.value += 1
        w.value = w.value * 2
        return x * w.value

    close(T.vmap(fun)(XS), XS * 4)
    assert (w.value, count.value) == (4.0, 1)


def test_pmean_over_the_axis_name_makes_a_value_that_may_be_shared():
    mean = sl.BatchState(jnp.zeros(2))

    def norm(x):
        mean.value = 0.9 * mean.value + 0.1 * jax.lax.pmean(x, "batch")
        return x - mean.value

    close(T.vmap(norm, axis_name="batch")(XS), XS - 0.1 * XS.mean(0))
    close(mean.value, 0.1 * XS.mean(0))


@pytest.mark.parametrize("named", [True, False])
def test_a_value_for_each_lane_in_a_shared_state_is_an_error_and_writes_nothing(named):
    seen = sl.State(jnp.zeros(2), name="seen" if named else None)
    count = sl.State(0)

    def fun(x):
        count.value += 1
        seen.value = x
        return x

    shown = r"State\(f32\[2\], name='seen'\)" if named else r"State\(f32\[2\]\)"
    message = (
        rf"asked vmap to write {shown}, which all lanes share\n.*\n(.|\n)*out_states(.|\n)*pmean"
    )
    with pytest.raises(sl.SelectionError, match=message):
        T.vmap(fun)(XS)
    assert (seen.value.tolist(), count.value) == ([0.0, 0.0], 0)


def test_out_axes_of_none_for_what_differs_is_jax_s_own_error():
    w = sl.State(jnp.asarray(2.0))

    def fun(x):
        w.value = w.value + 1
        return x

    with pytest.raises(ValueError, match="out_axes"):
        T.vmap(fun, out_axes=None)(XS)
    assert w.value == 2.0


def test_nothing_is_written_when_the_function_raises():
    h, w = sl.State(XS), sl.State(jnp.asarray(2.0))

    def fun(x):
        h.value, w.value = x, w.value + 1
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap(fun, in_states=h)(XS)
    assert h.value is XS
    assert w.value == 2.0


def test_the_size_may_come_from_axis_size_or_from_states_alone():
    h = sl.State(jnp.ones(2))

    def fun():
        h.value = h.value + jax.lax.axis_index("lanes")
        return h.value

    out = T.vmap(fun, axis_size=3, axis_name="lanes", out_states=h)()
    close(out, jnp.ones((3, 2)) + jnp.arange(3.0)[:, None])
    close(h.value, out)
    close(T.vmap(lambda: h.value * 2, in_states=h)(), 2 * out)


def test_axes_that_are_none_are_refused():
    h = sl.State(XS)
    with pytest.raises(sl.ArgumentTypeError, match="asked vmap for in_axes='a'"):
        T.vmap(jnp.sin, in_axes="a")
    with pytest.raises(sl.ArgumentTypeError, match="with the place 'rows'"):
        T.vmap(jnp.sin, in_states={h: "rows"})
    with pytest.raises(sl.SelectionError, match="is given two places: 0 and 1"):
        T.vmap(jnp.sin, in_states={0: h, 1: [h]})
    with pytest.raises(sl.ArgumentError, match="the call has 2 positional arguments"):
        T.vmap(jnp.add, in_axes=(0,))(XS, XS)
    with pytest.raises(sl.ArgumentTypeError, match="asked vmap for fun=3"):
        T.vmap(3)
    with pytest.raises(ValueError, match="asked vmap to map over an axis"):
        T.vmap(jnp.add)(XS, XS.T)


# States that are dealt out to the lanes.


class Deck(sl.State):
    """Each lane gets the value plus its number; the rest is what comes after them."""

    def split_lanes(self, value, count):
        return value + 1 + jnp.arange(count), value + 1 + count


def test_a_state_may_deal_a_part_of_itself_to_each_lane():
    deck = Deck(jnp.asarray(10))

    def fun(x):
        mine = deck.value
        deck.value = mine * 100
        return mine + x

    close(T.vmap(fun)(jnp.zeros(3, int)), jnp.array([11, 12, 13]))
    # What the lanes did with theirs is their own.
    assert deck.value == 14
    close(T.vmap(lambda x: x)(XS), XS)
    assert deck.value == 14


def test_each_lane_draws_with_a_key_of_its_own():
    rng = sl.random.RandomState(7)
    key = rng.value
    draws = T.vmap(lambda x: rng.normal(size=2) + x)(XS)
    keys = jax.random.split(key, 4)
    theirs = jax.vmap(lambda k: jax.random.normal(jax.random.split(k)[1], (2,)))(keys[1:])
    close(draws, theirs + XS)
    assert rng.value == keys[0]
    # Another call draws other numbers.
    assert not np.allclose(T.vmap(lambda x: rng.normal(size=2) + x)(XS), draws)


def test_a_key_with_an_axis_is_a_key_for_each_lane():
    rng = sl.random.RandomState(7)
    rng.value = jax.random.split(jax.random.key(1), 3)
    keys = rng.value
    draws = T.vmap(lambda x: rng.normal() + x, in_states=rng)(jnp.zeros(3))
    halves = jax.vmap(jax.random.split)(keys)
    close(draws, jax.vmap(jax.random.normal)(halves[:, 1]))
    assert jnp.all(rng.value == halves[:, 0])


def test_keys_are_dealt_out_in_nested_vmap_jit_and_scan():
    rng = sl.random.RandomState(7)
    key = rng.value
    nested = T.vmap(lambda row: T.vmap(lambda x: rng.uniform() + 0 * x)(row))
    draws = nested(XS)
    outer = jax.random.split(key, 4)[1:]
    inner = jax.vmap(lambda k: jax.random.split(k, 3)[1:])(outer)
    draw = lambda k: jax.random.uniform(jax.random.split(k)[1])  # noqa: E731
    close(draws, jax.vmap(jax.vmap(draw))(inner))
    assert len(np.unique(draws)) == 6
    rng.value = key
    close(sl.jit(nested)(XS), draws)
    assert rng.value == jax.random.split(key, 4)[0]
    rng.value = key
    [scanned] = T.for_loop(nested, XS[None])
    close(scanned, draws)


def test_a_key_is_as_it_was_after_a_failure():
    rng = sl.random.RandomState(7)
    key = rng.value

    def fun(x):
        rng.normal()
        raise ZeroDivisionError("in a lane")

    with pytest.raises(ZeroDivisionError, match="in a lane"):
        T.vmap(fun)(XS)
    assert rng.value == key
