"""States that are made again by `init_state`, outside of transforms and inside."""

import jax.numpy as jnp
import pytest

import statelens as sl

T = sl.transform
X = jnp.ones((2, 3))


class Memory(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = sl.ParamState(jnp.array(0.5))

    def init_state(self, batch_size=1, start=0.0):
        self.h = sl.HiddenState(jnp.full((batch_size, 3), start))

    def __call__(self, x):
        self.h.value = self.rate.value * self.h.value + x
        return self.h.value


class Net(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Memory(), Memory()]
        self.read_out = sl.ParamState(jnp.ones((3, 1)))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x @ self.read_out.value


def test_each_module_makes_its_states():
    net = Net()
    assert sl.nn.init_all_states(net, 2, start=1.0) is net
    assert list(net.states(sl.HiddenState)) == [("layers", 0, "h"), ("layers", 1, "h")]
    assert (net.layers[1].h.value == 1).all()
    before = net.layers[0].h
    sl.nn.init_all_states(net, 4)
    assert net.layers[0].h is not before
    assert net.layers[0].h.value.shape == (4, 3)


TRANSFORMS = {
    "jit": sl.jit,
    "checkpoint": T.checkpoint,
    "grad": lambda fun: lambda x: sl.grad(lambda x: (fun(x), 0.0)[1])(1.0),
    "for_loop": lambda fun: lambda x: T.for_loop(lambda _: fun(x), X),
    "cond": lambda fun: lambda x: T.cond(True, lambda: fun(x), lambda: None),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_inside_of_a_transform_the_state_gets_the_value(transform):
    net = sl.nn.init_all_states(Net(), 2)
    state = net.layers[0].h
    net(X)

    def fun(x):
        sl.nn.init_all_states(net, 2, start=3.0)

    transform(fun)(X)
    assert net.layers[0].h is state
    assert (state.value == 3).all()


def test_a_sequence_in_a_compiled_step_begins_anew():
    net = sl.nn.init_all_states(Net(), 2)

    @sl.jit
    def run(xs):
        sl.nn.init_all_states(net, 2)
        return T.for_loop(net, xs)

    xs = jnp.ones((4, 2, 3))
    first = run(xs)
    assert (run(xs) == first).all()
    sl.nn.init_all_states(net, 2)
    assert jnp.allclose(T.for_loop(net, xs), first)
    loss = sl.grad(lambda xs: run(xs).sum(), grad_states=net.states(sl.ParamState))
    assert list(loss(xs)) == list(net.states(sl.ParamState))


def test_what_is_no_module_is_refused():
    with pytest.raises(sl.StateLensError, match="that is a dict"):
        sl.nn.init_all_states({})


def test_states_are_a_mapping_that_ported_programs_know():
    net = sl.nn.init_all_states(Net(), 2)
    states = net.states(sl.HiddenState)
    assert list(states.to_dict_values()) == list(states.values_dict())
    assert states.copy() == dict(states.items())
    assert type(states.copy()) is dict
