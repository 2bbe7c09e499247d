"""Donation of states and of arguments."""

import contextlib
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, counted
from tests.transform.compilation.net import Net, values_of

close = functools.partial(close, rtol=1e-6)

T = sl.transform
X = jnp.array([1.0, 2.0, 3.0])


def test_arguments_are_donated():
    f = sl.jit(lambda x, y: (x + 1, y * 2), donate_argnums=0)
    x, y = jnp.ones(3), jnp.ones(4)
    close(f(x, y), (jnp.full(3, 2.0), jnp.full(4, 2.0)))
    assert (x.is_deleted(), y.is_deleted()) == (True, False)
    g = sl.jit(lambda x, y: (x + 1, y * 2), donate_argnames="y")
    x, y, z = jnp.ones(3), jnp.ones(4), jnp.ones(4)
    g(x, y), g(x, y=z)
    assert (x.is_deleted(), y.is_deleted(), z.is_deleted()) == (False, True, True)


def step_of(net):
    def step(x):
        net.w.value = net.w.value + x
        net.b.value = net.b.value + x
        return jnp.sum(x)

    return step


@pytest.mark.parametrize(
    ("spec", "deleted"),
    [
        (lambda net: True, "wb"),
        (lambda net: sl.ParamState, "wb"),
        (lambda net: sl.tagged("big"), "w"),
        (lambda net: net.states("w"), "w"),
        (lambda net: [net.b], "b"),
        (lambda net: net.b, "b"),
        (lambda net: {"x": net.w}, "w"),
        (lambda net: sl.HiddenState, ""),
        (lambda net: False, ""),
    ],
    ids=["all", "class", "tag", "bound", "list", "one", "dict", "other class", "none"],
)
def test_states_are_donated(spec, deleted):
    net = Net()
    net.w = sl.ParamState(jnp.ones((3, 3)), tag="big")
    run, runs = counted(step_of(net))
    f = sl.jit(run, donate_states=spec(net))
    for number in range(3):
        before = {"w": net.w.value, "b": net.b.value, "calls": net.calls.value}
        f(jnp.ones(3))
        assert {name for name, x in before.items() if x.is_deleted()} == set(deleted)
        close(net.w.value, jnp.full((3, 3), 2.0 + number))
    assert len(runs) == 1


def test_a_state_whose_array_another_one_has_too_is_not_donated():
    net = Net()
    net.b.value = net.w.value
    f = sl.jit(
        lambda x: (net.w.value * x, setattr(net.w, "value", net.b.value + 1)), donate_states=net.w
    )
    for _ in range(2):
        with pytest.raises(
            sl.ArgumentError, match=r"donate the array of ParamState.*\n.*ParamState.*same array"
        ):
            f(X)
    assert not net.w.value.is_deleted()
    net.b.value = jnp.copy(net.w.value)
    f(X)
    assert net.w.value is not net.b.value


def test_a_state_whose_array_is_an_argument_too_is_not_donated():
    state = sl.State(jnp.ones(3), name="weight")
    f = sl.jit(lambda x: setattr(state, "value", state.value + x), donate_states=True)
    with pytest.raises(
        sl.ArgumentError, match=r"name='weight'.*\nargument 0 has the very same array"
    ):
        f(state.value)
    f(jnp.ones(3))
    assert (state.value == 2).all()


def tied():
    table = jnp.ones(3)
    return {"embed": {"w": table}, "head": [jnp.ones(2), table]}


@pytest.mark.parametrize(
    "option", [{"donate_argnums": 0}, {"donate_states": sl.lens("{embed,head}.**")}]
)
def test_an_array_that_is_twice_in_a_donated_tree_is_named_by_both_paths(option):
    f = sl.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), **option)
    tree = tied()
    says = r"of argument 0 at 'embed\.w'\nargument 0 at 'head\[1\]' has the very same array"
    for _ in range(2):
        with pytest.raises(sl.ArgumentError, match=says):
            f(tree)
    apart = jax.tree.map(jnp.copy, tree)
    close(f(apart)["head"][1], jnp.full(3, 2.0))


def test_an_array_that_is_donated_and_kept_in_one_tree_is_named_by_both_paths():
    f = sl.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_states=sl.lens("head.**"))
    says = r"of argument 0 at 'head\[1\]'\nargument 0 at 'embed\.w' has the very same array"
    with pytest.raises(sl.ArgumentError, match=says):
        f(tied())


def test_an_array_of_two_states_that_are_written_alike_is_refused():
    one = jnp.ones(3)
    a, b = sl.State(one), sl.State(one)

    @sl.jit(donate_states=True)
    def f():
        a.value, b.value = a.value + 1, b.value + 1

    with pytest.raises(sl.ArgumentError, match="very same array"):
        f()


