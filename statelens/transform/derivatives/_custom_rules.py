"""`custom_vjp` and `custom_jvp`: derivative rules of one's own, for functions of states.

What they add to `equinox.filter_custom_vjp` and `filter_custom_jvp`, on which they stand:
states among what the rule is about. The rule sees which states and arguments are perturbed, and
gives cotangents, or takes tangents, of states in the form in which the states were given.
"""

import functools
from collections.abc import Callable
from typing import Any, Generic, overload

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._errors import ArgumentError, ArgumentTypeError, SelectionError, check_callable, user_facing
from ..._tree import a_leaf
from ...lens import StateForm, units_of
from ...state import Writes, has_tracers
from .._core import Attempt, Wrapper, applied, commit, described, discover
from ._rule_run import RuleRun, is_inexact, tangents_of, zeros_of
from ._signatures import P, R

Rule = Callable[..., Any]


class _Custom(Wrapper, Generic[P, R]):
    """A function with a derivative rule of its own, by the name of what sets it."""

    _needed: tuple[str, ...] = ()

    def __init__(self, fun: Callable[P, R], states: Any):
        super().__init__(fun)
        self._states = states
        self._rules: dict[str, Rule] = {}
        self._given()

    @user_facing
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for name in self._needed:
            if name not in self._rules:
                raise ArgumentError(
                    f"asked for the derivative of {self!r}",
                    f"it has no rule: .{name} was not called",
                    f"@{getattr(self, '__name__', 'fun')}.{name}, above the rule",
                )
        call = functools.partial(self._attempted, args, _stopped(kwargs))
        out, writes = discover(call, self.name, self._fun)
        return commit(out, _stopped(writes))

    def _attempted(self, args: Any, kwargs: Any, attempt: Attempt) -> Any:
        """Runs the function under its rules."""
        raise NotImplementedError

    def _given(self) -> StateForm | None:
        return None if self._states is None else units_of(self._states, self.name)

    def _asked(self, of_states: Any, of_args: Any) -> Any:
        """Leaves out states where a rule is about none."""
        return of_args if self._states is None else (of_states, of_args)

    def _pair(self, found: Any, rule: str, asked: str, form: str) -> tuple[Any, Any]:
        if isinstance(found, tuple) and len(found) == 2:
            return found
        raise ArgumentTypeError(
            f"asked the {rule} of {self!r} for {asked}",
            f"it returned {a_leaf(found)}",
            f"return {form}",
        )


