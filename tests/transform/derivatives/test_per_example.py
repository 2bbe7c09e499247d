"""`per_example_grad`, `fisher_diag` and `accumulate_grad` against plain JAX, and at their edges."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import EquinoxAffine, close, temporary_bytes

T = sl.transform

XS = jnp.sin(jnp.arange(12.0)).reshape(6, 2)
YS = jnp.cos(jnp.arange(6.0))
WEIGHT, BIAS = jnp.array([0.5, -1.0]), jnp.asarray(0.25)


def one_loss(weight, bias, x, y):
    return (jnp.tanh(x @ weight) + bias - y) ** 2


def loss(weight, bias, xs, ys):
    """The same of one example or of a batch."""
    return jnp.mean(one_loss(weight, bias, xs, ys))


class Affine(sl.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = sl.ParamState(WEIGHT), sl.ParamState(BIAS)


def setting(form):
    """Gives states, first arguments, a loss of these and of a batch, values, and the pure loss."""
    model = Affine()
    read = lambda xs, ys: loss(model.weight.value, model.bias.value, xs, ys)  # noqa: E731
    of_tree = lambda m, xs, ys: loss(m.weight, m.bias, xs, ys)  # noqa: E731
    of_module = lambda m, xs, ys: loss(m.weight.value, m.bias.value, xs, ys)  # noqa: E731
    match form:
        case "one":
            return model.weight, (), read, WEIGHT, lambda v, *b: loss(v, BIAS, *b)
        case "list":
            states = [model.bias, model.weight]
            return states, (), read, [BIAS, WEIGHT], lambda v, *b: loss(v[1], v[0], *b)
        case "bound":
            values = {("bias",): BIAS, ("weight",): WEIGHT}
            pure = lambda v, *b: loss(v["weight",], v["bias",], *b)  # noqa: E731
            return model.states(sl.ParamState), (), read, values, pure
        case "value is a dict":
            both = sl.ParamState({"weight": WEIGHT, "bias": BIAS})
            pure = lambda v, *b: loss(v["weight"], v["bias"], *b)  # noqa: E731
            return both, (), lambda *b: pure(both.value, *b), both.value, pure
        case "equinox":
            tree = EquinoxAffine(WEIGHT, BIAS)
            values, _ = eqx.partition(tree, lambda leaf: leaf is WEIGHT)
            return "weight", (tree,), of_tree, values, lambda v, *b: loss(v.weight, BIAS, *b)
        case "facade":
            values, _ = sl.lens("weight").partition(model)
            pure = lambda v, *b: loss(v.weight.value, BIAS, *b)  # noqa: E731
            return "weight", (model,), of_module, values, pure


FORMS = ["one", "list", "bound", "value is a dict", "equinox", "facade"]
every_form = pytest.mark.parametrize("form", FORMS)
table = pytest.mark.parametrize(
    ("has_aux", "return_value"), [(False, False), (True, False), (False, True), (True, True)]
)


def with_aux(fun, has_aux):
    return (lambda *args: (fun(*args), {"double": 2 * fun(*args)})) if has_aux else fun


def per_example(pure, values, *batch):
    axes = (None,) + (0,) * len(batch)
    return jax.vmap(jax.value_and_grad(pure), axes)(values, *batch)


def expected(gradient, losses, value, has_aux, return_value):
    extra = (value,) * return_value + ({"double": 2 * losses},) * has_aux
    return (gradient, *extra) if extra else gradient


# Against plain JAX.


@every_form
@table
def test_per_example_gradients(form, has_aux, return_value):
    states, args, fun, values, pure = setting(form)
    options = {"has_aux": has_aux, "return_value": return_value}
    ours = T.per_example_grad(with_aux(fun, has_aux), states, **options)(*args, XS, YS)
    losses, gradients = per_example(pure, values, XS, YS)
    close(ours, expected(gradients, losses, losses, **options))


@every_form
@table
def test_the_diagonal_of_the_fisher_information(form, has_aux, return_value):
    states, args, fun, values, pure = setting(form)
    options = {"has_aux": has_aux, "return_value": return_value}
    ours = T.fisher_diag(with_aux(fun, has_aux), states, **options)(*args, XS, YS)
    losses, gradients = per_example(pure, values, XS, YS)
    fisher = jax.tree.map(lambda g: jnp.mean(g**2, axis=0), gradients)
    close(ours, expected(fisher, losses, losses, **options))


@every_form
@table
def test_accumulated_gradients(form, has_aux, return_value):
    (states, args, fun, values, pure), microbatches = setting(form), 3
    options = {"has_aux": has_aux, "return_value": return_value}
    ours = T.accumulate_grad(with_aux(fun, has_aux), states, microbatches=microbatches, **options)(
        *args, XS, YS
    )
    value, gradient = jax.value_and_grad(pure)(values, XS, YS)
    parts = XS.reshape(microbatches, -1, 2), YS.reshape(microbatches, -1)
    losses = jax.vmap(pure, (None, 0, 0))(values, *parts)
    close(ours, expected(gradient, losses, value, **options))


def test_by_states_and_by_arguments():
    model = Affine()
    fun = lambda xs, ys: loss(model.weight.value, model.bias.value, xs, ys)  # noqa: E731
    pure = lambda v, x, y: loss(v[0], BIAS, v[1], y)  # noqa: E731
    _, gradients = jax.vmap(jax.value_and_grad(pure), ((None, 0), None, 0))((WEIGHT, XS), None, YS)
    close(T.per_example_grad(fun, model.weight, argnums=0)(XS, YS), gradients)
    fisher = jax.tree.map(lambda g: jnp.mean(g**2, axis=0), gradients)
    close(T.fisher_diag(fun, model.weight, argnums=0)(XS, YS), fisher)


@pytest.mark.parametrize("batch_argnums", [1, (1, 2), (2, 1), np.int64(1), [np.int64(1), 2]])
def test_which_arguments_have_a_batch_axis(batch_argnums):
    numbers = {int(number) for number in np.atleast_1d(batch_argnums)}
    args = (WEIGHT, XS, YS if 2 in numbers else YS[0])
    fun = lambda w, x, y: loss(w, BIAS, x, y)  # noqa: E731
    axes = tuple(0 if number in numbers else None for number in range(3))
    gradients = jax.vmap(jax.grad(fun), axes)(*args)
    options = {"batch_argnums": batch_argnums}
    close(T.per_example_grad(fun, **options)(*args), gradients)
    close(T.fisher_diag(fun, **options)(*args), jnp.mean(gradients**2, axis=0))
    close(T.accumulate_grad(fun, microbatches=2, **options)(*args), jax.grad(fun)(*args))


def test_a_batch_that_is_a_tree_beside_what_isn_t_in_the_batch():
    w = sl.ParamState(WEIGHT)

    def fun(batch, scale, kind, *, activation):
        assert kind == "text"
        return loss(w.value, scale, *activation(batch["x"], batch["y"]))

    batch = {"x": XS, "y": YS}
    args = (batch, jnp.asarray(0.5), "text")
    options = {"activation": lambda x, y: (x, y)}
    pure = lambda v, x, y: loss(v, 0.5, x, y)  # noqa: E731
    _, gradients = per_example(pure, WEIGHT, XS, YS)
    close(
        T.accumulate_grad(fun, w, microbatches=3, batch_argnums=0)(*args, **options),
        gradients.mean(0),
    )
    each = T.per_example_grad(fun, w, batch_argnums=0)
    close(each(*args, **options), gradients)
    close(T.fisher_diag(fun, w, batch_argnums=0)(*args, **options), jnp.mean(gradients**2, 0))


@pytest.mark.parametrize("name", ["per_example_grad", "fisher_diag", "accumulate_grad"])
def test_as_decorators_on_functions_and_methods(name):
    options = {"microbatches": 2} if name == "accumulate_grad" else {}
    w = sl.ParamState(WEIGHT)

    @getattr(T, name)(grad_states=w, **options)
    def by_cell(xs, ys):
        """The loss."""
        return loss(w.value, BIAS, xs, ys)

    class Model(EquinoxAffine):
        @getattr(T, name)(grad_states="weight", **options)
        def by_path(self, xs, ys):
            return loss(self.weight, self.bias, xs, ys)

    _, gradients = per_example(lambda v, *b: loss(v, BIAS, *b), WEIGHT, XS, YS)
    reduced = {
        "per_example_grad": gradients,
        "fisher_diag": jnp.mean(gradients**2, 0),
        "accumulate_grad": gradients.mean(0),
    }[name]
    close(by_cell(XS, YS), reduced)
    close(Model(WEIGHT, BIAS).by_path(XS, YS).weight, reduced)
    assert (by_cell.__name__, by_cell.__doc__) == ("by_cell", "The loss.")
    assert repr(by_cell) == f"{name}(by_cell)"


# One program, without a loop in Python.


def primitives(jaxpr):
    """Lists the names of all primitives in a program, those of inner ones included."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation.primitive.name)
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += primitives(inner)
    return found


