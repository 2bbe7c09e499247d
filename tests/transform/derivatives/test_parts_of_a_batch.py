"""Gradients of parts of a batch: in what they are added up, and what the batch is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close

T = sl.transform

EVERY = ["per_example_grad", "fisher_diag", "accumulate_grad"]
every_transform = pytest.mark.parametrize("name", EVERY)

XS, YS = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])


def taken(name, fun, *args, **options):
    """Makes one of the three transforms, with two micro-batches where there are such."""
    more = {"microbatches": 2} if name == "accumulate_grad" else {}
    return getattr(T, name)(fun, *args, **more, **options)


def squares(w):
    return lambda x, y: jnp.mean((w.value * x - y) ** 2)


# Numbers of low precision.


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("microbatches", [512, 4096])
@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit])
def test_narrow_numbers_are_added_up_in_float32(dtype, microbatches, run):
    w = sl.ParamState(jnp.ones((), dtype))
    mean = T.accumulate_grad(
        lambda x: jnp.mean(x * w.value), w, microbatches=microbatches, return_value=True
    )
    found = run(mean)(jnp.ones(microbatches, dtype))
    close(found, (jnp.ones((), dtype), jnp.ones((), dtype)))


def test_part_of_a_tree_is_added_up_in_float32():
    tree = {"w": jnp.ones(2, jnp.bfloat16), "v": jnp.ones((), jnp.float16), "x": jnp.ones(())}
    fun = lambda tree, x: jnp.mean(x) * sum(map(jnp.sum, tree.values()))  # noqa: E731
    found = T.accumulate_grad(fun, ..., microbatches=512)(tree, jnp.ones(512))
    close(found, tree)


def test_an_option_says_in_what_dtype_gradients_are_added_up():
    w = sl.ParamState(jnp.ones((), jnp.bfloat16))
    fun = lambda x: jnp.mean(x * w.value)  # noqa: E731
    ones = jnp.ones(512, jnp.bfloat16)
    mean = T.accumulate_grad(fun, w, microbatches=512, accumulator_dtype=jnp.bfloat16)
    close(mean(ones), jnp.array(0.5, jnp.bfloat16))  # a sum of ones stands still at 256
    for wrong in (jnp.int32, "wide", object()):
        with pytest.raises(sl.ArgumentTypeError, match=r"accumulator_dtype=(.|\n)*jnp\.float32"):
            T.accumulate_grad(fun, w, microbatches=2, accumulator_dtype=wrong)


def test_squares_of_narrow_numbers_don_t_overflow_in_their_sum():
    w = sl.ParamState(jnp.ones((), jnp.float16))
    fisher = T.fisher_diag(lambda x: x * w.value, w)
    # 300 squared is beyond float16, the mean isn't.
    close(
        fisher(jnp.array([300.0] + [0.0] * 3, jnp.float16)), jnp.array(22500.0, jnp.float16), 1e-3
    )
    w = sl.ParamState(jnp.ones((), jnp.bfloat16))
    fisher = T.fisher_diag(lambda x: x * w.value, w)
    close(fisher(jnp.ones(4096, jnp.bfloat16)), jnp.ones((), jnp.bfloat16))


# A batch by keyword.


@every_transform
@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit])
def test_a_batch_may_be_given_by_keyword(name, run):
    w = sl.ParamState(jnp.array(1.0))
    found = run(taken(name, squares(w), w))
    by_position = found(XS, YS)
    slopes = 2 * (XS - YS) * XS
    right = {
        "per_example_grad": slopes,
        "fisher_diag": jnp.mean(slopes**2),
        "accumulate_grad": jnp.mean(slopes),
    }
    close(by_position, right[name])
    close(found(XS, y=YS), by_position)
    close(found(x=XS, y=YS), by_position)
    close(taken(name, squares(w), w, batch_argnums=0)(XS, y=YS), by_position)


@every_transform
def test_a_tree_may_be_given_by_keyword(name):
    w = sl.ParamState(jnp.array(1.0))
    fun = lambda *, batch, is_double: squares(w)(batch["x"], batch["y"]) * (1 + is_double)  # noqa: E731
    batch = {"x": XS, "y": np.asarray(YS)}
    close(taken(name, fun, w)(batch=batch, is_double=False), taken(name, squares(w), w)(XS, YS))


@every_transform
def test_a_batch_by_keyword_stands_beside_a_tree(name):
    fun = lambda m, *, x, y: jnp.mean((m["w"] * x - y) ** 2)  # noqa: E731
    w = sl.ParamState(jnp.array(1.0))
    found = taken(name, fun, "w")({"w": jnp.array(1.0)}, x=XS, y=YS)
    close(found, {"w": taken(name, squares(w), w)(XS, YS)})


@every_transform
def test_a_method_takes_a_batch_by_keyword(name):
    class Line(sl.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = sl.ParamState(jnp.array(1.0))

        def loss(self, scale, x, y):
            return scale * squares(self.w)(x, y)

    taken_of = taken(name, Line.loss, batch_argnums=(), argnums=1)
    Line.slopes = taken_of
    w = sl.ParamState(jnp.array(1.0))
    values = jax.vmap(squares(w))(XS, YS)
    means = {"per_example_grad": values, "fisher_diag": jnp.mean(values**2)}
    close(Line().slopes(1.0, x=XS, y=YS), means.get(name, jnp.mean(values)))


@every_transform
def test_what_is_no_array_is_shared_by_all_parts(name):
    w = sl.ParamState(jnp.array(1.0))

    def fun(batch, *, act, is_double, scale):
        assert batch["name"] == "line"
        return act(squares(w)(batch["x"], batch["y"])) * (1 + is_double) * scale

    found = taken(name, fun, w)(
        {"x": XS, "y": YS, "name": "line"}, act=jnp.negative, is_double=True, scale=0.5
    )
    close(jnp.abs(found), jnp.abs(taken(name, squares(w), w)(XS, YS)))


@every_transform
def test_one_number_by_keyword_has_no_batch_axis(name):
    w = sl.ParamState(jnp.array(1.0))
    fun = lambda x, *, scale: jnp.mean(x) * w.value * scale  # noqa: E731
    with pytest.raises(sl.ArgumentError, match=rf"asked {name} (.|\n)*(shape \(\)|f32\[\])"):
        taken(name, fun, w)(XS, scale=jnp.array(2.0))


# What a batch is.


@pytest.mark.parametrize("name", ["fisher_diag", "accumulate_grad"])
def test_a_mean_over_an_empty_batch_is_an_error(name):
    w = sl.ParamState(jnp.ones(3))
    fun = lambda x: jnp.sum(x * w.value)  # noqa: E731
    with pytest.raises(sl.ArgumentError, match=rf"asked {name} (.|\n)*the batch is empty"):
        taken(name, fun, w)(jnp.ones((0, 3)))
    assert T.per_example_grad(fun, w)(jnp.ones((0, 3))).shape == (0, 3)


def test_examples_have_an_axis_for_collectives():
    w = sl.ParamState(jnp.array(2.0))
    fun = lambda x: w.value * (x - jax.lax.stop_gradient(jax.lax.pmean(x, "examples")))  # noqa: E731
    found = T.per_example_grad(fun, w, axis_name="examples")(XS)
    close(found, jnp.array([-0.5, 0.5]))
    close(T.fisher_diag(fun, w, axis_name="examples")(XS), jnp.array(0.25))
