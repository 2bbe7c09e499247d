"""Rules of one's own that read states, wherever they run, and those that write."""

import jax
import jax.numpy as jnp
import pytest

import statelens as sl
from tests.helpers import close, counter

T = sl.transform


def helper(state):
    return state.value


def reversal(kind):
    """Gives an identity whose gradient is the negative of the strength's value times the true one.

    Only a rule reads the strength.
    """
    strength = sl.State(jnp.array(2.0), name="strength")
    if kind == "jvp":
        reverse = T.custom_jvp(lambda x: x)
        reverse.def_jvp(lambda p, t: (p[0], -strength.value * t[0]))
        return reverse, strength
    reverse = T.custom_vjp(lambda x: x)
    if kind == "fwd":
        reverse.def_fwd(lambda perturbed, x: (x, strength.value))
        reverse.def_bwd(lambda kept, cotangent, perturbed, x: (-kept * cotangent,))
    else:
        reverse.def_fwd(lambda perturbed, x: (x, None))
        reverse.def_bwd(lambda kept, cotangent, perturbed, x: (-helper(strength) * cotangent,))
    return reverse, strength


def once(fun):
    """Runs a function in a scan."""
    return lambda x: T.scan(lambda carry, _: (fun(carry), None), x, None, length=1)[0]


PLACES = {
    "eager": lambda f: sl.grad(f),
    "around jit": lambda f: sl.grad(sl.jit(f)),
    "in jit": lambda f: sl.jit(sl.grad(f)),
    "jit in jit": lambda f: sl.jit(sl.grad(sl.jit(f))),
    "scan": lambda f: sl.grad(once(f)),
    "scan in jit": lambda f: sl.jit(sl.grad(once(f))),
    "cond": lambda f: sl.grad(lambda x: T.cond(x > 0, f, lambda x: x, x)),
    "checkpoint": lambda f: sl.grad(T.checkpoint(f)),
    "in vmap": lambda f: lambda x: T.vmap(sl.grad(f))(jnp.full(3, x))[0],
    "around vmap": lambda f: sl.grad(lambda x: T.vmap(f)(jnp.full(3, x)).mean()),
    "vjp": lambda f: lambda x: T.vjp(f, x)[1](jnp.ones(())),
    "jacrev": lambda f: T.jacrev(f),
    "per example": lambda f: lambda x: T.per_example_grad(f, argnums=0)(jnp.full(2, x))[0],
    "by JAX": lambda f: jax.grad(f),
}
every_place = pytest.mark.parametrize("place", PLACES)
every_kind = pytest.mark.parametrize("kind", ["bwd", "fwd", "jvp"])


@every_kind
@every_place
def test_a_rule_reads_a_state_that_its_function_doesn_t(kind, place):
    reverse, strength = reversal(kind)
    gradient = PLACES[place](reverse)
    close([gradient(1.0), gradient(1.0)], [jnp.array(-2.0)] * 2)
    strength.value = jnp.array(5.0)
    close([gradient(1.0), sl.grad(reverse)(1.0)], [jnp.array(-5.0)] * 2)


@every_kind
def test_a_rule_is_known_by_another_call_before_it_is_compiled(kind):
    reverse, strength = reversal(kind)
    close(sl.grad(reverse)(1.0), jnp.array(-2.0))
    close(reverse(1.0), jnp.array(1.0))
    compiled = sl.jit(reverse)
    close(sl.grad(compiled)(1.0), jnp.array(-2.0))
    strength.value = jnp.array(3.0)
    close(sl.grad(compiled)(1.0), jnp.array(-3.0))


@every_kind
@pytest.mark.parametrize("run", [lambda fun: fun, sl.jit])
def test_states_read_as_they_did_in_the_call(kind, run):
    reverse, strength = reversal(kind)

    def loss(x):
        out = reverse(x)
        strength.value = strength.value + 1
        return out + reverse(x)

    close(run(sl.grad(loss))(1.0), jnp.array(-5.0))
    close(strength.value, jnp.array(3.0))

    def step(total, x):
        strength.value = strength.value * x
        return total + reverse(x), None

    strength.value = jnp.array(1.0)
    slopes = run(sl.grad(lambda xs: T.scan(step, 0.0, xs)[0], argnums=0))(jnp.array([2.0, 5.0]))
    direct = jnp.array([-2.0, -10.0])
    close(slopes, direct)


@every_kind
def test_second_derivatives_through_a_rule_that_reads_a_state(kind):
    strength = sl.State(jnp.array(2.0))
    if kind == "jvp":
        cube = T.custom_jvp(lambda x: x**3)
        cube.def_jvp(lambda p, t: (p[0] ** 3, strength.value * p[0] ** 2 * t[0]))
    else:
        cube = T.custom_vjp(lambda x: x**3)
        kept = (lambda: strength.value) if kind == "fwd" else (lambda: None)
        slope = lambda kept: strength.value if kept is None else kept  # noqa: E731
        cube.def_fwd(lambda perturbed, x: (x**3, kept()))
        cube.def_bwd(lambda kept, c, perturbed, x: (slope(kept) * x**2 * c,))
    close(sl.grad(sl.grad(cube))(3.0), jnp.array(12.0))
    close(sl.grad(sl.jit(sl.grad(sl.jit(cube))))(3.0), jnp.array(12.0))