def program(transform, *args):
    w = sl.ParamState(WEIGHT)
    runs = []

    def fun(xs, ys):
        runs.append(1)
        return loss(w.value, BIAS, xs, ys)

    pure = sl.functionalize(transform(fun, w), w)
    return primitives(jax.make_jaxpr(pure)(WEIGHT, *args).jaxpr), runs


def repeated(count):
    return jnp.tile(XS, (count, 1)), jnp.tile(YS, count)


@pytest.mark.parametrize("transform", [T.per_example_grad, T.fisher_diag])
def test_examples_are_mapped_not_looped_over(transform):
    small, runs = program(transform, XS, YS)
    large, more_runs = program(transform, *repeated(10))
    assert sorted(small) == sorted(large)
    assert len(runs) == len(more_runs) <= 2
    assert not {"scan", "while"} & set(small)


def test_micro_batches_are_scanned_not_unrolled():
    accumulate = lambda count: lambda fun, w: T.accumulate_grad(fun, w, microbatches=count)  # noqa: E731
    few, runs = program(accumulate(2), XS, YS)
    many, more_runs = program(accumulate(6), XS, YS)
    assert few.count("scan") == many.count("scan") == 1
    assert len(few) == len(many)
    assert len(runs) == len(more_runs) <= 3


def test_accumulation_takes_the_memory_of_one_micro_batch():
    w = sl.ParamState(jnp.ones((64, 256)))
    xs = jnp.ones((4096, 64))

    def fun(xs):
        hidden = jnp.tanh(xs @ w.value)
        return jnp.mean(jnp.sin(hidden) ** 2)

    accumulated = T.accumulate_grad(fun, w, microbatches=64)
    measured = [
        temporary_bytes(sl.functionalize(derivative, w), w.value, xs)
        for derivative in (accumulated, sl.grad(fun, w))
    ]
    assert measured[0] < measured[1] / 10


