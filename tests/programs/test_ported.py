"""Programs in the mutable style, run as they are in the library that they were written for.

A program takes the library as its only argument, as a script does with ``import brainstate`` or
``import statelens as brainstate``. The peer is optional; install it to have these tests run.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import statelens as sl

PROGRAMS = {}


def program(function):
    PROGRAMS[function.__name__] = function
    return function


def layer(bst, n_in=2, n_out=3):
    class Layer(bst.nn.Module):
        def __init__(self):
            super().__init__()
            start = jnp.linspace(-1.0, 1.0, n_in * n_out).reshape(n_in, n_out)
            self.weight = bst.ParamState(start)
            self.bias = bst.ParamState(jnp.ones(n_out))
            self.calls = bst.ShortTermState(jnp.zeros((), jnp.int32))

        def __call__(self, x):
            self.calls.value = self.calls.value + 1
            return jnp.tanh(x @ self.weight.value + self.bias.value)

    return Layer()


X = jnp.array([[0.5, -1.0], [1.0, 2.0]])


@program
def jit_of_a_training_step(bst):
    model = layer(bst)
    params = model.states(bst.ParamState)

    @bst.transform.jit
    def step(x):
        grads, value = bst.transform.grad(
            lambda: jnp.mean(model(x) ** 2), params, return_value=True
        )()
        for path, state in params.items():
            state.value = state.value - 0.1 * grads[path]
        return value

    values = [step(X) for _ in range(4)]
    return values, [state.value for state in model.states().values()]


@program
def a_method_under_jit(bst):
    model = layer(bst)
    call = bst.transform.jit(lambda x: model(x))
    return call(X), call(2 * X), model.calls.value


@program
def static_arguments(bst):
    scale = bst.State(jnp.ones(2))

    def power(n, x):
        scale.value = scale.value * 2
        return scale.value * x**n

    run = bst.transform.jit(power, static_argnums=0)
    return run(2, X), run(3, X), scale.value


@program
def vector_gradients(bst):
    model = layer(bst)
    params = model.states(bst.ParamState)
    return bst.transform.vector_grad(model, params, argnums=0, return_value=True)(X)


@program
def jacobians_by_reverse(bst):
    model = layer(bst)
    return bst.transform.jacrev(lambda x: model(x), model.states(bst.ParamState))(X[0])


@program
def jacobians_by_forward(bst):
    model = layer(bst)
    run = bst.transform.jacfwd(lambda x: model(x), model.states(bst.ParamState), return_value=True)
    return run(X[0])


@program
def a_hessian(bst):
    state = bst.ParamState(jnp.array([1.0, 2.0]))
    other = bst.ParamState(jnp.array(3.0))
    loss = lambda: jnp.sum(state.value**3) * other.value  # noqa: E731
    return bst.transform.hessian(loss, {"a": state, "b": other})()


@program
def a_pullback(bst):
    model = layer(bst)
    params = model.states(bst.ParamState)
    out, pullback = bst.transform.vjp(model, X, grad_states=params)
    return out, pullback(jnp.ones_like(out)), model.calls.value


@program
def a_pushforward(bst):
    model = layer(bst)
    return bst.transform.jvp(lambda x: model(x), (X,), (jnp.ones_like(X),))


@program
def a_gradient_with_auxiliary_output(bst):
    model = layer(bst)

    def loss(x):
        out = model(x)
        return jnp.sum(out), {"mean": jnp.mean(out)}

    run = bst.transform.grad(
        loss, model.states(bst.ParamState), argnums=0, has_aux=True, return_value=True
    )
    return run(X)


@program
def gradients_of_a_list_of_states(bst):
    model = layer(bst)
    return bst.transform.grad(lambda x: jnp.sum(model(x)), [model.weight, model.bias])(X)


@program
def a_recurrent_network_in_a_scan(bst):
    h = bst.HiddenState(jnp.zeros(3))
    model = layer(bst)

    def step(total, x):
        h.value = 0.5 * h.value + model(x)
        return total + jnp.sum(h.value), h.value

    return bst.transform.scan(step, 0.0, X), h.value, model.calls.value


@program
def a_scan_in_reverse(bst):
    h = bst.HiddenState(jnp.zeros(2))

    def step(carry, x):
        h.value = h.value * 2 + x
        return carry * 0.5 + x, h.value

    return bst.transform.scan(step, jnp.zeros(2), X, reverse=True), h.value


@program
def a_for_loop(bst):
    total = bst.State(jnp.zeros(2))

    def step(i, x):
        total.value = total.value + i * x
        return total.value

    return bst.transform.for_loop(step, jnp.arange(2), X), total.value


@program
def a_checkpointed_for_loop(bst):
    total = bst.State(jnp.zeros(2))

    def step(x):
        total.value = total.value + jnp.sin(x)
        return total.value

    return bst.transform.checkpointed_for_loop(step, jnp.tile(X, (10, 1))), total.value


@program
def the_gradient_of_a_loop(bst):
    rate, h = bst.ParamState(jnp.array(0.9)), bst.HiddenState(jnp.ones(2))

    def loss(xs):
        def step(x):
            h.value = rate.value * h.value + x
            return jnp.sum(h.value)

        return jnp.sum(bst.transform.for_loop(step, xs))

    return bst.transform.grad(loss, rate, argnums=0, return_value=True)(X), h.value


@program
def a_while_loop(bst):
    steps = bst.State(jnp.zeros((), jnp.int32))

    def body(x):
        steps.value = steps.value + 1
        return x / 2

    return bst.transform.while_loop(lambda x: x > 1.0, body, jnp.array(100.0)), steps.value


@program
def branches(bst):
    a, b = bst.State(jnp.zeros(())), bst.State(jnp.zeros(()))

    def one(x):
        a.value = a.value + x
        return x

    def other(x):
        b.value = b.value - x
        return 2 * x

    return [
        bst.transform.cond(jnp.array(True), one, other, 1.0),
        bst.transform.cond(jnp.array(False), one, other, 1.0),
        bst.transform.switch(jnp.array(1), [one, other], 3.0),
        bst.transform.ifelse([False, True], [lambda: one(5.0), lambda: other(5.0)]),
        a.value,
        b.value,
    ]


@program
def a_batch_over_hidden_states(bst):
    h, w = bst.HiddenState(jnp.zeros((2, 2))), bst.ParamState(jnp.array(2.0))

    def step(x):
        h.value = h.value * 0.5 + w.value * x
        return jnp.sum(h.value)

    run = bst.transform.vmap(step, in_states={0: {"h": h}}, out_states={0: {"h": h}})
    return run(X), run(X), h.value


@program
def recomputed_intermediates(bst):
    model = layer(bst)
    run = bst.transform.checkpoint(lambda x: jnp.sum(model(x)))
    return bst.transform.grad(run, model.states(bst.ParamState))(X), model.calls.value


@program
def shapes_only(bst):
    model = layer(bst)
    out = bst.transform.eval_shape(lambda x: model(x), X)
    return out.shape, str(out.dtype), model.calls.value


@program
def found_states(bst):
    model = layer(bst)
    find = bst.transform.StateFinder
    return [
        len(find(lambda x: model(x), usage=usage, return_type="list")(X))
        for usage in ("all", "write")
    ]


@program
def random_numbers(bst):
    bst.random.seed(7)
    first = bst.random.normal(0.0, 1.0, (3,)), bst.random.uniform(-1.0, 1.0, (2,))
    draw = bst.transform.jit(lambda: bst.random.rand(2))
    return first, draw(), draw(), bst.random.randint(0, 10, (4,))


@program
def random_numbers_in_a_loop(bst):
    bst.random.seed(3)
    return bst.transform.for_loop(lambda x: x + bst.random.randn(2), X), bst.random.rand(1)


@program
def dropout_in_a_gradient(bst):
    bst.random.seed(1)
    model = layer(bst)

    def loss(x):
        keep = bst.random.rand(2, 3) < 0.5
        return jnp.sum(jnp.where(keep, model(x), 0.0))

    run = bst.transform.grad(loss, model.states(bst.ParamState), return_value=True)
    return run(X), run(X)


@program
def the_other_names_of_jacrev_and_of_checkpoint(bst):
    model = layer(bst)
    params = model.states(bst.ParamState)
    remembered = bst.transform.remat(lambda x: jnp.sum(model(x)))
    return [
        bst.transform.jacobian(lambda x: model(x), params)(X[0]),
        bst.transform.grad(remembered, params, return_value=True)(X),
        model.calls.value,
    ]


@program
def a_derivative_of_one_s_own(bst):
    model = layer(bst)
    run = bst.transform.GradientTransform(
        lambda x: jnp.sum(model(x) ** 2),
        jax.grad,
        grad_states=model.states(bst.ParamState),
        argnums=0,
        transform_params={"allow_int": False},
    )
    return run(X[0]), model.calls.value


@program
def forward_gradients_in_one_dimension(bst):
    # The libraries draw other tangents; the mean over very many of them is the gradient.
    w = bst.ParamState(jnp.array(3.0))
    run = bst.transform.fwd_grad(lambda: w.value**2, {"w": w}, key=0, tangent_size=40_000)
    return jax.tree.map(lambda g: jnp.round(g * 2, 0), run()), w.value


@program
def a_bounded_while_loop_and_its_gradient(bst):
    rate, steps = bst.ParamState(jnp.array(0.5)), bst.State(jnp.zeros((), jnp.int32))

    def loss(x):
        def body(x):
            steps.value = steps.value + 1
            return x * rate.value

        return bst.transform.bounded_while_loop(lambda x: x > 1.0, body, x, max_steps=20)

    run = bst.transform.grad(loss, {"rate": rate}, argnums=0, return_value=True)
    return run(100.0), steps.value


@program
def a_checkpointed_scan_and_its_gradient(bst):
    rate, h = bst.ParamState(jnp.array(0.9)), bst.HiddenState(jnp.ones(2))

    def loss(xs):
        def step(total, x):
            h.value = jnp.tanh(rate.value * h.value + x)
            return total + jnp.sum(h.value), h.value

        total, hs = bst.transform.checkpointed_scan(step, 0.0, xs, base=4)
        return total + jnp.sum(hs**2)

    xs = jnp.tile(X, (9, 1))
    run = bst.transform.grad(loss, {"rate": rate}, argnums=0, return_value=True)
    return run(xs), h.value


@program
def a_function_over_all_rows(bst):
    w, calls = bst.ParamState(jnp.array(2.0)), bst.State(jnp.zeros((), jnp.int32))

    def one(x):
        calls.value = calls.value + 1
        return w.value * x

    rows = jnp.arange(10.0).reshape(5, 2)
    return bst.transform.map(one, rows), calls.value, bst.transform.map(lambda x: x * 2, rows)


@program
def a_function_over_all_rows_in_chunks(bst):
    w = bst.ParamState(jnp.array(2.0))
    rows = jnp.arange(10.0).reshape(5, 2)
    return [bst.transform.map(lambda x: w.value * x, rows, batch_size=n) for n in (1, 2, 5)]


@program
def an_ensemble(bst):
    class Member(bst.nn.Module):
        def __init__(self, start):
            super().__init__()
            self.weight = bst.ParamState(start * jnp.arange(2.0))
            self.bias = bst.ParamState(start)

    members = {}

    @bst.transform.vmap_new_states(state_tag="ensemble", axis_size=3)
    def make(start):
        members["one"] = Member(start)

    make(jnp.arange(1.0, 4.0))
    states = members["one"].states(bst.ParamState)
    run = bst.transform.vmap(
        lambda x: members["one"].weight.value @ x + members["one"].bias.value,
        in_axes=None,
        in_states={0: dict(states)},
        axis_size=3,
    )
    return run(X[0]), {str(path): state.value for path, state in states.items()}


@program
def a_program_as_text(bst):
    model = layer(bst)
    jaxpr, states = bst.transform.make_jaxpr(lambda x: model(x))(X)
    names = [eqn.primitive.name for eqn in jaxpr.jaxpr.eqns]
    return "tanh" in names, "dot_general" in names, len(states), model.calls.value


@program
def what_a_stateful_function_says(bst):
    total, scale = bst.State(jnp.zeros(2)), bst.ParamState(jnp.array(3.0))

    def add(x, n=1):
        total.value = total.value + scale.value * x**n
        return {"total": jnp.sum(total.value)}

    run = bst.transform.StatefulFunction(add, static_argnames="n", name="add")
    x = X[0]
    assert run.make_jaxpr(x, n=2) is run
    names = {id(total): "total", id(scale): "scale"}
    found = [
        [names[id(state)] for state in states]
        for states in (
            run.get_states(x, n=2),
            run.get_read_states(x, n=2),
            run.get_write_states(x, n=2),
        )
    ]
    jaxpr = run.get_jaxpr(x)
    flat = jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, x, jnp.ones(2), jnp.array(2.0))
    shapes = jax.tree.map(lambda leaf: leaf.shape, run.get_out_shapes(x))
    values, out = run.jaxpr_call([jnp.ones(2), jnp.array(2.0)], x, n=2)
    every = bst.transform.StatefulFunction(add, return_only_write=False)
    after = run.jaxpr_call_auto(x), total.value, run(x, n=2), total.value
    leaves = run.get_out_treedef(x).num_leaves
    both = every.jaxpr_call([jnp.ones(2), jnp.array(2.0)], x)
    return found, flat, shapes, list(values), out, after, leaves, both


@program
def a_program_run_by_hand(bst):
    total, scale = bst.State(jnp.zeros(2)), bst.ParamState(jnp.array(3.0))

    def add(x):
        total.value = total.value + scale.value * x
        return {"total": jnp.sum(total.value)}

    found = []
    for only in (False, True):
        make = bst.transform.make_jaxpr(add, return_shape=True, return_only_write=only)
        jaxpr, states, shapes = make(X[0])
        values = [state.value + 1.0 for state in states]
        found.append(jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, X[0], *values))
        found.append(shapes["total"].shape)
    return found, total.value


@program
def a_name_in_the_program(bst):
    model = layer(bst)
    run = bst.transform.named_scope("the layer")(lambda x: model(x))
    return run(X), bst.transform.jit(run)(X), model.calls.value


@program
def a_name_for_a_function_with_static_arguments(bst):
    w = bst.ParamState(jnp.array(2.0))

    @bst.transform.named_scope("power", static_argnums=1, static_argnames="mode")
    def power(x, n, mode="up"):
        return w.value * x**n if mode == "up" else w.value - x**n

    return power(X, 2), power(X, 3, mode="down"), bst.transform.jit(lambda x: power(x, 2))(X)


@program
def a_clipped_directional_derivative(bst):
    # In one dimension, clipped, it is the mean size of a tangent, whichever were drawn.
    w = bst.ParamState(jnp.array(3.0))
    run = bst.transform.fwd_grad(
        lambda: 100.0 * w.value, {"w": w}, key=0, tangent_size=40_000, drct_der_clip=1e-3
    )
    return jax.tree.map(lambda g: jnp.round(g * 1e4, 0), run())


@program
def a_checkpointed_scan_with_all_options_by_position(bst):
    h = bst.HiddenState(jnp.ones(2))

    def step(total, x):
        h.value = jnp.tanh(h.value + x)
        return total + jnp.sum(h.value), h.value

    return bst.transform.checkpointed_scan(step, 0.0, jnp.tile(X, (5, 1)), 10, 4, None), h.value


@program
def states_in_parts_on_devices(bst):
    P = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    h, w = bst.HiddenState(jnp.zeros(2)), bst.ParamState(jnp.array([2.0, 3.0]))

    def step(x, scale):
        h.value = h.value + scale * jnp.sum(x, axis=1) * w.value
        return h.value

    found = []
    for specs in (P("x"), {h: P("x"), w: P("x")}):
        run = bst.transform.shard_map(
            step, mesh, (P("x"),), P("x"), state_in_specs=specs, state_out_specs=specs
        )
        found.append((run(X, scale=2.0), h.value))
    return found


@program
def one_device_s_part(bst):
    P = jax.sharding.PartitionSpec
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    w, calls = bst.ParamState(jnp.array(2.0)), bst.State(jnp.zeros((), jnp.int32))

    def one(x):
        calls.value = calls.value + 1
        return w.value * x

    run = bst.transform.shard_map(one, mesh, P("x"), P("x"))
    return run(X), calls.value


@program
def checks_as_values(bst):
    low = bst.State(jnp.array(0.5))

    def root(x):
        bst.transform.check(x > low.value, "{x} is too low", x=x)
        low.value = low.value + 1.0
        return jnp.log(x)

    run = bst.transform.jit(bst.transform.checkify(root, bst.transform.all_checks))
    found = []
    for x in (1.0, 0.1, 9.0):
        error, out = run(jnp.array(x))
        text = error.get()
        found.append((text is None or "too low" in text, text is None, out))
    bst.transform.check_error(run(jnp.array(9.0))[0])
    sets = ("automatic_checks", "div_checks", "float_checks", "index_checks", "nan_checks")
    sizes = [len(getattr(bst.transform, name)) for name in (*sets, "user_checks")]
    return found, low.value, sizes


@program
def an_error_at_run_time(bst):
    w = bst.ParamState(jnp.array(2.0))

    def run(x):
        bst.transform.jit_error_if(w.value * x > 10.0, "{x} is too much", x=x)
        return w.value * x

    outcome = [bst.transform.jit(run)(jnp.array(1.0))]
    try:
        jax.block_until_ready(bst.transform.jit(run)(jnp.array(9.0)))
        jax.effects_barrier()
    except Exception as error:
        outcome.append("too much" in str(error))
    return outcome


@program
def loops_with_a_progress_bar(bst):
    pytest.importorskip("tqdm", reason="the extra 'progress' isn't installed")
    bar = bst.transform.ProgressBar(freq=2, disable=True)
    total = bst.State(jnp.zeros(2))

    def step(x):
        total.value = total.value + x
        return total.value

    rows = jnp.tile(X, (4, 1))
    first = bst.transform.for_loop(step, rows, pbar=bar)
    second = bst.transform.scan(lambda c, x: (c + 1, step(x)), 0, rows, pbar=bar)
    return first, second, total.value


@program
def seeds_in_a_loop_and_in_lanes(bst):
    bst.random.seed(11)

    def step(seed):
        before = bst.random.rand(2)
        bst.random.seed(seed)
        return before, bst.random.rand(2)

    def lane(seed):
        bst.random.seed(seed)
        return bst.random.rand(2)

    def in_context(x):
        with bst.random.seed_context(5):
            return x + bst.random.rand(2)

    looped = bst.transform.for_loop(step, jnp.arange(3)), bst.random.rand(1)
    return looped, bst.transform.vmap(lane)(jnp.arange(3)), bst.transform.vmap(in_context)(X)


@program
def a_seed_in_a_branch_and_in_a_gradient(bst):
    bst.random.seed(2)
    w = bst.ParamState(jnp.ones(2))

    def seeded(x):
        bst.random.seed(4)
        return x * bst.random.rand(2)

    def loss(x):
        taken = bst.transform.cond(x[0] > 0, seeded, lambda x: x * bst.random.rand(2), x)
        return jnp.sum(w.value * taken)

    run = bst.transform.jit(bst.transform.grad(loss, {"w": w}, return_value=True))
    return run(X[0]), run(-X[0]), run(X[1]), bst.random.rand(1)


# Longer ones, in which many names meet.


@program
def a_gated_recurrent_network_learns_a_sum(bst):
    """Backpropagation through time, momentum by hand, all of it compiled."""

    class GRU(bst.nn.Module):
        def __init__(self, n_in, n):
            super().__init__()
            scale = lambda *shape: 0.3 * jnp.cos(jnp.arange(np.prod(shape))).reshape(shape)  # noqa: E731
            self.gates = bst.ParamState({"w": scale(n_in + n, 2 * n), "b": jnp.zeros(2 * n)})
            self.new = bst.ParamState({"w": scale(n_in + n, n), "b": jnp.zeros(n)})
            self.out = bst.ParamState(scale(n, 1))
            self.h = bst.HiddenState(jnp.zeros(n))
            self.n = n

        def __call__(self, x):
            h = self.h.value
            gates, new = self.gates.value, self.new.value
            z, r = jnp.split(jax.nn.sigmoid(jnp.concatenate([x, h]) @ gates["w"] + gates["b"]), 2)
            candidate = jnp.tanh(jnp.concatenate([x, r * h]) @ new["w"] + new["b"])
            self.h.value = (1 - z) * h + z * candidate
            return self.h.value @ self.out.value

    model = GRU(1, 4)
    params = model.states(bst.ParamState)
    speed = {path: jax.tree.map(jnp.zeros_like, s.value) for path, s in params.items()}
    speed = bst.State({str(path): value for path, value in speed.items()})
    xs = jnp.sin(jnp.arange(12.0)).reshape(12, 1)

    def loss():
        model.h.value = jnp.zeros(model.n)
        return jnp.mean((bst.transform.for_loop(model, xs) - jnp.cumsum(xs, 0)) ** 2)

    @bst.transform.jit
    def step():
        grads, value = bst.transform.grad(loss, params, return_value=True)()
        moved = {}
        for path, state in params.items():
            v = jax.tree.map(lambda m, g: 0.9 * m + g, speed.value[str(path)], grads[path])
            state.value = jax.tree.map(lambda p, m: p - 0.05 * m, state.value, v)
            moved[str(path)] = v
        speed.value = moved
        return value

    return [step() for _ in range(5)], [s.value for s in params.values()], model.h.value


@program
def a_spiking_network_in_time(bst):
    """Leaky integration, a reset by a branch, a surrogate gradient through all steps."""

    @jax.custom_jvp
    def spike(v):
        return (v > 0).astype(v.dtype)

    @spike.defjvp
    def _(primals, tangents):
        return spike(*primals), tangents[0] / (1 + jnp.abs(primals[0])) ** 2

    class Cell(bst.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = bst.ParamState(jnp.array([[1.5, 0.2, 0.7], [0.1, 1.2, 0.4]]))
            self.v = bst.ShortTermState(jnp.zeros(3))
            self.refractory = bst.ShortTermState(jnp.zeros((), jnp.int32))
            self.count = bst.LongTermState(jnp.zeros(3))

        def __call__(self, x):
            def rest():
                self.refractory.value = self.refractory.value - 1
                self.v.value = self.v.value * 0.5
                return jnp.zeros(3)

            def fire():
                v = 0.8 * self.v.value + x @ self.weight.value
                out = spike(v - 1.0)
                self.v.value = v - jax.lax.stop_gradient(out)
                self.refractory.value = jnp.where(out.sum() > 1, 2, 0).astype(jnp.int32)
                self.count.value = self.count.value + out
                return out

            return bst.transform.cond(self.refractory.value > 0, rest, fire)

    cell = Cell()
    xs = jnp.abs(jnp.sin(jnp.arange(20.0))).reshape(10, 2)

    def loss(xs):
        spikes = bst.transform.for_loop(cell, xs)
        return jnp.mean((spikes.mean(0) - 0.3) ** 2), spikes

    run = bst.transform.grad(
        loss, cell.states(bst.ParamState), argnums=0, has_aux=True, return_value=True
    )
    first = bst.transform.jit(run)(xs)
    return first, run(xs), [state.value for state in cell.states().values()]


def plain(tree):
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [plain(value) for value in tree]
    return tree


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_runs(name):
    assert PROGRAMS[name](sl) is not None


@pytest.mark.slow  # an oracle; that each runs is in the first tier
@pytest.mark.parametrize("name", PROGRAMS)
def test_brainstate_gives_the_same_numbers(name):
    brainstate = pytest.importorskip("brainstate", reason="the peer brainstate isn't installed")
    key = sl.random.get_key()
    try:
        ours, theirs = plain(PROGRAMS[name](sl)), plain(PROGRAMS[name](brainstate))
    finally:
        sl.random.set_key(key)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
