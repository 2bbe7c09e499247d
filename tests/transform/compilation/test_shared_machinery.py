"""What one program, thread or module does must not be felt by another one."""

import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import profiled_by


class Counter(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.step = 0
        self.scale = 2.0
        self.weight = sl.ParamState(jnp.ones(2))

    def __call__(self, x):
        return self.scale * self.weight.value * x


def functions_called(run):
    """Lists the functions of the library that a call goes through."""
    found, before = [], sys.getprofile()

    def profile(frame, event, _):
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("statelens"):
            found.append(f"{name}.{frame.f_code.co_qualname}")

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return found


def set_another_attribute(model, other):
    model.step += 1


def set_an_attribute_of_another_module(model, other):
    other.scale += 1


def make_a_module(model, other):
    Counter()


@pytest.mark.parametrize(
    "change", [set_another_attribute, set_an_attribute_of_another_module, make_a_module]
)
def test_what_a_program_has_not_read_does_not_send_it_the_long_way(change):
    model, other = Counter(), Counter()
    call = sl.jit(lambda x: model(x))
    for _ in range(12):
        call(1.0)
    undisturbed = functions_called(lambda: call(1.0))
    change(model, other)
    assert functions_called(lambda: call(1.0)) == undisturbed


def test_an_attribute_set_to_what_it_was_is_looked_at_once():
    model = Counter()
    call = sl.jit(lambda x: model(x))
    for _ in range(12):
        call(1.0)
    undisturbed = functions_called(lambda: call(1.0))
    model.scale = 2.0
    call(1.0)
    assert functions_called(lambda: call(1.0)) == undisturbed


def test_what_a_program_has_read_makes_another_program():
    model = Counter()
    call = sl.jit(lambda x: model(x))
    assert call(1.0)[0] == 2
    model.scale = 3.0
    assert call(1.0)[0] == 3
    model.scale = 2.0
    assert call(1.0)[0] == 2


def test_a_program_in_a_program_is_looked_at_again_too():
    model = Counter()
    inner = sl.jit(lambda x: model(x))
    outer = sl.jit(lambda x: inner(x) + 1)
    assert outer(1.0)[0] == 3
    model.scale = 3.0
    assert outer(1.0)[0] == 4


def test_each_programs_errors_are_its_own():
    def failing(name):
        state = sl.State(jnp.zeros(()), name=name)

        @sl.jit
        def run(x):
            state.value += 1
            sl.transform.jit_error_if(x > 0, name + " is {}", x)
            return x

        return run

    start = threading.Barrier(2)
    wrong = []

    def work(name):
        run = failing(name)
        run(-1.0)
        start.wait()
        for number in range(200):
            try:
                run(1.0 + number)
            except ValueError as error:
                if type(error) is ValueError and str(error) == f"{name} is {1.0 + number}":
                    continue
                wrong.append(error)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_check_of_a_program_in_a_program_raises_its_own_error():
    @sl.jit
    def inner(x):
        sl.transform.jit_error_if(x > 0, "x is {}", x)
        return x

    first, second = sl.jit(lambda x: inner(x) + 1), sl.jit(lambda x: inner(x) + 2)
    for outer in (first, second, first):
        with pytest.raises(ValueError, match=r"^x is 3\.0$"):
            outer(3.0)


DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.mark.parametrize(
    "options",
    [{"in_shardings": DEVICE}, {"out_shardings": DEVICE}, {"donate_states": "x"}],
    ids=lambda options: next(iter(options)),
)
def test_a_later_call_goes_straight_to_the_program(options):
    weight = sl.State(jnp.ones(3))

    def scaled(model):
        weight.value += 1.0
        return {"x": model["x"] * weight.value}

    f, model = sl.jit(scaled, **options), {"x": jnp.ones(3)}
    for _ in range(4):
        model = f(model)
    called = functions_called(lambda: f(model))
    assert any(name.endswith("Dispatch.call") for name in called)
    assert not any(name.endswith(("JitFunction._call", "Program.run")) for name in called)
    np.testing.assert_array_equal(weight.value, jnp.full(3, 6.0))


def test_an_array_that_lies_right_is_not_placed_again():
    f, x = sl.jit(lambda x, y: x + y, in_shardings=DEVICE), jax.device_put(jnp.ones(3), DEVICE)
    for _ in range(3):
        f(x, x)
    places = []
    with profiled_by(lambda frame, event, _: places.append(frame.f_code.co_name)):
        f(x, x)
    assert "device_put" not in places