def test_an_array_that_is_twice_in_a_state_is_named_by_both_paths():
    state = sl.State(tied(), name="tied")

    @sl.jit(donate_states=True)
    def f():
        state.value = jax.tree.map(lambda x: x + 1, state.value)

    says = r"name='tied'\) at 'embed\.w'\n.*name='tied'\) at 'head\[1\]' has the very same array"
    with pytest.raises(sl.ArgumentError, match=says):
        f()
    assert not state.value["embed"]["w"].is_deleted()


def test_a_state_that_is_only_read_is_never_donated():
    net = Net()
    f = sl.jit(lambda x: net(x), donate_states=True)
    for _ in range(2):
        before = values_of(net)
        f(X)
        assert [x.is_deleted() for x in before] == [False, False, True]


def test_an_unbound_lens_donates_in_the_first_argument():
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    before = model.layers[0].weight, model.layers[1].weight, model.layers[0].bias
    f = sl.jit(
        lambda model, x: sl.inexact.update(model, lambda leaf: leaf + x),
        donate_states="**.weight",
    )
    expected = jax.tree.map(np.array, eqx.filter(model, eqx.is_array))
    after = f(model, 1.0)
    assert [x.is_deleted() for x in before] == [True, True, False]
    close(
        eqx.filter(after, eqx.is_array),
        jax.tree.map(lambda leaf: jnp.asarray(leaf + 1), expected),
    )
    again = f(after, 1.0)
    assert after.layers[0].weight.is_deleted()
    assert again.activation is model.activation


def test_an_argument_may_have_any_name():
    state = sl.State(jnp.array(1.0))
    f = sl.jit(lambda x, self, given: x + self + given + state.value)
    for _ in range(12):
        assert f(1.0, self=2.0, given=3.0) == 7


@pytest.mark.parametrize(
    "options",
    [{}, {"donate_argnums": 1}, {"donate_states": "layers[0].bias"}, {"donate_argnames": "more"}],
)
def test_messages_of_jax_name_leaves_by_paths(options):
    model = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))

    names = {
        "model": "model.layers[1].weight",
        "pair": "pair['a'][0]",
        "rest": "rest[0]",
        "flag": "flag",
        "more": "more['more']",
    }
    for wanted, name in names.items():

        def step(model, pair, *rest, flag, wanted=wanted, **more):
            found = {"model": model.layers[1].weight, "pair": pair["a"][0], "rest": rest[0]}
            return 0 if jnp.sum({**found, "flag": flag, **more}[wanted]) > 0 else 1

        pair = {"a": (jnp.ones(2), jnp.zeros(2)), "b": "text"}
        with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
            sl.jit(step, **options)(model, pair, 1.0, flag=2.0, more=jnp.ones(3))
        assert f"the value of the argument {name}.\n" in str(caught.value)


def test_names_in_messages_need_not_be_different():
    class Pair:
        def __init__(self, a, b):
            self.a, self.b = a, b

    key = jax.tree_util.GetAttrKey("k")
    jax.tree_util.register_pytree_with_keys(
        Pair, lambda pair: (((key, pair.a), (key, pair.b)), None), lambda _, parts: Pair(*parts)
    )
    state = sl.State(jnp.ones(2))
    f = sl.jit(lambda state_0, pair: state_0 + state.value + pair.a - 2 * pair.b)
    for _ in range(12):
        np.testing.assert_array_equal(f(1.0, Pair(jnp.ones(2), jnp.ones(2))), jnp.ones(2))


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("donated", [{"donate_argnums": 1}, {"donate_argnames": "y"}])
@pytest.mark.parametrize("call", [lambda f, x, y: f(x, y), lambda f, x, y: f(y=y, x=x)])
def test_a_second_program_donates_no_other_argument(is_late, donated, call):
    state, runs = sl.State(jnp.zeros(3)), []
    # What an iterator is going to give isn't found before the function runs.
    where = iter([state] * 9) if is_late else [state]

    def step(x, y):
        runs.append(x)
        cell = where[0] if isinstance(where, list) else next(where)
        cell.value = cell.value + x["a"]
        return x["a"] - 2 * y

    f = sl.jit(step, donate_states=True, **donated)
    for number in range(1, 15):
        x, y = {"a": jnp.full(3, 10.0), "b": "text"}, jnp.full(3, 1.0)
        np.testing.assert_array_equal(call(f, x, y), jnp.full(3, 8.0))
        np.testing.assert_array_equal(state.value, jnp.full(3, 10.0 * number))
        assert not x["a"].is_deleted()
    assert len(runs) == 1 + is_late