def test_a_rule_that_reads_a_state_is_about_others():
    w, strength = sl.ParamState(jnp.array(3.0)), sl.State(jnp.array(2.0))
    scale = T.custom_vjp(lambda x: w.value * x, states=w)
    scale.def_fwd(lambda perturbed, x: (w.value * x, None))
    scale.def_bwd(lambda _, c, perturbed, x: (strength.value * x * c, (strength.value * c,)))
    for run in (lambda fun: fun, sl.jit):
        slopes = sl.grad(run(scale), w, argnums=0)(5.0)
        close(slopes, (jnp.array(10.0), jnp.array(2.0)))


# Rules that write.


def writing(kind):
    """Gives a function and a rule in its place that write different states."""
    calls, rules = counter(), counter()

    def fun(x):
        calls.value += 1
        return 2 * x

    def in_place(x):
        rules.value += 1
        return 2 * x

    if kind == "jvp":
        double = T.custom_jvp(fun)
        double.def_jvp(lambda p, t: (in_place(*p), 2 * t[0]))
    else:
        double = T.custom_vjp(fun)
        double.def_fwd(lambda perturbed, x: (in_place(x), None))
        double.def_bwd(lambda _, cotangent, perturbed, x: (2 * cotangent,))
    return double, calls, rules


@pytest.mark.parametrize("kind", ["fwd", "jvp"])
@pytest.mark.parametrize("place", ["eager", "in jit", "around jit", "scan", "checkpoint", "cond"])
def test_what_the_function_writes_or_what_a_rule_in_its_place_writes(kind, place):
    double, calls, rules = writing(kind)
    close(PLACES[place](double)(1.0), jnp.array(2.0))
    assert (calls.value, rules.value) == (0, 1)
    close(sl.jit(double)(1.0), jnp.array(2.0))
    assert (calls.value, rules.value) == (1, 1)


@pytest.mark.parametrize("place", ["eager", "in jit", "around jit", "scan", "vjp"])
def test_a_backward_rule_that_writes_is_refused_by_name(place):
    seen = sl.State(jnp.zeros(()), name="seen")
    probe = T.custom_vjp(lambda x: x)
    probe.def_fwd(lambda perturbed, x: (x, None))

    @probe.def_bwd
    def _(kept, cotangent, perturbed, x):
        seen.value = jnp.abs(cotangent)
        return (cotangent,)

    with pytest.raises(sl.SelectionError, match=r"backward rule(.|\n)*it writes .*'seen'"):
        PLACES[place](probe)(1.0)
    close(seen.value, jnp.zeros(()))
    close(sl.jit(probe)(1.0), jnp.array(1.0))


def test_a_backward_rule_that_draws_random_numbers_is_told_to_draw_forward():
    key = sl.random.RandomState(0)
    noisy = T.custom_vjp(lambda x: x)
    noisy.def_fwd(lambda perturbed, x: (x, None))
    noisy.def_bwd(lambda kept, cotangent, perturbed, x: (cotangent * key.normal(),))
    with pytest.raises(sl.SelectionError, match=r"what is random is drawn there"):
        sl.grad(noisy)(1.0)
    noisy.def_fwd(lambda perturbed, x: (x, key.normal()))
    noisy.def_bwd(lambda kept, cotangent, perturbed, x: (cotangent * kept,))
    assert sl.grad(noisy)(1.0) != sl.grad(sl.jit(noisy))(1.0)


def test_a_rule_that_fails_fails_where_it_is_needed():
    flat = T.custom_vjp(lambda x: 2 * x)
    flat.def_fwd(lambda perturbed, x: (2 * x, None))

    @flat.def_bwd
    def _(*call):
        raise NotImplementedError("no derivative")

    close(sl.jit(flat)(1.0), jnp.array(2.0))
    with pytest.raises(NotImplementedError, match="no derivative"):
        sl.grad(sl.jit(flat))(1.0)


def test_a_rule_that_comes_upon_a_state_too_late_names_it():
    late = sl.State(jnp.array(2.0), name="late")
    fun = T.custom_vjp(lambda x, y: x * y)
    fun.def_fwd(lambda perturbed, x, y: (x * y, None))
    # Compiled, a function is looked through as if it were differentiated by everything.
    fun.def_bwd(lambda _, c, perturbed, x, y: (c if perturbed[1] else c * late.value, None))
    with pytest.raises(sl.SelectionError, match=r"asked custom_vjp .*\n.*'late'(.|\n)*residual"):
        sl.grad(sl.jit(fun))(1.0, 2.0)
