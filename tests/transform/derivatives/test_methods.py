"""Derivatives as decorators of methods: objects that are closed over, and objects that aren't."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

T = sl.transform
DERIVATIVES = {
    "grad": {},
    "value_and_grad": {},
    "vector_grad": {},
    "fwd_grad": {"key": 0},
    "jacrev": {},
    "jacfwd": {},
    "hessian": {},
    "hessian_diag": {},
    "hvp": {},
    "gauss_newton_vp": {},
    "per_example_grad": {},
    "fisher_diag": {},
    "accumulate_grad": {"microbatches": 2},
}
PRODUCTS = {"hvp", "gauss_newton_vp"}
BATCHES = {"per_example_grad", "fisher_diag", "accumulate_grad"}
every_name = pytest.mark.parametrize("name", DERIVATIVES)


class Counted(sl.nn.Module):
    """A module whose method writes: a count, and in `last` what it was called with."""

    def __init__(self, layer=None):
        super().__init__()
        self.w = sl.ParamState(jnp.array(2.0))
        self.count = sl.State(jnp.array(0))
        self.last = sl.State(jnp.array(0.0))
        self.layer = layer

    def loss(self, x):
        self.count.value += 1
        self.last.value = jnp.sum(self.w.value)
        return jnp.mean(self.w.value**2 * x**3)


def method(name, **options):
    """Makes a module with a derivative for a method."""

    class Decorated(Counted):
        run = getattr(T, name)(Counted.loss, **DERIVATIVES[name], **options)

    return Decorated()


def arguments(name, vector):
    first = (vector,) if name in PRODUCTS else ()
    return *first, jnp.array([1.0, 3.0]) if name in BATCHES - {"accumulate_grad"} else XS


XS = jnp.array([1.0, 3.0])


def of_function(name, **options):
    """Takes the same derivative of a function that closes over a module."""
    model = Counted()
    return model, getattr(T, name)(lambda x: model.loss(x), **DERIVATIVES[name], **options)


def same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@every_name
@pytest.mark.parametrize("argnums", [None, 1])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_method_of_a_mutable_object_writes_its_states(name, argnums, compiled):
    if name == "accumulate_grad":
        pytest.skip("each micro-batch has another argument, so that there is no gradient by it")
    model, (other, plain) = method(name, argnums=argnums), of_function(name)
    args = arguments(name, jnp.array([1.0, 0.0]))
    same((sl.jit(model.run) if compiled else model.run)(*args), plain(*args))
    assert model.count.value == other.count.value == 1
    assert model.last.value == 2.0


@every_name
@pytest.mark.parametrize("compiled", [False, True])
def test_a_lens_looks_at_the_object_whose_states_are_written(name, compiled):
    if name == "hessian" and compiled:
        pytest.skip("a compiled function returns no states inside of a state's value")
    model, (other, _) = method(name, grad_states="w"), of_function(name)
    by_cell = getattr(T, name)(lambda x: other.loss(x), other.w, **DERIVATIVES[name])
    tangent = sl.lens("w").partition(model)[0]
    found = (sl.jit(model.run) if compiled else model.run)(*arguments(name, tangent))
    same(found, by_cell(*arguments(name, jnp.array(2.0))))
    assert model.count.value == other.count.value == (2 if name == "accumulate_grad" else 1)
    assert model.last.value == 2.0
    assert model.w.value == 2.0


def test_a_state_that_is_differentiated_may_be_written():
    class Model(Counted):
        @sl.grad(grad_states="w")
        def run(self, x):
            loss = self.w.value**2 * x
            self.w.value = 2 * self.w.value
            return loss

    model = Model()
    assert model.run(3.0).w.value == 12.0
    assert model.w.value == 4.0


def test_a_lens_looks_at_plain_arrays_and_parts_of_states_too():
    class Model(Counted):
        @sl.grad(grad_states=["layer.weight", sl.lens("last")[:1]], check_states=False)
        def run(self, x):
            self.count.value += 1
            return jnp.sum(self.layer(x)) + jnp.sum(self.last.value * jnp.arange(1.0, 4.0))

    model = Model(eqx.nn.Linear(2, 1, key=jax.random.key(0)))
    model.last.value = jnp.ones(3)
    gradient = model.run(jnp.array([3.0, 5.0]))
    assert gradient.layer.weight.tolist() == [[3.0, 5.0]]
    assert gradient.last.value.tolist() == [1.0]
    assert model.count.value == 1


def test_the_object_itself_may_be_differentiated_by_its_position():
    class Model(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = sl.ParamState(jnp.array(2.0))

        @sl.grad(argnums=(0, 1))
        def run(self, x):
            self.w.value = self.w.value + 1
            return self.w.value * x

    model = Model()
    by_self, by_x = model.run(5.0)
    assert (by_self.w.value, by_x) == (5.0, 3.0)
    assert model.w.value == 3.0


def test_an_untouched_state_of_the_object_is_named():
    class Model(Counted):
        @sl.grad(grad_states=["w", "last"])
        def run(self, x):
            return self.w.value * x

    with pytest.raises(sl.UntouchedStateError, match="by the state 'last'"):
        Model().run(1.0)


def test_a_method_that_fails_writes_nothing():
    class Model(Counted):
        @sl.grad(grad_states="w")
        def run(self, x):
            self.count.value += 1
            raise ZeroDivisionError("after the write")

    model = Model()
    with pytest.raises(ZeroDivisionError, match="after the write"):
        model.run(1.0)
    assert model.count.value == 0


@every_name
def test_an_immutable_object_is_argument_0(name):
    class Model(eqx.Module):
        w: jax.Array
        count: sl.State

        def value(self, x):
            return jnp.mean(self.w**2 * x**3)

        def counted(self, x):
            self.count.value += 1
            return self.value(x)

        by_self = getattr(T, name)(value, grad_states="w", **DERIVATIVES[name])
        writes = getattr(T, name)(counted, grad_states="w", **DERIVATIVES[name])

    model = Model(jnp.array(2.0), sl.State(jnp.array(0)))
    other, _ = of_function(name)
    by_cell = getattr(T, name)(lambda x: other.loss(x), other.w, **DERIVATIVES[name])
    tangent = sl.lens("w").partition(model)[0]
    same(model.by_self(*arguments(name, tangent)), by_cell(*arguments(name, other.w.value)))
    with pytest.raises(sl.FrozenTreeError, match="'count' of a tree that was passed"):
        model.writes(*arguments(name, tangent))


def test_the_first_argument_of_an_immutable_object_is_the_object():
    class Model(eqx.Module):
        w: jax.Array

        @sl.grad
        def run(self, x):
            return self.w * x

    assert sl.grad(lambda x: Model(x).run(3.0).w)(2.0) == 0.0
    assert Model(jnp.array(2.0)).run(3.0).w == 3.0


def test_an_object_of_a_plain_class_is_closed_over():
    class Plain:
        def __init__(self):
            self.count = sl.State(jnp.array(0))

        @sl.grad
        def run(self, x):
            self.count.value += 1
            return x**2

    plain = Plain()
    assert plain.run(3.0) == 6.0
    assert plain.count.value == 1


def test_positions_of_batches_count_the_object():
    class Model(Counted):
        @T.per_example_grad(argnums=2, batch_argnums=2)
        def run(self, scale, x):
            self.count.value += 1
            return scale * x**2

    model = Model()
    assert model.run(2.0, XS).tolist() == [4.0, 12.0]
    assert model.count.value == 1


@pytest.mark.parametrize("decorator", [sl.grad, T.checkpoint, T.vmap, T.per_example_grad])
def test_a_bound_wrapper_is_a_method_of_python_s_own(decorator):
    class Model(Counted):
        @decorator
        def run(self, x):
            """What it does."""
            return jnp.sum(x) * self.w.value

    model = Model()
    assert inspect.ismethod(model.run)
    assert model.run == model.run
    assert hash(model.run) == hash(model.run)
    assert model.run != Model().run
    assert model.run.__self__ is model
    assert (model.run.__name__, model.run.__doc__) == ("run", "What it does.")
    assert list(inspect.signature(model.run).parameters) == ["x"]
    assert list(inspect.signature(Model.run).parameters) == ["self", "x"]


# The key that `fwd_grad` draws is a state like any other.


def test_a_forward_gradient_writes_its_key_before_the_function_draws():
    def noisy(x):
        return jnp.sum(x**2) * sl.random.uniform()

    sl.random.seed(0)
    gradient, value = T.fwd_grad(noisy, return_value=True)(XS)
    after = sl.random.get_key()
    sl.random.seed(0)
    key = sl.random.split_key()
    assert noisy(XS) == value
    assert sl.random.get_key() == after
    sl.random.seed(0)
    sl.random.split_key()
    same(T.fwd_grad(noisy, key=key)(XS), gradient)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_forward_gradient_that_fails_takes_back_all_draws(error):
    def boom(x):
        sl.random.uniform()
        raise error("boom")

    key = sl.random.get_key()
    with pytest.raises(error, match="boom"):
        T.fwd_grad(boom)(1.0)
    assert sl.random.get_key() == key


@pytest.mark.parametrize("outer", [lambda f: f, sl.jit, lambda f: sl.grad(lambda x: f(x)[0])])
def test_a_forward_gradient_draws_in_other_transforms(outer):
    def run(x):
        return T.fwd_grad(lambda x: jnp.sum(x**2))(x)

    key = sl.random.get_key()
    first, second = outer(run)(XS), outer(run)(XS)
    assert first.tolist() != second.tolist()
    assert sl.random.get_key() != key


def test_a_forward_gradient_that_is_not_finite_is_found_without_another_draw():
    key = sl.random.get_key()
    with pytest.raises(sl.NonFiniteError, match=r"`\w+` was the first to make a non-finite"):
        T.fwd_grad(lambda x: jnp.sqrt(x), debug_nan=True)(0.0)
    assert sl.random.get_key() == key


def test_states_of_an_argument_may_be_written_under_a_forward_gradient():
    model = Counted()

    def loss(x, model):
        return model.loss(x)

    T.fwd_grad(loss)(XS, model)
    assert model.count.value == 1