# States that are written.


def test_states_are_carried_through_the_micro_batches_in_order():
    w, trace, count = sl.ParamState(WEIGHT), sl.State(jnp.zeros(())), sl.State(0)

    def fun(xs, ys):
        count.value += 1
        trace.value = 2 * trace.value + ys[0]
        return loss(w.value, BIAS, xs, ys) * trace.value

    # What was carried counts as data for the gradient of each micro-batch.
    carried, gradients, values = 0.0, [], []
    for x, y in zip(XS.reshape(3, 2, 2), YS.reshape(3, 2), strict=True):
        carried = 2 * carried + y[0]
        value, gradient = jax.value_and_grad(lambda v: loss(v, BIAS, x, y) * carried)(WEIGHT)  # noqa: B023
        gradients.append(gradient)
        values.append(value)
    gradient, value = T.accumulate_grad(fun, w, microbatches=3, return_value=True)(XS, YS)
    close(gradient, sum(gradients) / 3)
    close(value, sum(values) / 3)
    close(trace.value, carried)
    assert count.value == 3


def test_one_micro_batch_and_one_for_each_example_are_the_plain_gradient():
    w = sl.ParamState(WEIGHT)
    fun = lambda xs, ys: loss(w.value, BIAS, xs, ys)  # noqa: E731
    gradient = sl.grad(fun, w)(XS, YS)
    for microbatches in (1, 6, np.int64(2)):
        close(T.accumulate_grad(fun, w, microbatches=microbatches)(XS, YS), gradient)


def test_what_is_differentiated_may_be_written_by_a_micro_batch():
    w = sl.ParamState(WEIGHT)

    def fun(xs):
        out = jnp.mean((xs @ w.value) ** 2)
        w.value = w.value * 2
        return out

    by_hand, value = 0.0, WEIGHT
    for x in XS.reshape(3, 2, 2):
        by_hand = by_hand + jax.grad(lambda v: jnp.mean((x @ v) ** 2))(value) / 3  # noqa: B023
        value = value * 2
    close(T.accumulate_grad(fun, w, microbatches=3)(XS), by_hand)
    close(w.value, WEIGHT * 8)