class CustomVjp(_Custom[P, R]):
    """A function with a backward rule; `custom_vjp` makes it."""

    name = "custom_vjp"
    _needed = ("def_fwd", "def_bwd")

    @user_facing
    def def_fwd(self, fwd: Rule) -> Rule:
        """Sets the forward rule: ``(perturbed, *args) -> (out, residuals)``."""
        self._rules["def_fwd"] = check_callable(fwd, "fwd", self.name)
        return fwd

    @user_facing
    def def_bwd(self, bwd: Rule) -> Rule:
        """Sets the backward rule: ``(residuals, cotangent, perturbed, *args) -> cotangents``."""
        self._rules["def_bwd"] = check_callable(bwd, "bwd", self.name)
        return bwd

    def _attempted(self, args: Any, kwargs: Any, attempt: Attempt) -> Any:
        given = self._given()
        ruled = RuleRun(f"asked {self.name} for a derivative", given, attempt)

        @eqx.filter_custom_vjp
        def call(vjp_arg: Any, others: Any, kwargs: Any) -> Any:
            values, args = vjp_arg
            out, writes = ruled.run_in_place(self._fun, values, others, args, kwargs)
            if has_tracers((vjp_arg, others, kwargs)):  # to be differentiated later perhaps
                perturbed = jax.tree.map(eqx.is_inexact_array, vjp_arg)
                ruled.look_through(lambda: fwd(perturbed, vjp_arg, others, kwargs))
            return _numeric(out), _strong(ruled.filled(writes, others))

        def fwd(perturbed: Any, vjp_arg: Any, others: Any, kwargs: Any) -> Any:
            values, args = vjp_arg
            rule = functools.partial(self._rules["def_fwd"], self._asked(*perturbed))
            pair, writes = ruled.run_in_place(rule, values, others, args, kwargs)
            out, residuals = self._pair(
                pair, "forward rule", "output and residuals", "(out, residuals)"
            )
            result = _numeric(out), _strong(writes)
            ruled.look_through(
                lambda: bwd(residuals, zeros_of(result), perturbed, vjp_arg, others, kwargs)
            )
            return result, residuals

        def bwd(
            residuals: Any, cotangent: Any, perturbed: Any, vjp_arg: Any, others: Any, kwargs: Any
        ) -> Any:
            values, args = vjp_arg
            rule = functools.partial(
                self._rules["def_bwd"], residuals, cotangent[0], self._asked(*perturbed)
            )
            cotangents, writes = ruled.run(rule, values, others, args, kwargs)
            self._refuse_writes(writes)
            by_states = None
            if given is not None:
                form = "(cotangents of the states, cotangents of the arguments as a tuple)"
                by_states, cotangents = self._pair(cotangents, "backward rule", "cotangents", form)
            if not isinstance(cotangents, (tuple, list)) or len(cotangents) != len(args):
                raise ArgumentTypeError(
                    f"asked the backward rule of {self!r} for cotangents",
                    f"for those of the arguments it gave {described(cotangents)}",
                    f"a tuple of {len(args)}, one for each argument",
                )
            each = zip(args, cotangents, strict=True)
            by_args = [self._cotangent(*pair, f"argument {n}") for n, pair in enumerate(each)]
            return self._cotangent(values, by_states, "the states"), tuple(by_args)

        call.def_fwd(fwd)
        # It may run in a pullback of plain JAX, which hides nothing of ours.
        call.def_bwd(user_facing(bwd))
        return call(_strong((_values(given), args)), ruled.others(), kwargs)

    def _cotangent(self, value: Any, cotangent: Any, label: str) -> Any:
        asked = f"asked the backward rule of {self!r} for cotangents"
        return tangents_of(value, cotangent, asked, label, eqx.is_inexact_array)

    def _refuse_writes(self, writes: Writes) -> None:
        for cell in writes.cells:
            raise SelectionError(
                f"asked the backward rule of {self!r} for cotangents",
                f"it writes {cell!r}: it runs when the call is over, and the value would be lost",
                "write it in the function and in the forward rule; what is random is drawn there "
                "too, and given on as a residual",
                "jax.debug.callback, to look at a cotangent",
                "an argument that the function doesn't use, whose cotangent is what is to be kept",
            )


class CustomJvp(_Custom[P, R]):
    """A function with a forward rule; `custom_jvp` makes it."""

    name = "custom_jvp"
    _needed = ("def_jvp",)

    @user_facing
    def def_jvp(self, jvp: Rule) -> Rule:
        """Sets the rule: ``(primals, tangents) -> (out, tangent)``."""
        self._rules["def_jvp"] = check_callable(jvp, "jvp", self.name)
        return jvp

    def _attempted(self, args: Any, kwargs: Any, attempt: Attempt) -> Any:
        given = self._given()
        ruled = RuleRun(f"asked {self.name} for a derivative", given, attempt)

        @eqx.filter_custom_jvp
        def call(values: Any, args: Any, *, others: Any, kwargs: Any) -> Any:
            out, writes = ruled.run_in_place(self._fun, values, others, args, kwargs)
            if has_tracers((values, args, others, kwargs)):
                primals = values, args
                ruled.look_through(
                    lambda: jvp(primals, zeros_of(primals), others=others, kwargs=kwargs)
                )
            return out, ruled.filled(writes, others)

        def jvp(primals: Any, tangents: Any, *, others: Any, kwargs: Any) -> Any:
            (values, inner), (moved, along) = primals, tangents

            def rule(*inner: Any, **kwargs: Any) -> Any:
                primals, tangents = self._asked(values, inner), self._asked(moved, tuple(along))
                return self._rules["def_jvp"](primals, tangents, **kwargs)

            pair, writes = ruled.run_in_place(rule, values, others, tuple(inner), kwargs)
            out, tangent = self._pair(pair, "rule", "output and tangent", "(out, tangent)")
            asked = f"asked the rule of {self!r} for output and tangent"
            tangent = tangents_of(out, tangent, asked, "the output", is_inexact)
            return (out, writes), (tangent, jax.tree.map(lambda leaf: None, writes))

        call.def_jvp(jvp)
        return call(_values(given), args, others=ruled.others(), kwargs=kwargs)


def _values(given: StateForm | None) -> Any:
    return None if given is None else given.rebuild(given.values())


