"""Derivatives: by states, by part of a tree, by arguments.

What is differentiated is a list of targets; a differentiable call is pure in their values; a JAX
transform takes the derivative, which is given back in the form that was asked for.
"""

from ._curvature import gauss_newton_vp, hessian, hessian_diag, hvp
from ._custom_rules import custom_jvp, custom_vjp
from ._forward import fwd_grad
from ._grad import grad, value_and_grad
from ._jacobian import jacfwd, jacobian, jacrev
from ._per_example import accumulate_grad, fisher_diag, per_example_grad
from ._transform import GradientTransform
from ._vector import vector_grad
from ._vjp_jvp import jvp, linearize, vjp