@pytest.mark.parametrize("transform", [T.per_example_grad, T.fisher_diag])
def test_a_value_for_each_example_in_a_state_is_refused_by_name(transform):
    w, seen, count = sl.ParamState(WEIGHT), sl.State(jnp.zeros(2), name="seen"), sl.State(0)

    def fun(x, y):
        count.value += 1
        seen.value = x
        return loss(w.value, BIAS, x, y)

    with pytest.raises(sl.SelectionError, match=r"name='seen'\), which all lanes share"):
        transform(fun, w)(XS, YS)
    assert (seen.value.tolist(), count.value) == ([0.0, 0.0], 0)


@pytest.mark.parametrize("transform", [T.per_example_grad, T.fisher_diag])
def test_a_value_that_all_examples_share_may_be_written(transform):
    w, count = sl.ParamState(WEIGHT), sl.State(jnp.zeros((), jnp.int32))

    def fun(x, y):
        count.value += 1
        return loss(w.value, BIAS, x, y)

    transform(fun, w)(XS, YS)
    assert count.value == 1


def test_random_numbers_are_each_example_s_own_and_go_on_between_micro_batches():
    w, rng = sl.ParamState(WEIGHT), sl.random.RandomState(5)
    key = rng.value

    def fun(xs):
        noise = rng.uniform()
        return jnp.mean(xs @ w.value) * noise, noise

    _, each = T.per_example_grad(fun, w, has_aux=True)(XS)
    keys = jax.random.split(key, 7)
    theirs = jax.vmap(lambda k: jax.random.uniform(jax.random.split(k)[1]))(keys[1:])
    close(each, theirs)
    assert rng.value == keys[0]
    rng.value = key
    _, parts = T.accumulate_grad(fun, w, microbatches=3, has_aux=True)(XS)
    expected = []
    for _ in range(3):
        key, drawn = jax.random.split(key)
        expected.append(jax.random.uniform(drawn))
    close(parts, jnp.stack(expected))
    assert rng.value == key


@pytest.mark.parametrize("name", ["per_example_grad", "fisher_diag", "accumulate_grad"])
def test_nothing_is_written_when_the_function_raises(name):
    options = {"microbatches": 2} if name == "accumulate_grad" else {}
    w, count = sl.ParamState(WEIGHT), sl.State(0)

    def fun(xs, ys):
        count.value += 1
        raise ZeroDivisionError("in the function")

    with pytest.raises(ZeroDivisionError, match="in the function"):
        getattr(T, name)(fun, w, **options)(XS, YS)
    assert count.value == 0


# In other transforms.


@pytest.mark.parametrize("name", ["per_example_grad", "fisher_diag", "accumulate_grad"])
def test_in_jit_and_in_grad(name):
    options = {"microbatches": 2} if name == "accumulate_grad" else {}
    w, count = sl.ParamState(WEIGHT), sl.State(jnp.zeros((), jnp.int32))

    def fun(xs, ys):
        count.value += 1
        return loss(w.value, BIAS, xs, ys)

    transform = getattr(T, name)(fun, w, **options)
    eager = transform(XS, YS)
    once = int(count.value)
    close(sl.jit(transform)(XS, YS), eager)
    assert count.value == 2 * once

    def plain(v):
        _, gradients = per_example(lambda v, *b: loss(v, BIAS, *b), v, XS, YS)
        if name == "fisher_diag":
            return jnp.sum(jnp.sin(jnp.mean(gradients**2, 0)))
        return jnp.sum(jnp.sin(gradients if name == "per_example_grad" else gradients.mean(0)))

    second = sl.grad(lambda: jnp.sum(jnp.sin(transform(XS, YS))), w)()
    close(second, jax.grad(plain)(WEIGHT))


def test_a_large_batch_in_bfloat16_keeps_the_dtype_of_the_state():
    w = sl.ParamState(WEIGHT.astype(jnp.bfloat16))
    fun = lambda xs, ys: loss(w.value, 0.0, xs.astype(jnp.bfloat16), ys).astype(jnp.float32)  # noqa: E731
    assert T.accumulate_grad(fun, w, microbatches=2)(XS, YS).dtype == jnp.bfloat16
    assert T.per_example_grad(fun, w)(XS, YS).dtype == jnp.bfloat16
    assert T.fisher_diag(fun, w)(XS, YS).dtype == jnp.bfloat16


