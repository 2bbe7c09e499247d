"""Inspection: checks inside of programs, rematerialisation, and what a function does to states."""

from ._checkpoint import checkpoint, named_scope, remat
from ._checks import (
    all_checks,
    automatic_checks,
    check,
    check_error,
    checkify,
    div_checks,
    error_if,
    float_checks,
    index_checks,
    jit_error_if,
    nan_checks,
    user_checks,
)
from ._shapes import (
    eval_shape,
    make_jaxpr,
    pure_form,
    shapes_and_states,
    stage,
    static_labels,
)
