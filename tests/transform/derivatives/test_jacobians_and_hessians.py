"""Jacobians, Hessians, and their products with vectors."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl
from tests.helpers import close, temporary_bytes
from tests.transform.derivatives.by_hand import (
    BIAS,
    PRODUCTS,
    WEIGHT,
    Affine,
    Setting,
    W,
    X,
    flat,
    loss_of,
    ours,
    plain_hessian_diag,
    program,
    some_forms,
    vector_like,
)

T = sl.transform


# Jacobians.

jacobians = pytest.mark.parametrize("name", ["jacrev", "jacfwd"])


def test_jacobian_is_jacrev_as_in_jax():
    assert T.jacobian is T.jacrev


@pytest.mark.slow
@jacobians
@pytest.mark.parametrize(
    ("form", "chunk_size"),
    [("bound", 4), ("equinox", None), ("facade", 1), ("dict", 100)],
)
def test_blocks_of_trees_have_the_shape_of_output_and_state(name, form, chunk_size):
    setting = Setting(form)

    def outputs(weight, bias, x):
        return {"a": x @ weight, "b": (jnp.sum(bias * weight[0]), jnp.outer(bias, x))}

    fun = lambda *args: outputs(*setting.read(*args), args[-1])  # noqa: E731
    position = len(setting.args)
    blocks = ours(name, fun, setting.states, argnums=position, chunk_size=chunk_size)
    pure = lambda v: outputs(*setting.pure(v[0]), v[1])  # noqa: E731
    found = blocks(*setting.args, X)
    close(found, getattr(jax, name)(pure)((setting.values, X)))
    by_states, by_x = found["b"][1]
    assert by_x.shape == (3, 2, 2)
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(by_states)} == {(3, 2)}


@pytest.mark.slow
@jacobians
@pytest.mark.parametrize("chunk_size", [2])
def test_chunks_of_scalars_and_of_several_dtypes(name, chunk_size):
    a, b = sl.State(jnp.asarray(2.0)), sl.State(jnp.ones(2, jnp.bfloat16))
    fun = lambda a, b: (a * jnp.sum(b).astype(jnp.float32), b * a.astype(jnp.bfloat16))  # noqa: E731
    by_states = lambda **more: ours(name, lambda: fun(a.value, b.value), [a, b], **more)()  # noqa: E731
    close(by_states(chunk_size=chunk_size), by_states())


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_chunks_of_a_holomorphic_function(name):
    z = sl.State(jnp.array([1.0 + 2.0j, 0.5 - 1.0j, 2.0]))
    fun = lambda z: jnp.outer(z**2, z[:2])  # noqa: E731
    chunked = ours(name, lambda: fun(z.value), z, holomorphic=True, chunk_size=2)()
    close(chunked, getattr(jax, name)(fun, holomorphic=True)(z.value))


@pytest.mark.parametrize("name", ["jacrev", "jacfwd", "hessian_diag"])
def test_a_chunk_size_is_a_positive_integer(name):
    with pytest.raises(sl.ArgumentError, match=f"asked {name} for chunk_size=0\n"):
        ours(name, jnp.sum, chunk_size=0)
    with pytest.raises(sl.ArgumentTypeError, match=f"asked {name} for chunk_size=2.0\n"):
        ours(name, jnp.sum, chunk_size=2.0)
    close(ours(name, jnp.sum, chunk_size=np.int64(2))(W), ours(name, jnp.sum)(W))


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_a_jacobian_in_chunks_takes_the_memory_of_a_chunk(name):
    # 10,000 rows (or columns), each of which goes through an array of 1,000 numbers.
    wide, narrow = jnp.ones(10_000), jnp.ones(2)
    hidden = lambda v: jnp.sin(jnp.linspace(0.0, 1.0, 1_000) * jnp.sum(v))  # noqa: E731
    values = narrow if name == "jacrev" else wide
    w = sl.ParamState(values)

    def fun():
        inner = jnp.sin(hidden(w.value) + jnp.sum(w.value))
        total = jnp.sum(inner * jnp.cos(inner))
        return wide * total if name == "jacrev" else narrow * total

    def measured(chunk_size):
        pure = sl.functionalize(ours(name, fun, w, chunk_size=chunk_size), w)
        return temporary_bytes(pure, values)

    assert measured(10) < measured(None) / 50


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_diagonal_of_a_hessian_in_chunks(chunk_size):
    states = {"a": sl.ParamState(W), "b": sl.ParamState(jnp.asarray(3.0))}
    fun = lambda v: jnp.sum(v["a"] ** 3) * v["b"] ** 2  # noqa: E731
    read = lambda: fun({name: state.value for name, state in states.items()})  # noqa: E731
    values = {"a": W, "b": jnp.asarray(3.0)}
    expected = plain_hessian_diag(fun, values)
    close(T.hessian_diag(read, states, chunk_size=chunk_size)(), expected)


@pytest.mark.parametrize(
    "name",
    [
        "jacrev",
        "jacfwd",
    ],
)
def test_chunks_of_an_output_that_is_a_python_number(name):
    w = sl.ParamState(W)
    close(ours(name, lambda: 1.0, w, chunk_size=1, check_states=False)(), jnp.zeros(2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("jacrev", {}),
        ("jacfwd", {"chunk_size": 1}),
        ("jacrev", {"chunk_size": 1}),
        ("hessian_diag", {}),
    ],
)
def test_states_without_numbers(name, options):
    w = sl.ParamState(jnp.zeros((0,)))
    fun = lambda: jnp.sum(w.value)  # noqa: E731
    close(ours(name, fun, w, **options)(), jnp.zeros((0,)))


# Hessians.


@pytest.mark.parametrize("argnums", [0, (1, 0)])
def test_hessian_blocks_by_pairs_of_states_and_arguments(argnums):
    model = Affine()
    loss = lambda w, b, x, y: jnp.sum(jnp.tanh(x @ w + b) ** 2) * y  # noqa: E731
    fun = lambda x, y: loss(model.weight.value, model.bias.value, x, y)  # noqa: E731
    blocks = T.hessian(fun, model.states(sl.ParamState), argnums)(X, jnp.asarray(2.0))
    args = (X, jnp.asarray(2.0))

    def pure(values, *chosen):
        given = list(args)
        for number, value in zip(np.atleast_1d(argnums), chosen, strict=True):
            given[number] = value
        return loss(values["weight",], values["bias",], *given)

    values = {("bias",): BIAS, ("weight",): WEIGHT}
    chosen = tuple(args[number] for number in np.atleast_1d(argnums))
    if isinstance(argnums, int):
        expected = jax.hessian(pure, (0, 1))(values, *chosen)
    else:
        expected = jax.hessian(lambda v, a: pure(v, *a), (0, 1))(values, chosen)
    close(blocks, expected)
    assert blocks[0]["bias",][0]["weight",].shape == (3, 2, 3)


def test_a_hessian_of_each_output():
    w = sl.ParamState(W)
    fun = lambda w: jnp.stack([jnp.sum(w**3), w[0] * w[1]])  # noqa: E731
    close(T.hessian(lambda: fun(w.value), [w])(), [[jax.hessian(fun)(W)]])


@some_forms
def test_hvp_is_the_hessian_times_the_vector_and_linear(form):
    setting = Setting(form)
    fun = lambda *args: program("hvp", *setting.read(*args), X)  # noqa: E731
    product = T.hvp(fun, setting.states)
    one, many = vector_like(setting.values), jax.flatten_util.ravel_pytree
    full = T.hessian(fun, setting.states)(*setting.args)
    rows = [many(row)[0] for row in rows_of(full, setting.values)]
    found = product(one, *setting.args)
    np.testing.assert_allclose(many(found)[0], jnp.stack(rows) @ many(one)[0], rtol=1e-4, atol=1e-5)
    doubled = product(jax.tree.map(lambda v: 2 * v, one), *setting.args)
    close(doubled, jax.tree.map(lambda v: 2 * v, found))


def rows_of(full, values):
    """Lists the rows of a Hessian in blocks, each of the form of a gradient."""
    treedef = jax.tree.structure(values)
    blocks = jax.tree.leaves(full)
    count = treedef.num_leaves
    for number, value in enumerate(jax.tree.leaves(values)):
        mine = blocks[number * count : (number + 1) * count]
        for position in np.ndindex(value.shape):
            yield treedef.unflatten([block[position] for block in mine])


@some_forms
def test_gauss_newton_is_j_h_j_for_any_loss(form):
    setting = Setting(form)
    loss = lambda out: jnp.sum(jnp.logaddexp(out, 2 * out)) + out[0] * out[1]  # noqa: E731
    fun = lambda *args: program("jacrev", *setting.read(*args), X)  # noqa: E731
    vector = vector_like(setting.values)
    found = T.gauss_newton_vp(fun, setting.states, loss=loss)(vector, *setting.args)
    flat_fun, at, unravel = flat(lambda v: program("jacrev", *setting.pure(v), X), setting.values)
    jacobian = jax.jacrev(flat_fun)(at)
    curvature = jax.hessian(loss)(flat_fun(at))
    direction = jax.flatten_util.ravel_pytree(vector)[0]
    close(found, unravel(jacobian.T @ (curvature @ (jacobian @ direction))))


def test_gauss_newton_of_outputs_in_a_tree():
    w = sl.ParamState(W)
    fun = lambda: {"a": w.value * 2, "b": [jnp.sum(w.value**2)]}  # noqa: E731
    loss = lambda out: jnp.sum(out["a"] ** 2) * out["b"][0]  # noqa: E731
    found = T.gauss_newton_vp(fun, w, loss=loss)(jnp.array([1.0, -1.0]))
    jacobian = jnp.concatenate([2 * jnp.eye(2), 2 * W[None]])
    curvature = jax.hessian(lambda o: jnp.sum(o[:2] ** 2) * o[2])(jnp.array([2.0, 4.0, 5.0]))
    close(found, jacobian.T @ curvature @ jacobian @ jnp.array([1.0, -1.0]))


def test_the_loss_of_gauss_newton_is_a_scalar_function():
    with pytest.raises(sl.ArgumentTypeError, match="asked gauss_newton_vp for loss=3"):
        T.gauss_newton_vp(jnp.sin, loss=3)
    with pytest.raises(sl.DifferentiationError, match=r"it returned an array of shape \(2,\)"):
        T.gauss_newton_vp(jnp.sin, loss=jnp.cos)(W, W)


@pytest.mark.parametrize("name", sorted(PRODUCTS))
@pytest.mark.parametrize(
    "vector",
    [
        {("bias",): BIAS},
        {("bias",): BIAS, ("weight",): BIAS},
        {("bias",): BIAS, ("weight",): WEIGHT, ("other",): BIAS},
        [BIAS, WEIGHT],
        (BIAS, WEIGHT),
        BIAS,
        None,
    ],
    ids=["missing", "shape", "too many", "list", "tuple", "array", "none"],
)
def test_a_vector_of_another_form_is_refused(name, vector):
    model, count = Affine(), sl.State(0)

    def fun(x):
        count.value += 1
        return program(name, model.weight.value, model.bias.value, x)

    message = f"asked {name} (for a product with a vector|for values by)"
    with pytest.raises(sl.StructureError, match=message):
        ours(name, fun, model.states(sl.ParamState))(vector, X)
    assert count.value == 0


@pytest.mark.parametrize("name", sorted(PRODUCTS))
def test_a_vector_of_states_alone_is_refused_where_arguments_are_meant_too(name):
    w = sl.ParamState(W)
    fun = lambda x: loss_of(name, w.value, x)  # noqa: E731
    with pytest.raises(sl.StructureError, match=r"it is float32\[2\], not a tuple of 2\n"):
        ours(name, fun, w, 0)(W, jnp.asarray(3.0))


def test_a_vector_is_read_in_the_dtype_of_the_state():
    w = sl.ParamState(W)
    product = T.hvp(lambda: jnp.sum(w.value**3), w)
    for vector in (np.array([1.0, 2.0]), np.array([1, 2]), jnp.array([1.0, 2.0], jnp.bfloat16)):
        close(product(vector), 6 * W * jnp.array([1.0, 2.0]))


@pytest.mark.filterwarnings("ignore::statelens.StaleStateWarning")  # made for one solve
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRODUCTS))
@pytest.mark.parametrize(
    "form",
    [
        "bound",
        "equinox",
        "facade",
    ],
)
def test_products_are_linear_operators_of_lineax_over_the_focus(name, form):
    lineax = pytest.importorskip("lineax")
    setting, target = Setting(form), jnp.array([0.3, -0.1, 0.2])
    design = jnp.array([[1.0, 0.5], [0.2, 1.0]])

    def residuals(weight, bias):
        return (jnp.array([X, *design]) @ weight + bias - target).ravel()

    def fun(*args):
        weight, bias = setting.read(*args)
        out = jnp.concatenate([residuals(weight, bias), 0.1 * (weight - 1).ravel(), 0.1 * bias])
        return out if name == "gauss_newton_vp" else 0.5 * jnp.sum(out**2)

    half_square = lambda *args: 0.5 * jnp.sum(fun(*args) ** 2)  # noqa: E731
    loss = half_square if name == "gauss_newton_vp" else fun
    gradient = sl.grad(loss, setting.states)
    product = ours(name, fun, setting.states)
    start = gradient(*setting.args)
    operator = lineax.FunctionLinearOperator(
        lambda v: product(v, *setting.args),
        jax.eval_shape(lambda: start),
        lineax.positive_semidefinite_tag,
    )
    step = lineax.linear_solve(operator, start, lineax.CG(1e-6, 1e-6)).value
    assert jax.tree.structure(step) == jax.tree.structure(start)
    # One Newton step by path reaches the minimum of what is quadratic.
    args = setting.args
    if args:
        focus, rest = sl.lens(setting.states).partition(args[0])
        args = (sl.combine(jax.tree.map(jnp.subtract, focus, step), rest),)
    else:
        cells = jax.tree.leaves(
            dict(setting.states) if form == "bound" else setting.states,
            is_leaf=lambda s: isinstance(s, sl.State),
        )
        steps = [step] if form in ("one", "value is a dict") else jax.tree.leaves(step)
        for cell, change in zip(cells, steps, strict=True):
            cell.value = jax.tree.map(jnp.subtract, cell.value, change)
    for leaf in jax.tree.leaves(gradient(*args)):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-4)