def test_complex_gradients_are_squared_in_absolute_value():
    fun = lambda z, x: (jnp.abs(z) ** 2 * x).real.sum()  # noqa: E731
    w = sl.ParamState(WEIGHT)
    real = T.fisher_diag(lambda x: fun(w.value + 1j, x), w)(jnp.arange(3.0))
    assert real.dtype == jnp.float32


@pytest.mark.parametrize("argnums", [None, 0])
def test_accumulated_gradients_by_the_batch_itself_are_those_of_the_batch_or_refused(argnums):
    fun = lambda xs: jnp.mean(xs**2)  # noqa: E731
    accumulated = T.accumulate_grad(fun, argnums=argnums, microbatches=3)
    try:
        found = accumulated(YS)
    except sl.ArgumentError:
        return
    close(found, jax.grad(fun)(YS))


# What is refused.


@pytest.mark.parametrize("microbatches", [4, 12])
def test_a_batch_that_can_t_be_split_is_an_error(microbatches):
    w = sl.ParamState(WEIGHT)
    message = rf"microbatches={microbatches}\n.*shape \(6, 2\)(.|\n)*batch_argnums"
    fun = lambda xs, ys: loss(w.value, BIAS, xs, ys)  # noqa: E731
    with pytest.raises(sl.ArgumentError, match=message):
        T.accumulate_grad(fun, w, microbatches=microbatches)(XS, YS)
    with pytest.raises(sl.ArgumentError, match=r"shape \(\)(.|\n)*batch_argnums"):
        T.accumulate_grad(fun, w, microbatches=2)(XS, jnp.asarray(1.0))


def test_the_number_of_micro_batches_is_a_positive_integer():
    with pytest.raises(sl.ArgumentError, match="microbatches=0"):
        T.accumulate_grad(loss, microbatches=0)
    with pytest.raises(sl.ArgumentError, match="microbatches=None"):
        T.accumulate_grad(loss, microbatches=None)
    with pytest.raises(sl.ArgumentTypeError, match=r"microbatches=2.5"):
        T.accumulate_grad(loss, microbatches=2.5)
    with pytest.raises(TypeError, match="microbatches"):
        T.accumulate_grad(loss)


@pytest.mark.parametrize("name", ["per_example_grad", "fisher_diag", "accumulate_grad"])
def test_there_has_to_be_a_batch(name):
    options = {"microbatches": 2} if name == "accumulate_grad" else {}
    w = sl.ParamState(WEIGHT)
    transform = getattr(T, name)
    with pytest.raises(
        sl.ArgumentError, match=rf"asked {name} (.|\n)*no argument with a batch axis"
    ):
        transform(lambda flag: w.value.sum(), w, **options)(flag=True)
    with pytest.raises(sl.ArgumentError, match=rf"asked {name} for batch_argnums=\(3,\)"):
        transform(loss, w, batch_argnums=3, **options)(XS, YS)
    with pytest.raises(sl.ArgumentTypeError, match=rf"asked {name} for batch_argnums='x'"):
        transform(loss, w, batch_argnums="x", **options)


@pytest.mark.parametrize("name", ["per_example_grad", "fisher_diag", "accumulate_grad"])
def test_errors_are_those_of_grad(name):
    options = {"microbatches": 2} if name == "accumulate_grad" else {}
    transform = getattr(T, name)
    w, other = sl.ParamState(WEIGHT), sl.ParamState(WEIGHT, name="other")
    fun = lambda xs: jnp.mean(xs @ w.value)  # noqa: E731
    with pytest.raises(sl.UntouchedStateError, match=r"the state 'other'"):
        transform(fun, [w, other], **options)(XS)
    by_w, by_other = transform(fun, [w, other], check_states=False, **options)(XS)
    assert jnp.all(by_other == 0)
    assert by_w.shape == by_other.shape
    with pytest.raises(sl.DifferentiationError, match="it returned an array of shape"):
        transform(lambda xs: xs * w.value, w, **options)(XS)
    with pytest.raises(sl.DifferentiationError, match="dtype int32, which has none"):
        transform(lambda xs: jnp.mean(xs), sl.State(jnp.arange(2)), **options)(XS)
