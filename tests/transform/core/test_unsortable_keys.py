"""Arguments with a dictionary whose keys don't compare: JAX takes none, and names no place."""

import jax.numpy as jnp
import pytest

import statelens as sl

X = jnp.ones(2)
TREE = {"p": {1: X, "a": X}}
T = sl.transform


def total(tree):
    return jnp.sum(tree["p"][1])


def same(tree):
    return tree


USES = {
    "jit": lambda: sl.jit(total)(TREE),
    "jit, by keyword": lambda: sl.jit(lambda *, tree: total(tree))(tree=TREE),
    "jit, what it returns": lambda: sl.jit(lambda x: TREE)(X),
    "grad": lambda: sl.grad(total)(TREE),
    "grad by a lens": lambda: sl.grad(total, grad_states="p.*")(TREE),
    "jacrev": lambda: T.jacrev(total)(TREE),
    "jacfwd": lambda: T.jacfwd(total)(TREE),
    "hessian": lambda: T.hessian(total)(TREE),
    "vjp": lambda: T.vjp(total, TREE),
    "jvp": lambda: T.jvp(total, (TREE,), (TREE,)),
    "linearize": lambda: T.linearize(total, TREE),
    "per_example_grad": lambda: T.per_example_grad(total)(TREE),
    "vmap": lambda: T.vmap(lambda tree: tree["p"][1])(TREE),
    "map": lambda: T.map(lambda tree: tree["p"][1], TREE),
    "scan, a carry": lambda: T.scan(lambda c, x: (c, None), TREE, jnp.arange(3)),
    "scan, inputs": lambda: T.scan(lambda c, x: (c, None), X, TREE),
    "for_loop": lambda: T.for_loop(lambda tree: tree["p"][1], TREE),
    "while_loop": lambda: T.while_loop(lambda c: False, same, TREE),
    "cond": lambda: T.cond(True, same, same, TREE),
    "checkpoint": lambda: T.checkpoint(total)(TREE),
    "make_jaxpr": lambda: T.make_jaxpr(total)(TREE),
    "eval_shape": lambda: T.eval_shape(total, TREE),
    "thread": lambda: sl.thread(total)(TREE),
    "diff": lambda: sl.diff({"p": X}, TREE),
    "combine": lambda: sl.combine(TREE, TREE),
    "tie": lambda: sl.tie(TREE, "p[1]", "p.a"),
    "groups": lambda: sl.groups({"all": ...})(TREE),
    "a state": lambda: sl.State(TREE),
    "a lens of booleans": lambda: sl.lens({"p": {1: True, "a": False}}),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_keys_that_do_not_compare_are_refused_with_their_place(use):
    with pytest.raises(sl.StructureError, match=r"\['p'\](.|\n)*1 and 'a' can't be compared"):
        use()