@pytest.mark.parametrize("options", [{"donate_argnums": 0}, {"donate_argnames": "x"}])
def test_nothing_is_passed_for_a_donated_argument_that_is_not_given(options):
    calls = sl.State(jnp.array(0))

    def count(*args, x=None):
        calls.value += 1
        return jnp.array(len(args) + (x is not None))

    f = sl.jit(count, max_traces=2, **options)
    assert [int(f()) for _ in range(20)] == [0] * 20
    assert [int(f(jnp.ones(2))) for _ in range(20)] == [1] * 20
    assert calls.value == 40


def test_keywords_in_another_order_are_no_other_trace():
    f = sl.jit(lambda **named: named["b"]["w"] - named["a"], max_traces=1)
    for _ in range(12):
        assert f(a=1.0, b={"w": 3.0, "text": "t"}) == 2
        assert f(b={"w": 3.0, "text": "t"}, a=1.0) == 2


def test_messages_of_jax_count_arguments_as_the_caller_does():
    states = [sl.State(jnp.array(1.0)) for _ in range(3)]

    def total(x, is_state=False):
        found = sum(state.value for state in states)
        return found if (states[1].value if is_state else x) > 0 else -found

    for _ in range(2):
        with pytest.raises(jax.errors.TracerBoolConversionError, match=r"argument x\."):
            sl.jit(total)(1.0)
    with pytest.raises(jax.errors.TracerBoolConversionError, match=r"argument state_1"):
        sl.jit(total, static_argnames="is_state")(1.0, is_state=True)
    compiled = sl.jit(lambda x, y: x + y + states[0].value).lower(1.0, jnp.ones(2)).compile()
    with pytest.raises(TypeError, match=r"'y' compiled with float32\[2\]"):
        compiled(1.0, jnp.ones(3))


