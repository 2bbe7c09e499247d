"""States that are made again where a transform runs stand for those that are there."""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import statelens as sl

T = sl.transform
H = sl.HiddenState


class Owner(sl.nn.Module):
    h: sl.HiddenState
    hs: Any
    a: sl.HiddenState
    b: sl.HiddenState
    weight: sl.ParamState

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


TRANSFORMS = {
    "jit": sl.jit,
    "checkpoint": T.checkpoint,
    "grad": lambda fun: lambda: sl.grad(lambda x: (fun(), x)[1])(1.0),
    "vmap": lambda fun: lambda: T.vmap(lambda _: fun())(jnp.ones(2)) and None,
    "scan": lambda fun: lambda: T.scan(lambda c, x: (c, fun()), 0, jnp.ones(2)) and None,
    "for_loop": lambda fun: lambda: T.for_loop(lambda _: fun(), jnp.ones(2)),
    "cond": lambda fun: lambda: T.cond(True, lambda: fun(), lambda: None),
    "jit of for_loop": lambda fun: sl.jit(lambda: T.for_loop(lambda _: fun(), jnp.ones(2))),
    "grad of jit": lambda fun: lambda: sl.grad(lambda x: (sl.jit(lambda: fun())(), x)[1])(1.0),
}
every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


@every_transform
def test_what_is_written_to_a_new_state_after_it_was_set_is_kept(transform):
    model = Owner(h=H(jnp.zeros(2)))
    before = model.h

    def fun():
        h = H(jnp.ones(2))
        model.h = h
        h.value = h.value + model.h.value
        model.h.value = h.value + 1
        h.value = h.value * 2

    transform(fun)()
    transform(fun)()
    assert model.h is before
    assert (before.value == 6).all()


class Key(enum.Enum):
    A = 1
    B = 2


CONTAINERS = {
    "a list": lambda *states: list(states),
    "a tuple": lambda *states: states,
    "a dictionary": lambda a, b: {"a": a, "b": b},
    "nested": lambda a, b: {"x": [a, 3, "text"], "y": (b, None)},
    "keys that don't sort": lambda a, b: {Key.A: a, Key.B: [b]},
}


