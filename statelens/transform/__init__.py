"""Transforms that know of states: each selects, threads and gives back; JAX computes."""

from ._custom import custom_jvp, custom_vjp
from ._examples import accumulate_grad, fisher_diag, per_example_grad
from ._grad import grad, value_and_grad
from ._gradient import GradientTransform
from ._hessian import hessian, hessian_diag
from ._jacobian import jacfwd, jacobian, jacrev
from ._products import gauss_newton_vp, hvp
from ._vector import fwd_grad, vector_grad
from ._vjp_jvp import jvp, linearize, vjp
from .batching import map, shard_map, vmap, vmap_new_states
from .compilation import jit
from .control_flow import (
    ProgressBar,
    bounded_while_loop,
    checkpointed_for_loop,
    checkpointed_scan,
    cond,
    for_loop,
    ifelse,
    scan,
    switch,
    while_loop,
)
from .inspection import (
    StateFinder,
    StatefulFunction,
    all_checks,
    automatic_checks,
    check,
    check_error,
    checkify,
    checkpoint,
    div_checks,
    error_if,
    eval_shape,
    float_checks,
    index_checks,
    jit_error_if,
    make_jaxpr,
    named_scope,
    nan_checks,
    remat,
    user_checks,
)

__all__ = [
    "GradientTransform",
    "ProgressBar",
    "StateFinder",
    "StatefulFunction",
    "accumulate_grad",
    "all_checks",
    "automatic_checks",
    "bounded_while_loop",
    "check",
    "check_error",
    "checkify",
    "checkpoint",
    "checkpointed_for_loop",
    "checkpointed_scan",
    "cond",
    "custom_jvp",
    "custom_vjp",
    "div_checks",
    "error_if",
    "eval_shape",
    "fisher_diag",
    "float_checks",
    "for_loop",
    "fwd_grad",
    "gauss_newton_vp",
    "grad",
    "hessian",
    "hessian_diag",
    "hvp",
    "ifelse",
    "index_checks",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jit",
    "jit_error_if",
    "jvp",
    "linearize",
    "make_jaxpr",
    "map",
    "named_scope",
    "nan_checks",
    "per_example_grad",
    "remat",
    "scan",
    "shard_map",
    "switch",
    "user_checks",
    "value_and_grad",
    "vector_grad",
    "vjp",
    "vmap",
    "vmap_new_states",
    "while_loop",
]