@pytest.mark.parametrize(
    ("stage", "instead"),
    [("trace", r"its \.lower\(\)\.compile\(\)"), ("lower", r"its \.compile\(\)")],
)
def test_a_stage_that_is_not_compiled_says_how_it_comes_to_be(stage, instead):
    f = sl.jit(lambda x: 2 * x)
    with pytest.raises(sl.ArgumentTypeError, match=f"(?s)isn't compiled yet.*{instead}"):
        getattr(f, stage)(X)(X)


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (({"layer": {"weight": jnp.ones(2)}},), r"closest paths are 'layer.weight'"),
        ((), r"there is no tree to look at(.|\n)*model.states"),
        ((jnp.ones(2),), r"the tree is an array"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_where_it_is_to_be_donated(args, found):
    state = sl.State(jnp.ones(2))

    def fun(*args):
        state.value += 1.0

    match = f"asked jit with donate_states for 'layer.weigth', which matches nothing\n.*{found}"
    with pytest.raises(sl.PathError, match=match):
        sl.jit(fun, donate_states="layer.weigth")(*args)
    close(state.value, jnp.ones(2))
    sl.jit(fun, donate_states="layer.weigth?")(*args)
    close(state.value, jnp.full(2, 2.0))


def test_a_pattern_may_match_in_a_state_alone():
    state = sl.State({"weight": jnp.ones(2)})
    before = state.value["weight"]

    def fun():
        state.value = {"weight": state.value["weight"] + 1.0}

    sl.jit(fun, donate_states="weight")()
    close(state.value["weight"], jnp.full(2, 2.0))
    assert before.is_deleted()


def test_an_unbound_lens_donates_where_a_state_that_the_function_leads_to_is_not_touched():
    touched, other = sl.State(jnp.arange(3.0)), sl.State(jnp.ones(5))

    def fun(tree, x, is_other=False):
        if is_other:
            other.value += x
        touched.value += x
        return {**tree, "a": tree["a"] * touched.value}

    f = sl.jit(fun, donate_states="a")
    tree = {"a": jnp.full(3, 2.0), "b": jnp.zeros(2)}
    for number in range(1, 4):
        before, expected = tree["a"], tree["a"] * (touched.value + 1.0)
        tree = f(tree, 1.0)
        close(tree["a"], expected)
        assert before.is_deleted()
        close(touched.value, jnp.arange(3.0) + number)
    assert f.states == ((touched,), (touched,))


def test_donation_inside_of_another_transform_deletes_nothing_that_is_still_needed():
    state = sl.State(jnp.ones(3))
    inner = sl.jit(lambda x: setattr(state, "value", state.value * x), donate_states=True)
    before = state.value

    def fails(x):
        inner(x)
        raise ValueError("after the call")

    with pytest.raises(ValueError, match="after the call"):
        sl.grad(fails)(2.0)
    with sl.overlay():
        inner(2.0)
    assert state.value is before
    assert not before.is_deleted()


DERIVATIVES = {
    "grad": lambda loss, state: sl.grad(loss, state)(),
    "vjp": lambda loss, state: T.vjp(loss, grad_states=state),
    "jacfwd": lambda loss, state: T.jacfwd(loss, state)(),
    "jacrev": lambda loss, state: T.jacrev(loss, state)(),
    "hessian": lambda loss, state: T.hessian(loss, state)(),
    "grad of its argument": lambda loss, _: sl.grad(lambda y: y * loss())(1.0),
    "per_example_grad": lambda loss, state: T.per_example_grad(lambda x: loss(), state)(X),
    "grad in vmap": lambda loss, state: T.vmap(lambda y: sl.grad(loss, state)())(X),
    "grad of checkpoint": lambda loss, state: sl.grad(T.checkpoint(loss), state)(),
    "grad of cond": lambda loss, state: sl.grad(lambda: T.cond(True, loss, loss), state)(),
}


@pytest.mark.parametrize("derivative", DERIVATIVES)
@pytest.mark.parametrize("ending", [ValueError, KeyboardInterrupt, None])
def test_a_state_survives_a_derivative_that_is_cut_short_after_a_step_that_donates_it(
    derivative, ending
):
    state = sl.State(jnp.ones(3))
    step = sl.jit(lambda x: setattr(state, "value", state.value * x), donate_states=True)
    step(2.0), step(2.0)

    def loss():
        step(2.0)
        if ending is not None:
            raise ending("after the call")
        return jnp.sum(state.value)

    stops = contextlib.nullcontext() if ending is None else pytest.raises(ending, match="after")
    with stops:
        DERIVATIVES[derivative](loss, state)
    close(state.value, jnp.full(3, 4.0 if ending else 8.0))


def test_a_state_survives_a_loss_that_is_no_scalar():
    state = sl.State(jnp.ones(3))
    step = sl.jit(lambda: setattr(state, "value", state.value * 2), donate_states=True)
    with pytest.raises(sl.DifferentiationError, match="scalar"):
        sl.grad(lambda: (step(), state.value)[1], state)()
    close(state.value, jnp.ones(3))


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
@pytest.mark.parametrize("calls_before", [0, 1, 3])
@pytest.mark.parametrize(
    "transform", [lambda f: jax.grad(f)(1.0), lambda f: jax.vmap(f)(X), lambda f: jax.jit(f)(1.0)]
)
def test_a_state_survives_a_plain_transform_that_may_not_write_it(calls_before, transform):
    state = sl.State(jnp.ones(3))
    step = sl.jit(lambda x: setattr(state, "value", state.value * x), donate_states=True)
    for _ in range(calls_before):
        step(1.0)
    with pytest.raises(sl.TracerLeakError, match="a plain JAX transform is running"):
        transform(lambda y: (step(y), y)[1])
    close(state.value, jnp.ones(3))
    step(2.0)
    close(state.value, jnp.full(3, 2.0))


def test_an_argument_that_is_donated_by_name_is_donated_by_position():
    x, y = jnp.ones(4), jnp.ones(4)
    jax.jit(lambda x: 2 * x, donate_argnames="x")(x)
    sl.jit(lambda x: 2 * x, donate_argnames="x")(y)
    assert x.is_deleted()
    assert y.is_deleted()


@pytest.mark.parametrize(
    ("option", "named"),
    [({"donate_argnums": 0}, "donate_argnums"), ({"donate_argnames": "b"}, "donate_argnames")],
)
def test_an_argument_that_is_donated_and_given_twice_is_refused_by_its_option(option, named):
    f = sl.jit(lambda a, b: a + b, **option)
    x = jnp.ones(3)
    for _ in range(2):
        with pytest.raises(sl.ArgumentError, match="very same array") as raised:
            f(x, b=x)
        assert named in str(raised.value)
        assert "donate_states" not in str(raised.value)
        close(f(jnp.ones(3), b=jnp.ones(3)), jnp.full(3, 2.0))


def test_arguments_that_are_one_array_and_not_donated_are_no_trouble():
    f = sl.jit(lambda a, b, c: a + b + c, donate_argnums=2)
    x, gone = jnp.ones(3), jnp.ones(3)
    f(x, x, gone)
    with pytest.raises((RuntimeError, ValueError), match="deleted"):
        f(x, x, gone)


@pytest.mark.parametrize("option", [{}, {"donate_states": True}, {"donate_argnums": 0}])
def test_a_failed_check_is_raised_whatever_its_text_says_of_donation(option):
    state = sl.State(jnp.ones(3), name="donated")

    def donate(v):
        T.jit_error_if(jnp.any(v < 0), "the donation {} is negative", v[0])
        state.value = state.value + v

    f = sl.jit(donate, **option)
    for number in range(3):
        f(jnp.ones(3))
        with pytest.raises(ValueError, match=r"the donation -1\.0 is negative"):
            f(-jnp.ones(3))
        close(state.value, jnp.full(3, 2.0 + number))
