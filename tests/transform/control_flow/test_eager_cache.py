"""The cache of eager control flow: how many programs it keeps, and for how long."""

import functools
import gc
import threading
import types
import weakref
from collections import deque

import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

# No public name says how many programs are cached, or how many may be.
from statelens.transform.control_flow import _eager_cache

T = sl.transform
XS = jnp.arange(4.0)


@pytest.fixture
def few(monkeypatch):
    """An empty cache of at most five programs."""
    programs = type(_eager_cache.programs)(5)
    monkeypatch.setattr(_eager_cache, "programs", programs)
    return programs


def test_the_cache_has_a_bound():
    assert _eager_cache.programs.most == 256


def test_many_lengths_leave_no_more_programs_than_the_bound(few):
    runs = 0

    def body():
        nonlocal runs
        runs += 1
        return jnp.ones(())

    for length in range(1, 60):
        assert T.for_loop(body, length=length).shape == (length,)
        assert len(few) <= 5
    # The latest ones are cached, an older one is staged again.
    before = runs
    T.for_loop(body, length=59)
    assert runs == before
    T.for_loop(body, length=1)
    assert runs == before + 1


def test_the_program_that_was_used_last_is_evicted_last(few):
    runs = 0

    def body():
        nonlocal runs
        runs += 1
        return jnp.ones(())

    for length in (1, 2, 3, 4, 5, 1, 6, 7, 8, 9):
        T.for_loop(body, length=length)
    before = runs
    T.for_loop(body, length=1)
    assert runs == before


def test_an_evicted_program_ends_and_leaves_nothing_at_its_function(few):
    def body():
        return jnp.ones(())

    T.for_loop(body, length=1)
    references = weakref.getweakrefcount(body)
    first = weakref.ref(few.values()[0])
    for length in range(2, 40):
        T.for_loop(body, length=length)
    gc.collect()
    assert first() is None
    # Each program that is still cached refers to its function once or more, and no other does.
    assert weakref.getweakrefcount(body) <= 5 * references


def test_the_programs_of_a_function_end_with_it(few):
    def make():
        state = sl.State(jnp.zeros(()))

        def body():
            state.value = state.value + 1
            return state.value

        for length in (1, 2, 3):
            T.for_loop(body, length=length)
        return [weakref.ref(each) for each in (body, state, *few.values())]

    refs = make()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 5
    assert len(few) == 0


def test_the_programs_of_a_method_end_with_its_object(few):
    class Body:
        def method(self):
            return jnp.ones(())

    body = Body()
    T.for_loop(body.method, length=2)
    T.for_loop(body.method, length=2)
    assert len(few) == 1
    del body
    gc.collect()
    assert len(few) == 0


def test_threads_may_fill_the_cache_at_the_same_time(few):
    errors = []

    def fill(offset):
        try:
            for length in range(1, 12):
                out = T.for_loop(lambda: jnp.ones(()), length=length + offset)
                assert out.shape == (length + offset,)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=fill, args=(10 * number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(few) <= 5


scale = 1.0


def test_a_number_in_a_lambda_of_the_body_is_seen():
    global scale
    scale = 2.0

    def body(x):
        return (lambda y: y * scale)(x)

    assert (T.for_loop(body, XS) == 2 * XS).all()
    scale = 3.0
    assert (T.for_loop(body, XS) == 3 * XS).all()


class Scaling:
    def __call__(self, x):
        return x * scale


def test_a_number_in_an_object_that_the_body_calls_is_seen():
    global scale
    scale = 2.0
    call = Scaling()

    def body(x):
        return call(x)

    assert (T.for_loop(body, XS) == 2 * XS).all()
    scale = 3.0
    assert (T.for_loop(body, XS) == 3 * XS).all()


def test_what_a_lambda_of_the_body_counts_up_is_not_what_it_depends_on():
    runs = 0

    def body(x):
        def count():
            nonlocal runs
            runs += 1
            return x

        return count()

    for _ in range(3):
        T.for_loop(body, XS)
    assert runs == 1


class Holder(sl.nn.Module):
    def __init__(self, array):
        super().__init__()
        self.array = array


# What closes over a NumPy array, and adds its first number to what it is given.
OVER = {
    "a name": lambda a: lambda x: x + a[0],
    "a list": lambda a: functools.partial(lambda box, x: x + box[0][0], [a]),
    "a list in a dictionary": lambda a: functools.partial(
        lambda b, x: x + b["a"][0][0], {"a": [a]}
    ),
    "a deque": lambda a: functools.partial(lambda box, x: x + box[0][0], deque([a])),
    "an attribute": lambda a: functools.partial(
        lambda o, x: x + o.a[0], types.SimpleNamespace(a=a)
    ),
    "a module": lambda a: functools.partial(lambda m, x: x + m.array[0], Holder(a)),
    "a default": lambda a: functools.partial(lambda x, a=a: x + a[0]),
}
CALLS = {
    "for_loop": lambda f: T.for_loop(f, jnp.zeros(1))[0],
    "scan": lambda f: T.scan(_carried(f), 0.0, jnp.zeros(1))[0],
    "map": lambda f: T.map(f, jnp.zeros(1))[0],
    "map in chunks": lambda f: T.map(f, jnp.zeros(4), batch_size=2)[0],
    "cond": lambda f: T.cond(True, f, lambda x: x, 0.0),
    "while_loop": lambda f: T.while_loop(_is_small, f, 0.0),
}


def _is_small(x):
    return x < 1


@functools.lru_cache
def _carried(f):
    return lambda carry, x: (f(carry), x)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("by", OVER)
def test_an_array_of_numpys_that_is_changed_in_place_is_seen(name, by):
    array = np.ones(3)
    body = OVER[by](array)
    assert CALLS[name](body) == 1
    array[:] = 7
    assert CALLS[name](body) == 7


def test_one_of_numpys_that_stays_as_it_was_means_no_other_trace():
    array, runs = np.ones(3), []

    def body(x):
        runs.append(1)
        return x + array

    for _ in range(3):
        T.for_loop(body, jnp.zeros(2))
    assert len(runs) == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_large_one_that_is_a_constant_is_seen_too(name):
    array = np.ones(20_000, np.float32)

    def body(x):
        return (x + array).max()

    assert CALLS[name](body) == 1
    array[:] = 7
    assert CALLS[name](body) == 7


def test_of_a_large_one_that_gives_its_shape_only_the_content_is_not_looked_at():
    array, runs = np.ones(20_000), []

    def body(x):
        runs.append(1)
        return x + len(array)

    for number in range(3):
        array[:] = number
        assert T.for_loop(body, jnp.zeros(1)) == 20_000
    assert len(runs) == 1
    array = np.ones(10_000)
    assert T.for_loop(body, jnp.zeros(1)) == 10_000


def test_a_list_that_leads_to_itself_is_no_trouble():
    ring: list = [2.0]
    ring.append(ring)
    body = functools.partial(lambda r, x: x * r[0], ring)
    assert T.for_loop(body, jnp.ones(1)).tolist() == [2]
    ring[0] = 3.0
    assert T.for_loop(body, jnp.ones(1)).tolist() == [3]