@every_transform
@pytest.mark.parametrize("made", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_of_states_are_made_anew_likewise(transform, made):
    a, b = H(jnp.zeros(2)), H(jnp.zeros(3))
    model = Owner(hs=made(a, b))
    before = model.hs

    def fun():
        first, second = H(jnp.ones(2)), H(jnp.ones(3))
        model.hs = made(first, second)
        first.value += 1
        a.value += first.value
        b.value *= 3

    transform(fun)()
    assert model.hs is before
    assert (a.value == 4).all()
    assert (b.value == 3).all()


def test_some_states_of_a_container_may_stay():
    a, b = H(jnp.zeros(2)), H(jnp.zeros(2))
    model = Owner(hs=[a, b])

    @sl.jit
    def fun(x):
        model.hs = [model.hs[0], H(x)]

    fun(jnp.ones(2))
    assert (a.value == 0).all()
    assert (b.value == 1).all()


def test_what_is_in_a_new_state_may_change_in_place():
    model = Owner(h=H({"a": jnp.zeros(2)}))

    @sl.jit
    def fun(x):
        h = H({"a": x})
        model.h = h
        h.value["a"] = h.value["a"] + 1

    fun(jnp.ones(2))
    assert (model.h.value["a"] == 2).all()


def test_a_new_state_is_the_old_one_in_transforms_inside():
    model = Owner(h=H(jnp.zeros(())), weight=sl.ParamState(jnp.array(2.0)))

    @sl.jit
    def fun(xs):
        h = H(jnp.ones(()))
        model.h = h

        def step(x):
            h.value = model.h.value * model.weight.value + x
            return h.value

        ys = T.for_loop(step, xs)
        inner = sl.jit(lambda: h.value + model.h.value)()
        T.cond(xs[0] > 0, lambda: setattr(h, "value", h.value + 100), lambda: None)
        with sl.overlay({h: jnp.array(5.0)}):
            seen = model.h.value
        return ys, inner, seen, h

    for _ in range(2):
        ys, inner, seen, h = fun(jnp.ones(2))
        assert ys.tolist() == [3, 7]
        assert (inner, seen, h.value) == (14, 5, 107)
        assert model.h.value == 107


def test_gradients_go_through_a_new_state():
    model = Owner(h=H(jnp.zeros(())), weight=sl.ParamState(jnp.array(3.0)))

    def loss(x):
        h = H(model.weight.value * x)
        model.h = h
        h.value = h.value**2
        return model.h.value

    for grad in (
        sl.grad(loss, model.states(sl.ParamState)),
        sl.jit(sl.grad(loss, model.states(sl.ParamState))),
    ):
        assert grad(2.0)["weight",] == 24
        assert model.h.value == 36


def test_a_value_of_another_shape_is_taken_as_an_assignment_takes_it():
    model = Owner(h=H(jnp.zeros((2, 3))))

    @sl.jit
    def begin(x):
        model.h = H(jnp.zeros((len(x), 3), jnp.bfloat16))

    begin(jnp.ones(4))
    assert (model.h.value.shape, model.h.value.dtype) == ((4, 3), jnp.bfloat16)
    with pytest.raises(sl.StructureError, match="for_loop"):
        T.for_loop(lambda x: setattr(model, "h", H(jnp.zeros(5))), jnp.ones(2))
    assert model.h.value.shape == (4, 3)


def test_lanes_that_differ_are_refused_as_in_any_write():
    model = Owner(h=H(jnp.zeros(())))
    with pytest.raises(sl.StateLensError, match="vmap"):
        T.vmap(lambda x: setattr(model, "h", H(x)))(jnp.ones(2))
    model.h.value = jnp.zeros(2)
    T.vmap(lambda x: setattr(model, "h", H(x)), in_states={model.h: 0}, out_states={model.h: 0})(
        jnp.arange(2.0)
    )
    assert model.h.value.tolist() == [0, 1]


class Noted(H):
    def __init__(self, value, note):
        super().__init__(value)
        self.note = note


a_state, another = H(jnp.zeros(2)), H(jnp.zeros(2))
MISFITS = {
    "class": (H(jnp.zeros(2)), sl.ParamState, "one is a ParamState, the other a HiddenState"),
    "name": (H(jnp.zeros(2)), lambda x: H(x, name="h"), "they differ in 'name'"),
    "tag": (H(jnp.zeros(2), tag="slow"), H, "they differ in 'tag'"),
    "note": (Noted(jnp.zeros(2), 1), lambda x: Noted(x, True), "they differ in 'note'"),
    "tied now": ([a_state, another], lambda x: [H(x)] * 2, "they aren't shared alike"),
    "no longer tied": ([a_state] * 2, lambda x: [H(x), H(x)], "they aren't shared alike"),
    "tied to what stays": (
        [another] * 2,
        lambda x: [another, H(x)],
        "they aren't shared alike",
    ),
}


@pytest.mark.parametrize(("before", "made", "message"), MISFITS.values(), ids=MISFITS)
def test_a_new_state_that_would_lose_more_than_its_value_is_refused(before, made, message):
    model = Owner(h=before)
    with pytest.raises(sl.FrozenTreeError, match=rf"(?s)attribute 'h' of a Owner.*{message}"):
        sl.jit(lambda x: setattr(model, "h", made(x)))(jnp.ones(2))
    assert all((each.value == 0).all() for each in model.states().values())


OTHERS = {
    "fewer": lambda x: [H(x)],
    "an array beside": lambda x: [H(x), x],
    "a state from outside": lambda x: [H(x), a_state],
    "none": lambda x: [],
}


@pytest.mark.parametrize("made", OTHERS.values(), ids=OTHERS)
def test_another_container_is_refused(made):
    model = Owner(hs=[H(jnp.zeros(2)), H(jnp.zeros(2))])
    with pytest.raises(sl.FrozenTreeError, match="asked to set or delete the attribute 'hs'"):
        sl.jit(lambda x: setattr(model, "hs", made(x)))(jnp.ones(2))
    assert [each.value.tolist() for each in model.hs] == [[0, 0], [0, 0]]


def test_one_new_state_in_two_attributes_is_refused():
    model = Owner(a=H(jnp.zeros(2)), b=H(jnp.zeros(2)))

    @sl.jit
    def fun(x):
        model.a = model.b = H(x)

    with pytest.raises(sl.FrozenTreeError, match=r"attribute '[ab]'"):
        fun(jnp.ones(2))
    model.b = model.a
    fun(jnp.ones(2))
    assert (model.a.value == 1).all()


def test_a_module_that_is_made_in_the_call_has_its_own_states():
    outside = H(jnp.zeros(2))

    @sl.jit
    def fun(x):
        model = Owner(h=outside)
        model.h = H(x)
        model.h = H(model.h.value + 1)
        return model.h.value

    assert fun(jnp.ones(2)).tolist() == [2, 2]
    assert (outside.value == 0).all()


def test_an_argument_is_not_written():
    model = Owner(h=H(jnp.zeros(2)))

    def fun(model, x):
        model.h = H(x)
        return model.h.value

    with pytest.raises(sl.FrozenTreeError, match="the state 'h'"):
        sl.jit(fun)(model, jnp.ones(2))
    out, after = sl.jit(sl.thread(fun))(model, jnp.ones(2))
    assert out.tolist() == after.h.value.tolist() == [1, 1]
    assert (model.h.value == 0).all()


def test_a_new_state_ends_with_the_call():
    model = Owner(h=H(jnp.zeros(2)))
    kept = []

    @sl.jit
    def fun(x):
        kept.append(H(x))
        model.h = kept[-1]

    fun(jnp.ones(2))
    with pytest.raises(sl.StateLensError, match="made inside a transformed function"):
        _ = kept[0].value
    with sl.overlay() as trial:
        h = H(jnp.ones(2))
        model.h = h
        h.value += 5
    assert list(trial.writes) == [model.h]
    assert (trial.writes[model.h] == 6).all()
    with pytest.raises(sl.StateLensError, match="made inside"):
        _ = h.value


def test_what_fails_leaves_the_state():
    model = Owner(h=H(jnp.zeros(2)))

    @sl.jit
    def fun(x):
        model.h = H(x)
        raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        fun(jnp.ones(2))
    assert (model.h.value == 0).all()


def test_new_states_of_lanes_replace_those_of_before():
    model = Owner(h=H(jnp.zeros(2)))
    before = model.h
    T.vmap_new_states(lambda x: setattr(model, "h", H(x)))(jnp.arange(3.0))
    assert model.h is not before
    assert model.h.value.tolist() == [0, 1, 2]
    assert (before.value == 0).all()


def test_plain_jax_is_refused_as_before():
    model = Owner(h=H(jnp.zeros(2)))
    with pytest.raises(sl.FrozenTreeError, match="attribute 'h'"):
        jax.jit(lambda x: setattr(model, "h", H(x)))(jnp.ones(2))


def test_a_derivative_by_a_new_state_is_one_by_the_state_that_it_stands_for():
    model = Owner(h=H(jnp.zeros(2)))

    @sl.jit
    def fun(x):
        h = H(x)
        model.h = h
        return sl.grad(lambda: jnp.sum(h.value**2), [h])(), sl.grad(
            lambda: jnp.sum(model.h.value**2), {"h": h}
        )()

    (by_new,), by_name = fun(jnp.arange(2.0))
    assert (by_new == jnp.array([0.0, 2.0])).all()
    assert (by_name["h"] == by_new).all()