def _strong(tree: Any) -> Any:
    """Gives numbers a dtype of their own: Equinox takes weakly typed ones for constants."""

    def strong(leaf: Any) -> Any:
        is_weak = isinstance(leaf, jax.Array) and jax.typeof(leaf).weak_type
        return jax.lax.convert_element_type(leaf, leaf.dtype) if is_weak else leaf

    return jax.tree.map(strong, tree)


def _numeric(out: Any) -> Any:
    """Makes arrays of Python's floating-point numbers, as JAX does: a rule is about these too."""
    return _strong(
        jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, (float, complex)) else x, out)
    )


def _stopped(tree: Any) -> Any:
    """Stops derivatives; functions, texts and the like have none."""
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf, tree
    )


@overload
def custom_vjp(fun: Callable[P, R], *, states: Any = None) -> CustomVjp[P, R]: ...
@overload
def custom_vjp(
    fun: None = None, *, states: Any = None
) -> Callable[[Callable[P, R]], CustomVjp[P, R]]: ...
@user_facing
def custom_vjp(fun: Callable[..., Any] | None = None, *, states: Any = None) -> Any:
    """Gives a function a backward rule of its own, that sees states.

    Args:
        fun: The function; states that it reads and that aren't in `states` have no derivative
            through it. It may write other states than these; what is written has none either.
            Where it is differentiated the forward rule is run in its place: what that writes
            is written.
        states: The states that the rule is about, in any bound form.

    Returns:
        A function like `fun`, with ``def_fwd`` and ``def_bwd`` for the rule:

        - ``fwd(perturbed, *args)`` gives ``(out, residuals)``;
        - ``bwd(residuals, cotangent, perturbed, *args)`` gives the cotangents of the arguments as
          a tuple, or ``(cotangents of the states, cotangents of the arguments)`` with
          `states`; None, at any depth, for zeros and for what has none.

        Keyword arguments, of any kind, go to both rules too, and have no derivative.

        ``perturbed`` is of the same form, with a boolean for each array: whether it is being
        differentiated by. In both rules states read as they did in the function, those too that
        only a rule reads: to find these, rules are traced once more in the call. A backward rule
        runs when the call is over, and may not write states.

    Raises:
        ArgumentError: The function is called without a rule.
        SelectionError: The function writes a state that the rule is about, or the backward rule
            writes one.
        StructureError: A cotangent hasn't the shape of what it belongs to.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.array(2.0))
        >>> @sl.transform.custom_vjp(states=w)
        ... def scale(x):
        ...     return w.value * x
        >>> @scale.def_fwd
        ... def _(perturbed, x):
        ...     return w.value * x, (w.value, x)
        >>> @scale.def_bwd
        ... def _(residuals, cotangent, perturbed, x):
        ...     return 10 * cotangent * x, (cotangent * w.value,)
        >>> sl.grad(scale, w)(3.0)
        Array(30., dtype=float32...)
    """
    return applied(lambda fun: CustomVjp(fun, states), fun)


@overload
def custom_jvp(fun: Callable[P, R], *, states: Any = None) -> CustomJvp[P, R]: ...
@overload
def custom_jvp(
    fun: None = None, *, states: Any = None
) -> Callable[[Callable[P, R]], CustomJvp[P, R]]: ...
@user_facing
def custom_jvp(fun: Callable[..., Any] | None = None, *, states: Any = None) -> Any:
    """Gives a function a forward rule of its own, that sees states.

    Args:
        fun: As for `custom_vjp`.
        states: As for `custom_vjp`.

    Returns:
        A function like `fun`, with ``def_jvp`` for the rule: ``jvp(primals, tangents)`` gives
        ``(out, tangent)``. Both are tuples with one entry for each argument; with `states`,
        ``(values of the states, arguments)``. A tangent is None where nothing is perturbed, and
        may be given back as None for zeros.
        Keyword arguments, of any kind, go to the rule too, and have no derivative.

    Raises:
        ArgumentError: The function is called without a rule.
        SelectionError: The function writes a state that the rule is about.
        StructureError: The tangent hasn't the shape of the output.

    Example:
        >>> import jax.numpy as jnp, statelens as sl
        >>> w = sl.ParamState(jnp.array(2.0))
        >>> @sl.transform.custom_jvp(states=w)
        ... def scale(x):
        ...     return w.value * x
        >>> @scale.def_jvp
        ... def _(primals, tangents):
        ...     (value, (x,)), (moved, _) = primals, tangents
        ...     return value * x, 10 * moved * x
        >>> sl.grad(scale, w)(3.0)
        Array(30., dtype=float32...)
    """
    return applied(lambda fun: CustomJvp(fun, states), fun)
